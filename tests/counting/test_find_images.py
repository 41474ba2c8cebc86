"""Which files a folder, a glob or a list of names stands for."""

import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

from kinet_trt.cli.main import app
from kinet_trt.core.detections import Detections, nuclei_csv
from kinet_trt.core.errors import KinetError, printable
from kinet_trt.counting.find import find_images, skipped_files
from kinet_trt.simulation import simulate
from kinet_trt.slides import slide as slides


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(simulate.field(1, 96, 96)[0]).save(tmp_path / "a.png")
    return tmp_path


def test_a_file_that_links_lead_to_is_counted_once(folder):
    (folder / "b.png").symlink_to(folder / "a.png")
    os.link(folder / "a.png", folder / "c.png")
    for with_slides in (True, False):
        assert [path.name for path in find_images([folder], slides=with_slides)] == ["a.png"]
        assert find_images([folder / "b.png", folder / "a.png"], slides=with_slides) == [folder / "b.png"]
    assert len(find_images([folder / "missing.png", folder / "gone.png"])) == 2


def test_pictures_of_kinds_that_are_not_read_are_named_once_a_kind(folder):
    for name in ("x.gif", "y.GIF", "z.heic", "notes.txt", "report.pdf", ".hidden.gif"):
        (folder / name).write_bytes(b"x")
    (folder / "folder.gif").mkdir()
    lines = skipped_files([folder], find_images([folder]))
    assert [line.removeprefix(f"{folder}: ").partition(" skipped")[0] for line in lines] == [
        "2 GIF files",
        "1 HEIC file",
    ]
    assert skipped_files([folder / "*.gif"], [])[0].startswith(f"{folder / '*.gif'}: ")
    assert skipped_files([folder / "x.gif"], [folder / "x.gif"]) == []


@pytest.mark.parametrize("suffix", [*slides._UNSUPPORTED, ".qptiff", ".lif", ".svg"])
def test_slides_and_drawings_that_are_not_read_are_named_too(tmp_path, suffix):
    (tmp_path / f"a{suffix.upper()}").write_bytes(b"x")
    (line,) = skipped_files([tmp_path], [])
    assert "1 " in line
    assert line.endswith("save as PNG or TIFF to count")


def test_a_folder_of_such_pictures_alone_is_an_error_that_names_them(tmp_path):
    (tmp_path / "x.gif").write_bytes(b"x")
    with pytest.raises(KinetError, match=r"no images in this folder: .*1 GIF file skipped: not read; save as PNG"):
        find_images([tmp_path])


@pytest.mark.parametrize("name", ["a\rb.png", "a\nb.png", "a\r\nb.png", 'a,"b".png'])
def test_any_file_name_stays_in_one_cell_of_the_csv(name, tmp_path):
    ones = np.ones(2, np.float32)
    text = nuclei_csv([(name, Detections(ones, ones, ones.astype(np.int64) * 0, ones, ("positive",)))])
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    assert [row[0] for row in rows] == ["image", name, name]
    assert {len(row) for row in rows} == {5}


def test_a_line_break_in_a_file_name_does_not_break_what_the_terminal_shows(folder, capsys):
    (folder / "a.png").rename(folder / "a\r\n\x1b[31mb.png")
    out = folder / "out.json"
    with pytest.raises(SystemExit) as end:
        app(["count", str(folder), "--json", str(out)])
    shown = capsys.readouterr()
    assert end.value.code == 0
    assert "a\\r\\n\\x1b[31mb.png" in shown.out
    assert "\r" not in shown.out + shown.err
    assert json.loads(out.read_text())["fields"][0]["image"].endswith("a\r\n\x1b[31mb.png")
    assert printable("é µ") == "é µ"
