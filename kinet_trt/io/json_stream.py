"""JSON of documents that do not fit into memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator


def json_parts(value: object) -> Iterator[str]:
    """Yield the parts of a value as JSON, ASCII, as :func:`json.dumps`; NaN is an error.

    In addition, an iterator becomes a list with one item per line, and a dictionary may have iterators as values.
    """
    items: Iterable[tuple[str, object]]
    if isinstance(value, Iterator):
        opening, items, closing = "[", (("", item) for item in value), "]"
    elif isinstance(value, dict) and any(isinstance(member, Iterator) for member in value.values()):
        opening, items, closing = "{", ((f"{json.dumps(name)}: ", member) for name, member in value.items()), "}"
    else:
        # ASCII, so that every terminal can show it and any file name can be in it.
        yield json.dumps(value, allow_nan=False)
        return
    yield opening
    separator = "\n"
    for label, item in items:
        yield separator + label
        yield from json_parts(item)
        separator = ",\n"
    yield f"\n{closing}"
