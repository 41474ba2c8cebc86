"""Training regimes: the paper's, ours, and ours for few fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kinet_trt.export.crops import CropPlan


@dataclass(frozen=True)
class Recipe:
    """Training regime; defaults are those of the paper (section IV-B), except for ``clip``.

    The paper's crops are 200 px; 208 is the next multiple of 16. Without clipping, at the paper's rate of 0.01,
    training reached NaN at iteration 4 with summed losses and at 14 with mean losses (width 32, ELU, with the region
    branch). The gradient of the summed losses is nearly always clipped to norm 1, so the length of a step is set by the
    learning rate. ``"sgd"`` (Nesterov) has a constant learning rate, ``"adamw"`` warm-up and cosine decay.
    """

    crops: CropPlan = field(default_factory=CropPlan)
    batch: int = 16  # 4 images with 4 crops each
    iterations: int = 100_000
    patience: int = 20_000  # iterations without improvement after which training stops
    every: int = 1_000  # iterations between validations
    lam: float = 5.0  # lambda of Eq. 2
    eta: float = 1e-6  # of Eq. 3
    eta_after: int = 10_000  # iterations before the penalty of Eq. 3 starts
    gamma: float = 25.0  # of Eq. 5
    floor: float = 0.0  # lower limit applied to the mean target map in Eq. 2; with 0, empty crops have no loss
    mean_loss: bool = False  # divide Eq. 2 and 4 by the number of pixels, to be independent of the crop size
    clip: float = 1.0  # maximum norm of the gradient; 0 if unlimited
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-6
    average: float = 0.0  # decay of the moving average of the weights, which is validated and saved; 0 for none


PAPER = Recipe()
BEST = Recipe(
    crops=CropPlan(per_image=1, distance=10.0, stain=True, scale=1.45, simulated=0.10, empty=0.03),
    batch=8,
    iterations=12_000,
    patience=12_000,
    every=500,
    eta=0.0,
    floor=0.03,
    mean_loss=True,
    optimizer="adamw",
    lr=2e-3,
    weight_decay=1e-4,
    average=0.998,
)
TUNE = replace(BEST, iterations=600, patience=300, every=100, lr=1e-3, average=0.98)
"""For fine-tuning a trained network on a few fields."""
RECIPES: Mapping[str, Recipe] = {"paper": PAPER, "best": BEST, "tune": TUNE}
