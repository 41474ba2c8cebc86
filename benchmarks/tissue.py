"""Evaluate the check for tissue: writes kinet_trt/quality/tissue_table.py and ``no_tissue`` of results/unlike.json.

`python benchmarks/tissue.py FIELDS PICTURES [MEASURED]`. FIELDS is the folder of `benchmarks/unlike.py`, with
``more/``. PICTURES is a folder of ordinary colour pictures, whose subfolders are sources: photographs, screenshots,
drawings. The figures are of the Debian packages opencv-doc, gnome-backgrounds, mate-backgrounds, ukui-wallpapers,
lomiri-wallpapers-16.04, lomiri-wallpapers-20.04 and plasma-workspace-wallpapers, unpacked with ``dpkg -x``, and of the
wheels of scikit-image, scikit-learn, SciPy 1.9, gradio, ultralytics, imgaug and matplotlib. MEASURED is a cache of
the measurements.

Fits the score of `kinet_trt.quality.domain_check.Features.tissue`: logistic ridge regression with non-negative weights,
on tissue, unchanged and varied within the range of laboratories and microscopes, against the pictures and the drawings
of `no_tissue.py`. Each source of tissue is evaluated with a score fitted without it, and each half of the pictures with
one fitted on the other half. The table is fitted on all. Pictures are measured at the centre, without nuclei, which the
score does not use.
"""

from __future__ import annotations

import csv
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from damages import Pixels, another_laboratory
from no_tissue import DRAWN
from numpy.typing import NDArray
from scipy.optimize import minimize
from skimage.data import immunohistochemistry
from unlike import LABORATORY, RESULT, ROOT, fields

from kinet_trt.cli.progress import track
from kinet_trt.core.detections import Detections
from kinet_trt.core.files import write_atomic
from kinet_trt.core.frame import Frame
from kinet_trt.io.images import read_image
from kinet_trt.quality.appearance import NAMES
from kinet_trt.quality.domain_check import ALLOWANCE, MAX_Z, DeviationScore, measure_field

TABLE = ROOT / "kinet_trt" / "quality" / "tissue_table.py"
MPP = 0.34
FALSE = 0.02
"""Fraction of unchanged fields for which the score warns."""
RIDGE = 0.004
NUMBERS = (*NAMES, "coarsest quarter", "64 px", "45 px", "32 px", "5 px")
"""Names of the values of `Features.tissue`."""
BELOW = {"hue of brown", "number of colours", "pale", "yellow in dark spots", "64 px", "45 px", "32 px"}
"""Values that count when too small."""
ABOVE = {*NUMBERS} - {"number of colours", "pale", "45 px", "32 px"}
"""Values that count when too large. Other sides are omitted: they would reject tissue of a new laboratory."""
SIMULATED = "simulated"
EVENNESS = {True: 0.4, False: 0.6}
"""Exponent of the size of a source in the weights of its images, for tissue and for the rest."""
MOST, SMALLEST = 120, 20_000  # maximum pictures per source; minimum size in bytes, which excludes icons
LARGEST = 2600  # maximum longer side, px; larger pictures are shrunk


@dataclass(frozen=True)
class Row:
    """Measurement of a picture; `view` is its variant, `allowance` the maximum score without a warning."""

    tissue: bool
    source: str
    name: str
    view: str
    numbers: tuple[float, ...]
    allowance: float

    @property
    def half(self) -> int:
        """Half of the data, by the name of the picture, so that all its views are together."""
        return zlib.crc32(self.name.encode()) % 2


def tissue(folder: Path) -> Iterator[tuple[str, str, Pixels]]:
    """Yield source, name and pixels of every real and simulated field."""
    yield from fields(folder)
    for source in ("endonet", "marrow"):
        with (folder / "more" / source / "index.csv").open() as file:
            for row in csv.DictReader(file):
                yield source, row["image"], read_image(folder / "more" / source / row["image"]).pixels
    for path in sorted((folder / "more" / "scanners").glob("*.png")):
        yield "scanners", path.stem, read_image(path).pixels


