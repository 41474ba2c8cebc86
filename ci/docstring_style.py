"""For the documentation: what the house style has in docstrings and the reader of NumPy's style does not know.

Sphinx roles, like :class:`~a.B`, become the code that they name, and a double colon before code a single one. Of
entries with several names, like ``height, width``, each name gets one: all would be given the type of the first.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")
_COLONS = re.compile(r"::$", re.M)
_SEVERAL = re.compile(r"^( *)(\w+(?:, \w+)+)\n((?:\1 +\S[^\n]*(?:\n|\Z))+)", re.M)


def _apart(entry: re.Match[str]) -> str:
    indent, names, text = entry.groups()
    return "".join(f"{indent}{name}\n{text.rstrip()}\n" for name in names.split(", "))


class HouseStyle(griffe.Extension):
    """Rewrites the docstring of every object that is looked at."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        del kwargs
        if obj.docstring:
            text = _COLONS.sub(":", _ROLE.sub(r"`\1`", obj.docstring.value))
            # What is returned has no names for the reader: there a word alone is a type.
            taken, heading, given = text.partition("\nReturns\n-------\n")
            obj.docstring.value = _SEVERAL.sub(_apart, taken) + heading + given
