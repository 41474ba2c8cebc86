"""Count the nuclei of an image on a Triton server. For Research Use Only. Not for use in diagnostic procedures.

    pip install "tritonclient[grpc]" numpy opencv-python-headless
    python client.py field.png --mpp 0.25 --url localhost:8001 > nuclei.csv

An example to copy: it does not need kinet-trt, and queries the server for the properties of the model.
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

MODEL = "kinet-edge"  # name on the server
GREY = 8  # largest difference of R, G and B (of 255) in a grey image with noise or JPEG artefacts


@dataclass(frozen=True)
class Model:
    """Properties of a model from the server's configuration."""

    name: str
    mpp: float  # scale of its input frames, um/px
    multiple: int  # height and width of a frame are multiples of this many px
    threshold: float  # minimum height of a peak
    classes: tuple[str, ...]


def describe(client: triton.InferenceServerClient, name: str) -> Model:
    """Query the server for a model's um/px, alignment, threshold and classes."""
    values = {key: value.string_value for key, value in client.get_model_config(name).config.parameters.items()}
    return Model(
        name,
        float(values["mpp"]),
        int(values["multiple"]),
        float(values["threshold"]),
        tuple(values["classes"].split(",")),
    )


def fit(pixels: NDArray[np.uint8], mpp: float, model: Model) -> tuple[NDArray[np.uint8], int, int]:
    """Scale RGB pixels to the model's um/px and pad them; return them with their height and width before padding."""
    scale = mpp / model.mpp
    height, width = round(pixels.shape[0] * scale), round(pixels.shape[1] * scale)
    if (height, width) != pixels.shape[:2]:
        is_smaller = height * width < pixels.shape[0] * pixels.shape[1]
        interpolation = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, (width, height), interpolation=interpolation).astype(np.uint8, copy=False)
    bottom, right = -height % model.multiple, -width % model.multiple
    padded = cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    return padded.astype(np.uint8, copy=False), height, width


def count(
    client: triton.InferenceServerClient, model: Model, pixels: NDArray[np.uint8], mpp: float, threshold: float
) -> NDArray[np.float32]:
    """Return x, y (px of the image, pixel centres at integers), score and class of each nucleus, float32 [n, 4]."""
    if (pixels.max(axis=2) - pixels.min(axis=2)).max() <= GREY:
        print("the image is grey: the stains cannot be distinguished, so no nuclei are counted", file=sys.stderr)  # noqa: T201
        return np.zeros((0, 4), np.float32)
    fitted, height, width = fit(pixels, mpp, model)
    frame = triton.InferInput("frame", [1, *fitted.shape], "UINT8")
    frame.set_data_from_numpy(fitted[None])
    limit = triton.InferInput("threshold", [1], "FP32")
    limit.set_data_from_numpy(np.array([threshold], np.float32))
    result = client.infer(model.name, [frame, limit])
    found, rows = int(result.as_numpy("count")[0]), result.as_numpy("detections")[0]
    if found > len(rows):
        sys.exit(f"the image has {found} nuclei, the model returns up to {len(rows)}. Count parts of the image")
    nuclei: NDArray[np.float32] = rows[:found].copy()
    nuclei = nuclei[(nuclei[:, 0] < width) & (nuclei[:, 1] < height)]  # drop those in the padding
    for column, scale in ((0, width / pixels.shape[1]), (1, height / pixels.shape[0])):
        if scale != 1:
            nuclei[:, column] = (nuclei[:, column].astype(np.float64) + 0.5) / scale - 0.5
    return nuclei


def wilson(positive: int, n: int) -> tuple[float, float]:
    """Return the 95% Wilson interval of a proportion."""
    z, share = 1.96, positive / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half_width = z / (1 + z * z / n) * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return centre - half_width, centre + half_width


def main() -> None:
    """Count one image: nuclei to standard output, the index to standard error."""
    parser = argparse.ArgumentParser(description="Count the nuclei of an image on a Triton server.")
    parser.add_argument("image")
    parser.add_argument("--mpp", type=float, help="um/px of the image; defaults to the model's")
    parser.add_argument("--url", default="localhost:8001", help="address of the server's gRPC port")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--threshold", type=float, help="minimum height of a peak; defaults to the model's")
    options = parser.parse_args()
    image = cv2.imread(options.image, cv2.IMREAD_COLOR)
    if image is None:
        sys.exit(f"{options.image}: OpenCV cannot read this image")
    pixels = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    try:
        with triton.InferenceServerClient(options.url) as client:
            model = describe(client, options.model)
            threshold = model.threshold if options.threshold is None else options.threshold
            nuclei = count(client, model, pixels, options.mpp or model.mpp, threshold)
    except InferenceServerException as error:
        sys.exit(f"error from the server {options.url}: {error}")
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
