"""Degradations of images: other stains, blur, noise. RGB uint8 [height, width, 3] in and out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Damage = Callable[[Pixels], Pixels]
_Reals = NDArray[np.floating[Any]]


def _unit(*density: float) -> _Reals:
    vector = np.array(density)
    return vector / np.linalg.norm(vector)


# Optical density in R, G, B. Ruifrok and Johnston (2001); the second haematoxylin and eosin: Macenko et al. (2009).
HAEMATOXYLIN, DAB, EOSIN = _unit(0.65, 0.70, 0.29), _unit(0.27, 0.57, 0.78), _unit(0.07, 0.99, 0.11)
HAEMATOXYLIN_2, EOSIN_2 = _unit(0.5626, 0.7201, 0.4062), _unit(0.2159, 0.8012, 0.5581)
AEC, FAST_RED = _unit(0.274, 0.680, 0.680), _unit(0.214, 0.851, 0.478)

# Reinhard et al. (2001): RGB to LMS, and log LMS to l-alpha-beta.
_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])
# Means and deviations of H&E sections in l-alpha-beta, as in published tables of slides of many hospitals.
_HE_MEAN, _HE_DEVIATION = np.array([8.741, -0.124, 0.0445]), np.array([0.6135, 0.1099, 0.0286])


def _separated(pixels: Pixels) -> tuple[_Reals, _Reals, _Reals]:
    """Return the amounts of haematoxylin, DAB and residual [height, width, 3], the stain vectors, and white."""
    white = np.maximum(np.percentile(pixels.reshape(-1, 3), 98, axis=0), 60)
    density = -np.log10(np.clip((pixels.astype(np.float64) + 1) / (white + 1), 1e-3, 1.2))
    vectors = np.stack([HAEMATOXYLIN, DAB, _unit(*np.cross(HAEMATOXYLIN, DAB))])
    return density @ np.linalg.inv(vectors), vectors, white


def _shown(density: _Reals, white: _Reals) -> Pixels:
    return np.clip(np.round((white + 1) * 10**-density - 1), 0, 255).astype(np.uint8)


def other_stains(pixels: Pixels, first: _Reals, second: _Reals) -> Pixels:
    """Replace haematoxylin by the first stain and DAB by the second."""
    amounts, vectors, white = _separated(pixels)
    return _shown(amounts @ np.stack([first, second, 0.5 * vectors[2]]), white)


def eosin(pixels: Pixels, strength: float, first: _Reals = HAEMATOXYLIN, second: _Reals = EOSIN) -> Pixels:
    """Stain nuclei with haematoxylin, and the surrounding tissue with eosin."""
    amounts, _, white = _separated(pixels)
    nuclei = np.clip(amounts[..., 0], 0, None) + 0.7 * np.clip(amounts[..., 1], 0, None)
    tissue = cv2.GaussianBlur(nuclei, (0, 0), 6)
    tissue = np.clip(tissue / np.percentile(tissue, 70), 0, 1.2)
    grain = cv2.GaussianBlur(np.random.default_rng(0).normal(size=nuclei.shape), (0, 0), 3) * 6
    pink = strength * tissue * (1 + 0.15 * grain) * np.exp(-2 * nuclei / max(1e-3, float(np.percentile(nuclei, 98))))
    return _shown(nuclei[..., None] * first + pink[..., None] * second, np.maximum(white, 225.0))


def like_he_slides(pixels: Pixels) -> Pixels:
    """Transfer the mean and standard deviation of H&E slides in l-alpha-beta (Reinhard et al. 2001)."""
    lab = np.log(np.maximum(pixels.reshape(-1, 3).astype(np.float64), 1) @ _LMS.T) @ _LAB.T
    lab = (lab - lab.mean(0)) / np.maximum(lab.std(0), 1e-6) * _HE_DEVIATION + _HE_MEAN
    rgb = np.exp(lab @ np.linalg.inv(_LAB).T) @ np.linalg.inv(_LMS).T
    return np.clip(np.round(rgb), 0, 255).astype(np.uint8).reshape(pixels.shape)


def pink_veil(pixels: Pixels) -> Pixels:
    """Raise red, lower green."""
    light = pixels / 255
    veiled = np.stack([light[..., 0] ** 0.6, 0.8 * light[..., 1], 0.95 * light[..., 2] ** 0.8], axis=-1)
    return np.clip(255 * veiled, 0, 255).astype(np.uint8)


def turned(pixels: Pixels, degrees: int) -> Pixels:
    """Rotate the hue (HSV)."""
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + degrees // 2) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.uint8)


def fluorescence(pixels: Pixels, green: bool) -> Pixels:
    """Render haematoxylin as blue light on black and, with ``green``, DAB as green light; else all stain as blue."""
    amounts = np.clip(_separated(pixels)[0], 0, None)
    first, second = amounts[..., 0], amounts[..., 1]
    blue = first if green else first + second
    light = [np.clip(a / max(1e-3, float(np.percentile(a, 99.5))), 0, 1) for a in (blue, second)]
    shown = np.stack(
        [8 + 10 * light[0], 8 + (220 * light[1] if green else 60 * light[0]), 12 + 230 * light[0]], axis=-1
    )
    noise = np.random.default_rng(0).normal(0, 2, shown.shape)
    return np.clip(shown + noise, 0, 255).astype(np.uint8)


def glass(pixels: Pixels) -> Pixels:
    """Render an empty field: vignetting and noise."""
    height, width = pixels.shape[:2]
    y, x = (np.mgrid[:height, :width] - np.array([[[height]], [[width]]]) / 2) / max(height, width)
    light = np.array([238, 238, 240]) * (1 - 0.15 * (x**2 + y**2))[..., None]
    return np.clip(light + np.random.default_rng(0).normal(0, 2, pixels.shape), 0, 255).astype(np.uint8)


def out_of_focus(pixels: Pixels, radius: int) -> Pixels:
    """Blur by a disc of the given radius, px."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(np.float32)
    return cv2.filter2D(pixels, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT).astype(np.uint8)


