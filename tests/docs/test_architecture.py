"""docs/architecture.md against the imports. The rule itself is in pyproject.toml, [tool.importlinter]."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FOLDERS = {
    "kinet_trt": ROOT / "kinet_trt",
    "kinet_trt.export": ROOT / "export",
    "kinet_trt.calibration": ROOT / "calibration",
}


def _drawing() -> list[list[str]]:
    return [line.split() for line in re.search(r"```text\n(.*?)```", PAGE, re.S)[1].splitlines()]


def _modules() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "kinet_trt":
            found |= {f"kinet_trt.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in found if name.startswith("kinet_trt.")}


def test_drawing_names_every_package_once():
    drawn = [package for row in _drawing() for package in row]
    packages = {name.split(".")[1] for name in _modules() if name.count(".")} - {"__main__"}
    assert sorted(drawn) == sorted(packages)
    assert sorted(re.findall(r"^\| `(\w+)` \|", PAGE, re.M)) == sorted(packages)


def test_imports_go_down_in_the_drawing():
    row = {package: number for number, packages in enumerate(_drawing()) for package in packages}
    for name, path in _modules().items():
        package = (*name.split("."), "")[1]
        if package in row:
            upward = {other for other in _imports(path) - {package} if row[other] <= row[package]}
            assert not upward, f"{name} imports {sorted(upward)}, which docs/architecture.md draws no lower"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is in Python 3.11 and newer")
def test_import_linter_has_the_same_layers():
    import tomllib

    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [sorted(layer.replace("|", " ").split()) for layer in config["contracts"][0]["layers"]]
    assert layers == [sorted(row) for row in _drawing()]


def test_only_the_entry_points_are_directly_in_the_package():
    assert {path.name for path in (ROOT / "kinet_trt").glob("*.py*")} <= {"__init__.py", "__init__.pyi", "__main__.py"}
