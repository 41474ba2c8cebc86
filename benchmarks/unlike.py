"""Evaluate the domain warning: writes benchmarks/results/unlike.json and kinet_trt/quality/domain_table.py.

`python benchmarks/unlike.py FIELDS [MEASURED]`, FIELDS with `index.csv` and, beside it, `unlabelled/`. Fits the two
scores of size on all fields with nominal um/px and writes them to the table. Evaluates every field, unchanged and
degraded, with these scores and with scores fitted without the field's source. MEASURED is a cache of the measurements;
if it exists, only fitting and evaluation are done.

Sources of one laboratory count as one: the labelled and the unlabelled pancreatic fields, and glioma.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from damages import BLURS, HARMLESS, STAINS, Pixels, another_camera
from numpy.typing import NDArray

from kinet_trt.cli.progress import track
from kinet_trt.core.detections import Detections
from kinet_trt.core.files import write_atomic
from kinet_trt.core.frame import Frame
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.evaluation.benchmark import machine
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.io.images import read_image
from kinet_trt.quality.domain_check import (
    OCTAVES,
    SIZE_FEATURES,
    Cause,
    Features,
    LinearScore,
    find_causes,
    measure_field,
)
from kinet_trt.simulation import simulate

ROOT = Path(__file__).resolve().parents[1]
RESULT, TABLE = ROOT / "benchmarks" / "results" / "unlike.json", ROOT / "kinet_trt" / "quality" / "domain_table.py"
MAGENTA, FOREIGN, DARK = 0.55, 0.25, 0.5
FALSE = 0.015
"""Fraction of unchanged fields for which each of the two scores warns."""
MARGIN = {True: 2.0, False: 1.0}
"""Margin above that limit, for the score of large and of small nuclei, since scores are higher in tissue of new
laboratories (endometrium, bone marrow)."""
RIDGE = 0.005
SOFT = "blur 1 px"
"""Degradation that the scores learn to ignore."""
EVENNESS = {True: 0.5, False: 0.75}
"""Exponent of the size of a laboratory in the weights of its images, for the score of large and of small nuclei:
0 weights images equally, 1 laboratories."""
WITHIN = (0.81, 0.9, 1.1, 1.23)
"""Factors of a wrong um/px that must not warn."""
DOUBLE = (1.8, 2.2)
EVERY = 6  # step between the fields of a large source that are degraded
CROP = 640  # side of the part of a field that is degraded, px
LABORATORY = {"pnet-figure": "pancreas", "pnet": "pancreas", "glu": "glioma"}
ELSEWHERE = ("olympus_dp28", "eyepiece_photo", "simulated", "scikit-image")
"""Sources for evaluation only: their um/px is not nominal, or they are not human Ki67 fields."""


@dataclass(frozen=True)
class Row:
    """Measurement of an image: `change` is "" for an unchanged field; `factor` is the error of um/px."""

    source: str
    field: str
    change: str
    factor: float
    signs: Features | None
    found: int

    @property
    def laboratory(self) -> str:
        """Group that is left out together."""
        return LABORATORY.get(self.source, self.source)


def fields(folder: Path) -> Iterator[tuple[str, str, Pixels]]:
    """Yield source, name and pixels of every field."""
    for labelled in read_fields(folder):
        yield labelled.source, labelled.name, labelled.pixels()
    for path in sorted((folder / "unlabelled").iterdir()):
        yield (
            path.stem.rstrip("0123456789").rstrip("_").removesuffix("_A").removesuffix("_B"),
            path.stem,
            (read_image(path).pixels),
        )
    rng = np.random.default_rng(7)
    for seed in range(900, 930):
        look_of = {"positive_fraction": 0.6, "counterstain": 1.4, "tumor_share": 0.9, "hue_shift": 10.0}
        low = {"positive_fraction": 0.0, "counterstain": 0.6, "tumor_share": 0.3, "hue_shift": -10.0}
        options = {name: float(rng.uniform(low[name], high)) for name, high in look_of.items()}
        yield "simulated", str(seed), simulate.field(seed, 596, 596, **options)[0]


def measure(folder: Path) -> list[Row]:
    """Measure every field, unchanged and degraded."""
    counter = NucleusCounter()
    mpp, rng = counter.engine.card.mpp, np.random.default_rng(0)
    rows, seen = list[Row](), dict[str, int]()

    def add(
        source: str, name: str, change: str, pixels: Pixels, factor: float = 1.0, found: Detections | None = None
    ) -> None:
        frame = Frame(np.ascontiguousarray(pixels), mpp * factor)
        found = counter(frame) if found is None else found
        rows.append(Row(source, name, change, factor, measure_field(frame, found, mpp), len(found)))

    for source, name, pixels in track(list(fields(folder)), "Measuring"):
        # A camera frame is larger than the measured window.
        add(source, name, "", _middle(pixels, 2 * CROP))
        seen[source] = seen.get(source, 0) + 1
        if source == "immunoratio" and seen[source] % EVERY:
            continue
        small, smaller = _middle(pixels, CROP), _middle(pixels, CROP * 5 // 8)
        add(source, name, "um/px halved", _middle(pixels, 2 * CROP), 0.5)
        add(source, name, "um/px doubled", smaller, 2.0)
        for factor in (*WITHIN, *DOUBLE, *(1 / f for f in DOUBLE)):
            shown = smaller if factor > 1.5 else small
            add(source, name, "fit", another_camera(shown, rng), factor)
        for change, damage in [*BLURS.items(), *HARMLESS.items()]:
            add(source, name, change, damage(smaller))
        # Hues do not depend on nuclei, so the nuclei of the unchanged image are used to save time.
        found = counter(Frame(smaller, mpp))
        for change, damage in STAINS.items():
            add(source, name, change, damage(smaller), found=found)
    return rows


def _middle(pixels: Pixels, side: int) -> Pixels:
    top, left = (max(0, (length - side) // 2) for length in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def signs_of(row: Row, large: bool) -> tuple[float, ...]:
    """Return the inputs of a score; NaN where an image is too small for them."""
    if row.signs is None:
        return (math.nan,) * (SIZE_FEATURES + OCTAVES * large)
    return row.signs.size + row.signs.spectrum * large


def fit(rows: Sequence[Row], large: bool) -> LinearScore:
    """Return the score that separates um/px that is too large or too small by a factor of two from correct um/px.

    Weighted ridge logistic regression, with the bias at which a fraction `FALSE` of unchanged fields scores above 0.
    """
    side = [r for r in rows if r.signs and (r.factor < 1.3 if not large else r.factor > 0.77) and _fits(r)]
    values = np.array([signs_of(r, large) for r in side])
    wrong = np.array([not 0.77 < r.factor < 1.3 for r in side])
    weight = _weights(side, wrong, large)
    mean = np.nansum(values * weight[:, None], axis=0) / ((~np.isnan(values)) * weight[:, None]).sum(axis=0)
    deviation = np.sqrt(np.nanmean((values - mean) ** 2, axis=0)) + 1e-9
    z = np.c_[np.nan_to_num((values - mean) / deviation), np.ones(len(side))]
    penalty = RIDGE * np.diag([1.0] * values.shape[1] + [1e-6])
    line = np.zeros(values.shape[1] + 1)
    for _ in range(40):
        p = 1 / (1 + np.exp(-z @ line))
        gradient = z.T @ (weight * (p - wrong)) + penalty @ line
        line -= np.linalg.solve((z * (weight * p * (1 - p))[:, None]).T @ z + penalty, gradient)
    own = np.array([r.change == "" for r in side])
    scores, share = z[own] @ line, _weights([r for r, o in zip(side, own, strict=True) if o], wrong[own], large)
    order = np.argsort(-scores)
    first = int(np.searchsorted(np.cumsum(share[order]) / share.sum(), FALSE, side="right"))
    line[-1] -= scores[order[first]] + 1e-9 + MARGIN[large]
    return LinearScore(
        *(tuple(float(f"{v:.5g}") for v in part) for part in (mean, deviation, line[:-1])), float(f"{line[-1]:.5g}")
    )


def _fits(row: Row) -> bool:
    return row.source not in ELSEWHERE and (row.change in ("", "fit", SOFT) or row.change.startswith("um/px"))


def _weights(rows: Sequence[Row], wrong: NDArray[np.bool_], large: bool) -> NDArray[np.float64]:
    """Return weights with sum 1, by a power of the size of the laboratory, equal for correct and wrong um/px."""
    power = EVENNESS[large]
    sizes: dict[tuple[str, bool], int] = {}
    for row, w in zip(rows, wrong, strict=True):
        sizes[row.laboratory, bool(w)] = sizes.get((row.laboratory, bool(w)), 0) + 1
    weight = np.array([sizes[r.laboratory, bool(w)] ** -power for r, w in zip(rows, wrong, strict=True)])
    for kind in (True, False):
        if (wrong == kind).any():
            weight[wrong == kind] /= weight[wrong == kind].sum()
    return weight / weight.sum()


def judge(row: Row, large: LinearScore, small: LinearScore) -> tuple[Cause, ...]:
    """Return the causes of a warning."""
    return find_causes(row.signs, large, small) if row.signs else ()


def judged(rows: Sequence[Row], left_out: bool) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the number of warnings and their causes by change and source, with or without the own laboratory."""
    lines = {}
    for laboratory in {r.laboratory for r in rows}:
        others = [r for r in rows if not left_out or r.laboratory != laboratory]
        lines[laboratory] = fit(others, True), fit(others, False)
    table: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row.change == "fit":
            continue
        cell = table.setdefault(row.change or "as it is", {}).setdefault(row.source, {"fields": 0, "warned": 0})
        causes = judge(row, *lines[row.laboratory])
        cell["fields"] += 1
        cell["warned"] += bool(causes)
        for cause in causes:
            cell[cause] = cell.get(cause, 0) + 1
    return table


