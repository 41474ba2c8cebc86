"""What several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ci")


def skip(reason: str) -> None:
    """Skip a test for want of a program or of data; with CI=true that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI has everything, yet: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Give the real fields beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "index.csv").is_file():
        skip(f"no real fields at {folder}")
    return folder
