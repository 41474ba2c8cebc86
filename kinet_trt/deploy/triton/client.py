"""Count the nuclei of a picture on a Triton server. For Research Use Only. Not for use in diagnostic procedures.

    pip install "tritonclient[grpc]" numpy opencv-python-headless
    python client.py field.png --mpp 0.25 --url localhost:8001 > nuclei.csv

An example to take from: it needs nothing of kinet-trt, and asks the server for all that it must know of the model.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import cv2
import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

MODEL = "kinet-edge"  # its name on the server
GREY = 8  # difference of R, G and B (of 255) that noise and JPEG leave in a grey picture


@dataclass(frozen=True)
class Model:
    """What the server's configuration says of the model.

    Attributes
    ----------
    name
        On the server.
    mpp
        um/px of the frames that it takes.
    multiple
        Height and width of a frame are multiples of this many px.
    threshold
        Least height of a peak.
    classes
        Names of the classes 0, 1, 2 ...
    """

    name: str
    mpp: float
    multiple: int
    threshold: float
    classes: tuple[str, ...]


def describe(client: triton.InferenceServerClient, name: str) -> Model:
    """Ask the server for a model's um/px, alignment, threshold and classes."""
    said = {key: value.string_value for key, value in client.get_model_config(name).config.parameters.items()}
    return Model(
        name, float(said["mpp"]), int(said["multiple"]), float(said["threshold"]), tuple(said["classes"].split(","))
    )


def fit(pixels: NDArray[np.uint8], mpp: float, model: Model) -> tuple[NDArray[np.uint8], int, int]:
    """Scale RGB pixels to the model's um/px and pad them; return them with their height and width before padding."""
    scale = mpp / model.mpp
    height, width = round(pixels.shape[0] * scale), round(pixels.shape[1] * scale)
    if (height, width) != pixels.shape[:2]:
        shrinking = height * width < pixels.shape[0] * pixels.shape[1]
        how = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, (width, height), interpolation=how).astype(np.uint8, copy=False)
    bottom, right = -height % model.multiple, -width % model.multiple
    padded = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    return padded.astype(np.uint8, copy=False), height, width


def count(
    client: triton.InferenceServerClient, model: Model, pixels: NDArray[np.uint8], mpp: float, threshold: float
) -> NDArray[np.float32]:
    """Return x, y (px of the picture, pixel centres at integers), score and class of each nucleus, float32 [n, 4]."""
    if (pixels.max(axis=2) - pixels.min(axis=2)).max() <= GREY:
        print("the picture has no colour: the stains cannot be told apart, and no nuclei are counted", file=sys.stderr)  # noqa: T201
        return np.zeros((0, 4), np.float32)
    fitted, height, width = fit(pixels, mpp, model)
    frame = triton.InferInput("frame", [1, *fitted.shape], "UINT8")
    frame.set_data_from_numpy(fitted[None])
    least = triton.InferInput("threshold", [1], "FP32")
    least.set_data_from_numpy(np.array([threshold], np.float32))
    answer = client.infer(model.name, [frame, least])
    found, rows = int(answer.as_numpy("count")[0]), answer.as_numpy("detections")[0]
    if found > len(rows):
        sys.exit(f"the picture holds {found} nuclei, the model has room for {len(rows)}: count parts of it")
    nuclei: NDArray[np.float32] = rows[:found].copy()
    nuclei = nuclei[(nuclei[:, 0] < width) & (nuclei[:, 1] < height)]  # those in the padding are none
    for column, scale in ((0, width / pixels.shape[1]), (1, height / pixels.shape[0])):
        if scale != 1:
            nuclei[:, column] = (nuclei[:, column].astype(np.float64) + 0.5) / scale - 0.5
    return nuclei


def wilson(positive: int, n: int) -> tuple[float, float]:
    """Return the 95% Wilson interval of a share."""
    z, share = 1.96, positive / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return middle - half, middle + half


def main() -> None:
    """Count one picture: nuclei to standard output, the index to standard error."""
    options = argparse.ArgumentParser(description="Count the nuclei of a picture on a Triton server.")
    options.add_argument("image")
    options.add_argument("--mpp", type=float, help="um/px of the picture; left out: the model's")
    options.add_argument("--url", default="localhost:8001", help="of the server's gRPC port")
    options.add_argument("--model", default=MODEL)
    options.add_argument("--threshold", type=float, help="least height of a peak; left out: the model's")
    chosen = options.parse_args()
    picture = cv2.imread(chosen.image, cv2.IMREAD_COLOR)
    if picture is None:
        sys.exit(f"{chosen.image}: no picture that OpenCV reads")
    pixels = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    try:
        with triton.InferenceServerClient(chosen.url) as client:
            model = describe(client, chosen.model)
            least = model.threshold if chosen.threshold is None else chosen.threshold
            nuclei = count(client, model, pixels, chosen.mpp or model.mpp, least)
    except InferenceServerException as error:
        sys.exit(f"the server {chosen.url} says: {error}")
    print("x,y,class,score")  # noqa: T201
    for x, y, score, cls in nuclei:
        print(f"{x:.2f},{y:.2f},{model.classes[int(cls)]},{score:.4f}")  # noqa: T201
    counts = {name: int((nuclei[:, 3] == cls).sum()) for cls, name in enumerate(model.classes)}
    print(counts, file=sys.stderr)  # noqa: T201
    positive, n = counts["positive"], counts["positive"] + counts["negative"]
    if n:
        low, high = wilson(positive, n)
        print(  # noqa: T201
            f"Ki67 index {positive / n:.1%} of {n} tumour nuclei (95% interval {low:.1%} to {high:.1%})",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
