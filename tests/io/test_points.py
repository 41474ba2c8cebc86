"""Tables of nuclei from programs, spreadsheets and QuPath."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet_trt.core.errors import KinetError
from kinet_trt.io.points import is_named, is_table, read_table

POINTS = "x,y,class\n1.5,2,positive\n10,20.25,non_tumor\n"
QUPATH = "Image\tObject type\tClassification\tROI\tCentroid X {0}\tCentroid Y {0}\n"
IMAGE = Path("a.png")


def read(folder, content, image=IMAGE, mpp=None):
    path = folder / "a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path).nuclei(image, lambda: mpp)


def nuclei(marked):
    return marked.x.tolist(), marked.y.tolist(), marked.cls.tolist()


def test_points_have_types_and_class_indices(tmp_path):
    marked = read(tmp_path, POINTS)
    assert (marked.x.dtype, marked.y.dtype, marked.cls.dtype) == (np.float32, np.float32, np.uint8)
    assert nuclei(marked) == ([1.5, 10], [2, 20.25], [0, 2])


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + POINTS.encode(),
        b"\xef\xbb\xbf\r\n \r\n" + POINTS.encode(),
        POINTS.replace("\n", "\r\n").encode(),
        POINTS.replace("\n", "\r").encode(),
        POINTS.rstrip("\n").encode(),
        b"class,score,y,x\npositive,0.9,2,1.5\nnon_tumor,1,20.25,10\n",
        b'"x","y","class"\n"1.5","2","positive"\n"10","20.25","non_tumor"\n',
        b"x,y,class\n1.5,2,positive\n\n10,20.25,non_tumor\n,,\n",
        b"x;y;class\r\n1,5;2;positive\r\n10;20,25;non_tumor\r\n",
        b'x,y,class\n"1,5",2,positive\n10,"20,25",non_tumor\n',
        b"sep=;\r\nx;y;class\r\n1,5;2;positive\r\n10;20,25;non_tumor\r\n",
        b"x\ty\tclass\n1.5\t2\tpositive\n10\t20.25\tnon_tumor\n",
        b"x, y, class\n1.5, 2, positive\n10, 20.25, non_tumor\n",
        b"X,Y,Class\n1.5,2,Positive\n10,20.25,Other\n",
        b"X (px);Y (px);Klasse\n1,5;2;Positive\n10;20,25;Stroma\n",
        POINTS.encode("utf-16"),  # Excel's "Unicode text"
    ],
)
def test_points_as_programs_and_spreadsheets_write_them(tmp_path, content):
    assert nuclei(read(tmp_path, content)) == ([1.5, 10], [2, 20.25], [0, 2])


@given(st.floats(0, 9e4, width=32), st.sampled_from([",", ";", "\t", "|"]), st.sampled_from(".,"))
def test_numbers_are_read_with_every_separator_and_decimal_sign(tmp_path_factory, x, separator, sign):
    text = f"{x:.3f}".replace(".", sign)
    cell = f'"{text}"' if separator == sign else text
    content = f"x{separator}y{separator}class\n{cell}{separator}1{separator}negative\n"
    assert nuclei(read(tmp_path_factory.mktemp("t"), content)) == ([pytest.approx(x, abs=0.005)], [1], [1])


def test_header_alone_is_a_table_without_nuclei(tmp_path):
    assert [len(part) for part in nuclei(read(tmp_path, "x,y,class\n"))] == [0, 0, 0]


@pytest.mark.parametrize(
    "row", ["1,2,tumour", "1,2,", "1,2", "one,2,positive", "1,,positive", "1;2;positive", "1,2,Mitosis"]
)
def test_invalid_row_is_shown_with_file_and_line(tmp_path, row):
    with pytest.raises(KinetError, match=r"a\.csv, line 3: expected .*class.* positive, negative"):
        read(tmp_path, f"x,y,class\n5,5,positive\n{row}\n")


def test_line_number_is_that_of_an_editor(tmp_path):
    with pytest.raises(KinetError, match="line 5:"):
        read(tmp_path, "x,y,class\n\n5,5,positive\n\n1,2,tumour\n")
    with pytest.raises(KinetError, match="line 3:"):
        read(tmp_path, "sep=;\nx;y;class\n1;2;tumour\n")


@pytest.mark.parametrize("row", ["nan,2,positive", "1,inf,positive", "-inf,1,positive", "1e300,1,positive"])
def test_coordinates_are_finite_float32(tmp_path, row):
    with pytest.raises(KinetError, match=r"line 2: x and y must be finite"):
        read(tmp_path, f"x,y,class\n{row}\n")


@pytest.mark.parametrize("header", ["a,b,c", "x y class", "1.5,2,positive", "x,y", "x µm,y px,class"])
def test_unexpected_header_is_shown(tmp_path, header):
    with pytest.raises(KinetError, match="columns x,y,class") as raised:
        read(tmp_path, f"{header}\n1,2,positive\n")
    assert f"found {header!r}" in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"x,y,class\n1,2,\xff\xfe\n", b"x,y,class\n1,2," + b"p" * 200_000])
def test_other_file_is_a_kinet_error(tmp_path, content):
    with pytest.raises(KinetError, match=r"a\.csv"):
        read(tmp_path, content)


def test_missing_file_is_a_kinet_error(tmp_path):
    with pytest.raises(KinetError, match=r"missing\.csv: cannot be read"):
        read_table(tmp_path / "missing.csv")


def test_is_table_refuses_other_text(tmp_path):
    (tmp_path / "a.txt").write_text("Camera: 0\nExposure: 20 ms\n")
    assert not is_table(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text(POINTS)
    assert is_table(tmp_path / "b.txt")


# --- lengths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["µm", "um", "μm", "micron", "(µm)"])
def test_lengths_are_converted_by_the_mpp_of_the_image(tmp_path, unit, caplog):
    marked = read(tmp_path, f"x {unit},y {unit},class\n5,10,positive\n", mpp=0.25)
    assert nuclei(marked) == ([20], [40], [0])
    assert caplog.text.strip().endswith("positions in µm")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16"])
def test_qupath_measures_lengths_from_the_corner_of_the_first_pixel(tmp_path, encoding):
    table = QUPATH.format("µm") + "a.png\tDetection\tPositive\tPolygon\t5.125\t10.125\n"
    assert nuclei(read(tmp_path, table.encode(encoding), mpp=0.25)) == ([20], [40], [0])


def test_lengths_without_um_per_px_are_refused(tmp_path):
    with pytest.raises(KinetError, match=r"'x µm' are lengths.*a\.png does not state"):
        read(tmp_path, "x µm,y µm,class\n5,10,positive\n")


# --- QuPath -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", ["\t", ",", ";"])
def test_measurement_table_gives_the_nuclei_of_its_image(tmp_path, separator, caplog):
    rows = [
        "a.png\tDetection\tTumor: Positive\tPolygon\t10.5\t20.5",
        "b.png\tDetection\tNegative\tPolygon\t1.5\t2.5",
        "a.png - Series 1\tCell\tOther\tPolygon\t3.5\t4.5",
    ]
    table = (QUPATH.format("px") + "\n".join(rows)).replace("\t", separator)
    assert nuclei(read(tmp_path, table)) == ([10, 3], [20, 4], [0, 2])
    assert nuclei(read(tmp_path, table, Path("b.png"))) == ([1], [2], [1])
    assert "'Centroid X px', 'Centroid Y px' and 'Classification'" in caplog.text
    with pytest.raises(KinetError, match=r"rows of the image c\.png, found rows of a\.png, b\.png"):
        read(tmp_path, table, Path("c.png"))


def test_unknown_objects_of_a_measurement_table_are_logged_and_excluded(tmp_path, caplog):
    rows = [
        "a.png\tDetection\tPositive\tPolygon\t10.5\t20.5",
        "a.png\tDetection\t\tPolygon\t30.5\t20.5",
        "a.png\tDetection\tMitosis\tPolygon\t50.5\t20.5",
        "a.png\tAnnotation\tRegion*\tRectangle\t90.5\t90.5",
    ]
    marked = read(tmp_path, QUPATH.format("px") + "\n".join(rows))
    assert nuclei(marked) == ([10], [20], [0])
    assert marked.outlines.unknown.tolist() == [[30, 20], [50, 20]]
    assert sum(marked.unknown_objects.values()) == 3
    for part in ("1 x nucleus without a class", "1 x nucleus of the class 'Mitosis'", "1 x annotated area"):
        assert part in caplog.text


def test_points_with_one_position_are_refused(tmp_path):
    table = "Image,Classification,Num points,Centroid X px,Centroid Y px\na.png,Positive,12,10.5,20.5\n"
    with pytest.raises(KinetError, match=r"12 points with one position: export .* as GeoJSON"):
        read(tmp_path, table)


@pytest.mark.parametrize("given", ["a.tif", "a", "a.tif - a", "a.ome.tif"])
def test_is_named_compares_names_of_images(given):
    image = Path("x") / ("a.ome.tif" if "ome" in given else "a.tif")
    assert is_named(given, image)
    assert not is_named(given, Path("b.tif"))
