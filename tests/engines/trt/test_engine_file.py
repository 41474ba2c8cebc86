"""Engine files: damaged, swapped or foreign files are reported before TensorRT reads them."""

import hashlib
import json
import random
import sys
from dataclasses import replace

import pytest

from kinet_trt.core.errors import CardError, EngineError, KinetError
from kinet_trt.engines.tensorrt import engine_file as plans
from kinet_trt.engines.tensorrt.engine_file import (
    AMPERE,
    TURING,
    build_command,
    card_path,
    check_gpu,
    check_runtime,
    read_plan,
    write_plan,
)
from kinet_trt.models.card import VERSION, ModelCard

PLAN = b"ptrt" + random.Random(0).randbytes(5000)
RTX = ("TensorRT for RTX", "1.7.1.116")


def a_card(plan=PLAN, **changes):
    values = {
        "name": "kinet-edge",
        "mpp": 0.34,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.2, 0.25),
        "threshold": 0.325,
        "precision": "fp16",
        "runtime": RTX[0],
        "runtime_version": RTX[1],
        "gpu": AMPERE,
        "profile": ((1, 608, 608),) * 3,
        "data": "Felder, µm",
        "model_sha256": hashlib.sha256(plan).hexdigest(),
    }
    return ModelCard(**(values | changes))


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "edge.engine"
    write_plan(path, PLAN, a_card())
    return path


def message(path, kind=KinetError):
    with pytest.raises(kind) as caught:
        read_plan(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_write_plan_round_trip_keeps_the_plan_plain(engine):
    assert read_plan(engine) == (a_card(), PLAN)
    assert engine.read_bytes() == PLAN
    assert sorted(path.name for path in engine.parent.iterdir()) == ["edge.engine", "edge.engine.json"]


def test_card_file_is_plain_json(engine):
    raw = json.loads(card_path(engine).read_text(encoding="utf-8"))
    assert (raw["precision"], raw["runtime_version"], raw["profile"]) == ("fp16", "1.7.1.116", [[1, 608, 608]] * 3)
    assert raw["model_sha256"] == hashlib.sha256(PLAN).hexdigest()


def test_read_plan_rejects_missing_files(engine):
    card_path(engine).unlink()
    text = message(engine, CardError)
    assert "edge.engine.json" in text
    assert "kinet-trt build MODEL.onnx -o edge.engine" in text
    engine.unlink()
    assert "cannot be read" in message(engine, EngineError)


@pytest.mark.parametrize("changed", [PLAN[:-1], PLAN[:100], b"", PLAN + b"\0", PLAN[:50] + b"\0" + PLAN[51:]])
def test_read_plan_names_both_hashes_and_the_command(engine, changed):
    engine.write_bytes(changed)
    text = message(engine, CardError)
    for part in (a_card().model_sha256[:12], hashlib.sha256(changed).hexdigest()[:12], f"{len(changed):,} bytes"):
        assert part in text
    assert "kinet-trt build kinet-edge.onnx -o edge.engine --precision fp16 --size 608x608" in text


def test_read_plan_rejects_swapped_cards(engine, tmp_path):
    other = tmp_path / "other.engine"
    write_plan(other, PLAN[::-1], a_card(PLAN[::-1]))
    first, second = card_path(engine).read_bytes(), card_path(other).read_bytes()
    card_path(engine).write_bytes(second)
    card_path(other).write_bytes(first)
    assert "not the engine that edge.engine.json was written for" in message(engine)
    assert "not the engine that other.engine.json was written for" in message(other)


def test_read_plan_rejects_an_edited_card(engine):
    beside = card_path(engine)
    beside.write_text(beside.read_text(encoding="utf-8").replace("0.325", "0.725"), encoding="utf-8")
    assert "edited by hand" in message(engine, CardError)


def rewritten(engine, **changes):
    """Write a modified card with a valid checksum."""
    raw = json.loads(card_path(engine).read_text(encoding="utf-8")) | changes
    raw["card_sha256"] = plans._card_hash(raw)
    card_path(engine).write_text(json.dumps(raw), encoding="utf-8")


def test_newer_cards_ask_for_an_upgrade(engine):
    rewritten(engine, version=VERSION + 1)
    text = message(engine, CardError)
    assert f"version {VERSION + 1}" in text
    assert f"up to version {VERSION}" in text
    assert "Upgrade kinet-trt" in text


def test_unknown_keys_of_version_one_are_ignored(engine):
    rewritten(engine, colour="red")
    assert read_plan(engine)[0] == a_card()


@pytest.mark.parametrize("changes", [{"runtime": ""}, {"runtime_version": ""}, {"profile": None}])
def test_read_plan_rejects_the_card_of_an_onnx_file(engine, changes):
    rewritten(engine, **changes)
    assert "a card without runtime or sizes" in message(engine, CardError)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"null", b"[]", b"3", b"{", b"\xff\xfe", b"[" * 100_000, b'{"version": 1}', b'{"version": 1e999}',
        b'{"version": ' + b"9" * 5000 + b"}", b'{"version": 1, "name": "\\ud800"}', b" " * 3_000_000,
        b'{"version": 1, "profile": [1, 2]}', b'{"a": NaN}', b'{"version": 1, "mean": 3}',
    ],
    ids=range(15),
)  # fmt: skip
def test_read_plan_rejects_text_that_is_no_card(engine, text):
    card_path(engine).write_bytes(text)
    assert "edge.engine.json" in message(engine, CardError)


