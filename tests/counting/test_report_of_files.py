"""Report of counted images and slides: complete, self-contained, in the right places."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from html_page import Page, check_self_contained
from kinet_trt import NOTICE, NucleusCounter
from kinet_trt.core.stain_scoring import StainRules
from kinet_trt.counting import report
from kinet_trt.counting.find import find_images
from kinet_trt.counting.run import count_files
from kinet_trt.simulation import simulate
from simulated_slides import Canvas, Piece, write_tiff

NAME = "<b>a & 'b'.png"
COUNTER = NucleusCounter(threads=1)


def report_of(files, bands=report.NET, **options):
    """Count files; return the run, its page as text, and the parsed page."""
    cases = []
    run = count_files(
        files, COUNTER, on_counted=lambda counted, pixels: cases.append(report.make_case(counted, pixels)), **options
    )
    html = report.build(run, cases, bands=bands, hot_spot=options.get("hot_spot", 500))
    return run, html, Page(html)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("private-folder")
    for name, seed in ((NAME, 3), ("second.png", 5)):
        cv2.imencode(".png", simulate.field(seed, 320, 256)[0][..., ::-1])[1].tofile(path / name)
    (path / "broken.png").write_bytes(b"no picture")
    write_tiff(path / "slide.tif", Canvas(1200, 900, (Piece(100, 100, 800, 600),)))
    return path


@pytest.fixture(scope="module")
def page(folder):
    return report_of([folder / NAME], mpp=0.5, hot_spot=40)


def symbols(tags, name):
    """Return the number of symbols of a class on pictures: a class is one path, with one M per nucleus."""
    number, on_picture = 0, False
    for tag, attributes in tags:
        on_picture = tag == "image" or (on_picture and tag != "svg")
        if on_picture and attributes.get("class") == f"mark {name}":
            number += attributes["d"].count("M")
    return number


@pytest.mark.parametrize("protocol", ["net", "breast-global"])
def test_report_has_the_protocol_its_fields_and_no_range_of_another_one(folder, protocol):
    run, _, parsed = report_of([folder / "second.png"], hot_spot=40, hot_spots=2, protocol=protocol)
    (result,) = run.results
    for sentence in result.protocol.sentences():
        assert sentence in parsed.text
    for name, spot in result.counted_fields():
        assert name in parsed.text
        assert f"{spot.radius:,.0f} µm" in parsed.text
    drawn = [attributes["class"] for tag, attributes in parsed.tags if tag == "circle"]
    assert drawn.count("spot") == len(result.hot_spots)
    assert drawn.count("frame") == (len(result.protocol.fields) if protocol == "breast-global" else 0)
    assert any(name in parsed.text for name in ("G1", "G2", "G3")) == (protocol == "net")
    _, _, parsed = report_of([folder / "second.png"], bands=None, hot_spot=40, protocol=protocol)
    assert "range" not in parsed.text.lower().replace("arrange", "")


def test_report_runs_no_script_loads_nothing_and_contains_no_path(folder):
    _, html, _ = report_of(find_images([folder], slides=True), hot_spot=40, pool=True)
    check_self_contained(html)
    for word in (str(folder), folder.name, str(Path.home()), str(Path.cwd()), "/tmp"):
        assert word not in html


def test_report_states_the_count_of_an_image(page):
    run, _, parsed = page
    (result,) = run.results
    card = run.counter.engine.card
    for ki67 in (result.ki67, result.hot_spot.ki67):
        low, high = ki67.interval
        assert f"{100 * ki67.index:.1f}%" in parsed.text
        assert f"{ki67.positive} of {ki67.tumor} tumour nuclei; 95% interval {100 * low:.1f}% to {100 * high:.1f}%" in (
            parsed.text
        )
    for part in (NAME, *result.statement().notes, "G3 range (provisional)", "0.5 µm/px", "entered by hand"):
        assert part in parsed.text
    for part in (card.name, card.data, card.licence, card.model_sha256, "320 x 256 px", "0.16 x 0.13 mm"):
        assert part in parsed.text
    assert parsed.text.count(NOTICE) >= 2
    facts = [int(number) for number in re.findall(r"(\d+)nuclei", parsed.text)]
    assert facts == list(result.counts.values())


def test_report_marks_every_nucleus_the_hot_spot_and_a_length(page):
    run, _, parsed = page
    (result,) = run.results
    for name, number in result.counts.items():
        assert symbols(parsed.tags, name) == number
    (circle,) = (a for tag, a in parsed.tags if tag == "circle" and a["class"] == "spot")
    expected = [result.hot_spot.x, result.hot_spot.y, result.hot_spot.radius / 0.5]
    assert [float(circle[key]) for key in ("cx", "cy", "r")] == pytest.approx(expected, abs=0.06)
    (bar,) = (a for tag, a in parsed.tags if a.get("class") == "bar")
    length = float(re.search(r"Scale bar: (\d+) µm", parsed.text)[1])
    assert float(bar["width"]) == pytest.approx(length / 0.5)


def test_report_has_fine_symbols_where_outlines_would_hide_the_picture(folder, page, monkeypatch):
    assert "fine" not in [a.get("class") for _, a in page[2].tags]
    monkeypatch.setattr(report, "MIN_OUTLINED", 0.5)
    _, _, parsed = report_of([folder / NAME])
    assert [a.get("class") for tag, a in parsed.tags if tag == "g"] == ["fine"]


def test_report_draws_very_many_nuclei_into_the_picture(folder, monkeypatch):
    monkeypatch.setattr(report, "MAX_SYMBOLS", 10)
    _, _, parsed = report_of([folder / NAME])
    assert {symbols(parsed.tags, name) for name in COUNTER.engine.card.classes} == {0}
    assert len([tag for tag, _ in parsed.tags if tag == "image"]) == 1


def test_report_shows_the_stain_and_what_it_decided(folder):
    run, _, parsed = report_of([folder / NAME], stain=StainRules(0.7))
    (result,) = run.results
    (label,) = (a["aria-label"] for _, a in parsed.tags if a.get("aria-label", "").startswith("DAB optical density"))
    assert label.split(" of ")[1] == (
        f"{result.counts['positive']} positive tumour and {result.counts['negative']} negative tumour nuclei"
    )
    assert "by the DAB optical density, positive from 0.7 on, and not by the network." in parsed.text
    assert "It decides no class." not in parsed.text


def test_report_shows_warnings_as_notes(folder):
    _, _, parsed = report_of([folder / NAME])
    assert "The pixel size is only assumed." in parsed.text
    run, _, parsed = report_of([folder / NAME], mpp=0.2)
    (result,) = run.results
    assert result.unlike
    assert "Notes on this count" in parsed.text
    assert result.unlike in parsed.text
    assert " range" not in re.sub("No grade range is given|grade ranges?", "", parsed.text)


def test_report_has_a_section_for_each_image_and_for_all_together(folder):
    files = [folder / NAME, folder / "second.png", folder / "broken.png"]
    run, _, parsed = report_of(files, hot_spot=40, pool=True)
    assert "2 images, pooled as one case." in parsed.text
    assert f"{run.pooled.ki67.positive} of {run.pooled.ki67.tumor} tumour nuclei" in parsed.text
    assert parsed.text.index("All images together") < parsed.text.index("second.png")
    assert "broken.png: not an image" in parsed.text
    assert len([tag for tag, _ in parsed.tags if tag == "figure"]) == 2
    _, _, parsed = report_of(files[:2])
    assert "2 images, each counted separately." in parsed.text
    assert "All images together" not in parsed.text


def test_report_lists_and_numbers_several_hot_spots_and_the_fields_of_a_protocol(folder):
    files = [folder / NAME, folder / "second.png"]
    run, _, parsed = report_of(files[:1], hot_spot=20, hot_spots=2, protocol="breast-global", mpp=0.5)
    (result,) = run.results
    discs = [spot for _, spot in result.counted_fields()]
    assert len(discs) >= 2
    assert "Protocol breast-global" in parsed.text
    assert all(sentence in parsed.text for sentence in result.protocol.sentences())
    circles = [a for tag, a in parsed.tags if tag == "circle" and a["class"] != "case"]
    assert [float(a["cx"]) for a in circles] == pytest.approx([spot.x for spot in discs], abs=0.06)
    assert [a["class"] for tag, a in parsed.tags if tag == "text" and a.get("class") == "number"] == ["number"] * len(
        discs
    )
    for number, spot in enumerate(discs, 1):
        assert re.search(rf"{number}(Hot spot|breast-global).*{spot.ki67.positive} of {spot.ki67.tumor}", parsed.text)
    assert not re.search(r"\bG[123]\b", parsed.text)  # the ranges are those of the protocol
    run, _, parsed = report_of(files, hot_spot=20, hot_spots=2, protocol="breast-global", mpp=0.5, pool=True)
    assert all(sentence in parsed.text for sentence in run.pooled.protocol.sentences())
    run, _, parsed = report_of(files, hot_spot=20, protocol="net", mpp=0.5)
    assert "Protocol net" in parsed.text
    assert re.search(r"\bG[123] range", parsed.text)


def test_report_without_grade_ranges_mentions_none(folder):
    _, _, parsed = report_of([folder / NAME], bands=None)
    assert not re.search(r"\bG[123]\b", parsed.text)


def test_report_of_a_slide_shows_overview_and_heat_map(folder):
    run, _, parsed = report_of([folder / "slide.tif"], hot_spot=50)
    (result,) = run.results
    labels = [a["aria-label"] for tag, a in parsed.tags if tag == "svg" and "aria-label" in a]
    assert sum("Heat map" in label for label in labels) == 1
    assert len([tag for tag, _ in parsed.tags if tag == "image"]) == 2
    assert f"{result.area_mm2:.2f} mm²" in parsed.text
    (circle,) = (a for tag, a in parsed.tags if tag == "circle" and a["class"] == "spot")
    assert float(circle["r"]) == pytest.approx(result.hot_spot.radius / result.mpp, abs=0.06)
    total = sum(len(part) for part in result.iter_detections() if part.dab is not None)
    assert total == sum(result.counts.values())
    assert "The median is" in parsed.text


def test_report_of_files_that_cannot_be_counted_says_so(folder):
    _, _, parsed = report_of([folder / "broken.png"])
    assert "Not counted" in parsed.text
    assert "0 images" in parsed.text


def test_report_of_grey_and_empty_images_has_no_index(tmp_path):
    path = tmp_path / "grey.png"
    cv2.imwrite(str(path), np.full((200, 200), 180, np.uint8))
    _, _, parsed = report_of([path])
    assert "No tumour nuclei" in parsed.text
    assert "Stain of the tumour nuclei" not in parsed.text
