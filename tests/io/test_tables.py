from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from kinet_trt import NOTICE, KinetError
from kinet_trt.core.ki67 import Ki67
from kinet_trt.io.tables import Row, check_suffix, encode, to_csv, to_xlsx

openpyxl = pytest.importorskip("openpyxl")

COUNTS = {"positive": 30, "negative": 170, "non_tumor": 12}


def row(**changes) -> Row:
    told = {"picture": "a.png", "counts": COUNTS, "hot_spot": Ki67(20, 100), "mpp": 0.25, "mpp_known": "from the file"}
    return Row(**(told | {"model": "kinet-edge, INT8"} | changes))


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def sheet(data: bytes, name: str):
    return openpyxl.load_workbook(io.BytesIO(data))[name]


def test_row_has_the_values_of_a_picture():
    (found,) = read(to_csv([row(warnings=("Blurred.", "Grey."))]))
    assert found == {
        "Picture": "a.png",
        "Positive tumour": "30",
        "Negative tumour": "170",
        "Non-tumour": "12",
        "Tumour nuclei": "200",
        "Ki67 index (%)": "15.0",
        "95% interval from (%)": "10.71",
        "95% interval to (%)": "20.61",
        "Hot spot nuclei": "100",
        "Hot spot index (%)": "20.0",
        "Hot spot 95% interval from (%)": "13.34",
        "Hot spot 95% interval to (%)": "28.88",
        "um/px": "0.25",
        "um/px known from": "from the file",
        "Model": "kinet-edge, INT8",
        "Warnings": "Blurred. Grey.",
        "Notice": NOTICE,
    }


def test_empty_count_leaves_cells_empty_in_both():
    empty = row(counts={"positive": 0, "negative": 0, "non_tumor": 0}, hot_spot=None)
    (found,) = read(to_csv([empty]))
    assert (found["Tumour nuclei"], found["Ki67 index (%)"], found["Hot spot index (%)"]) == ("0", "", "")
    values = [cell.value for cell in sheet(to_xlsx([empty]), "Pictures")[2]]
    assert values[4:6] == [0, None]


def test_workbook_equals_the_csv():
    def value(cell: object) -> object:
        try:
            return float(str(cell))
        except ValueError:
            return cell

    rows = [row(), row(picture="b.png", counts={"positive": 1, "negative": 2, "odd": 3}, hot_spot=None)]
    lines = csv.reader(io.StringIO(to_csv(rows), newline=""))
    for line, cells in zip(lines, sheet(to_xlsx(rows), "Pictures").iter_rows(values_only=True), strict=True):
        assert [value(cell) for cell in line] == [value("" if cell is None else cell) for cell in cells]
    assert read(to_csv(rows))[1]["Odd"] == "3"


def test_total_is_a_sheet_before_the_pictures():
    book = openpyxl.load_workbook(io.BytesIO(to_xlsx([row()], total=row(picture="all"))))
    assert book.sheetnames == ["Total", "Pictures"]
    assert book["Total"]["A2"].value == "all"


def test_case_column_exists_if_there_are_cases():
    assert "Case" not in read(to_csv([row()]))[0]
    assert read(to_csv([row(case="Case 12")]))[0]["Case"] == "Case 12"


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)"])
def test_formulas_are_escaped(text: str):
    rows = [row(picture=text, warnings=(text,), model=text, case=text)]
    found = read(to_csv(rows))[0]
    assert [found[name] for name in ("Case", "Picture", "Model", "Warnings")] == [f"'{text}"] * 4
    for cell in sheet(to_xlsx(rows), "Pictures")[2][:2]:
        assert (cell.value, cell.data_type, cell.quotePrefix) == (text, "s", True)


@pytest.mark.parametrize("text", ["\t=1+1", "two\nlines", "\r=1+1", "\x00null", "\udcff.png", "a\u2028b"])
def test_row_is_one_line_with_any_file_name(text: str):
    table = to_csv([row(picture=text)])
    assert table.encode().decode().count("\n") == 2
    assert len(table.splitlines()) == 2
    assert read(table)[0]["Picture"] == sheet(to_xlsx([row(picture=text)]), "Pictures")["A2"].value
    assert not read(table)[0]["Picture"].startswith(("=", "\t", "\r"))


def test_check_suffix_refuses_other_suffixes(tmp_path: Path):
    assert encode([row()], tmp_path / "a.CSV") == to_csv([row()]).encode()
    assert sheet(encode([row()], tmp_path / "a.xlsx"), "Pictures")["A2"].value == "a.png"
    for name in ("a.txt", "a", "a.xls"):
        with pytest.raises(KinetError, match=r"expected a name that ends in \.csv or \.xlsx, found"):
            check_suffix(tmp_path / name)


def test_missing_openpyxl_is_a_kinet_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    check_suffix(tmp_path / "a.csv")
    with pytest.raises(KinetError, match="needs openpyxl"):
        check_suffix(tmp_path / "a.xlsx")
