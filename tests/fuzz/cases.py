"""One damaged input at a time, in a process of its own: `python cases.py TARGET SEED FIRST LAST FOLDER`.

Each case may succeed or raise one KinetError with a message that a person can read; anything else ends the process
with a traceback, and a native crash ends it with a signal. The number of the case is printed before it begins.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from mutate import TEXTS, mutated
from PIL import Image

from kinet_trt.core.detections import CLASSES, Detections
from kinet_trt.core.errors import MAX_MESSAGE_LENGTH, KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.counting.geojson_and_overlays import Outputs, output_names
from kinet_trt.counting.image import count_image
from kinet_trt.counting.run import CountRun
from kinet_trt.datasets.labelled import read_fields
from kinet_trt.engines.open import open_engine
from kinet_trt.engines.tensorrt.engine_file import card_path, write_plan
from kinet_trt.evaluation.cases import pair_cases, read_results, to_json
from kinet_trt.evaluation.statistics import index_agreement
from kinet_trt.inference.counter import NucleusCounter
from kinet_trt.io.overlay import draw
from kinet_trt.models.card import CARD_KEY, ModelCard, onnx_hash, with_card
from kinet_trt.onnx_graph.inspect import inspect_file
from kinet_trt.simulation import simulate

SIDE = 48
Case = Callable[[random.Random, Path], None]


# --- images -----------------------------------------------------------------------------------------------------------


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def _png(width: int, height: int, rows: int) -> bytes:
    """Return a PNG that claims a size and holds some rows of zeros: a decompression bomb."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    squeeze = zlib.compressobj(9)
    zeros = bytes(1 + 3 * width)
    pixels = b"".join(squeeze.compress(zeros) for _ in range(rows)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _images() -> list[tuple[str, bytes]]:
    pixels = simulate.field(1_000, SIDE, SIDE + 8)[0]
    colour = Image.fromarray(pixels)
    deep = (pixels[..., 0].astype(np.uint16) << 4).astype(np.uint16)
    import cv2

    deep_colour = np.ascontiguousarray(np.repeat(deep[..., None], 3, 2))
    return [
        (".png", _encoded(colour, "PNG", dpi=(50_800, 50_800))),
        (".png", _encoded(colour.convert("RGBA"), "PNG")),
        (".png", _encoded(colour.convert("P"), "PNG")),
        (".png", _encoded(Image.fromarray(deep), "PNG")),
        (".png", cv2.imencode(".png", deep_colour)[1].tobytes()),
        (".png", _png(100_000, 100_000, 3)),
        (".png", _png(5_000, 5_000, 5_000)),
        (".png", _png(0x7FFFFFFF, 0x7FFFFFFF, 0)),
        (".jpg", _encoded(colour, "JPEG", quality=90)),
        (".jpg", _encoded(colour.convert("CMYK"), "JPEG")),
        (".jpeg", _encoded(colour, "JPEG", progressive=True)),
        (".bmp", _encoded(colour, "BMP")),
        (".tif", _encoded(colour, "TIFF")),
        (".tif", _encoded(colour, "TIFF", compression="tiff_lzw")),
        (".tif", _encoded(colour, "TIFF", compression="tiff_adobe_deflate")),
        (".tif", _encoded(colour, "TIFF", compression="jpeg")),
        (".tif", _encoded(colour.convert("L"), "TIFF", description="ImageJ=1.53\nunit=um\n", resolution=2.0)),
        (".tif", _encoded(colour, "TIFF", description="<OME PhysicalSizeX='0.5' PhysicalSizeY='0.5'>")),
        (".tiff", cv2.imencode(".tiff", deep_colour)[1].tobytes()),
    ]


def image_cases() -> Case:
    """Damaged images are counted and what is found is written, or they are refused."""
    originals = _images()
    counter = NucleusCounter(precision="fp32", threads=1)

    def case(rng: random.Random, folder: Path) -> None:
        suffix, data = rng.choice(originals)
        # A bomb of 25 MP takes a second: it is met whole now and then, and damaged like the others.
        damaged = data if len(data) > 50_000 and rng.random() < 0.02 else mutated(data, rng)
        image = folder / f"{_name(rng, 200)}{suffix}"
        image.write_bytes(damaged)
        outputs = Outputs(folder / "geojson", folder / "overlay", output_names([image]))
        try:
            counted, frame = count_image(counter, image, None)
            outputs.write(counted, lambda: draw(frame, counted.detections, counted.mpp))
            run = CountRun(counter, (counted,))
            document = "".join(run.to_json())
            write_atomic(folder / "out.json", document)
            write_atomic(folder / "out.csv", run.to_csv())
            _strict(document)
        finally:
            for path in folder.rglob("*"):
                if path.suffix == ".geojson":
                    _strict(path.read_text("utf-8"))

    return case


# --- models -----------------------------------------------------------------------------------------------------------


def _model() -> tuple[bytes, ModelCard]:
    """Return a small network with all that a KiNet's graph has: casts, a convolution, both kinds of weights."""
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    weight = generator.normal(0, 0.3, (3, 3, 3, 3)).astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["w16"], ["w"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["frame"], ["chw"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["chw"], ["image"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["image", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["maps"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [numpy_helper.from_array(weight, "w16"), numpy_helper.from_array(np.float32(1 / 255), "scale")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model = made.SerializeToString(deterministic=True)
    card = ModelCard("small", 0.5, (0, 0, 0), (1, 1, 1), 0.3, halo=16, model_sha256=onnx_hash(model))
    return with_card(model, card), card


def onnx_cases() -> Case:
    """Damaged ONNX files are refused, or not damaged where it matters."""
    model, _ = _model()
    frame = simulate.field(1_000, SIDE, SIDE)[0]

    def case(rng: random.Random, folder: Path) -> None:
        path = folder / "model.onnx"
        path.write_bytes(mutated(model, rng))
        open_engine(path, "fp32", threads=1).run(frame[None])

    return case


def inspect_cases() -> Case:
    """Models without a card and engines, as `kinet-trt inspect` reads them: no hash stands before its parser."""
    model, card = _model()
    bare = model.replace(CARD_KEY.encode(), b"x" * len(CARD_KEY))
    plan = bytes(range(256))
    shapes = {"runtime": "TensorRT for RTX", "runtime_version": "1.7", "profile": ((1, 64, 64),) * 3}
    engine = replace(card, model_sha256=hashlib.sha256(plan).hexdigest(), **shapes)

    def case(rng: random.Random, folder: Path) -> None:
        if rng.random() < 0.7:
            path = folder / "a.onnx"
            path.write_bytes(mutated(bare, rng))
        else:
            path = folder / "a.engine"
            write_plan(path, plan, engine)
            damaged = path if rng.random() < 0.3 else card_path(path)
            damaged.write_bytes(mutated(damaged.read_bytes(), rng))
        json.dumps(inspect_file(path), allow_nan=False)

    return case


def card_cases() -> Case:
    """Damaged cards in whole models: what a card may say, a counter bears."""
    model, card = _model()
    frame = simulate.field(1_000, SIDE, SIDE)[0]
    numbers = (0, 1, -1, 2, 5, 16, 64, 1 << 16, 1 << 31, 1 << 70, 0.5, 1e-30, 1e299, 1e308, float("nan"), float("inf"))

    def value(rng: random.Random) -> object:
        return rng.choice(
            (
                rng.choice(numbers),
                rng.choice(TEXTS),
                _name(rng, 3_000),
                None,
                True,
                [],
                {},
                [rng.choice(numbers)] * rng.choice((1, 3, 1_000)),
                [rng.choice(TEXTS)] * 3,
                {rng.choice(TEXTS): rng.choice(numbers)},
            )
        )

    def case(rng: random.Random, folder: Path) -> None:
        document = json.loads(card.to_json())
        if rng.random() < 0.6:
            for name in rng.sample(sorted(document), rng.choice((1, 1, 2, 5))):
                if rng.random() < 0.1:
                    del document[name]
                else:
                    document[name] = value(rng)
            text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
        else:
            text = mutated(card.to_json().encode(), rng).decode("utf-8", rng.choice(("replace", "ignore")))
        read = ModelCard.from_json(text)
        read = replace(read, model_sha256=onnx_hash(model))
        path = folder / "model.onnx"
        path.write_bytes(with_card(model, read))
        counter = NucleusCounter(path, precision="fp32", threads=1)
        assert asdict(counter.engine.card) == asdict(read)
        _strict("".join(CountRun(counter, (count_image(counter, _saved(frame, folder), 0.5)[0],)).to_json()))

    return case


def _saved(frame: np.ndarray, folder: Path) -> Path:
    path = folder / "field.png"
    Image.fromarray(frame).save(path)
    return path


# --- tables -----------------------------------------------------------------------------------------------------------


def csv_cases() -> Case:
    """Damaged point files, and damaged indices over whole ones."""
    points = "x,y,class\n" + "".join(f"{3 * i}.25,{2 * i},{CLASSES[i % 3]}\n" for i in range(20))
    index = "image,points,counted_mask,source,split,classes\n" + "".join(
        f"field.png,field.csv,,source {i},{'train' if i % 2 else 'val'},positive+negative\n" for i in range(5)
    )

    def case(rng: random.Random, folder: Path) -> None:
        Image.new("RGB", (SIDE, SIDE)).save(folder / "field.png")
        which = rng.choice(("points", "index"))
        (folder / "field.csv").write_bytes(mutated(points.encode(), rng) if which == "points" else points.encode())
        if which == "index":
            (folder / "index.csv").write_bytes(mutated(index.encode(), rng))
        for field in read_fields(folder):
            assert np.isfinite(field.x).all()
            assert np.isfinite(field.y).all()
            field.pixels()
            field.counted_mask()

    return case


def qupath_cases() -> Case:
    """Damaged GeoJSON of points, cells and areas beside an image."""
    shapes: list[tuple[str, Any, str]] = [
        ("MultiPoint", [[3.5 * i, 2.0 * i] for i in range(12)], "Positive"),
        ("Point", [7.5, 9.25], "Other"),
        ("Polygon", [[[2, 2], [9, 2], [9, 9], [2, 9], [2, 2]]], "Tumor: Negative"),
        ("Polygon", [[[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]], [[5, 5], [9, 5], [9, 9]]], "Region*"),
        ("MultiPolygon", [[[[0, 0], [20, 0], [20, 20]]], [[[30, 30], [40, 30], [40, 40]]]], "Stroma"),
    ]
    features = [
        {
            "type": "Feature",
            "geometry": {"type": kind, "coordinates": coordinates},
            "properties": {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}},
        }
        for kind, coordinates, name in shapes
    ]
    text = json.dumps({"type": "FeatureCollection", "features": features}).encode()

    def case(rng: random.Random, folder: Path) -> None:
        Image.new("RGB", (SIDE, SIDE)).save(folder / "field.png")
        (folder / "field.geojson").write_bytes(mutated(text, rng))
        for field in read_fields(folder):
            assert np.isfinite(field.x).all()
            assert np.isfinite(field.y).all()
            field.pixels()
            field.counted_mask()
            field.regions()

    return case


def results_cases() -> Case:
    """Damaged results of a count and tables of indices, compared with whole ones."""
    names = [f"S{i}.png" for i in range(6)]
    fields = [{"image": name, "counts": {"positive": i, "negative": 9, "non_tumor": 1}} for i, name in enumerate(names)]
    texts = {
        ".json": json.dumps({"schema": 1, "fields": fields, "errors": []}),
        "-index.csv": "case;Ki-67 (%);who\n" + "".join(f"{name};{i},5;A\n" for i, name in enumerate(names)),
        "-counts.csv": "Picture,Positive,Negative\n" + "".join(f"{name},{i},9\n" for i, name in enumerate(names)),
        "-nuclei.csv": "image,x,y,class\n" + "".join(f"{name},1,2,{cls}\n" for name in names for cls in CLASSES),
    }

    def case(rng: random.Random, folder: Path) -> None:
        suffix = rng.choice(list(texts))
        (folder / f"a{suffix}").write_bytes(mutated(texts[suffix].encode(), rng))
        (folder / "b.json").write_text(texts[".json"])
        damaged, whole = (read_results(folder / name) for name in (f"a{suffix}", "b.json"))
        cases = pair_cases(damaged, whole)
        if cases.names:
            agreement = index_agreement(cases.first, cases.second)
            assert _strict(to_json(damaged, whole, cases, agreement))["schema"] == 1

    return case


def geojson_cases() -> Case:
    """Whatever was found, in whatever it is called: the files are what their readers can read."""

    def case(rng: random.Random, folder: Path) -> None:
        generator = np.random.default_rng(rng.randrange(1 << 32))
        n = rng.choice((0, 1, 5, 300))
        odd = [0.0, -0.0, 0.5, 1e-30, 3e38, 65504.0, float("inf"), 123456.789]
        names = tuple(dict.fromkeys((_name(rng, 3_000), rng.choice(TEXTS), *CLASSES)))
        x, y = (generator.uniform(0, 1e5, n).astype(np.float32) for _ in range(2))
        score = generator.choice(odd, n).astype(np.float32)
        found = Detections(x, y, generator.integers(0, len(names), n).astype(np.uint8), score, names)
        collection = _strict(found.to_geojson())
        assert len(collection["features"]) == n
        for feature, at_x, at_y in zip(collection["features"], x, y, strict=True):
            assert np.allclose(feature["geometry"]["coordinates"], (at_x + 0.5, at_y + 0.5), atol=0.02)
        path = folder / f"{_name(rng, 120)}.geojson"
        write_atomic(path, found.to_geojson())
        assert _strict(path.read_text("utf-8")) == collection

    return case


# --- the run ----------------------------------------------------------------------------------------------------------


def _name(rng: random.Random, longest: int) -> str:
    """Return a file's name that a file system takes, of odd letters, long or short; longer ones are for texts."""
    letters = "aZ09 .-_()[]{}'!#%&+,;=@^~`$é𝔎核\u202e\u0301\u200b😀\n\t\\*?|<>:\""
    size = rng.choice((1, 8, 60, longest))
    name = "".join(rng.choice(letters) for _ in range(size)).strip(". ") or "x"
    return name if longest > 255 else name.encode()[: min(longest, 150)].decode("utf-8", "ignore")


def _strict(text: str) -> dict[str, list[dict[str, dict[str, object]]]]:
    """Parse JSON as other languages do: no NaN, no infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in JSON")

    document: dict[str, list[dict[str, dict[str, object]]]] = json.loads(text, parse_constant=refuse)
    return document


TARGETS: dict[str, Callable[[], Case]] = {
    "images": image_cases,
    "onnx": onnx_cases,
    "inspect": inspect_cases,
    "cards": card_cases,
    "csv": csv_cases,
    "qupath": qupath_cases,
    "results": results_cases,
    "geojson": geojson_cases,
}


def run(target: str, seed: int, numbers: range, folder: Path) -> Iterator[tuple[int, str]]:
    """Yield the number of each case before it begins, and its message after it."""
    case = TARGETS[target]()
    for number in numbers:
        yield number, "begins"
        place = folder / str(number)
        place.mkdir()
        try:
            case(random.Random(f"{target} {seed} {number}"), place)
        except KinetError as error:
            message = str(error)
            if not message.strip() or len(message) > MAX_MESSAGE_LENGTH + 10 or "Traceback" in message:
                raise AssertionError(f"no message for a person: {message[:300]!r} ({len(message)} letters)") from error
            yield number, message
        else:
            yield number, "fine"
        litter = [path for path in place.rglob("*") if path.name.endswith(".part")]
        assert not litter, f"half-written: {litter}"
        for path in sorted(place.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        place.rmdir()


def _limit_memory() -> None:
    """Let a bomb meet a limit of this process, not the machine's."""
    if sys.platform.startswith("linux"):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))


if __name__ == "__main__":
    _limit_memory()
    _target, _seed, _first, _last, _folder = sys.argv[1:]
    for _number, _said in run(_target, int(_seed), range(int(_first), int(_last)), Path(_folder)):
        sys.stdout.write(json.dumps([_number, _said]) + "\n")
        sys.stdout.flush()
