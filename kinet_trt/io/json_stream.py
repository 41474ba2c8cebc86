"""JSON of documents that do not fit into memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator


def json_parts(value: object) -> Iterator[str]:
    """Yield the parts of a value as JSON, ASCII.

    Parameters
    ----------
    value
        As for :func:`json.dumps`; NaN is an error. In addition, an iterator becomes a list with one item per line, and
        a dictionary may have iterators as values.
    """
    if isinstance(value, Iterator):
        yield from _joined("[", (json_parts(item) for item in value), "]")
    elif isinstance(value, dict) and any(isinstance(member, Iterator) for member in value.values()):
        yield from _joined("{", (_member(name, member) for name, member in value.items()), "}")
    else:
        # ASCII, so that every terminal can show it and any file name can be in it.
        yield json.dumps(value, allow_nan=False)


def _member(name: str, value: object) -> Iterator[str]:
    yield f"{json.dumps(name)}: "
    yield from json_parts(value)


def _joined(opening: str, items: Iterable[Iterator[str]], closing: str) -> Iterator[str]:
    yield opening
    separator = "\n"
    for item in items:
        yield separator
        yield from item
        separator = ",\n"
    yield f"\n{closing}"
