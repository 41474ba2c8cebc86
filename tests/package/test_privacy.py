"""No command sends anything, or writes outside of the folders in docs/privacy.md."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import cv2
import pytest

from conftest import skip
from kinet_trt.core.telemetry import no_telemetry
from kinet_trt.simulation import simulate
from simulated_slides import Canvas, Piece, write_tiff

ROOT = Path(__file__).resolve().parents[2]
SENDERS = {"openvino", "onnxruntime", "onnxsim"}
LOOPBACK = ("127.0.0.1", "::1", "localhost")
DOCUMENTED = (".cache/kinet-trt", ".local/share/kinet-trt")
DOCUMENTED_WITH_PLOT = (".cache/matplotlib", ".config/matplotlib")

AUDIT = """
import os, sys
_file = os.open(os.environ["AUDIT"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def _write(kind, text):
    os.write(_file, f"{kind} {text}\\n".encode("utf-8", "backslashreplace"))
def _hook(event, arguments):
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _write("file", os.path.abspath(os.fsdecode(path)))
    elif event in ("os.mkdir", "os.link", "os.symlink", "os.rename"):
        _write("file", os.path.abspath(os.fsdecode(arguments[event != "os.mkdir"])))
    elif event in ("socket.connect", "socket.bind", "socket.sendto"):
        address = arguments[1]
        _write("host", address[0] if isinstance(address, tuple) else "localhost")  # a path is a local socket
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and arguments[0]:
        _write("host", os.fsdecode(arguments[0]))
    elif event == "urllib.Request":
        _write("host", arguments[0])
sys.addaudithook(_hook)
"""

COMMANDS = """
import json, sys
from kinet_trt.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["kinet-trt", *arguments]
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"{arguments}: {end.code}")
"""

LIBRARY = """
import os
import kinet_trt, numpy
for runtime in ("openvino", "onnxruntime"):
    kinet_trt.NucleusCounter(runtime=runtime)(numpy.full((64, 64, 3), 200, numpy.uint8))
assert "ORT_DISABLE_TELEMETRY" not in os.environ
import openvino_telemetry
"""

SENDS = """
import ctypes, pathlib, socket, struct
address = struct.pack("=H2s4s8x", socket.AF_INET, struct.pack("!H", 80), socket.inet_aton("192.0.2.1"))
libc = ctypes.CDLL(None)
assert libc.connect(libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0), address, len(address)) == -1
try:
    socket.getaddrinfo("name.invalid", 80)
except OSError:
    pass
