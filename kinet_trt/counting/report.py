"""Report of counted images and slides: one self-contained HTML file for screen and print.

It has a section for each image, and contains no path. `kinet_trt.report` has what it shares with the report of a
session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import printable
from kinet_trt.core.frame import Frame
from kinet_trt.core.geometry import rescale
from kinet_trt.core.hot_spot import HOT_SPOT, HotSpot
from kinet_trt.core.ki67 import NET, Bands, Statement
from kinet_trt.core.protocols import ProtocolCount, statement_bands
from kinet_trt.core.result import CountResult
from kinet_trt.core.stain_scoring import positive_sentence
from kinet_trt.counting.pooled import PooledCount
from kinet_trt.counting.run import CountRun
from kinet_trt.io.overlay import RING_UM, draw
from kinet_trt.io.pixel_size import HOW_KNOWN
from kinet_trt.report import drawings
from kinet_trt.report.page import class_name, named, render, stain_section
from kinet_trt.slides.count import CountedSlide
from kinet_trt.slides.heatmap import heat_map
from kinet_trt.slides.tissue import Thumbnail

MAX_SYMBOLS = 20_000
"""Number of nuclei above which they are drawn into the picture and not as symbols that print sharply."""
MIN_OUTLINED = 0.0035
"""Radius of a symbol below which it has a fine line and no white outline, fraction of the picture's width."""


@dataclass(frozen=True)
class Case:
    """Section of an image or slide, without its pixels.

    ``pictures`` are drawings and their captions; ``stain`` is the section of the DAB density, None without tumour
    nuclei.
    """

    result: CountResult
    pictures: tuple[tuple[Markup, str], ...]
    stain: Mapping[str, Any] | None


def make_case(counted: CountResult, pixels: Frame | Thumbnail, side: int = 1400) -> Case:
    """Return the section of an image or slide; of a slide the nuclei are read.

    Parameters
    ----------
    counted
        Its result.
    pixels
        The image, or a thumbnail of the slide.
    side
        Longer side of its picture, px.
    """
    if isinstance(counted, CountedSlide):
        assert isinstance(pixels, Thumbnail)
        pictures = _slide_pictures(counted, pixels, side)
    else:
        assert isinstance(pixels, Frame)
        pictures = (_nuclei_picture(counted, pixels, side),)
    return Case(counted, pictures, stain_section(_tumour_density(counted.iter_detections())))


def picture_side(images: int) -> int:
    """Return the longer side of a picture, px, in a report of a number of images."""
    return 1400 if images <= 24 else 800


def build(run: CountRun, cases: Sequence[Case], *, bands: Bands | None = NET, hot_spot: int = HOT_SPOT) -> str:
    """Return the report of counted files as HTML.

    Parameters
    ----------
    run
        The counts.
    cases
        Sections, in the order of the page.
    bands
        Grade ranges; with None the report mentions none.
    hot_spot
        Number of tumour nuclei in a hot spot.
    """
    cut = next((case.result.positive_above for case in cases), None)
    sections = [_section(case, bands) for case in cases]
    return render(
        "kinet_trt.counting",
        "report.html.jinja",
        title=sections[0]["name"] if len(sections) == 1 else "",
        cases=sections,
        pooled=_pooled(run.pooled, bands) if run.pooled and len(sections) > 1 else None,
        overview=[_row(section) for section in sections],
        protocol=next((section["protocol"]["name"] for section in sections if section["protocol"]), None),
        errors=[f"{printable(path.name)}: {message.replace(str(path), path.name)}" for path, message in run.errors],
        legend=drawings.class_legend(run.counter.engine.card.classes),
        hot_spot_size=hot_spot,
        model=_model(run),
        decision="It decides no class." if cut is None else positive_sentence(cut),
        has_stain=any(section["stain"] for section in sections),
    )


# --- pictures ---------------------------------------------------------------------------------------------------------


def _slide_pictures(counted: CountedSlide, thumbnail: Thumbnail, side: int) -> tuple[tuple[Markup, str], ...]:
    """Return an overview with the hot spot, and the heat map, each with its caption."""
    rows, columns = thumbnail.pixels.shape[:2]
    size = (columns * thumbnail.downsample, rows * thumbnail.downsample)
    overview = _picture(counted, drawings.shrunk(thumbnail.pixels, side), size, ())
    heat = drawings.shrunk(heat_map(counted, thumbnail), 2 * side)
    height, width = heat.shape[:2]
    drawing = Markup(  # noqa: S704 - numbers and our own words
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Heat map of the Ki67 index and of the nuclei per '
        f'mm²">{drawings.photo(heat, width, height)}</svg>'
    )
    caption = "Heat map. Left: Ki67 index, where there are at least 100 tumour nuclei per mm². Right: nuclei per mm²."
    return overview, (drawing, caption)


