"""A report as one self-contained HTML file for screen and print.

Text is escaped; the page runs no script and loads nothing, and its content security policy enforces both.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from datetime import datetime
from functools import cache, partial
from importlib import resources
from importlib.metadata import version
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from kinet_trt.core.detections import NAMES
from kinet_trt.core.notice import NOTICE
from kinet_trt.report import drawings


def render(package: str, template: str, **values: Any) -> str:
    """Return the page of a package's template, which extends ``page.html.jinja`` and gets these values."""
    style = (resources.files("kinet_trt.report") / "report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        _environment(package)
        .get_template(template)
        .render(
            policy=policy,
            style=Markup(style),  # noqa: S704 - our own file
            notice=NOTICE,
            version=version("kinet-trt"),
            now=time.time(),
            **values,
        )
    )


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("kinet_trt.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        class_name=class_name,
        clock=partial(moment, form="%H:%M"),
        interval=drawings.interval_text,
        moment=moment,
        percent=drawings.percent,
        thousands="{:,}".format,
        typed=typed,
    )
    return environment


def stain_section(density: Mapping[str, NDArray[np.floating]]) -> dict[str, Any] | None:
    """Return the histogram and the medians of the density of DAB of tumour nuclei; None without tumour nuclei.

    ``density`` are the optical densities by class.
    """
    if not any(map(len, density.values())):
        return None
    medians = [f"{float(np.median(values)):.2f} ({name})" for name, values in density.items() if len(values)]
    return {"histogram": drawings.density_histogram(density), "medians": " and ".join(medians)}


def named(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return counts with the names of the classes for people."""
    return [(class_name(name), number) for name, number in counts.items()]


def class_name(name: str) -> str:
    """Return the name of a class for people."""
    return NAMES.get(name, name)


def typed(text: str) -> Markup:
    """Return typed text whose writing direction does not affect the text around it."""
    return Markup("<bdi>{}</bdi>").format(text)


def moment(seconds: float, form: str = "%Y-%m-%d %H:%M %Z") -> str:
    """Return a local time."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().strftime(form)
    except (OverflowError, OSError, ValueError):
        return "at an unknown time"
