"""The model card and the model's bytes: any damage raises an error."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet_trt.core.errors import CardError
from kinet_trt.models.card import (
    CARD_HASH_KEY,
    CARD_KEY,
    NOTICE,
    VERSION,
    ModelCard,
    onnx_hash,
    read_card,
    read_onnx_card,
    with_card,
)


def varint(value):
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number, value):
    """Encode a protobuf field: a varint or length-delimited bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def entry(key, value):
    return field(14, field(1, key.encode()) + field(2, value.encode()))


GRAPH = field(7, field(2, b"g") + field(1, field(4, b"Identity") + field(1, b"x" * 150)))
BARE = field(1, 8) + field(2, b"pytorch") + GRAPH + field(8, field(1, b"") + field(2, 17))
FOREIGN = entry("made by", "somebody µ") + entry("empty", "")


def a_card(**changes):
    values = {
        "name": "kinet-edge",
        "mpp": 0.25,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.2, 0.25),
        "threshold": 0.45,
        "model_sha256": onnx_hash(BARE),
        "parity": {"max": 1e-5, "on": ["a", "b"]},
        "metrics": {"f1": 0.8},
        "data": "Ki67 fields, µm",
    }
    return ModelCard(**(values | changes))


CARD = a_card()
MODEL = with_card(BARE + FOREIGN, CARD)


def as_dict(**changes):
    return json.loads(CARD.to_json()) | changes


# --- the card alone ---------------------------------------------------------------------------------------------------


def test_json_round_trip_keeps_every_value():
    assert ModelCard.from_json(CARD.to_json()) == CARD
    full = a_card(
        classes=("a", "b"), tile=512, halo=64, multiple=32, nms_radius=7, precision="int8", weights_precision="fp16",
        roi=True, capacity=9, runtime="TensorRT", runtime_version="10.3", gpu="Orin", weights_sha256="1",
        calibration_sha256="2", network="n", licence="CC BY", notice="x",
    )  # fmt: skip
    assert ModelCard.from_json(full.to_json()) == full


def test_defaults_match_the_design():
    assert (CARD.classes, CARD.colour_order) == (("positive", "negative", "non_tumor"), "RGB")
    assert (CARD.multiple, CARD.nms_radius, CARD.version, CARD.notice) == (16, 5, VERSION, NOTICE)
    assert NOTICE == "For Research Use Only. Not for use in diagnostic procedures."


def test_card_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CARD.threshold = 0.1


@pytest.mark.parametrize("missing", ["name", "mpp", "mean", "std", "threshold", "version"])
def test_from_json_rejects_missing_values(missing):
    raw = as_dict()
    del raw[missing]
    with pytest.raises(CardError, match=missing):
        ModelCard.from_json(json.dumps(raw))


def test_from_json_ignores_unknown_values():
    assert ModelCard.from_json(json.dumps(as_dict(colour="red"))) == CARD


def test_from_json_of_a_newer_version_asks_for_an_upgrade():
    with pytest.raises(CardError, match=rf"version {VERSION + 1}, .* up to version {VERSION}. Upgrade kinet-trt"):
        ModelCard.from_json(json.dumps(as_dict(version=VERSION + 1, name=None)))


@pytest.mark.parametrize("version", [0, -1, 1.0, "1", True, None, [1], {}])
def test_version_must_be_a_positive_integer(version):
    with pytest.raises(CardError, match="version"):
        ModelCard.from_json(json.dumps(as_dict(version=version)))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("mpp", v) for v in (NAN, INF, 0, -0.25, "0.25", None, True, [0.25], 1e-9, 1e9)],
        *[("threshold", v) for v in (NAN, INF, -INF, "0.4", None, False, [])],
        *[("mean", v) for v in ([0.5, 0.5], [0.5] * 4, [0.5, 0.5, NAN], ["a", "b", "c"], "abc", 0.5, None, {})],
        *[("std", v) for v in ([0.5, 0.5], [0.5, 0.5, 0], [0.5, 0.5, -1], [0.5, INF, 1], "123", 1, None)],
        *[("classes", v) for v in ([], ["a", "a"], ["a", ""], ["a", 1], [["a"]], None, 3, "", "abc", {"a": 1})],
        *[("colour_order", v) for v in ("BGR", "", None, 3, ["RGB"])],
        *[("multiple", v) for v in (0, -16, 1.5, "16", None, True, 10**9)],
        *[("tile", v) for v in (0, -16, 1000, 1024.0, "1024", None, True, 2**40)],
        *[("halo", v) for v in (0, -16, 100, 144.0, None)],
        *[("nms_radius", v) for v in (0, -1, 65, 5.0, "5", None, True)],
        *[(name, v) for name in ("name", "precision", "model_sha256", "network", "notice") for v in (None, 3, [])],
    ],
)
def test_from_json_names_a_value_out_of_range(name, value):
    with pytest.raises(CardError, match=f"{name}|damaged"):
        ModelCard.from_json(json.dumps(as_dict(**{name: value})))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, 3) for name in ("weights_precision", "runtime", "runtime_version", "gpu", "weights_sha256")],
        ("calibration_sha256", None),
        ("roi", "no"),
        ("capacity", -1),
        ("capacity", True),
        ("capacity", 1 << 17),
        ("metrics", [1]),
        ("metrics", None),
        ("parity", "fine"),
    ],
)
def test_from_json_rejects_wrong_types_of_informative_values_too(name, value):
    with pytest.raises(CardError, match=name):
        ModelCard.from_json(json.dumps(as_dict(**{name: value})))


