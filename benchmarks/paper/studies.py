"""Budgets and runs of the paper's studies."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kinet_trt.export.networks.base import NetworkConfig
from kinet_trt.export.recipes import BEST, Recipe

NETWORKS = ("fcn8s", "unet", "fcrn-a", "fcrn-b", "sfcn-opi", "frcn", "kinet")
"""Networks of Table I, in its order."""
SHOWN = {
    "fcn8s": "FCN-8s",
    "unet": "U-Net",
    "fcrn-a": "FCRN-A",
    "fcrn-b": "FCRN-B",
    "sfcn-opi": "SFCN-OPI",
    "frcn": "FRCN",
    "kinet": "KiNet",
    "okinet": "oKiNet",
    "skinet": "sKiNet",
}
STUDIES = ("table", "labels", "stages", "gamma", "lambda")
"""Table I and Figures 6, 7, 8 and 9."""


@dataclass(frozen=True)
class Budget:
    """Size of the studies.

    Attributes
    ----------
    iterations, batch, size
        Iterations of a run, crops per iteration, side of a crop (px). Training by stages has twice the iterations.
    width
        Channels at full resolution of every network.
    seeds
        Seeds of weights, crops, and the choice of fields that keep their labels.
    networks
        Networks of the table.
    fractions
        Shares of the training fields that keep their nuclei.
    gammas, lambdas
        Weights of Eq. 5 and Eq. 2.
    purpose
        Purpose, as text.
    """

    name: str
    iterations: int
    batch: int
    size: int
    width: int
    seeds: tuple[int, ...]
    purpose: str
    networks: tuple[str, ...] = NETWORKS
    fractions: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
    gammas: tuple[float, ...] = (0.1, 1.0, 5.0, 25.0, 50.0, 100.0)
    lambdas: tuple[float, ...] = (0.0, 0.05, 0.5, 5.0, 10.0, 50.0)

    def recipe(self, lam: float, gamma: float) -> Recipe:
        """Return the recipe of a run: ours, on real crops only, with five validations."""
        crops = replace(BEST.crops, size=self.size, simulated=0.0)
        average = min(BEST.average, 1 - 10 / self.iterations)
        return replace(
            BEST,
            crops=crops,
            batch=self.batch,
            iterations=self.iterations,
            patience=self.iterations,
            every=max(1, self.iterations // 5),
            lam=lam,
            gamma=gamma,
            average=average,
        )


BUDGETS = {
    budget.name: budget
    for budget in (
        Budget(
            "quick",
            *(20, 2, 64, 4, (0,)),
            "a test of the pipeline, with meaningless figures",
            networks=("frcn", "kinet"),
            fractions=(0.05, 1.0),
            gammas=(0.1, 25.0),
            lambdas=(0.0, 5.0),
        ),
        Budget("small", *(1000, 8, 128, 8, (0, 1, 2)), "a night on two free cores"),
        Budget("gpu", *(3000, 8, 208, 16, (0, 1, 2)), "for a GPU"),
    )
}


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes
    ----------
    network
        Name for ``kinet-trt train --network``.
    seed
        See :class:`Budget`.
    fraction
        Share of the training fields that keep their nuclei; the others keep their regions.
    gamma, lam
        Weights of Eq. 5 and 2.
    """

    network: str
    seed: int
    fraction: float = 1.0
    gamma: float = 25.0
    lam: float = 5.0

    @property
    def name(self) -> str:
        """Name for files."""
        return f"{self.network}-f{self.fraction:g}-g{self.gamma:g}-l{self.lam:g}-s{self.seed}"

    def config(self, width: int) -> NetworkConfig:
        """Return the network, with the activation of its paper."""
        if self.network in ("kinet", "okinet", "skinet"):
            return NetworkConfig("paper", width, "elu", roi=self.network != "okinet")
        return NetworkConfig(self.network, width, "relu", roi=False)  # type: ignore[arg-type]


def runs_of(study: str, budget: Budget, seed: int) -> list[Run]:
    """Return the runs of a study with one seed; studies share runs."""
    if study == "table":
        return [Run(network, seed) for network in budget.networks]
    if study == "labels":
        return [Run(network, seed, fraction=f) for f in budget.fractions for network in ("okinet", "kinet")]
    if study == "stages":
        return [Run(network, seed) for network in ("frcn", "skinet", "kinet")]
    if study == "gamma":
        return [Run("kinet", seed, gamma=gamma) for gamma in budget.gammas]
    return [Run("kinet", seed, lam=lam) for lam in budget.lambdas]


def all_runs(budget: Budget, studies: tuple[str, ...] = STUDIES) -> list[Run]:
    """Return all runs, each once: every study with the first seed before any with the second."""
    return list(
        dict.fromkeys(run for seed in budget.seeds for study in studies for run in runs_of(study, budget, seed))
    )