def pictures(folder: Path) -> Iterator[tuple[str, str, Pixels]]:
    """Yield source, name and pixels of every colour picture, at most `MOST` per source, and of every drawing."""
    for source in sorted(folder.iterdir()):
        paths = [p for p in sorted(source.rglob("*")) if p.suffix.lower() in (".jpg", ".jpeg", ".png") and p.is_file()]
        paths = [p for p in paths if p.stat().st_size > SMALLEST]
        for path in paths[:: -(-len(paths) // MOST)]:
            read = cv2.imread(str(path))
            if read is None or min(read.shape[:2]) < 160:
                continue
            shrink = min(1.0, LARGEST / max(read.shape[:2]))
            read = cv2.resize(read, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
            yield source.name, path.name, np.ascontiguousarray(read[..., ::-1]).astype(np.uint8)
    for number, (kind, draw) in enumerate(DRAWN.items()):
        for seed in range(8):
            width, height = [(640, 480), (1000, 800), (400, 360), (720, 720)][seed % 4]
            yield f"drawn: {kind}", f"{kind} {seed}", draw(np.random.default_rng([number, seed]), width, height)


def views(pixels: Pixels, rng: np.random.Generator) -> Iterator[tuple[str, Pixels, float]]:
    """Yield a picture unchanged, at another um/px, whole and in part: name of the view, pixels, um/px."""
    height, width = pixels.shape[:2]
    yield "as it is", pixels, MPP
    yield ("0.25 um/px", pixels, 0.25) if rng.random() < 0.5 else ("0.5 um/px", pixels, 0.5)
    if max(height, width) > 900:
        yield "whole", pixels, MPP * 720 / max(height, width)
    if min(height, width) >= 400:
        top, left = (int(rng.integers(0, length - 299)) for length in (height, width))
        yield "a part", np.ascontiguousarray(pixels[top : top + 300, left : left + 300]), MPP


def measured(pixels: Pixels, mpp: float) -> tuple[tuple[float, ...], float] | None:
    """Return the values and the allowance of a picture; None if it cannot be measured."""
    signs = measure_field(Frame(np.ascontiguousarray(pixels), mpp), Detections.empty(), MPP)
    return signs and (signs.tissue, ALLOWANCE * signs.both_stains)


def warned_of(row: Row, score: DeviationScore) -> bool:
    """Return whether a picture gets a warning."""
    return score.value(row.numbers) > row.allowance


def measure_tissue(folder: Path) -> Iterator[Row]:
    """Measure every field, unchanged and varied as between laboratories."""
    rng = np.random.default_rng(0)
    for source, name, pixels in track(list(tissue(folder)), "Measuring tissue"):
        changed = another_laboratory(pixels[:700, :700], rng)
        for view, shown, mpp in (
            ("as it is", pixels, MPP),
            ("another laboratory", changed, MPP * float(rng.uniform(0.8, 1.25))),
        ):
            if one := measured(shown, mpp):
                yield Row(True, LABORATORY.get(source, source), name, view, *one)


def measure_colon() -> Iterator[Row]:
    """Measure scikit-image's field of colon, whole and in parts, at three um/px, since it states none."""
    whole, rng = immunohistochemistry(), np.random.default_rng(3)
    for mpp in (0.4, 0.5, 0.6):
        for part in (whole, whole[:300, :300], whole[212:, 212:], whole[:300, 212:], whole[212:, :300]):
            for view, shown in (("as it is", part), ("another laboratory", another_laboratory(part, rng))):
                if one := measured(shown, mpp):
                    yield Row(True, "colon", f"colon {mpp:g}", view, *one)


def measure_pictures(folder: Path) -> Iterator[Row]:
    """Measure every picture without tissue, in several views."""
    rng = np.random.default_rng(0)
    for source, name, pixels in pictures(folder):
        for view, shown, mpp in views(pixels, rng):
            if one := measured(shown, mpp):
                yield Row(False, source, name, view, *one)


def fit(rows: Sequence[Row]) -> DeviationScore:
    """Return the score with the bias at which a fraction `FALSE` of unchanged tissue scores too high."""
    ours, others = ([r for r in rows if r.tissue == kind and r.source != SIMULATED] for kind in (True, False))
    values, rest = (np.array([r.numbers for r in part]) for part in (ours, others))
    own, foreign = _weights(ours), _weights(others)
    usual = own @ values
    spread = np.sqrt(own @ (values - usual) ** 2) + 1e-3
    parts = np.r_[_sides(values, usual, spread), _sides(rest, usual, spread)]
    answer, weight = np.r_[np.zeros(len(ours)), np.ones(len(others))], np.r_[own, foreign] / 2

    def loss(line: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        score, penalty = parts @ line[:-1] + line[-1], RIDGE * line[:-1]
        error = weight * (1 / (1 + np.exp(-np.clip(score, -50, 50))) - answer)
        value = weight @ (np.logaddexp(0, score) - answer * score) + penalty @ line[:-1] / 2
        return float(value), np.r_[parts.T @ error + penalty, error.sum()]

    count = parts.shape[1]
    bounds = [(0, None if name in sides else 0) for sides in (BELOW, ABOVE) for name in NUMBERS] + [(None, None)]
    line = minimize(loss, np.zeros(count + 1), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500}).x
    plain = np.array([r.view == "as it is" for r in ours])
    excess = parts[: len(ours)] @ line[:-1] - [r.allowance for r in ours]
    bias = -float(np.quantile(excess[plain], 1 - FALSE))
    half = count // 2
    rounded = (tuple(float(f"{v:.4g}") for v in part) for part in (usual, spread, line[:half], line[half:-1]))
    return DeviationScore(*rounded, float(f"{bias:.4g}"))


def _sides(values: NDArray[np.float64], usual: NDArray[np.float64], spread: NDArray[np.float64]) -> NDArray[np.float64]:
    z = np.clip((values - usual) / spread, -MAX_Z, MAX_Z)
    return np.c_[np.maximum(-z, 0), np.maximum(z, 0)]


def _weights(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Return weights with sum 1, by a power of the size of the source."""
    sizes: dict[str, int] = {}
    for row in rows:
        sizes[row.source] = sizes.get(row.source, 0) + 1
    weight = np.array([sizes[r.source] ** -EVENNESS[r.tissue] for r in rows])
    return np.asarray(weight / weight.sum())


def judged(rows: Sequence[Row], table: DeviationScore) -> dict[str, Any]:
    """Return the numbers of pictures and warnings by source and view, with the table and with a held-out score."""
    unseen: dict[tuple[bool, str], DeviationScore] = {}
    for source in track(sorted({r.source for r in rows if r.tissue}), "Fitting without each source"):
        unseen[True, source] = fit([r for r in rows if not (r.tissue and r.source == source)])
    for half in (0, 1):
        unseen[False, str(half)] = fit([r for r in rows if r.tissue or r.half != half])
    result: dict[str, Any] = {"tissue": {}, "no tissue": {}}
    for row in rows:
        kind = "tissue" if row.tissue else "no tissue"
        cell = result[kind].setdefault(row.view, {}).setdefault(row.source, {"pictures": 0, "warned": 0, "new": 0})
        cell["pictures"] += 1
        cell["warned"] += warned_of(row, table)
        cell["new"] += warned_of(row, unseen[row.tissue, row.source if row.tissue else str(row.half)])
    return result


def write_table(table: DeviationScore) -> None:
    """Write the constants for the runtime."""
    columns = zip(NUMBERS, table.usual, table.spread, table.below, table.above, strict=True)
    rows = "".join(f"    ({', '.join(map(repr, row))}),  # {name}\n" for name, *row in columns)
    write_atomic(
        TABLE,
        '"""The score of tissue of `kinet_trt.quality.domain_check`, made by benchmarks/tissue.py: do not edit."""\n\n'
        f"BIAS = {table.bias!r}\n"
        "# Usual value, spread, and the weights below and above it, of each number of `Features.tissue`.\n"
        f"NUMBERS = (\n{rows})\n",
    )


def main() -> None:
    """Measure, fit, evaluate and write."""
    kept = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    if kept and kept.is_file():
        rows = [Row(**{**row, "numbers": tuple(row["numbers"])}) for row in json.loads(kept.read_text())]
    else:
        rows = [*measure_tissue(Path(sys.argv[1])), *measure_colon(), *measure_pictures(Path(sys.argv[2]))]
        if kept:
            write_atomic(kept, json.dumps([asdict(row) for row in rows]))
    table = fit(rows)
    write_table(table)
    result = judged(rows, table)
    for kind, by_view in result.items():
        for view, cells in by_view.items():
            shares = [sum(c[key] for s, c in cells.items() if s != SIMULATED) for key in ("pictures", "warned", "new")]
            by = ", ".join(f"{s} {c['warned']}-{c['new']}/{c['pictures']}" for s, c in cells.items())
            print(f"{kind:<10} {view:<20} {shares[1] / shares[0]:6.1%} new {shares[2] / shares[0]:6.1%}   {by}")
    document = json.loads(RESULT.read_text())
    write_atomic(RESULT, json.dumps({**document, "no_tissue": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