pathlib.Path.home().joinpath("left").write_text("behind")
"""


@dataclass(frozen=True)
class Seen:
    """Connections and files of a program.

    Attributes
    ----------
    hosts, files
        What Python connected to or looked up, and what it opened for writing.
    left
        Every file and folder that is in its home and its temporary folder afterwards, native code's too.
    attempts
        Packets for elsewhere that the kernel had no route for, and datagrams; None: there was no namespace.
    errors
        What it wrote to standard error.
    """

    hosts: set[str]
    files: set[str]
    left: set[str]
    attempts: int | None
    errors: str

    def strangers(self) -> set[str]:
        return self.hosts - set(LOOPBACK)

    def outside(self, folder: Path, documented: tuple[str, ...] = DOCUMENTED) -> set[str]:
        """Return the files that were written outside of the working folder and the documented folders."""
        home = folder / "home"
        places = [str(home / place) for place in documented]
        # Parents of documented folders are created with them.
        ways = {str(parent) for place in places for parent in Path(place).parents}
        temporary = [str(folder / "tmp"), "/dev/null", "/dev/shm", "/proc/self"]
        written = {one for one in self.files if not one.startswith((str(folder / "run"), *places, *temporary))}
        left = {one for one in self.left if not one.startswith(tuple(places))}
        return (written | left) - ways


@cache
def no_namespace() -> str:
    """Return the reason why network namespaces are not available; empty if they are."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        return "no unshare and ip: apt install util-linux iproute2"
    done = subprocess.run(["unshare", "-rn", "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    return f"no network namespace: {done.stderr.decode().strip()}" if done.returncode else ""


def watched(folder: Path, *arguments: object) -> Seen:
    """Run Python with an empty home and an audit hook, in its own network namespace if possible."""
    for name in ("home", "tmp", "audit"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    (folder / "run").mkdir(exist_ok=True)
    (folder / "audit" / "sitecustomize.py").write_text(AUDIT)
    log, network = folder / "audit" / "log", folder / "audit" / "network"
    # Without CI=true, which makes libraries silent.
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": str(folder / "audit"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "AUDIT": str(log),
        "NETWORK": str(network),
    }
    command = [sys.executable, *map(str, arguments)]
    if not no_namespace():
        script = 'ip link set lo up; "$@"; status=$?; cat /proc/net/snmp /proc/net/snmp6 > "$NETWORK"; exit $status'
        command = ["unshare", "-rn", "sh", "-c", script, "sh", *command]
    done = subprocess.run(command, cwd=folder / "run", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" ") for line in log.read_text().splitlines()]
    return Seen(
        hosts={text for kind, _, text in lines if kind == "host"},
        files={text for kind, _, text in lines if kind == "file"},
        left={str(path) for name in ("home", "tmp") for path in (folder / name).rglob("*")},
        attempts=None if no_namespace() else attempts(network.read_text()),
        errors=done.stderr,
    )


def attempts(tables: str) -> int:
    """Sum the kernel's counters of outgoing packets, IPv4 and IPv6."""
    lines = [line.split() for line in tables.splitlines()]
    counts = {}
    for names, values in pairwise(lines):
        if names[0] == values[0] and names[0] in ("Ip:", "Udp:"):
            counts |= {names[0] + name: int(value) for name, value in zip(names[1:], values[1:], strict=True)}
    counts |= {line[0]: int(line[1]) for line in lines if len(line) == 2}
    return sum(counts[name] for name in ("Ip:OutNoRoutes", "Udp:OutDatagrams", "Ip6OutNoRoutes", "Udp6OutDatagrams"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a picture, labelled fields and a slide."""
    folder = tmp_path_factory.mktemp("privacy")
    fields = folder / "run" / "fields"
    fields.mkdir(parents=True)
    for seed in range(4):
        pixels, truth = simulate.field(seed, 144, 128)
        cv2.imwrite(str(fields / f"{seed}.png"), pixels[..., ::-1])
        rows = [f"{x},{y},{simulate.CLASSES[c]}" for x, y, c in zip(truth.x, truth.y, truth.cls, strict=True)]
        (fields / f"{seed}.csv").write_text("\n".join(["x,y,class", *rows]))
    return folder


@pytest.fixture(scope="module")
def slide(folder):
    pytest.importorskip("tifffile")
    write_tiff(folder / "run" / "slide.tif", Canvas(700, 480, (Piece(100, 100, 400, 300, 3),)))
    return "slide.tif"


@pytest.fixture(scope="module")
def counted(folder):
    """Run the commands that count, and doctor with its processes."""
    commands = [
        ["build", "--precision", "fp16", "-o", "half.onnx"],
        ["count", "fields/0.png", "--json", "count.json", "--overlay", "overlays"],
        ["count", "fields/0.png", "--runtime", "onnxruntime"],
        ["live", "fields", "--headless", "--frames", "1"],
        ["eval", "fields"],
        ["doctor"],
    ]
    return watched(folder, "-c", COMMANDS, json.dumps(commands))


def test_no_command_connects_to_another_machine(counted):
    assert counted.strangers() == set()


def test_no_command_writes_outside_the_documented_folders(counted, folder):
    assert counted.outside(folder) == set()
    assert (folder / "run" / "count.json").is_file()


def test_no_native_code_tries_to_leave_the_machine(counted):
    if reason := no_namespace():
        skip(reason)
    assert counted.attempts == 0


def test_library_is_silent_and_settings_of_the_program_stay(tmp_path):
    seen = watched(tmp_path, "-c", LIBRARY)
    assert (seen.strangers(), seen.outside(tmp_path), seen.attempts or 0) == (set(), set(), 0)


def test_watch_detects_connections_and_files(tmp_path):
    if reason := no_namespace():
        skip(reason)
    seen = watched(tmp_path, "-c", SENDS)
    assert seen.strangers() == {"name.invalid"}
    assert seen.outside(tmp_path) == {str(tmp_path / "home" / "left")}
    assert seen.attempts >= 2


def test_check_in_the_docs_gives_the_documented_output(folder, tmp_path):
    if reason := no_namespace():
        skip(reason)
    (block,) = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "privacy.md").read_text(), re.DOTALL)
    shutil.copy(folder / "run" / "fields" / "0.png", tmp_path / "field.png")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", block]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PATH": path, "CI": "true"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *_, counted, left = done.stdout.splitlines()
    assert counted.split() == ["Ip6OutNoRoutes", "0"]
    assert left == "empty"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "--precision", "int8", "--calibration", "fields", "-o", "int8.onnx", "--max-loss", "100"],
        ["build", "-o", "fused.onnx", "--fused"],
        ["count", "slide.tif", "--cluster", "local"],
        ["eval", "fields", "--plot", "curve.png"],
        ["live", "sim:", "--headless", "--frames", "1"],
        ["train", "fields", "--quick", "-o", "trained"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_command_in_its_own_process_is_silent(folder, slide, arguments):
    seen = watched(folder, "-m", "kinet_trt", *arguments)
    assert (seen.strangers(), seen.attempts or 0) == (set(), 0)
    written = seen.outside(folder, DOCUMENTED + DOCUMENTED_WITH_PLOT)
    # PyTorch's folder for compiled code, which stays empty.
    assert {path for path in written if "train" not in arguments or "torchinductor_" not in path} == set()
    if "--cluster" in arguments:
        (line,) = seen.errors.splitlines()
        assert line.startswith("slide.tif: ")


# --- the guard itself -------------------------------------------------------------------------------------------------


def test_no_telemetry_restores_the_settings(monkeypatch):
    ours = sys.modules["openvino_telemetry"]
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delitem(sys.modules, "openvino_telemetry")
    with no_telemetry():
        assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
        with no_telemetry():
            pass
        assert sys.modules["openvino_telemetry"] is None
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    assert "openvino_telemetry" not in sys.modules
    assert ours is None, "the tests run with telemetry switched off"


@pytest.mark.parametrize("place", ["kinet_trt", "export", "calibration", "benchmarks"])
def test_libraries_with_telemetry_are_imported_with_it_disabled(place):
    unguarded = []
    for path in sorted((ROOT / place).rglob("*.py")):
        if not SENDERS & set(re.findall(r"\w+", path.read_text())):
            continue
        tree = ast.parse(path.read_text())
        guarded = {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.With) and "no_telemetry()" in map(ast.unparse, node.items)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {name.split(".")[0] for name in names} & SENDERS and node not in guarded:
                unguarded.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert unguarded == []