@pytest.mark.parametrize(
    "profile",
    [
        (), ((1, 32, 32),) * 2, ((1, 32),) * 3, ((0, 32, 32),) * 3, ((1, 33, 32),) * 3, ((1, 32, 32.0),) * 3, 7,
        ((1, 64, 64), (1, 32, 64), (1, 64, 64)), ((2, 32, 32), (1, 32, 32), (2, 32, 32)), ((1, 1 << 20, 32),) * 3,
        ((1, True, 16),) * 3, [[1, 32, 32]] * 3,
    ],
)  # fmt: skip
def test_read_plan_rejects_invalid_profiles(profile):
    with pytest.raises(CardError, match="profile"):
        a_card(profile=profile)


# --- checks against this machine --------------------------------------------------------------------------------------


def test_check_runtime_names_both_versions_and_the_command(engine):
    check_runtime(a_card(), engine, *RTX)
    for here in (("TensorRT for RTX", "1.8.0.1"), ("TensorRT", "10.3.0")):
        with pytest.raises(EngineError) as caught:
            check_runtime(a_card(), engine, *here)
        text = str(caught.value)
        assert "TensorRT for RTX 1.7.1.116" in text
        assert " ".join(here) in text
        assert "kinet-trt build kinet-edge.onnx -o edge.engine --precision fp16 --size 608x608" in text


@pytest.mark.parametrize(
    ("built_by", "installed", "accepted"),
    [
        ("10.3.0", "10.3.0.post1", True),
        ("10.3.0.post1", "10.3.0.26", True),
        ("10.13.3.9", "10.13.3", True),
        ("10.3.0", "10.3.1", False),
        ("10.13.3.9", "10.13.3.90", False),
        ("10.3.0", "10.30.0", False),
    ],
)
def test_check_runtime_compares_the_parts_that_both_versions_state(engine, built_by, installed, accepted):
    card = a_card(runtime="TensorRT", runtime_version=built_by)
    if accepted:
        check_runtime(card, engine, "TensorRT", installed)
        return
    with pytest.raises(EngineError, match=f"built by TensorRT {built_by}, found TensorRT {installed}"):
        check_runtime(card, engine, "TensorRT", installed)