def _nuclei_picture(counted: CountResult, frame: Frame, side: int) -> tuple[Markup, str]:
    """Return an image with its nuclei, and the caption."""
    nuclei = Detections.concatenate(counted.iter_detections())
    pixels, size = drawings.shrunk(frame.pixels, side), (counted.width, counted.height)
    if len(nuclei) > MAX_SYMBOLS:
        factor = pixels.shape[1] / counted.width
        scaled = replace(nuclei, x=rescale(nuclei.x, factor), y=rescale(nuclei.y, factor))
        return _picture(counted, draw(Frame(pixels), scaled, counted.mpp / factor), size, ())
    radius = max(2.0, RING_UM / counted.mpp)
    symbols = []
    for index, name in enumerate(nuclei.classes):
        if centres := nuclei.where(nuclei.cls == index).xy.tolist():
            path = drawings.mark(name, [(x, y) for x, y in centres], radius)
            symbols.append(drawings.outlined(path, drawings.css_class(name)))
    if radius < MIN_OUTLINED * counted.width:
        symbols = ['<g class="fine">', *symbols, "</g>"]
    return _picture(counted, pixels, size, symbols)


def _picture(
    counted: CountResult, pixels: NDArray[np.uint8], size: tuple[float, float], symbols: Sequence[str]
) -> tuple[Markup, str]:
    """Return a drawing with hot spots and a scale bar, and its caption; ``size`` of ``pixels`` in px of the file."""
    width, height = size
    bar, length = drawings.scale_bar(width, height, counted.mpp)
    discs = _discs(counted)
    circles = "".join(_circle(name, spot, counted.mpp) for name, spot in discs)
    if len(discs) > 1:
        circles += "".join(_number(number, spot, width) for number, (_, spot) in enumerate(discs, 1))
    counts = ", ".join(f"{number:,} {name}" for name, number in named(counted.counts))
    drawing = Markup(  # noqa: S704 - numbers and escaped names
        f'<svg viewBox="-0.5 -0.5 {width:.1f} {height:.1f}" role="img" aria-label="{escape(counts)}">'
        f"{drawings.photo(pixels, width, height, -0.5)}{''.join(symbols)}{circles}{bar}</svg>"
    )
    meaning = ""
    if len(discs) == 1:
        spot = discs[0][1]
        kind = "Dashed red circle: hot spot" if spot == counted.hot_spot else "Black circle: field"
        meaning = f" {kind}, {_place(spot)}."
    elif discs:
        meaning = " The numbers are those of the table. Dashed red circles: hot spots; black circles: other fields."
    return drawing, f"Scale bar: {length}.{meaning}"


def _circle(name: str, spot: HotSpot, mpp: float) -> str:
    """Return a circle: dashed and red for a hot spot, black for another field of a protocol."""
    place = f'cx="{spot.x:.1f}" cy="{spot.y:.1f}" r="{spot.radius / mpp:.1f}"'
    return (
        f'<circle class="case" {place}/><circle class="{"spot" if "hot spot" in name.lower() else "frame"}" {place}/>'
    )


def _place(spot: HotSpot) -> str:
    return f"within {spot.radius:,.0f} µm of px {spot.x:,.0f}, {spot.y:,.0f}"


def _number(number: int, spot: HotSpot, width: float) -> str:
    return f'<text class="number" x="{spot.x:.1f}" y="{spot.y:.1f}" font-size="{width / 28:.1f}">{number}</text>'


def _discs(counted: CountResult) -> list[tuple[str, HotSpot]]:
    """Return the names and discs of the hot spots and the fields of the protocol, each disc once."""
    names: dict[HotSpot, list[str]] = {}
    for name, spot in counted.counted_fields():
        names.setdefault(spot, []).append(name)
    if counted.hot_spot and counted.hot_spot not in names:
        names = {counted.hot_spot: ["Hot spot"], **names}
    return [(", ".join(same), spot) for spot, same in names.items()]


# --- contents of the sections -----------------------------------------------------------------------------------------


def _tumour_density(parts: Iterable[Detections]) -> dict[str, NDArray[np.float32]]:
    """Return the densities of DAB of the tumour nuclei by class; empty where they were not measured."""
    found: dict[str, list[NDArray[np.float32]]] = {"positive": [], "negative": []}
    for part in parts:
        for name, values in found.items():
            if part.dab is not None and name in part.classes:
                values.append(part.dab[part.cls == part.classes.index(name)])
    return {name: np.concatenate([np.empty(0, np.float32), *values]) for name, values in found.items()}


def _section(case: Case, bands: Bands | None) -> dict[str, Any]:
    result = case.result
    statement = result.statement(statement_bands(result.protocol.name if result.protocol else None, bands))
    return {
        "name": printable(result.image.name),
        "pictures": case.pictures,
        "stain": case.stain,
        "cautions": _cautions(result),
        "is_slide": isinstance(result, CountedSlide),
        "protocol": _protocol(result.protocol, ranges=bands is not None and not result.unlike),
        "fields": _field_rows([(name, "", spot) for name, spot in _discs(result)]),
        **_figures(statement, result.counts, _size_facts(result)),
    }


