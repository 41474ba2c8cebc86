"""Training regimes: the paper's, ours, and ours for few fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kinet_trt.export.crops import CropPlan


@dataclass(frozen=True)
class Recipe:
    """Training regime; defaults are those of the paper (section IV-B), except for ``clip``.

    Attributes
    ----------
    crops
        Sampling of crops. The paper's are 200 px; 208 is the next multiple of 16.
    batch
        Crops in a batch: 4 images with 4 crops each.
    iterations, patience
        Maximum number of iterations, and iterations without improvement after which training stops.
    every
        Iterations between validations.
    lam, eta, eta_after, gamma
        Parameters of Eq. 2, 3 and 5; the penalty of Eq. 3 starts after ``eta_after`` iterations.
    floor
        Minimum of the mean of a map in Eq. 2: with the paper's 0, crops without nuclei have no loss.
    mean_loss
        Divide the sums of Eq. 2 and 4 by the number of pixels, so that the loss does not depend on the crop size.
    clip
        Maximum norm of the gradient; 0: unlimited. Not in the paper. At its learning rate of 0.01 the unclipped sums of
        Eq. 2 and 4 gave NaN at iteration 4 (width 32, ELU, with the region branch), and their means at iteration 14.
        The gradient of the sums nearly always exceeds 1, so the learning rate is the length of a step.
    optimizer, lr, momentum, weight_decay
        ``"sgd"`` (Nesterov) at a constant learning rate, or ``"adamw"`` with warm-up and cosine decay.
    average
        Decay of the running average of the weights, which is validated and saved; 0: no averaging.
    """

    crops: CropPlan = field(default_factory=CropPlan)
    batch: int = 16
    iterations: int = 100_000
    patience: int = 20_000
    every: int = 1_000
    lam: float = 5.0
    eta: float = 1e-6
    eta_after: int = 10_000
    gamma: float = 25.0
    floor: float = 0.0
    mean_loss: bool = False
    clip: float = 1.0
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-6
    average: float = 0.0


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
