"""The page on machines without a network, run as it stands: a wheelhouse is filled, and installed from alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
from test_code_blocks import ROOT, blocks

pytestmark = pytest.mark.slow
PAGE = "docs/install-offline.md"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Give a copy of the repository, as a reader has it."""
    folder = tmp_path_factory.mktemp("clone") / "kinet-trt"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def with_pip(tmp_path_factory):
    """Give the folder of a Python that has pip: the one that runs the tests may have none."""
    place = tmp_path_factory.mktemp("python")
    venv.create(place, with_pip=True)
    return place / "bin"


def bash(script, folder, python, **environment):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        | {"PATH": f"{python}{os.pathsep}{os.environ['PATH']}"}
        | environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_a_wheelhouse_is_all_that_is_needed(repository, with_pip, tmp_path):
    fill, install, _ = (block.code for block in blocks(PAGE))
    bash(fill, repository, with_pip)
    megabytes = sum(file.stat().st_size for file in (repository / "wheelhouse").iterdir()) / 1e6
    assert megabytes < 200
    shutil.move(repository / "wheelhouse", tmp_path / "wheelhouse")
    # Not even pip's own settings may name another place; whatever asks a server is refused at once.
    nowhere = "http://127.0.0.1:9"
    out = bash(
        install + "\n.venv/bin/kinet-trt demo -o demo\n.venv/bin/kinet-trt live sim: --headless --frames 1",
        tmp_path,
        with_pip,
        PIP_CONFIG_FILE=os.devnull,
        PIP_FIND_LINKS="",
        HTTP_PROXY=nowhere,
        HTTPS_PROXY=nowhere,
        HOME=str(tmp_path / "home"),
    )
    assert "The true index is" in out
    assert (tmp_path / "demo" / "simulated_overlay.png").is_file()
    installed = bash(".venv/bin/python -c 'import kinet_trt; print(kinet_trt.__file__)'", tmp_path, with_pip)
    assert str(tmp_path / ".venv") in installed


def test_wheels_for_windows_can_be_had(repository, with_pip):
    _, _, other = (block.code for block in blocks(PAGE))
    bash(other, repository, with_pip)
    wheels = [file.name for file in Path(repository / "for-windows").iterdir()]
    for package in ("openvino-", "opencv_python_headless-", "numpy-", "pillow-", "kinet_trt-", "fastapi-", "uvicorn-"):
        assert any(name.startswith(package) for name in wheels), package
    assert all(name.endswith(("-none-any.whl", "-win_amd64.whl")) for name in wheels)