@pytest.mark.parametrize(
    ("built_for", "name", "capability", "fits"),
    [
        (AMPERE, "NVIDIA GeForce RTX 3060", (8, 6), True),
        (AMPERE, "NVIDIA A100", (8, 0), True),
        (AMPERE, "NVIDIA GeForce RTX 5090", (12, 0), True),
        (AMPERE, "NVIDIA GeForce RTX 2060", (7, 5), False),
        (TURING, "NVIDIA GeForce RTX 2060", (7, 5), True),
        (TURING, "NVIDIA GeForce RTX 3060", (8, 6), False),
        ("Orin (compute capability 8.7)", "Orin", (8, 7), True),
        ("Orin (compute capability 8.7)", "NVIDIA GeForce RTX 3060", (8, 6), False),
        ("", "Orin", (8, 7), False),
    ],
)
def test_check_gpu_names_both_gpus_and_the_command(engine, built_for, name, capability, fits):
    card = a_card(gpu=built_for)
    if fits:
        check_gpu(card, engine, name, capability)
        return
    with pytest.raises(EngineError) as caught:
        check_gpu(card, engine, name, capability)
    text = str(caught.value)
    expected = built_for.replace("any of", "any GPU of")
    assert f"built for {expected}" in text
    assert f"{name} (compute capability {capability[0]}.{capability[1]})" in text
    assert "kinet-trt build" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "--precision fp16 --size 608x608"),
        ({"profile": ((1, 32, 48), (4, 608, 608), (4, 1312, 1312))},
         "--precision fp16 --size 608x608 --size 48x32 --size 1312x1312 --batch 4"),
        ({"precision": "int8", "capacity": 8192}, "--precision int8 --calibration DIR --size 608x608 --fused"),
    ],
)  # fmt: skip
def test_build_command_builds_an_equal_engine(tmp_path, changes, words):
    line = build_command(a_card(**changes), tmp_path / "edge.engine")
    assert line == f"kinet-trt build kinet-edge.onnx -o edge.engine {words}"


# --- damage -----------------------------------------------------------------------------------------------------------

KINDS = ("flip", "cut", "insert", "swap", "number", "zero")


def damaged(rng, data):
    """Return the bytes with one damage typical of transfers, disks and people."""
    kind, at = rng.choice(KINDS), rng.randrange(max(1, len(data)))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "insert":
        return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
    if kind == "swap":
        to = rng.randrange(len(data))
        return data[:at] + data[to : to + 64] + data[at + 64 :]
    if kind == "number":
        digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()] or [at]
        at = rng.choice(digits)
        huge = rng.choice([b"1e400", b"-1", b"9" * 30, b"9" * 6000, b"NaN", b"0.1e-9"])
        return data[:at] + huge + data[at + 1 :]
    return data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :]


def outcome(engine):
    """Return the error message; empty if the pair is read unchanged."""
    try:
        assert read_plan(engine) == (a_card(), PLAN)
    except KinetError as error:
        return str(error)
    return ""


def damage(engine, seed, rounds):
    """Check that each damaged pair gives one message or the original engine (white space may differ)."""
    sys.stdout.write(f"seed {seed}\n")
    rng = random.Random(seed)
    beside = card_path(engine)
    whole, rejected = (engine.read_bytes(), beside.read_bytes()), 0
    for _ in range(rounds):
        plan, card = whole
        which = rng.randrange(3)
        plan = damaged(rng, plan) if which != 1 else plan
        card = damaged(rng, card) if which != 0 else card
        engine.write_bytes(plan)
        beside.write_bytes(card)
        text = outcome(engine)
        assert len(text) < 1000
        assert "\n" not in text
        rejected += bool(text)
    return rejected


def test_damaged_pairs_give_one_message_each(engine):
    assert damage(engine, 1, 100) >= 97


@pytest.mark.slow
def test_damaged_pairs_ten_thousand_give_one_message_each(engine):
    assert damage(engine, random.SystemRandom().randrange(1 << 32), 10_000) >= 9_800


def test_write_plan_replaces_and_detects_a_crash_between_the_files(engine, monkeypatch):
    card_path(engine).touch()
    second = replace(a_card(PLAN[::-1]), precision="fp32")
    written = plans.write_atomic

    def crash(path, content):
        if path.suffix == ".json":
            raise KinetError("the power went")
        written(path, content)

    monkeypatch.setattr(plans, "write_atomic", crash)
    with pytest.raises(KinetError, match="the power went"):
        write_plan(engine, PLAN[::-1], second)
    assert "the build was interrupted" in message(engine)
    monkeypatch.undo()
    write_plan(engine, PLAN[::-1], second)
    assert read_plan(engine) == (second, PLAN[::-1])