@pytest.mark.parametrize("name", ["mpp", "threshold", "mean", "std"])
def test_from_json_rejects_numbers_beyond_float(name):
    huge = "1" * 400
    raw = as_dict(**{name: ["HUGE"] * 3 if name in ("mean", "std") else "HUGE"})
    with pytest.raises(CardError):
        ModelCard.from_json(json.dumps(raw).replace('"HUGE"', huge))


def test_to_json_writes_every_card_that_was_read():
    # json.loads accepts NaN and to_json does not, so from_json must reject it.
    text = json.dumps(as_dict(metrics={"f1": NAN}))
    try:
        card = ModelCard.from_json(text)
    except CardError:
        return
    card.to_json()


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "3", '"card"', "{}", "[" * 100_000, "\0", "NaN"])
def test_from_json_rejects_other_text(text):
    with pytest.raises(CardError, match="damaged"):
        ModelCard.from_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(changes=st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(ModelCard)]), JSON, max_size=3))
def test_from_json_of_any_value_gives_a_card_or_a_card_error(changes):
    with contextlib.suppress(CardError):
        ModelCard.from_json(json.dumps(as_dict(**changes)))


# --- the card in an ONNX file -----------------------------------------------------------------------------------------


def test_card_is_embedded_in_the_file():
    assert read_onnx_card(MODEL) == CARD


def test_hash_excludes_all_metadata():
    assert onnx_hash(BARE) == hashlib.sha256(BARE).hexdigest()
    assert onnx_hash(MODEL) == onnx_hash(BARE + FOREIGN) == onnx_hash(FOREIGN + BARE) == onnx_hash(BARE)
    assert onnx_hash(BARE[:-1] + b"\x12") != onnx_hash(BARE)


def test_with_card_replaces_the_card_and_keeps_other_metadata():
    second = a_card(threshold=0.6, name="other")
    again = with_card(MODEL, second)
    assert read_onnx_card(again) == second
    assert FOREIGN in again
    assert again.count(CARD_HASH_KEY.encode()) == 1
    assert b"kinet-edge" not in again
    assert with_card(again, CARD) == MODEL
    assert len(with_card(MODEL, CARD)) == len(MODEL)


def test_metadata_may_be_anywhere():
    assert read_onnx_card(MODEL[len(BARE) :] + BARE) == CARD


def test_flipped_bits_are_detected():
    start_of_foreign, end_of_foreign = MODEL.index(FOREIGN), MODEL.index(FOREIGN) + len(FOREIGN)
    for place in range(len(MODEL)):
        for bit in (0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF):
            damaged = bytearray(MODEL)
            damaged[place] ^= bit
            try:
                found = read_onnx_card(bytes(damaged))
            except CardError:
                continue
            # Metadata of other programs is not covered by our checksum.
            assert start_of_foreign <= place < end_of_foreign, f"byte {place} ^ {bit:#x} was not noticed"
            assert found == CARD
            assert onnx_hash(bytes(damaged)) == onnx_hash(MODEL)


def test_truncation_is_detected():
    for length in range(len(MODEL)):
        with pytest.raises(CardError):
            read_onnx_card(MODEL[:length])


@pytest.mark.parametrize("length", [1, 2, 7, 100])
def test_bytes_appended_removed_or_doubled_are_detected(length):
    for damaged in (
        MODEL + b"\0" * length,
        MODEL + b"\x08" * length,
        MODEL[length:],
        MODEL[:30] + MODEL[30 + length :],
    ):
        with pytest.raises(CardError):
            read_onnx_card(damaged)
    with pytest.raises(CardError, match="changed or damaged after its card was written"):
        read_onnx_card(MODEL + BARE)


def test_card_of_another_model_raises_with_both_hashes():
    other = with_card(field(1, 9) + GRAPH, CARD)
    with pytest.raises(CardError, match=f"written for sha256 {CARD.model_sha256[:12]}, the file has") as raised:
        read_onnx_card(other)
    assert onnx_hash(other)[:12] in str(raised.value)
    with pytest.raises(CardError, match="sha256 none"):
        read_onnx_card(with_card(BARE, a_card(model_sha256="")))


