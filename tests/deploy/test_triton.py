"""Triton model repository: parsed with Triton's ModelConfig, and served to its client over Triton's protocol."""

import csv
import hashlib
import io
import json
import os
import random
import subprocess
import sys
from concurrent import futures
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest

from kinet_trt import NOTICE, NucleusCounter
from kinet_trt.core.errors import CardError, EngineError, KinetError
from kinet_trt.core.ki67 import Ki67
from kinet_trt.deploy.triton import package as packager
from kinet_trt.deploy.triton.package import package
from kinet_trt.engines.tensorrt.engine_file import write_plan
from kinet_trt.models.card import ModelCard, read_card
from kinet_trt.models.model import Model
from kinet_trt.onnx_graph.fuse_peaks import fuse
from kinet_trt.simulation import simulate

pytest.importorskip("tritonclient")
grpc = pytest.importorskip("grpc")
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

PLAN = b"ptrt" + random.Random(0).randbytes(5000)
TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32", "tensor(int32)": "TYPE_INT32"}
CARD = ModelCard(
    name="kinet edge/µ",
    mpp=0.34,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.2, 0.25),
    threshold=0.325,
    precision="fp16",
    capacity=4096,
    runtime="TensorRT",
    runtime_version="10.13.3.9",
    gpu="NVIDIA RTX A4000 (compute capability 8.6)",
    profile=((1, 608, 608),) * 3,
    data='Felder "µm" \\ 1\n2',
    model_sha256=hashlib.sha256(PLAN).hexdigest(),
)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return a repository with the built-in model."""
    repository = tmp_path_factory.mktemp("models")
    return package(None, repository)


def config_of(folder):
    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def dims(shape):
    return [side if isinstance(side, int) else -1 for side in shape]


def engine(folder, **changes):
    path = folder / "edge.engine"
    write_plan(path, PLAN, replace(CARD, **changes))
    return path


def test_configuration_matches_the_model(served):
    config, card = config_of(served.folder), served.card
    session = onnxruntime.InferenceSession(served.folder / "1" / "model.onnx")
    for tensors, real in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        found = [(t.name, model_config_pb2.DataType.Name(t.data_type), list(t.dims)) for t in tensors]
        assert found == [(t.name, TYPES[t.type], dims(t.shape)) for t in real]
        assert not any(t.HasField("reshape") for t in tensors)
    assert [t.name for t in config.input] == ["frame", "threshold"]
    assert [t.name for t in config.output] == ["count", "detections"]
    assert (config.name, config.backend, config.platform, config.max_batch_size) == (
        served.folder.name, "onnxruntime", "", 0,
    )  # fmt: skip
    # With a batch dimension of Triton's, threshold would need one of its own.
    assert not config.HasField("dynamic_batching")
    [group] = config.instance_group
    assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_AUTO)
    said = {key: value.string_value for key, value in config.parameters.items()}
    assert said == {
        "classes": "positive,negative,non_tumor", "mpp": "0.34", "multiple": "16", "threshold": "0.3",
        "precision": "fp32", "model_sha256": card.model_sha256, "notice": NOTICE,
    }  # fmt: skip
    assert {field.name for field, _ in config.ListFields()} == {
        "name", "backend", "input", "output", "instance_group", "parameters",
    }  # fmt: skip


def test_folder_contains_the_files_of_server_and_client(served):
    assert sorted(contents(served.folder)) == ["1/model.onnx", "README.md", "client.py", "config.pbtxt", "labels.txt"]
    assert [p.name for p in served.folder.parent.iterdir()] == ["kinet-edge"]
    assert (served.folder / "labels.txt").read_text().split() == ["positive", "negative", "non_tumor"]
    readme = (served.folder / "README.md").read_text()
    assert NOTICE in readme
    assert served.card.licence in readme
    assert served.card.data in readme
    for file in ("config.pbtxt", "client.py"):
        assert NOTICE in (served.folder / file).read_text()
    card, _ = read_card(served.folder / "1" / "model.onnx")
    assert card == served.card
    assert served.fused_here
    assert card.capacity == 8192


def test_fused_model_is_copied_unchanged(fused_model, tmp_path):
    done = package(fused_model, tmp_path / "a" / "b", name="ward_3")
    assert not done.fused_here
    assert (done.folder / "1" / "model.onnx").read_bytes() == fused_model.read_bytes()
    assert config_of(done.folder).name == done.folder.name == "ward_3"
    assert 'MODEL = "ward_3"' in (done.folder / "client.py").read_text()


def test_configuration_of_a_plan_of_fixed_shape(tmp_path):
    done = package(engine(tmp_path), tmp_path / "models", instances=2)
    config = config_of(done.folder)
    assert (done.folder / "1" / "model.plan").read_bytes() == PLAN
    assert (config.platform, config.backend, config.max_batch_size) == ("tensorrt_plan", "", 0)
    assert config.name == done.name == "kinet-edge"
    assert {t.name: list(t.dims) for t in (*config.input, *config.output)} == {
        "frame": [1, 608, 608, 3], "threshold": [1], "count": [1], "detections": [1, 4096, 4],
    }  # fmt: skip
    [group] = config.instance_group
    assert (group.count, group.kind) == (2, model_config_pb2.ModelInstanceGroup.KIND_GPU)
    readme = (done.folder / "README.md").read_text()
    assert CARD.gpu in readme
    assert CARD.runtime_version in readme


def test_configuration_of_a_plan_of_variable_shape(tmp_path):
    made_for = ((1, 32, 608), (4, 608, 608), (4, 1312, 608))
    config = config_of(package(engine(tmp_path, profile=made_for, roi=True), tmp_path).folder)
    assert {t.name: list(t.dims) for t in (*config.input, *config.output)} == {
        "frame": [-1, -1, 608, 3], "threshold": [1], "count": [-1], "detections": [-1, 4096, 4],
        "roi": [-1, 1, -1, 608],
    }  # fmt: skip


def test_special_characters_survive_the_text_format(tmp_path):
    classes = ('a "b"', "c\\d", "µ\n")
    config = config_of(package(engine(tmp_path, classes=classes), tmp_path).folder)
    assert config.parameters["classes"].string_value == ",".join(classes)


def test_package_refuses_models_that_triton_cannot_serve(tmp_path):
    with pytest.raises(EngineError, match=r"TensorRT for RTX.*classic TensorRT.*kinet-trt build .*--fused"):
        package(engine(tmp_path, runtime="TensorRT for RTX"), tmp_path / "m")
    with pytest.raises(EngineError, match=r"outputs maps.*kinet-trt build .* --fused"):
        package(engine(tmp_path, capacity=0), tmp_path / "m")
    path = engine(tmp_path)
    path.write_bytes(PLAN[:-1])
    with pytest.raises(CardError, match="not the engine"):
        package(path, tmp_path / "m")
    with pytest.raises(KinetError, match=r"expected a model ending in \.onnx or \.engine"):
        package(tmp_path / "a.pt", tmp_path / "m")
    for name in ("", "a/b", "..", "-x", "a b"):
        with pytest.raises(KinetError, match="name: expected letters"):
            package(None, tmp_path / "m", name=name)
    with pytest.raises(KinetError, match="instances"):
        package(None, tmp_path / "m", instances=0)
    assert not (tmp_path / "m").exists()


def test_package_replaces_only_its_own_models_with_force(fused_model, tmp_path):
    first = package(fused_model, tmp_path)
    before = contents(tmp_path)
    with pytest.raises(KinetError, match=r"exists already: force replaces it"):
        package(fused_model, tmp_path, instances=3)
    assert contents(tmp_path) == before
    package(fused_model, tmp_path, instances=3, force=True)
    assert config_of(first.folder).instance_group[0].count == 3
    other = tmp_path / "mine"
    (other / "1").mkdir(parents=True)
    (other / "config.pbtxt").write_text('name: "mine"')
    with pytest.raises(KinetError, match=r"not written by kinet-trt package"):
        package(fused_model, tmp_path, name="mine", force=True)
    assert contents(other) == {"config.pbtxt": b'name: "mine"'}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kinet-edge", "mine"]


def test_package_keeps_the_old_model_on_failure(fused_model, tmp_path, monkeypatch):
    package(fused_model, tmp_path)
    before = contents(tmp_path)
    rename = Path.rename

    def fail(self, target):
        if self.name.endswith(".part"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(KinetError, match="cannot be written: No space left"):
        package(fused_model, tmp_path, instances=2, force=True)
    assert contents(tmp_path) == before
    monkeypatch.setattr(packager, "write_atomic", lambda path, content: fail(Path("x.part"), None))
    with pytest.raises(OSError, match="No space left"):
        package(fused_model, tmp_path, name="new")
    assert contents(tmp_path) == before


def test_package_command_prints_the_files(run, fused_model, tmp_path):
    code, out, err = run("package", "--triton", tmp_path / "m", "-m", fused_model)
    assert (code, err) == (0, "")
    assert "tritonserver --model-repository=" in out
    assert NOTICE in out
    code, out, err = run("package", "--triton", tmp_path / "m", "-m", fused_model)
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert run("package", "--triton", tmp_path / "m", "-m", fused_model, "--force")[0] == 0
    assert run("package", "-m", fused_model)[0] == 2


# --- the client -------------------------------------------------------------------------------------------------------


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Server of one model over Triton's protocol, following its configuration."""

    def __init__(self, folder):
        self.config = config_of(folder)
        self.session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
        self.shapes = []

    def ModelConfig(self, request, context):  # noqa: N802
        assert request.name == self.config.name
        return service_pb2.ModelConfigResponse(config=self.config)

    def ModelInfer(self, request, context):  # noqa: N802
        kinds = {"UINT8": np.uint8, "FP32": np.float32}
        given = {}
        for tensor, raw, known in zip(request.inputs, request.raw_input_contents, self.config.input, strict=True):
            assert tensor.name == known.name
            assert f"TYPE_{tensor.datatype}" == model_config_pb2.DataType.Name(known.data_type)
            assert len(tensor.shape) == len(known.dims)
            assert all(wanted in (-1, side) for side, wanted in zip(tensor.shape, known.dims, strict=True))
            given[tensor.name] = np.frombuffer(raw, kinds[tensor.datatype]).reshape(tensor.shape)
        self.shapes.append(given["frame"].shape)
        response = service_pb2.ModelInferResponse(model_name=self.config.name)
        names = [output.name for output in self.config.output]
        for known, value in zip(self.config.output, self.session.run(names, given), strict=True):
            kind = model_config_pb2.DataType.Name(known.data_type).removeprefix("TYPE_")
            response.outputs.add(name=known.name, datatype=kind, shape=value.shape)
            response.raw_output_contents.append(value.tobytes())
        return response


