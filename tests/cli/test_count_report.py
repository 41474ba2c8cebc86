"""``kinet-trt count --report``: rules for the file."""

from __future__ import annotations

import json

import cv2
import pytest

from html_page import Page
from kinet_trt.simulation import simulate


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "in" / "field.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), simulate.field(3, 320, 256)[0][..., ::-1])
    return path


def test_report_is_written_like_a_document_that_people_sign(run, tmp_path, image):
    out = tmp_path / "report.html"
    code, printed, err = run("count", image, "--report", out, "--hot-spot", 40, "--bands", "none", "--json", "-")
    assert (code, err) == (0, f"written: {out}\n")
    index = json.loads(printed)["fields"][0]["ki67_index"]
    text = Page(out.read_text("utf-8")).text
    assert f"{100 * index:.1f}%" in text
    assert "of 40 tumour nuclei" in text
    assert "G3" not in text
    page = out.read_bytes()
    code, printed, err = run("count", image, "--report", out)
    assert (code, printed, err) == (1, "", f"Error: {out} exists already: --force replaces it\n")
    assert out.read_bytes() == page
    assert run("count", image, "--report", out, "--force")[0] == 0
    assert out.read_bytes() != page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "report.html"]


def test_report_must_be_an_html_file(run, tmp_path, image):
    code, _, err = run("count", image, "--report", tmp_path / "report.pdf")
    assert code == 2
    assert ".html" in err


def test_report_goes_to_standard_output_alone(run, image):
    code, printed, err = run("count", image, "--report", "-")
    assert (code, err) == (0, "")
    assert printed.startswith("<!DOCTYPE html>")
    assert printed.rstrip().endswith("</html>")
