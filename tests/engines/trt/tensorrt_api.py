"""TensorRT names that a module uses, and the table of the versions that have them."""

from __future__ import annotations

import ast
import csv
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from conftest import skip


def names_used(module: ModuleType, objects: Mapping[str, str]) -> set[str]:
    """Return the attributes that a module's code accesses on TensorRT's objects, as in the table.

    Parameters
    ----------
    module
        The module.
    objects
        Expression in its code -> TensorRT class; empty: TensorRT's module itself.
    """
    tree = ast.parse(Path(module.__file__).read_text())
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    inner = {id(node.value) for node in attributes}
    names = set()
    for node in attributes:
        for expression, cls in objects.items():
            path = ast.unparse(node).removeprefix(f"{expression}.")
            if cls and ast.unparse(node.value) == expression:
                names.add(f"{cls}.{node.attr}")
            elif not cls and id(node) not in inner and path != ast.unparse(node):
                names.add(path)
    return names


def versions_with_names() -> dict[str, dict[str, str]]:
    """Return the table: name -> version -> "yes", or how it differs."""
    table = Path(__file__).resolve().parents[4] / "shared" / "tensorrt" / "api-presence.tsv"
    if not table.is_file():
        skip(f"no table of TensorRT's names at {table}")
    with table.open(newline="") as file:
        return {row.pop("name"): row for row in csv.DictReader(file, delimiter="\t")}