def _pooled(pooled: PooledCount, bands: Bands | None) -> dict[str, Any]:
    facts = [("Images", f"{pooled.images:,}", "pooled as one case")]
    if pooled.hot_spot_image:
        facts.append(("Hot spot", printable(pooled.hot_spot_image.name), "image with the highest one"))
    fields = [
        (f"Hot spot {number}", image.name, spot) for number, (spot, image) in enumerate(pooled.hot_spots or (), 1)
    ]
    if pooled.protocol:
        discs = zip(pooled.protocol.fields, pooled.protocol_images, strict=True)
        fields += [
            (f"{pooled.protocol.name}: {field.level}", image.name, HotSpot(field.x, field.y, field.radius, field.ki67))
            for field, image in discs
        ]
    net = statement_bands(pooled.protocol.name if pooled.protocol else None, bands)
    return {
        "protocol": _protocol(pooled.protocol, ranges=bands is not None and not pooled.unlike),
        "fields": _field_rows(fields),
        **_figures(pooled.statement(net), pooled.counts, facts),
    }


def _protocol(protocol: ProtocolCount | None, *, ranges: bool) -> dict[str, Any] | None:
    if protocol is None:
        return None
    return {
        "name": protocol.name,
        "index": protocol.index,
        "sentences": protocol.sentences(ranges=ranges),
    }


def _field_rows(discs: Sequence[tuple[str, str, HotSpot]]) -> list[list[str]]:
    """Return the table of several hot spots and fields of the protocol; empty if there is only one.

    ``discs`` are name, name of the image (empty to leave it out) and disc.
    """
    return [
        [
            str(number),
            name,
            *([printable(image)] if image else []),
            f"{spot.ki67.positive} of {spot.ki67.tumor}",
            drawings.percent(spot.ki67.index),
            drawings.interval_text(spot.ki67),
            _place(spot),
        ]
        for number, (name, image, spot) in enumerate(discs, 1)
        if len(discs) > 1
    ]


def _figures(statement: Statement, counts: Mapping[str, int], more: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """Return index, statement and facts of a section."""
    indices = [ki67 for ki67 in (statement.average, statement.hot_spot) if ki67 and ki67.interval]
    highest = max((ki67.interval[1] for ki67 in indices if ki67.interval), default=0.0)
    return {
        "statement": statement,
        "draw_interval": partial(
            drawings.interval, bands=None if statement.no_range else statement.bands, highest=highest
        ),
        "entries": [
            *((name.capitalize(), f"{number:,}", "nuclei") for name, number in named(counts)),
            ("Tumour nuclei", f"{statement.average.tumor:,}", "positive and negative"),
            *more,
        ],
    }


def _size_facts(result: CountResult) -> list[tuple[str, str, str]]:
    facts = [
        ("Pixel size", f"{result.mpp:.4g} µm/px", HOW_KNOWN[result.mpp_source]),
        ("Size", f"{result.width:,} x {result.height:,} px", _extent(result)),
    ]
    if isinstance(result, CountedSlide):
        density = f"{result.ki67.tumor / result.area_mm2:,.0f} tumour nuclei/mm²" if result.area_mm2 else ""
        facts.append(("Tissue counted", f"{result.area_mm2:.2f} mm²", density))
    if result.h_score and result.h_score.score is not None:
        facts.append(("H-score", f"{result.h_score.score:.1f}", f"1+, 2+, 3+ from {result.h_score.cut_text} on"))
    return facts


def _extent(result: CountResult) -> str:
    width, height = result.width * result.mpp / 1000, result.height * result.mpp / 1000
    return f"{width:.2f} x {height:.2f} mm"


def _cautions(result: CountResult) -> list[str]:
    """Return the notes of a section."""
    notes = [*result.remarks]
    if result.mpp_source == "model":
        notes.append("The pixel size is only assumed. If it is wrong, so are the count and the index; --mpp sets it.")
    if result.positive_above is not None:
        notes.append(positive_sentence(result.positive_above))
    return notes


def _row(section: Mapping[str, Any]) -> list[str]:
    """Return the row of a section in the table of all images."""
    statement: Statement = section["statement"]
    cells = []
    for ki67 in (statement.average, statement.hot_spot):
        if ki67 is None or ki67.index is None:
            cells += ["–", "–", "–"]
        else:
            cells += [drawings.percent(ki67.index), drawings.interval_text(ki67), statement.range_of(ki67) or "–"]
    protocol = section["protocol"]
    if protocol:
        cells.append(drawings.percent(protocol["index"]))
    return [section["name"], f"{statement.average.tumor:,}", *cells]


def _model(run: CountRun) -> list[tuple[str, str]]:
    """Return name and value of what the model card says."""
    engine = run.counter.engine
    card = engine.card
    metrics = ", ".join(f"{name} {value:.3g}" for name, value in card.metrics.items())
    rows = [
        ("Model", card.name),
        ("Network", card.network),
        ("Classes", ", ".join(map(class_name, card.classes))),
        ("Pixel size", f"{card.mpp:g} µm/px"),
        ("Threshold", str(run.counter.threshold)),
        ("Runtime", engine.runtime),
        ("Precision", engine.precision),
        ("Validation", metrics),
        ("Training data", card.data),
        ("Terms of use", card.licence),
        ("Intended use", card.notice),
        ("sha256", card.model_sha256),
    ]
    return [(name, value) for name, value in rows if value]