def test_model_without_a_card_explains_how_to_get_one():
    for model in (BARE, BARE + FOREIGN, b""):
        with pytest.raises(CardError, match="no model card: expected an ONNX file that `kinet-trt export` wrote"):
            read_onnx_card(model)


def test_card_with_a_wrong_or_missing_checksum_is_damaged():
    text = CARD.to_json()
    for model in (BARE + entry(CARD_KEY, text), BARE + entry(CARD_KEY, text) + entry(CARD_HASH_KEY, "0" * 64)):
        with pytest.raises(CardError, match="checksum"):
            read_onnx_card(model)


def test_newer_card_in_an_intact_file_asks_for_an_upgrade():
    text = json.dumps(as_dict(version=VERSION + 1))
    model = BARE + entry(CARD_KEY, text) + entry(CARD_HASH_KEY, hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(CardError, match="Upgrade kinet-trt"):
        read_onnx_card(model)


@pytest.mark.parametrize(
    "message",
    [
        b"\x80" * 20,  # an unterminated varint
        b"\xff" * 9 + b"\x7f",
        b"\x00\x01",  # field number 0
        b"\x0b\x0c",  # groups
        b"\x0e\x00",  # wire types 6 and 7
        b"\x0f\x00",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a length of 2^63
        b"\x09\x00",  # 64 bits cut short
        b"\x0d\x00",  # 32 bits cut short
        b"\x72\x02\x0a\x05",  # metadata whose key is cut short
        b"\x72\x03\x0a\x01\xff",  # a key that is not UTF-8
        b"\x70\x01",  # metadata that is a number
    ],
)
def test_broken_protobuf_is_a_card_error(message):
    with pytest.raises(CardError):
        read_onnx_card(message)
    with pytest.raises(CardError):
        read_onnx_card(MODEL + message)


def test_wire_types_of_onnx_are_all_parsed():
    odd = field(1, 2**64 - 1) + varint(50 << 3 | 1) + b"12345678" + varint(51 << 3 | 5) + b"1234" + field(1000, b"")
    model = with_card(odd, a_card(model_sha256=hashlib.sha256(odd).hexdigest()))
    assert model.startswith(odd)
    assert read_onnx_card(model).model_sha256 == onnx_hash(odd)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_random_bytes_are_a_card_error(data):
    for message in (data, BARE + data, MODEL + data, field(14, data)):
        try:
            found = read_onnx_card(message)
        except CardError:
            continue
        assert found == CARD
        assert onnx_hash(message) == CARD.model_sha256
    for function in (onnx_hash, lambda message: with_card(message, CARD)):
        with contextlib.suppress(CardError):
            function(data)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_multiple_damage_is_detected(data):
    damaged = bytearray(MODEL)
    for _ in range(data.draw(st.integers(2, 5))):
        damaged[data.draw(st.integers(0, len(MODEL) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CardError):
        assert read_onnx_card(bytes(damaged)) == CARD


# --- files ------------------------------------------------------------------------------------------------------------


def test_read_card_gives_the_card_and_the_bytes_it_checked(tmp_path):
    (tmp_path / "m µ.onnx").write_bytes(MODEL)
    assert read_card(tmp_path / "m µ.onnx") == (CARD, MODEL)


def test_read_card_names_the_file_in_every_error(tmp_path):
    path = tmp_path / "model.onnx"
    for content in (None, b"", b"text", MODEL[:-9]):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CardError, match=r"model\.onnx: "):
            read_card(path)
    with pytest.raises(CardError, match="cannot be read"):
        read_card(tmp_path)
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(CardError, match=r"empty\.onnx: the file is empty"):
        read_card(tmp_path / "empty.onnx")


def test_onnx_interoperates_in_both_directions(tmp_path):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    node = helper.make_node("Identity", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    made = helper.make_model(helper.make_graph([node], "g", [x], [y], [
        onnx.numpy_helper.from_array(np.arange(300, dtype=np.float32), "w")
    ]))  # fmt: skip
    helper.set_model_props(made, {"made by": "somebody"})
    raw = made.SerializeToString()
    card = a_card(model_sha256=onnx_hash(raw))
    carried = with_card(raw, card)
    assert read_onnx_card(carried) == card
    loaded = onnx.load_from_string(carried)
    onnx.checker.check_model(loaded)
    assert {p.key for p in loaded.metadata_props} == {"made by", CARD_KEY, CARD_HASH_KEY}
    assert loaded.graph == made.graph
    # The card still matches after onnx rewrites the file.
    assert read_onnx_card(loaded.SerializeToString()) == card
