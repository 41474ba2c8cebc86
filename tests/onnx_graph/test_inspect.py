"""Inspection of model files: intact and damaged ones, from kinet-trt and from other tools."""

import hashlib
import json
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kinet_trt.core.errors import KinetError
from kinet_trt.engines.tensorrt.engine_file import write_plan
from kinet_trt.models.card import CARD_KEY, read_card
from kinet_trt.models.model import DEFAULT_MODEL, parse
from kinet_trt.onnx_graph.inspect import inspect_file, summarise


def graph(nodes, constants, inputs=(("x", [1, 3, "h", "w"]),), **extra):
    """Return a serialised ONNX model."""
    onnx = pytest.importorskip("onnx")
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs]
    out = onnx.helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = onnx.helper.make_graph(nodes, "g", ports, [out], tensors)
    return onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], **extra).SerializeToString()


def node(op, inputs, output, **attributes):
    return pytest.importorskip("onnx").helper.make_node(op, inputs.split(), [output], **attributes)


def by_type(model):
    return {row.type: row for row in summarise(parse(model))[0]}


def test_inspect_shows_all_of_the_built_in_model(run, tmp_path):
    code, out, err = run("inspect", DEFAULT_MODEL, "--json", tmp_path / "o.json")
    assert (code, err) == (0, "")
    for text in ("kinet-edge", "um/px", "DepthToSpace", "uint8 [batch,", "opset ai.onnx 18", "Research Use Only"):
        assert text in out
    document = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    card, model = read_card(DEFAULT_MODEL)
    assert document["schema"] == 1
    assert document["card"]["threshold"] == card.threshold
    assert document["sha256"] == hashlib.sha256(model).hexdigest()
    assert document["inputs"][0]["dtype"] == "uint8"
    # docs/kinet-edge.md: 1.1 M parameters, 15 k MAC per px.
    assert round(document["total"]["parameters"] / 1e6, 1) == 1.1
    assert round(document["total"]["macs_per_pixel"] / 1e3) == 15
    conv = next(row for row in document["layers"] if row["type"] == "Conv")
    assert (conv["stored"], conv["computed"]) == ("fp16", "fp32")
    assert conv["bytes"] == 2 * conv["parameters"]
    assert document["memory"]["activations_bytes"] > 512 * 512 * 16 * 4
    code, out, _ = run("inspect", DEFAULT_MODEL, "--json", "-")
    assert json.loads(out) == document


