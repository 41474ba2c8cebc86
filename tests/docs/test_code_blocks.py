"""Every block of code in the README and the documentation is run, or says why it cannot be run here.

The pages that a newcomer reads first (``FIRST``) run in one login shell in a bare clone, with nothing but what the page
itself makes. The blocks of other pages run in order in a folder of their own, with the environment active, as
``docs/index.md`` says, and with what a reader has by then: ``field.png``, some labelled fields, a model. Python runs as
Python, commands in bash, C++ is compiled against OpenVINO and run, JSON is parsed. What cannot run says so in a comment
before the block, ``<!-- not run: REASON -->``, or behind a command, ``# not run: REASON``. A block after
``<!-- slow -->`` runs in ``make test-slow``; there ``kinet-trt train`` takes three iterations, since the default number
lasts most of an hour on two cores.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import pytest

from conftest import find_program, skip
from kinet_trt.simulation import simulate
from simulated_slides import Canvas, Piece, write_tiff

ROOT = Path(__file__).resolve().parents[2]
FIRST = ["README.md", "docs/index.md"]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]

REASONS = {
    "installs packages",
    "needs a camera",
    "needs a GPU",
    "needs a Jetson",
    "needs a Triton server",
    "needs the authors' weights",
    "needs Windows",
    "runs until it is stopped",
    "takes hours",
    "runs all tests",
    "built and run by tests/cpp",
    "run by tests/docs/test_offline.py",
    "run by tests/package/test_privacy.py",
}
"""Why a block is not run. A new reason is a matter for review: most blocks can be made to run."""
SHELL = ("bash", "console", "sh", "powershell")
PROGRAMS = (
    "kinet-trt",
    "source",
    "pip",
    "python",
    "python3",
    "make",
    "git",
    ".venv",
    "tritonserver",
    "docker",
    "cmake",
    "sudo",
)
"""What a command begins with, in a block without a language."""
DATA = ("", "text", "csv", "toml", "yaml", "protobuf")
"""Blocks that show something; there is nothing to run in them."""

_FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>```+)(?P<language>[\w+]*)[^\n]*\n(?P<code>.*?)^(?P=indent)(?P=ticks)$", re.M | re.S
)
_MARK = re.compile(r"<!-- (?:not run: (?P<reason>[^>]+?)|(?P<slow>slow)) -->\s*\Z")
_ANY_MARK = re.compile(r"<!-- *(?:not run|slow)[^>]*-->")
_LINE_MARK = re.compile(r"# not run: ([^\n]+)$", re.M)


@dataclass(frozen=True)
class Block:
    """One block of code: where it stands, what it is, and why it is not run (empty: it is)."""

    page: str
    line: int
    language: str
    code: str
    reason: str = ""
    slow: bool = False

    @property
    def kind(self) -> str:
        """``"python"``, ``"shell"``, ``"cpp"``, ``"json"`` or ``"data"``."""
        if self.language == "":
            words = [line.split() for line in self.code.splitlines() if line.strip() and not line.startswith("#")]
            return "shell" if words and words[0][0].split("/")[0] in PROGRAMS else "data"
        if self.language in SHELL:
            return "shell"
        return "data" if self.language in DATA else self.language


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        mark = _MARK.search(text[: fence.start()])
        found.append(
            Block(
                page,
                text.count("\n", 0, fence.start()) + 2,
                fence["language"],
                textwrap.dedent(fence["code"]),
                (mark and mark["reason"]) or "",
                bool(mark and mark["slow"]),
            )
        )
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_why_not(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    found = blocks(page)
    assert len(re.findall(r"^ *```", text, re.M)) == 2 * len(found), "a fence that does not close, or is indented apart"
    assert len(_ANY_MARK.findall(text)) == sum(bool(b.reason) or b.slow for b in found), "a mark without a block"
    for block in found:
        where = f"{page}:{block.line}"
        reasons = ([block.reason] if block.reason else []) + _LINE_MARK.findall(block.code)
        assert set(reasons) <= REASONS, f"{where}: not run because it {reasons}: expected one of {sorted(REASONS)}"
        assert block.kind in ("python", "shell", "cpp", "json", "data"), f"{where}: language {block.language!r}"
        assert not (block.kind == "data" and (block.reason or block.slow)), f"{where}: there is nothing to run"


# --- running them -----------------------------------------------------------------------------------------------------


def _write(path: Path, pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1])


def _labelled(path: Path, seed: int, side: int) -> None:
    pixels, truth = simulate.field(seed, side, side)
    _write(path, pixels)
    rows = [f"{x:.1f},{y:.1f},{simulate.CLASSES[c]}\n" for x, y, c in zip(truth.x, truth.y, truth.cls, strict=True)]
    path.with_suffix(".csv").write_text("x,y,class\n" + "".join(rows))


@pytest.fixture(scope="session")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with what a reader of the pages has at hand."""
    folder = tmp_path_factory.mktemp("things")
    pixels = simulate.field(11, 400, 320)[0]
    _write(folder / "field.png", pixels)
    _write(folder / "demo" / "simulated.png", simulate.field(1_007, 640, 480)[0])
    frame = simulate.field(12, 640, 480)[0]
    (folder / "frame.rgb").write_bytes(frame.tobytes())
    for name, seeds in (("FIELDS", range(20, 26)), ("mine", range(30, 33)), ("held", range(40, 42))):
        for seed in seeds:
            _labelled(folder / name / f"{seed}.png", seed, 256)
    write_tiff(folder / "case.svs", Canvas(1000, 800, (Piece(200, 200, 400, 300),)), layout="svs", compression="jpeg")
    shutil.copy(ROOT / "kinet_trt" / "models" / "kinet-edge.onnx", folder / "kinet.onnx")
    shutil.copytree(ROOT / "weights", folder / "weights")
    return folder