def speed() -> dict[str, float]:
    """Return the time of the check on a field of 1 megapixel, ms."""
    pixels = simulate.field(901, 1024, 1024)[0]
    counter, times = NucleusCounter(), []
    frame = Frame(pixels, counter.engine.card.mpp)
    found = counter(frame)
    for _ in range(40):
        start = time.perf_counter()
        measure_field(frame, found, counter.engine.card.mpp)
        times.append(1000 * (time.perf_counter() - start))
    return {"p50": round(float(np.median(times)), 2), "least": round(min(times), 2)}


def write_table(large: LinearScore, small: LinearScore) -> None:
    """Write the constants for the runtime."""

    def text(line: LinearScore) -> str:
        parts = astuple(line)
        indent = " " * 8
        rows = [
            textwrap.fill(", ".join(map(repr, part)), 112, initial_indent=indent, subsequent_indent=indent)
            for part in parts[:3]
        ]
        return "(\n" + "".join(f"    (\n{row},\n    ),\n" for row in rows) + f"    {parts[3]!r},\n)"

    write_atomic(
        TABLE,
        f'"""Limits of `kinet_trt.quality.domain_check`, made by benchmarks/unlike.py: do not edit."""\n\n'
        f"MAGENTA, FOREIGN, DARK = {MAGENTA}, {FOREIGN}, {DARK}\n"
        f"# Mean, deviation and weight of each number of `Features.size` (LARGE: and `Features.spectrum`); bias.\n"
        f"# fmt: off\n"
        f"LARGE = {text(large)}\nSMALL = {text(small)}\n",
    )


def main() -> None:
    """Measure, fit, evaluate and write."""
    folder = Path(sys.argv[1])
    kept = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    if kept and kept.is_file():
        rows = [
            Row(**{**row, "signs": Features(**{k: tuple(v) if isinstance(v, list) else v for k, v in signs.items()})})
            if (signs := row["signs"])
            else Row(**row)
            for row in json.loads(kept.read_text())
        ]
    else:
        rows = measure(folder)
        if kept:
            write_atomic(kept, json.dumps([asdict(row) for row in rows]))
    large, small = fit(rows, True), fit(rows, False)
    write_table(large, small)
    before = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    document = {"machine": machine(), "ms": speed(), "no_tissue": before.get("no_tissue")}
    for name, left_out in (("with_its_source", False), ("without_its_source", True)):
        table = document[name] = judged(rows, left_out)
        print(f"\n{name}")
        for change, cells in table.items():
            known = [c for s, c in cells.items() if s not in ELSEWHERE]
            share = sum(c["warned"] for c in known) / sum(c["fields"] for c in known)
            by = ", ".join(f"{s} {c['warned']}/{c['fields']}" for s, c in cells.items())
            print(f"{change:<30} {share:6.1%}   {by}")
    write_atomic(RESULT, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