def test_inspect_shows_the_card_without_onnx(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, out, err = run("inspect", DEFAULT_MODEL)
    assert (code, err) == (0, "")
    assert "kinet-edge" in out
    assert "Layers and memory are not shown" in out
    assert 'pip install "kinet-trt[build]"' in out
    document = json.loads(run("inspect", DEFAULT_MODEL, "--json", "-")[1])
    assert document["card"]["threshold"] == read_card(DEFAULT_MODEL)[0].threshold
    assert "layers" not in document


def test_layers_of_a_model_of_fixed_size_are_those_of_a_variable_one():
    nodes = [node("Conv", "x a", "y", strides=[2, 2], kernel_shape=[2, 2])]
    weights = {"a": np.zeros((8, 3, 2, 2), np.float32)}
    variable = summarise(parse(graph(nodes, weights)))
    assert summarise(parse(graph(nodes, weights, inputs=(("x", [2, 3, 64, 32]),)))) == variable
    assert variable[0][0].macs_per_pixel == 8 * 12 / 4


def test_macs_follow_strides_and_upsampling():
    zeros = np.zeros
    model = graph(
        [
            node("Conv", "x a", "half", strides=[2, 2], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Relu", "half", "r"),
            node("Conv", "r b", "quarter", strides=[2, 2], kernel_shape=[1, 1]),
            node("ConvTranspose", "quarter c", "half2", strides=[2, 2], kernel_shape=[2, 2]),
            node("Concat", "half2 r", "both", axis=1),
            node("DepthToSpace", "both", "full", blocksize=2),
            node("Conv", "full d", "maps", kernel_shape=[1, 1]),
        ],
        {
            "a": zeros((8, 3, 3, 3), np.float32),
            "b": zeros((4, 8, 1, 1), np.float32),
            "c": zeros((4, 8, 2, 2), np.float32),
            "d": zeros((3, 4, 1, 1), np.float32),
        },
    )
    rows, memory = summarise(parse(model))
    found = {row.type: row for row in rows}
    assert found["Conv"].macs_per_pixel == 8 * 27 / 4 + 32 / 16 + 12
    assert found["ConvTranspose"].macs_per_pixel == 128 / 16
    assert found["Conv"].count == 3
    assert memory["unknown_tensors"] == 0
    # The most alive at once: the 16 joined channels at half size and the 4 at full size that are made of them.
    assert memory["activations_bytes"] == 1024 * 1024 * 4 * (16 / 4 + 4)


def test_quantized_weights_count_once_and_compute_in_int8():
    weights = np.zeros((8, 3, 3, 3), np.int8)
    one, zero = np.float32(1), np.int8(0)
    model = graph(
        [
            node("QuantizeLinear", "x s z", "q"),
            node("DequantizeLinear", "q s z", "dq"),
            node("DequantizeLinear", "w s z", "dw"),
            node("Conv", "dq dw", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Conv", "x dw", "y2", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Add", "y y2", "z2"),
        ],
        {"w": weights, "s": np.array(one), "z": np.array(zero)},
    )
    conv = by_type(model)["Conv"]
    assert (conv.stored, conv.computed) == ("int8", "fp32+int8")
    assert (conv.parameters, conv.bytes) == (8 * 27, 8 * 27)
    assert conv.macs_per_pixel == 2 * 8 * 27


def test_macs_and_memory_are_unknown_after_an_unknown_operator():
    model = graph(
        [node("Shape", "x", "s"), node("Unheard", "x s", "r"), node("Conv", "r w", "y", kernel_shape=[1, 1])],
        {"w": np.zeros((4, 3, 1, 1), np.float32)},
    )
    rows, memory = summarise(parse(model))
    assert {row.type: row.macs_per_pixel for row in rows}["Conv"] is None
    assert memory["unknown_tensors"] == 2  # of the three, the shape is but a few numbers


def test_inspect_shows_models_of_other_tools_without_a_card(run, tmp_path):
    model = graph([node("Conv", "x w", "y")], {"w": np.zeros((2, 3, 1, 1), np.float16)}, producer_name="somebody [µ]")
    path = tmp_path / "theirs [b].onnx"
    path.write_bytes(model)
    code, out, err = run("inspect", path)
    assert (code, err) == (0, "")
    assert "No model card" in out
    assert "somebody [µ]" in out
    assert "[b].onnx" in out
    assert "x: fp32 [1, 3, h, w]" in out
    assert json.loads(run("inspect", path, "--json", "-")[1])["card"] is None


def engine(folder, content=b"a plan"):
    card, _ = read_card(DEFAULT_MODEL)
    path = folder / "k.engine"
    made = replace(card, runtime="TensorRT for RTX", runtime_version="1.7", gpu="any", profile=((1, 64, 64),) * 3)
    write_plan(path, content, replace(made, model_sha256=hashlib.sha256(content).hexdigest()))
    return path


def test_inspect_shows_the_card_of_an_engine_without_a_gpu(run, tmp_path):
    code, out, err = run("inspect", engine(tmp_path))
    assert (code, err) == (0, "")
    assert "TensorRT for RTX" in out
    assert "Inspect the .onnx" in out


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda e, j: e.write_bytes(b"a plam"), "Copy both files again"),
        (lambda e, j: j.unlink(), "k.engine.json beside it, found none"),
        (lambda e, j: j.write_text("{"), "damaged"),
        (lambda e, j: j.write_text("[]"), "damaged"),
        (lambda e, j: j.write_bytes(b"\xff\xfe"), "damage"),
        (lambda e, j: j.write_text(j.read_text().replace('"threshold": 0.3,', '"threshold": 0.9,')), "checksum"),
        (lambda e, j: j.write_text(j.read_text().replace('"version": 1', '"version": 9')), "Upgrade"),
    ],
)
def test_inspect_refuses_an_engine_that_does_not_match_its_json(run, tmp_path, spoil, says):
    path = engine(tmp_path)
    spoil(path, tmp_path / "k.engine.json")
    code, out, err = run("inspect", path)
    assert (code, out) == (1, "")
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_inspect_shows_a_checkpoint(run, tmp_path):
    pytest.importorskip("torch")
    from kinet_trt.export.checkpoint import ModelInfo, save
    from kinet_trt.export.networks.base import NetworkConfig
    from kinet_trt.export.networks.registry import build

    network = build(NetworkConfig(width=8, roi=False))
    save(tmp_path / "a.pt", network, ModelInfo(threshold=0.25))
    code, out, err = run("inspect", tmp_path / "a.pt", "--json", tmp_path / "o.json")
    assert (code, err) == (0, "")
    assert "width 8" in out
    assert "0.25" in out
    total = json.loads((tmp_path / "o.json").read_text())["total"]
    assert total["parameters"] == sum(weight.numel() for weight in network.parameters())
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:1000])
    code, out, err = run("inspect", tmp_path / "b.pt")
    assert (code, out) == (1, "")
    assert "not a readable checkpoint" in err


