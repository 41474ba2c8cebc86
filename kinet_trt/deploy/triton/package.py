"""``kinet-trt package --triton``: package a fused model for NVIDIA Triton, for many cameras on one GPU machine.

https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md

``max_batch_size`` is 0: shapes are those of the model, without dynamic batching. Dynamic batching requires the batch as
the first dimension of every input, which ``threshold`` does not have: one request may contain several frames, but they
share its threshold. Triton cannot batch frames of different sizes either, and one frame of a megapixel keeps a GPU
busy; several instances use its idle time.

An ONNX file uses the ``onnxruntime`` backend, which accepts frames of any size, on a GPU or a CPU. The ``openvino``
backend requires fixed sizes and is a beta version, though OpenVINO itself is faster on a CPU.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version as package_version
from pathlib import Path

from kinet_trt.core.errors import EngineError, KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.core.notice import NOTICE
from kinet_trt.core.runtimes import GPU_RUNTIMES
from kinet_trt.engines.tensorrt.engine_file import build_command, read_plan
from kinet_trt.models.card import ModelCard
from kinet_trt.models.model import DEFAULT_MODEL, Model
from kinet_trt.onnx_graph.reader import Port, inputs, ports

CONFIG = "config.pbtxt"
_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "fp32": "TYPE_FP32", "fp16": "TYPE_FP16"}
_HEADER = "# Written by kinet-trt package"
"""First words of a configuration that kinet-trt wrote: ``--force`` replaces only such a model."""


@dataclass(frozen=True)
class Packaged:
    """A model written to a repository.

    Attributes
    ----------
    folder
        Folder of the model in the repository.
    name
        Name of the model on the server.
    card
        Model card.
    fused_here
        Whether the model was fused while packaging.
    """

    folder: Path
    name: str
    card: ModelCard
    fused_here: bool


def package(
    model: Path | None, repository: Path, *, name: str | None = None, instances: int = 1, force: bool = False
) -> Packaged:
    """Write a model to a Triton model repository: ``REPOSITORY/NAME`` with everything that server and client need.

    Parameters
    ----------
    model
        A ``.onnx`` model, fused or not, or a fused ``.engine`` of classic TensorRT; None for the built-in model.
    repository
        Folder of models; created if missing. Other models in it are kept.
    name
        Name of the model on the server; defaults to that of the card.
    instances
        Number of frames counted at a time, on each GPU or else on the CPU.
    force
        Replace a model of this name that this function wrote before.

    Raises
    ------
    KinetError
        If the model cannot be read or served by Triton, or the folder exists. Existing files are then unchanged.
    """
    if instances < 1:
        raise KinetError(f"instances: expected 1 or more, found {instances}")
    card, content, file, model_inputs, model_outputs, fused_here = _read(model)
    if name is None:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", card.name).strip("-.") or "kinet"
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise KinetError(f"name: expected letters, digits, '_', '-' and '.', found {name!r}")
    folder = repository / name
    _check_folder(folder, force)
    part = repository / f".kinet-{secrets.token_hex(8)}.part"
    client = (resources.files("kinet_trt.deploy.triton") / "client.py").read_text(encoding="utf-8")
    try:
        write_atomic(part / "1" / file, content)
        write_atomic(part / "labels.txt", "".join(f"{label}\n" for label in card.classes))
        write_atomic(part / "client.py", client.replace('MODEL = "kinet-edge"', f'MODEL = "{name}"'))
        write_atomic(part / "README.md", _readme(name, card))
        write_atomic(part / CONFIG, config(name, card, model_inputs, model_outputs, instances))
        _install(part, folder, force)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Packaged(folder, name, card, fused_here)


def config(name: str, card: ModelCard, inputs: Sequence[Port], outputs: Sequence[Port], instances: int = 1) -> str:
    """Return a model's configuration, Triton's ``ModelConfig`` as text.

    The values of the card that a client needs are written under ``parameters``; a variable dimension becomes -1.
    ``instances`` is the number of frames counted at a time.
    """
    parameters = {
        "classes": ",".join(card.classes),
        "mpp": repr(card.mpp),
        "multiple": str(card.multiple),
        "threshold": repr(card.threshold),
        "precision": card.precision,
        "model_sha256": card.model_sha256,
        "notice": NOTICE,
    }
    kind = "KIND_GPU" if card.runtime else "KIND_AUTO"
    return "\n".join(
        [
            f"{_HEADER} {package_version('kinet-trt')}. {NOTICE}",
            f'name: "{name}"',
            'platform: "tensorrt_plan"' if card.runtime else 'backend: "onnxruntime"',
            "# Complete shapes, no dynamic batching: threshold has no batch dimension.",
            "max_batch_size: 0",
            *(_tensor("input", port) for port in inputs),
            *(_tensor("output", port) for port in outputs),
            f"instance_group [ {{ count: {instances} kind: {kind} }} ]",
            *(
                f'parameters {{ key: "{key}" value: {{ string_value: {_quoted(value)} }} }}'
                for key, value in parameters.items()
            ),
            "",
        ]
    )


def _tensor(role: str, port: Port) -> str:
    dims = ", ".join(str(dim) if isinstance(dim, int) and dim > 0 else "-1" for dim in port.shape)
    return f'{role} [ {{ name: "{port.name}" data_type: {_TYPES[port.dtype]} dims: [ {dims} ] }} ]'


def _quoted(text: str) -> str:
    """Return a string of protobuf's text format."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def _read(model: Path | None) -> tuple[ModelCard, bytes, str, Sequence[Port], Sequence[Port], bool]:
    """Return card, content, file name, inputs and outputs of the model to serve, and whether it was fused here."""
    if model is not None and model.suffix.lower() == ".engine":
        card, plan = read_plan(model)
        _check_plan(card, model)
        return card, plan, "model.plan", *_ports(card), False
    if model is not None and model.suffix.lower() != ".onnx":
        raise KinetError(f"{model}: expected a model ending in .onnx or .engine, found {model.suffix or 'no suffix'}")
    served = Model.read(model or DEFAULT_MODEL)
    fused_here = not served.card.capacity
    if fused_here:
        from kinet_trt.onnx_graph.fuse_peaks import fuse

        served = fuse(served)
    graph = served.graph.graph
    return served.card, served.data, "model.onnx", inputs(graph), ports(graph.output), fused_here


