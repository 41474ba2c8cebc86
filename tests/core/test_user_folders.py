"""The user's folders."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kinet_trt.core import user_folders
from kinet_trt.core.errors import KinetError
from kinet_trt.core.user_folders import sessions_file, user_cache, user_data

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the variables of XDG")


@pytest.mark.parametrize(
    ("folder", "variable", "default"),
    [(user_cache, "XDG_CACHE_HOME", ".cache"), (user_data, "XDG_DATA_HOME", ".local/share")],
)
def test_user_folders_follow_xdg_and_ignore_relative_paths(monkeypatch, tmp_path, folder, variable, default):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv(variable, str(tmp_path))
    assert folder() == tmp_path / "kinet-trt"
    monkeypatch.setenv(variable, "not/absolute")
    assert folder() == tmp_path / "home" / default / "kinet-trt"
    monkeypatch.delenv(variable)
    assert folder() == tmp_path / "home" / default / "kinet-trt"
    assert list(tmp_path.iterdir()) == []


def test_user_folders_are_none_without_a_home(monkeypatch):
    for name in ("user_cache_path", "user_data_path"):
        monkeypatch.setattr(user_folders, name, lambda *args, **options: Path("~/somewhere/kinet-trt"))
    assert user_cache() is None
    with pytest.raises(KinetError, match="no home folder"):
        sessions_file()