def test_inspect_of_a_checkpoint_without_pytorch_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, err = run("inspect", tmp_path / "a.pt")
    assert (code, out) == (1, "")
    assert 'pip install "kinet-trt[train]"' in err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not an ONNX file"),
        (b"not a model at all", "not an ONNX file"),
        (b"\x00" * 100, "not an ONNX file"),
        (DEFAULT_MODEL.read_bytes()[: 1 << 20], "cut short"),
        (DEFAULT_MODEL.read_bytes().replace(b"uint8", b"uint9"), None),
        # A graph of three million empty entries, and a tensor with more sides than memory has numbers for.
        (b"\x3a\x80\x9b\xee\x02" + b"\x2a\x00" * 3_000_000, "not an ONNX file"),
        (b"\x3a\x0f\x0a\x06\x22\x04Relu\x2a\x05\x08\xff\xff\xff\x7f", "unknown type 0"),
    ],
)
def test_inspect_reports_an_invalid_file_in_one_line(run, tmp_path, content, says):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    code, out, err = run("inspect", path)
    if says is None:
        return
    assert (code, out) == (1, "")
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_inspect_notes_that_a_model_was_changed_after_its_card_was_written(run, tmp_path):
    path = tmp_path / "x.onnx"
    path.write_bytes(DEFAULT_MODEL.read_bytes().replace(b"Relu", b"Selu"))
    code, out, err = run("inspect", path)
    assert (code, err) == (0, "")
    assert "kinet-edge" in out
    assert "The model was changed or damaged after its card was written" in out
    assert "kinet-trt does not count with it" in out
    path.write_bytes(DEFAULT_MODEL.read_bytes().replace(CARD_KEY.encode(), b"x" * len(CARD_KEY)))
    code, out, _ = run("inspect", path)
    assert code == 0
    assert "No model card" in out


@cache
def small():
    """Return a model without a card, small enough that random damage reaches every part."""
    return graph(
        [
            node("Conv", "x a", "h", strides=[2, 2], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("ConvTranspose", "h b", "f", strides=[2, 2], kernel_shape=[2, 2]),
            node("Concat", "f f", "c", axis=1),
            node("Resize", "c e s", "y", mode="nearest"),
        ],
        {
            "a": np.zeros((2, 3, 3, 3), np.float32),
            "b": np.zeros((2, 2, 2, 2), np.float32),
            "e": np.zeros(0, np.float32),
            "s": np.array([1, 1, 2, 2], np.float32),
        },
    )


def test_memory_follows_a_resize_by_constant_factors():
    _, memory = summarise(parse(small()))
    assert memory["unknown_tensors"] == 0
    assert memory["activations_bytes"] == 1024 * 1024 * 4 * (4 + 4 * 4)


def test_inspect_replaces_control_characters_in_text_of_the_file(run, tmp_path):
    (tmp_path / "x.onnx").write_bytes(graph([node("Oh\x1b[2Jno", "x", "y")], {}, producer_name="a\nb\x07"))
    code, out, _ = run("inspect", tmp_path / "x.onnx")
    assert code == 0
    assert not {"\x1b", "\x07"} & set(out)
    assert "Oh?[2Jno" in out


@settings(max_examples=300)
@given(st.data())
def test_inspect_reports_any_damage_in_one_line(tmp_path_factory, data):
    model = bytearray(small())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(model) - 1))
        what = data.draw(st.sampled_from(["flip", "cut", "swap", "huge"]))
        if what == "flip":
            model[place] ^= 1 << data.draw(st.integers(0, 7))
        elif what == "cut" and place > 2:
            del model[place - data.draw(st.integers(1, 2)) : place]
        elif what == "swap":
            model[place : place + 4] = model[place : place + 4][::-1]
        else:
            model[place] = 0xFF
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(model)
    try:
        text = json.dumps(inspect_file(path), allow_nan=False)
    except KinetError as error:
        text = str(error)
    assert len(text.splitlines()) == 1
