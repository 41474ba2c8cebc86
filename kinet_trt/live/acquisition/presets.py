"""Objective presets: names of objectives and their um/px, stored in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kinet_trt.core.errors import KinetError, shown
from kinet_trt.core.files import write_atomic
from kinet_trt.core.units import check_mpp

MAX_PRESETS = 20
MAX_NAME_LENGTH = 60


@dataclass(frozen=True)
class Preset:
    """An objective of this microscope, with this camera, such as "20x"; um/px from 0.01 to 100."""

    name: str
    mpp: float

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name.strip()) <= MAX_NAME_LENGTH:
            raise KinetError(
                f"an objective's name: expected up to {MAX_NAME_LENGTH} characters, found {shown(self.name)}"
            )
        check_mpp(self.mpp)


def load(path: Path) -> tuple[Preset, ...]:
    """Read presets; none if the file is missing."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise KinetError(f"{path}: the objective presets cannot be read: {error}") from error
    try:
        return tuple(Preset(**one) for one in json.loads(text)["presets"])
    except (ValueError, TypeError, KeyError, RecursionError, KinetError) as error:
        raise KinetError(f"{path}: the objective presets are damaged ({error}): delete the file") from error


def check(presets: Sequence[Preset]) -> None:
    """Raise KinetError for more than 20 presets, or two with the same name."""
    if len(presets) > MAX_PRESETS or len({one.name for one in presets}) < len(presets):
        raise KinetError(f"objective presets: expected up to {MAX_PRESETS}, each with its own name")


def save(path: Path, presets: Sequence[Preset]) -> None:
    """Write presets after `check`."""
    check(presets)
    write_atomic(path, json.dumps({"presets": [asdict(one) for one in presets]}, indent=1) + "\n")