@pytest.fixture
def workplace(things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a copy of these things as the current folder, and put all that is changed back afterwards."""
    folder = tmp_path / "work"
    shutil.copytree(things, folder)
    monkeypatch.chdir(folder)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    log = logging.getLogger("kinet_trt")
    handlers = list(log.handlers)
    yield folder
    log.handlers[:] = handlers


def commands(code: str) -> str:
    """Return what is to be run of a block of commands: of a console's, what stands behind the prompts."""
    lines = code.splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    kept = "\n".join(line for line in lines if not _LINE_MARK.search(line))
    return re.sub(r"^kinet-trt train ", "kinet-trt train --iterations 3 ", kept, flags=re.M)


def run(block: Block, names: dict[str, object], folder: Path) -> None:
    """Run one block; a failure names the page and the line."""
    where = f"{block.page}:{block.line}"
    if block.kind == "python":
        # Line numbers of a traceback are those of the page.
        exec(compile("\n" * (block.line - 1) + block.code, where, "exec"), names)
    elif block.kind == "shell":
        if re.search(r"-o \S+\.engine\b", block.code) and not (find_spec("tensorrt") or find_spec("tensorrt_rtx")):
            skip("no TensorRT to build an engine")
        _bash(commands(block.code), where, folder)
    elif block.kind == "json":
        json.loads(block.code)
    elif block.kind == "cpp":
        (folder / "block.cpp").write_text(block.code)
        _bash(_compiling(), where, folder)


def _bash(script: str, where: str, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, f"{where}: exit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr, where


def _compiling() -> str:
    find_program("g++", package="g++")
    spec = find_spec("openvino")
    assert spec
    assert spec.origin
    home = Path(spec.origin).parent
    library = sorted((home / "libs").glob("libopenvino.so*"))[0]
    return (
        f"g++ -std=c++17 block.cpp -I{home}/include {library} -Wl,-rpath,{home}/libs -o block && ./block > nuclei.txt "
        "&& test $(wc -l < nuclei.txt) -gt 100"
    )


def _page(page: str, folder: Path, slow: bool) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for module in ("onnx", "onnxruntime", "lap"):
        pytest.importorskip(module)
    for block in blocks(page):
        if not block.reason and (slow or not block.slow):
            run(block, names, folder)


def _needs(page: str) -> bool:
    return any(b.kind != "data" and not b.reason and not b.slow for b in blocks(page))


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a bare clone with an environment as ``make demo`` makes it; packages are those of the tests."""
    if not shutil.which("git") or not shutil.which("make"):
        skip("no git and make, which a newcomer needs")
    folder = tmp_path_factory.mktemp("newcomer") / "kinet-trt"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    (packages,) = (folder / ".venv").glob("lib/*/site-packages")
    (packages / "tests.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    program = folder / ".venv" / "bin" / "kinet-trt"
    program.write_text(f"#!{folder}/.venv/bin/python\nfrom kinet_trt.cli.main import main\nmain()\n")
    program.chmod(0o755)
    (folder / ".venv" / "demo.stamp").touch()  # what make leaves when the packages are installed
    return folder


@pytest.mark.parametrize("page", FIRST)
def test_a_newcomer_types_the_blocks_of_a_page_in_order(page, clone, tmp_path):
    for module in ("onnx", "onnxruntime", "lap"):
        pytest.importorskip(module)
    script = ["set -eo pipefail"]
    for number, block in enumerate(b for b in blocks(page) if not b.reason and not b.slow):
        if block.kind == "shell":
            script.append(commands(block.code))
        elif block.kind == "python":
            (tmp_path / f"{number}.py").write_text(block.code)
            script.append(f"python {tmp_path / str(number)}.py")
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "typed.sh").write_text("\n".join(script))
    for made in ("demo", "out"):  # by another page
        shutil.rmtree(clone / made, ignore_errors=True)
    # A login shell with an empty home: no PATH, no variable of this process that a reader does not have.
    done = subprocess.run(
        ["env", "-i", f"HOME={home}", "LANG=C.UTF-8", "bash", "-l", tmp_path / "typed.sh"],
        cwd=clone,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, f"{page}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if _needs(page) and page not in FIRST])
def test_the_blocks_of_a_page_run(page, workplace):
    _page(page, workplace, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.slow for block in blocks(page))])
def test_the_blocks_of_a_page_run_with_the_slow_ones(page, workplace):
    _page(page, workplace, slow=True)


def test_a_block_that_fails_is_told_by_page_and_line(tmp_path):
    with pytest.raises(AssertionError, match=r"p\.md:7: exit status 1"):
        run(Block("p.md", 7, "bash", "kinet-trt count nothing.png"), {}, tmp_path)
    with pytest.raises(ZeroDivisionError) as caught:
        run(Block("p.md", 7, "python", "a = 1\na / 0"), {}, tmp_path)
    assert caught.traceback[-1].lineno == 7
    run(Block("p.md", 7, "console", "$ true\nsaid\n$ false   # not run: needs a GPU\n"), {}, tmp_path)
