"""Cases of two sets of results: what is read, how rows are grouped, and which cases are paired."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinet_trt.core.detections import Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.ki67 import Ki67
from kinet_trt.evaluation.cases import Results, Row, pair_cases, read_cases, read_results, stem
from kinet_trt.io.tables import Row as SummaryRow
from kinet_trt.io.tables import to_csv


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def count_json(path, counts):
    fields = [
        {"image": f"in/{name}.png", "counts": {"positive": p, "negative": n, "non_tumor": 3}, "detections": []}
        for name, (p, n) in counts.items()
    ]
    return write(path, json.dumps({"schema": 1, "model": {}, "together": {}, "fields": fields, "errors": []}))


def counts_of(results):
    return {row.name: (row.counts.positive, row.counts.tumor) for row in results.rows}


def results(*rows):
    return Results(Path("x"), tuple(Row(name, index) for name, index in rows))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_read_results_reads_the_json_of_count(tmp_path):
    path = count_json(tmp_path / "a.json", {"one": (10, 40), "none": (0, 0)})
    found = read_results(path)
    assert counts_of(found) == {"in/one.png": (10, 50), "in/none.png": (0, 0)}
    assert [row.index for row in found.rows] == [0.2, None]


def test_read_results_reads_the_summary_without_its_total(tmp_path):
    counts = [("in/a.png", 1, 3), ("=b.png", 2, 2), ("together", 3, 5)]
    rows = [
        SummaryRow(name, {"positive": p, "negative": n, "non_tumor": 1}, None, 0.34, "option", "m")
        for name, p, n in counts
    ]
    found = read_results(write(tmp_path / "s.csv", to_csv(rows)))
    assert counts_of(found) == {"in/a.png": (1, 4), "=b.png": (2, 4)}


def test_read_results_reads_nuclei_by_image_as_count_writes_them(tmp_path):
    text = "image,x,y,class,score\na.png,1,2,positive,0.9\na.png,3,2,negative,0.9\nb.png,1,1,non_tumor,0.9\n"
    assert counts_of(read_results(write(tmp_path / "n.csv", text))) == {"a.png": (1, 2), "b.png": (0, 0)}


def test_read_results_reads_a_folder_of_labels_and_leaves_other_files_out(tmp_path):
    nuclei = Detections(*(np.array(v, t) for v, t in (([5, 9], "f4"), ([5, 9], "f4"), ([0, 1], "u1"), ([1, 1], "f4"))))
    features = {"type": "FeatureCollection", "features": list(nuclei.features())}
    write(tmp_path / "a.geojson", json.dumps(features))
    write(tmp_path / "b.csv", "x,y,class\n1,2,positive\n")
    write(tmp_path / "index.csv", "image,points\na.png,a.csv\n")
    write(tmp_path / "a.regions.geojson", json.dumps({"type": "FeatureCollection", "features": []}))
    write(tmp_path / "a.png", "")
    write(tmp_path / ".hidden.csv", "")
    assert counts_of(read_results(tmp_path)) == {"a.geojson": (1, 2), "b.csv": (1, 1)}


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("Case;Ki-67 index (%)\nS1;0,5\nS2;0,75\n", "in per cent"),
        ("case,ki67\nS1,0.5%\nS2,0.75%\n", "in per cent"),
        ("case,ki67_percent\nS1,0.5\nS2,0.75\n", "in per cent"),
        ("case,index\nS1,0.005\nS2,0.0075\n", "as fractions"),
    ],
)
def test_read_results_finds_the_column_of_indices_and_its_unit(tmp_path, text, unit):
    found = read_results(write(tmp_path / "r.csv", text))
    assert [(row.name, row.index) for row in found.rows] == [("S1", 0.005), ("S2", 0.0075)]
    assert unit in found.notes[0]


def test_read_results_reads_values_above_one_as_per_cent(tmp_path):
    path = write(tmp_path / "r.csv", "block\treader 1\treader 2\nS1\t12\t0.5\nS2\t0.5\t-\n")
    first, second = (read_results(path, index_column=name) for name in ("Reader 1", "reader 2"))
    assert [(row.name, row.index) for row in first.rows] == [("S1", 0.12), ("S2", 0.005)]
    assert [row.index for row in second.rows] == [0.5, None]
    assert first.notes == ("r.csv: index from the column 'reader 1' in per cent, cases from 'block'.",)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "a,b\n1,2\n", "expected a table with a column of indices"),
        ("a.csv", "case,index\nS1,2%\nS2,many\n", "line 3: expected an index from 0 to 100%.*'many'"),
        ("a.csv", "case,index\nS1,-0.5\n", "line 2: expected an index from 0 to 1 "),
        ("a.csv", "image,positive,negative\na.png,3,-1\n", "line 2: expected the numbers of nuclei"),
        ("a.csv", "image,positive,negative\na.png,3,1.5\n", "line 2: expected the numbers of nuclei"),
        ("a.csv", "image,positive,negative\n,3,1\n", "line 2: expected a name in the column 'image'"),
        ("a.csv", "case,index\n", "at least one image or case"),
        ("a.json", "{", "cannot be read as JSON"),
        ("a.json", '{"schema": 1, "fields": [{"image": "a.png"}]}', "expected the JSON of kinet-trt count"),
        ("a.json", '{"schema": 1, "fields": 7}', "expected the JSON of kinet-trt count"),
        ("a.json", '{"schema": 1, "fields": [{"image": "a", "counts": {"positive": -1}}]}', "expected the JSON of"),
        ("a.xlsx", "", "Save it as CSV"),
    ],
)
def test_read_results_says_what_it_expected(tmp_path, name, text, message):
    with pytest.raises(KinetError, match=message):
        read_results(write(tmp_path / name, text))


def test_read_results_says_what_is_missing(tmp_path):
    with pytest.raises(KinetError, match="no results in this folder"):
        read_results(tmp_path)
    with pytest.raises(KinetError, match="cannot be read"):
        read_results(tmp_path / "nothing.csv")
    path = write(tmp_path / "r.csv", "case,index\nS1,0.2\n")
    with pytest.raises(KinetError, match="with the column 'reader'"):
        read_results(path, index_column="reader")


# --- pairing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("in/a.png", "a"), (r"C:\in\a.PNG", "a"), ("a.png.geojson", "a"), ("S1.2", "S1.2"), ("a.ome.tif", "a.ome"),
        ("b.geojson.gz", "b"), ("slide.svs", "slide"), (".csv", ".csv"), ("case 7", "case 7"),
    ],
)  # fmt: skip
def test_stem_leaves_names_that_are_not_files(name, expected):
    assert stem(name) == expected


def test_pair_cases_pairs_by_name_and_names_what_is_left():
    paired = pair_cases(
        results(("in/a.png", 0.1), ("b.png", 0.2), ("c.png", None), ("only.png", 0.5)),
        results(("b.geojson", 0.3), ("a.csv", 0.4), ("c.csv", 0.1), ("other.csv", 0.1), ("more.csv", 0.1)),
    )
    assert paired.names == ("a", "b")
    assert (paired.first.tolist(), paired.second.tolist()) == ([0.1, 0.2], [0.4, 0.3])
    assert (paired.only_first, paired.only_second) == (("only",), ("other", "more"))
    assert paired.without_index == ("c",)
    assert paired.records("a", "b")[1] == {"case": "b", "a": 0.2, "b": 0.3}


def test_pair_cases_adds_up_the_nuclei_of_a_case_by_a_pattern(tmp_path):
    model = read_results(count_json(tmp_path / "a.json", {"S1_1": (10, 0), "S1_2": (0, 90), "S2_1": (5, 5)}))
    people = results(("S1", 0.12), ("S2_all.csv", 0.4))
    paired = pair_cases(model, people, pattern=re.compile(r"^(S\d+)_"))
    assert dict(zip(paired.names, paired.first, strict=True)) == {"S1": 0.1, "S2": 0.5}
    assert paired.second.tolist() == [0.12, 0.4]


def test_pair_cases_searches_the_pattern_without_folder_and_suffix():
    paired = pair_cases(results(("S9/a.png", 0.1)), results(("a.csv", 0.2)), pattern=re.compile("(.+)$"))
    assert paired.names == ("a",)


def test_pair_cases_takes_the_case_of_a_file_from_the_column_of_the_other_set(tmp_path):
    model = read_results(count_json(tmp_path / "a.json", {"x": (1, 9), "y": (9, 1), "z": (1, 1)}))
    text = "image,patient,index\nx.png,S1,20%\ny.png,S1,60%\nz.png,S2,50%\n"
    people = read_results(write(tmp_path / "p.csv", text), case_column="Patient")
    paired = pair_cases(model, people)
    assert paired.names == ("S1", "S2")
    assert paired.first.tolist() == [0.5, 0.5]
    assert paired.second == pytest.approx([0.4, 0.5])  # indices without counts are averaged


def test_pair_cases_takes_cases_from_a_list_of_fields(tmp_path):
    table = write(
        tmp_path / "index.csv", "image,points,slide_id\nlabelled/x.jpg,x.csv,S1\ny.jpg,y.csv,S1\nz.jpg,z.csv,\n"
    )
    cases = read_cases(table.parent, "slide_id")
    assert cases == {"x": "S1", "y": "S1"}
    rows = results(("x.jpg", 0.1), ("y.jpg", 0.3), ("z.jpg", 0.5))
    paired = pair_cases(rows, rows, cases=cases)
    assert dict(zip(paired.names, paired.first, strict=True)) == {"S1": 0.2, "z": 0.5}
    with pytest.raises(KinetError, match="'patient'"):
        read_cases(table.parent / "labelled", "patient")
    with pytest.raises(KinetError, match=r"expected an index\.csv"):
        read_cases(tmp_path / "a" / "b", "slide_id")


def test_pair_cases_refuses_to_pool_what_nothing_says_is_one_case():
    rows = results(("1/a.png", 0.1), ("2/a.png", 0.2))
    with pytest.raises(KinetError, match=r"found 2 for 'a' \(1/a.png, 2/a.png\)"):
        pair_cases(rows, results(("a.png", 0.1)))


def test_pair_cases_says_when_nothing_is_in_both():
    with pytest.raises(KinetError, match="no case is in both: x has a, b, c and 1 more; x has q"):
        pair_cases(results(("a", 0), ("b", 0), ("c", 0), ("d", 0)), results(("q", 0.1)))


def test_pair_cases_says_when_a_pattern_fits_nothing():
    with pytest.raises(KinetError, match="the pattern"):
        pair_cases(results(("a", 0.1)), results(("a", 0.1)), pattern=re.compile(r"(\d+)"))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_pair_cases_does_not_depend_on_the_order_of_the_rows(fields, random):
    rows = [Row.counted(f"S{case}_{i}.png", Ki67(p, p + n)) for i, (case, p, n) in enumerate(fields)]
    shuffled = rows.copy()
    random.shuffle(shuffled)
    one, other = (Results(results().path, tuple(r)) for r in (rows, shuffled))
    paired = pair_cases(one, other, pattern=re.compile(r"^(S\d)"))
    assert (paired.first == paired.second).all()
    assert len(paired.names) + len(paired.without_index) == len({case for case, _, _ in fields})
    for name, index in zip(paired.names, paired.first, strict=True):
        own = [(p, n) for case, p, n in fields if f"S{case}" == name]
        assert index == sum(p for p, _ in own) / sum(p + n for p, n in own)