@contextmanager
def serving(folder):
    """Return the address of a server of one model, and the server."""
    servicer = Server(folder)
    # Triton sets no limit to a frame either.
    running = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield f"127.0.0.1:{port}", servicer
    running.stop(None).wait()


@pytest.fixture(scope="module")
def server(served):
    """Return the address of a server of the built-in model, and the server."""
    with serving(served.folder) as one:
        yield one


@pytest.mark.parametrize(("mpp", "width", "height"), [(None, 320, 256), (0.25, 330, 250), (0.5, 200, 171)])
def test_client_finds_the_same_nuclei_as_the_counter(served, server, tmp_path, mpp, width, height):
    address, servicer = server
    pixels, _ = simulate.field(3, width, height)
    picture = tmp_path / "a field.png"
    cv2.imwrite(str(picture), pixels[..., ::-1])
    done = subprocess.run(
        [sys.executable, served.folder / "client.py", picture, "--url", address, *(["--mpp", str(mpp)] if mpp else [])],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": ""},
        cwd=tmp_path,
        check=True,
    )
    found = NucleusCounter(runtime="onnxruntime")(pixels, mpp)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(r["x"], r["y"], r["class"], r["score"]) for r in rows] == [
        (f"{x:.2f}", f"{y:.2f}", found.classes[c], f"{s:.4f}")
        for x, y, c, s in zip(found.x, found.y, found.cls, found.score, strict=True)
    ]
    assert len(rows) > 30
    assert servicer.shapes[-1][1] % 16 == servicer.shapes[-1][2] % 16 == 0
    counts, index = done.stderr.splitlines()
    assert json.loads(counts.replace("'", '"')) == found.counts()
    ki67 = Ki67.from_counts(found.counts())
    low, high = ki67.interval
    assert f"{ki67.index:.1%}" in index
    assert f"{low:.1%} to {high:.1%}" in index


def test_client_reports_errors(tmp_path):
    small = tmp_path / "small.onnx"
    small.write_bytes(fuse(Model.read(), capacity=20).data)
    folder = package(small, tmp_path / "models").folder
    cv2.imwrite(str(tmp_path / "a.png"), simulate.field(3, 320, 256)[0][..., ::-1])

    def fails(*arguments):
        done = subprocess.run(
            [sys.executable, folder / "client.py", *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert "Traceback" not in done.stderr
        return done.stderr

    with serving(folder) as (address, _):
        assert "OpenCV cannot read this image" in fails(tmp_path / "none.png", "--url", address)
        assert "the model returns up to 20" in fails(tmp_path / "a.png", "--url", address)
        grey = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(tmp_path / "grey.png"), grey)
        done = subprocess.run(
            [sys.executable, folder / "client.py", tmp_path / "grey.png", "--url", address],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "x,y,class,score\n"
        assert done.stderr.startswith("the image is grey")
    assert "error from the server 127.0.0.1:1:" in fails(tmp_path / "a.png", "--url", "127.0.0.1:1")