def _check_plan(card: ModelCard, path: Path) -> None:
    """Raise unless Triton's tensorrt backend can serve an engine."""
    if card.runtime != GPU_RUNTIMES["tensorrt"]:
        raise EngineError(
            f"{path}: built by {card.runtime}, but Triton needs a plan of classic TensorRT in the version of its "
            "container. Use the .onnx model, or build the engine in the container with "
            f"{build_command(card, path)} --runtime tensorrt"
        )
    if not card.capacity:
        raise EngineError(
            f"{path}: expected an engine that outputs nuclei, found one that outputs maps. Build it with "
            f"{build_command(card, path)} --fused"
        )


def _ports(card: ModelCard) -> tuple[Sequence[Port], Sequence[Port]]:
    """Return inputs and outputs of a fused engine; variable dimensions are ``"?"``."""
    assert card.profile
    smallest, _, largest = card.profile
    n, height, width = (high if low == high else "?" for low, high in zip(smallest, largest, strict=True))
    outputs = [Port("count", "int32", (n,)), Port("detections", "fp32", (n, card.capacity, 4))]
    if card.roi:
        outputs.append(Port("roi", "fp32", (n, 1, height, width)))
    return [Port("frame", "uint8", (n, height, width, 3)), Port("threshold", "fp32", (1,))], outputs


def _readme(name: str, card: ModelCard) -> str:
    requirements = (
        f"A plan for {card.gpu}, built by {card.runtime} {card.runtime_version}: the server needs that GPU and a "
        "container with that version of TensorRT."
        if card.runtime
        else "An ONNX model for Triton's onnxruntime backend: runs on a GPU if the server has one, or else on the CPU."
    )
    return f"""# {name}

**{NOTICE}**

Counts nuclei in Ki67-stained tissue: {", ".join(card.classes)} (`labels.txt`, in the order of their numbers).
{requirements}

    tritonserver --model-repository=FOLDER     # the folder that contains {name}
    pip install "tritonclient[grpc]" numpy opencv-python-headless
    python client.py field.png --mpp 0.25 --url SERVER:8001 > nuclei.csv

`frame` is RGB, uint8 [N, H, W, 3], at {card.mpp:g} um/px, H and W multiples of {card.multiple}; `threshold` is float32
[1], {card.threshold:g} by default. `count` is the true number of nuclei, `detections` x, y, score and class of the
first {card.capacity:,}. `client.py` scales and pads the image, and converts the coordinates back.

Precision {card.precision}. Model sha256 {card.model_sha256}.
Trained on: {card.data or "not stated"}
Licence: {card.licence or "not stated"}
"""


def _check_folder(folder: Path, force: bool) -> None:
    """Raise a KinetError if a folder exists and must not be replaced."""
    if not folder.exists():
        return
    if not force:
        raise KinetError(f"{folder} exists already: force replaces it; or choose another name")
    if not _is_ours(folder):
        raise KinetError(f"{folder}: not written by kinet-trt package, so not replaced. Choose another name")


def _is_ours(folder: Path) -> bool:
    try:
        with (folder / CONFIG).open(encoding="utf-8", errors="replace") as file:
            return file.read(len(_HEADER)) == _HEADER
    except OSError:
        return False


def _install(part: Path, folder: Path, force: bool) -> None:
    """Rename a complete folder into place; restore the previous one if that fails."""
    old = folder.with_name(f"{part.name}.old")
    try:
        if force and folder.exists():
            folder.rename(old)
        try:
            part.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    except OSError as error:
        raise KinetError(f"{folder}: cannot be written: {error.strerror or error}") from error
    shutil.rmtree(old, ignore_errors=True)
