"""What is written of counted slides, part by part: millions of nuclei are never in memory at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kinet_trt.core.detections import nuclei_csv
from kinet_trt.slides.count import CountedSlide


def geojson(counted: CountedSlide) -> Iterator[str]:
    """Yield the parts of a GeoJSON FeatureCollection of QuPath detections, one a nucleus."""
    yield '{"type": "FeatureCollection", "features": ['
    first = True
    for band in counted.bands():
        for feature in band.features("detection"):
            yield ("\n" if first else ",\n") + json.dumps(feature, allow_nan=False)
            first = False
    yield "\n]}\n"


def csv_rows(counted: CountedSlide) -> Iterator[str]:
    """Yield rows ``image,x,y,class,score`` of a slide's nuclei, without the heading."""
    for band in counted.bands():
        yield nuclei_csv([(str(counted.image), band)]).partition("\n")[2]


def json_detections(counted: CountedSlide) -> Iterator[str]:
    """Yield the parts of a JSON list of a slide's nuclei, as :meth:`Detections.records` gives them."""
    yield "["
    first = True
    for band in counted.bands():
        for record in band.records():
            yield ("\n" if first else ",\n") + json.dumps(record, allow_nan=False)
            first = False
    yield "]"


def slide_record(counted: CountedSlide) -> dict[str, Any]:
    """Return what a slide's JSON has beside what every field's has."""
    plan = counted.plan
    total = len(plan.rows) * len(plan.columns)
    return {
        "format": counted.format,
        "level": plan.level,
        "level_mpp": plan.mpp * plan.downsample,
        "tiles": len(plan.tiles),
        "tiles_left_out": total - len(plan.tiles),
        "tissue_mm2": round(counted.area_mm2, 4),
        "hot_spot": counted.hot_spot.record() if counted.hot_spot else None,
    }