def smeared(pixels: Pixels, length: int) -> Pixels:
    """Blur along rows, px, as by a moving stage."""
    return cv2.filter2D(pixels, -1, np.full((1, length), 1 / length, np.float32)).astype(np.uint8)


def blurred(pixels: Pixels, sigma: float) -> Pixels:
    """Blur by a Gaussian, px."""
    return cv2.GaussianBlur(pixels, (0, 0), sigma).astype(np.uint8)


def gain(pixels: Pixels, red: float, green: float, blue: float) -> Pixels:
    """Multiply the channels: white balance and exposure."""
    return np.clip(pixels * np.array([red, green, blue]), 0, 255).astype(np.uint8)


def compressed(pixels: Pixels, quality: int) -> Pixels:
    """Compress as JPEG."""
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1).astype(np.uint8)


def another_camera(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Sharpen or blur slightly, add noise and compress, so that a camera's fine structure does not reveal the scale."""
    way = rng.uniform(-0.6, 1.2)
    if way > 0.3:
        pixels = blurred(pixels, way)
    elif way < 0:
        soft = cv2.GaussianBlur(pixels, (0, 0), 1.2).astype(np.float32)
        pixels = np.clip(pixels * (1 - 2 * way) + 2 * way * soft, 0, 255).astype(np.uint8)
    pixels = np.clip(pixels + rng.normal(0, rng.uniform(0, 4), pixels.shape), 0, 255).astype(np.uint8)
    return compressed(pixels, int(rng.uniform(60, 98)))


def another_laboratory(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Vary stain, light, lens and border within the range of laboratories and microscopes."""
    white = np.maximum(np.percentile(pixels[::4, ::4].reshape(-1, 3), 98, axis=0), 60)
    density = -np.log10((pixels + 1.0) / (white + 1))
    mean = density.mean(axis=2, keepdims=True)
    # Around the grey axis: hue by some degrees, saturation by a third.
    angle, colour = np.radians(rng.uniform(-9, 9)), rng.uniform(0.7, 1.5)
    cosine, sine = np.cos(angle), np.sin(angle) / np.sqrt(3)
    chroma = density - mean
    turned_by = cosine * chroma + sine * (np.roll(chroma, 1, axis=2) - np.roll(chroma, -1, axis=2))
    light = 10 ** -(rng.uniform(0.7, 1.4) * (mean + colour * turned_by))
    height, width = pixels.shape[:2]
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    fall = 1 - rng.choice([0, 0.15, 0.35]) * (x**2 + y**2) / 2
    balance = rng.uniform([0.9, 0.88, 0.78], 1) * rng.uniform(200, 262)
    shown = np.clip(light * fall[..., None] * balance, 0, 255).astype(np.uint8)
    return framed(another_camera(shown, rng), rng)


def framed(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Draw, in a third of the images each, a border of one colour or a scale bar with its length."""
    pixels, kind = pixels.copy(), int(rng.integers(3))
    height, width = pixels.shape[:2]
    if kind == 1:
        side, colour = int(rng.integers(4, 1 + max(5, min(height, width) // 12))), int(rng.choice([0, 128, 255]))
        for edge in (pixels[:side], pixels[-side:], pixels[:, :side], pixels[:, -side:])[: int(rng.choice([1, 2, 4]))]:
            edge[:] = colour
    elif kind == 2:
        colour = (0, 0, 0) if rng.random() < 0.5 else (255, 255, 255)
        left, top = width - 20 - width // 5, height - 24
        cv2.rectangle(pixels, (left, top), (width - 20, top + 5), colour, -1)
        cv2.putText(pixels, "50 um", (left, top - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
    return pixels


STAINS: Mapping[str, Damage] = {
    "eosin for DAB": partial(other_stains, first=HAEMATOXYLIN, second=EOSIN),
    "eosin for DAB, second vectors": partial(other_stains, first=HAEMATOXYLIN_2, second=EOSIN_2),
    "H&E, eosin 0.2": partial(eosin, strength=0.2),
    "H&E, eosin 0.35": partial(eosin, strength=0.35),
    "H&E, eosin 0.5": partial(eosin, strength=0.5),
    "H&E, second vectors": partial(eosin, strength=0.35, first=HAEMATOXYLIN_2, second=EOSIN_2),
    "H&E, Reinhard": like_he_slides,
    "pink veil": pink_veil,
    "hue +60": partial(turned, degrees=60),
    "hue -60": partial(turned, degrees=-60),
    "AEC for DAB": partial(other_stains, first=HAEMATOXYLIN, second=AEC),
    "fast red for DAB": partial(other_stains, first=HAEMATOXYLIN, second=FAST_RED),
    "negative": lambda pixels: 255 - pixels,
    "fluorescence, blue": partial(fluorescence, green=False),
    "fluorescence, blue and green": partial(fluorescence, green=True),
    "glass": glass,
}
BLURS: Mapping[str, Damage] = {
    **{f"blur {sigma:g} px": partial(blurred, sigma=sigma) for sigma in (1, 1.5, 2, 3, 4, 6)},
    **{f"defocus {radius} px": partial(out_of_focus, radius=radius) for radius in (4, 7)},
    "smear 25 px": partial(smeared, length=25),
}
HARMLESS: Mapping[str, Damage] = {
    "warm": partial(gain, red=1, green=0.95, blue=0.88),
    "cold": partial(gain, red=0.9, green=0.96, blue=1),
    "greenish": partial(gain, red=0.94, green=1, blue=0.94),
    "pinkish": partial(gain, red=1, green=0.94, blue=0.98),
    "dim": partial(gain, red=0.75, green=0.75, blue=0.75),
    "bright": partial(gain, red=1.12, green=1.12, blue=1.12),
    "JPEG 60": partial(compressed, quality=60),
}
