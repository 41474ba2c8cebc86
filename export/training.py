"""Training: the paper's regime, and ours."""

from __future__ import annotations

import copy
import csv
import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from kinet_trt.export import checkpoint
from kinet_trt.export.crops import CropPlan, Crops
from kinet_trt.export.distillation import maps_of_fields
from kinet_trt.export.losses import correlation_penalty, joint_loss, nucleus_loss, roi_loss
from kinet_trt.export.networks.base import KINET_ARCHITECTURES, MULTIPLE, Network, NetworkConfig
from kinet_trt.export.networks.registry import build
from kinet_trt.export.pictures import contact_sheet
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from kinet_trt.core.detections import CLASSES, Detections
from kinet_trt.core.errors import KinetError
from kinet_trt.core.files import write_atomic
from kinet_trt.core.frame import MIN_SIDE, Frame, fit
from kinet_trt.datasets.labelled import LabelledField
from kinet_trt.evaluation.evaluate import comparable
from kinet_trt.evaluation.metrics import Comparison, compare
from kinet_trt.peaks.reference import find_peaks

log = logging.getLogger(__name__)

THRESHOLDS = tuple(round(0.15 + 0.025 * i, 3) for i in range(25))
TAUGHT = 0.5
"""Share of the nucleus loss that a teacher's maps have, where there is one."""
UNLABELLED = 0.2
"""How often a source without labelled nuclei is drawn, as a share of all others together."""
SHORT = 50
"""Iterations for which starting a process that prepares crops pays."""
TIMED = 4
"""Iterations that are timed for the estimate; the one before them, in which everything is prepared, is not."""
KEPT = 50
"""Iterations between checkpoints to go on from: validations, which take longer, may be rarer."""
WITHOUT_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of ONEDNN_MAX_CPU_ISA with which oneDNN has no BF16 arithmetic."""
MPP = 0.34
"""Scale of the training fields, um/px: nominal, no source states its own."""

Task = Literal["both", "roi", "nuclei"]
"""What is learnt: both tasks jointly (Eq. 5), or one of them with what only the other needs left as it is."""


@dataclass(frozen=True)
class Recipe:
    """A training regime; the defaults are the paper's (section IV-B) and one thing more, ``clip``.

    Attributes
    ----------
    crops
        How crops are drawn. The paper's are 200 px; 208 is the next multiple of 16.
    batch
        Crops in a batch: 4 images with 4 crops each.
    iterations, patience
        Longest run, and iterations without a better validation figure after which it stops.
    every
        Iterations between validations.
    lam, eta, eta_after, gamma
        Of Eq. 2, 3 and 5; the penalty of Eq. 3 begins after ``eta_after`` iterations.
    floor
        Least mean of a map in Eq. 2: with the paper's 0 a crop without nuclei teaches nothing.
    mean_loss
        Divide the sums of Eq. 2 and 4 by the number of pixels, so that the loss does not depend on the crop's size.
    clip
        Largest norm of the gradient; 0: any. Not in the paper's text. Without it the sums of Eq. 2 and 4 at the paper's
        learning rate of 0.01 gave NaN at iteration 4 here (width 32, ELU, with the region branch), and their means at
        iteration 14. The sums' gradient is far above 1 nearly always, so that the rate is the length of a step.
    optimizer, lr, momentum, weight_decay
        ``"sgd"`` (Nesterov) at a constant rate, or ``"adamw"`` with warm-up and cosine decay.
    average
        Decay of the running average of the weights that is validated and saved; 0: the weights themselves.
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
"""Ours for a user's few fields, from a network that is good at others."""
RECIPES: Mapping[str, Recipe] = {"paper": PAPER, "best": BEST, "tune": TUNE}


@dataclass(frozen=True)
class Validation:
    """How the network does on the validation fields.

    Attributes
    ----------
    threshold
        The threshold with the best figure.
    figure
        Mean over sources of the mean of detection and classification F1.
    by_source
        Detection F1 and weighted classification F1 of each source.
    found
        Of each field, everything above the least threshold that was tried.
    """

    threshold: float
    figure: float
    by_source: dict[str, tuple[float, float]]
    found: tuple[Detections, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class Progress:
    """What a training run reports after each iteration; ``validation`` only where there was one.

    Iteration 0 is the network that training begins with, where one was given; it has no loss (0). ``seconds`` is an
    estimate of how long the iterations and validations that are left take on this machine, given once, after the first
    iterations of a run.
    """

    iteration: int
    iterations: int
    loss: float
    validation: Validation | None = None
    seconds: float | None = None


def source_weights(fields: Sequence[LabelledField], factors: Mapping[str, float]) -> list[float]:
    """Return how often each field is drawn.

    A source counts by the square root of its nuclei, three times when it labels every class, times the factor given
    for it; one that labels no class counts :data:`UNLABELLED` of all that do. Within a source, fields count equally.

    Raises
    ------
    KinetError
        If a factor names an unknown source.
    """
    sources = {f.source for f in fields}
    if unknown := set(factors) - sources:
        raise KinetError(f"no source named {sorted(unknown)}: expected one of {sorted(sources)}")
    weight = {}
    for source in sources:
        own = [f for f in fields if f.source == source]
        nuclei = sum(len(f.x) for f in own) + 1
        complete = all(set(f.labelled) == set(CLASSES) for f in own)
        weight[source] = np.sqrt(nuclei) * (3 if complete else 1)
    bare = {source for source in sources if not any(f.labelled for f in fields if f.source == source)}
    marked = sum(weight[source] for source in sources - bare) or 1.0
    weight |= dict.fromkeys(bare, UNLABELLED * marked)
    number = Counter(f.source for f in fields)
    return [factors.get(f.source, 1.0) * weight[f.source] / number[f.source] for f in fields]


def split(fields: Sequence[LabelledField]) -> tuple[list[LabelledField], list[LabelledField]]:
    """Split fields into training and validation ones.

    By their ``split``; those for testing are left alone. A source of one field gives the right fifth of it to
    validation, if that is wide enough to be counted; where no field is for validation then, every fifth one is, or the
    last. A single narrow field serves both. Fields with regions alone validate nothing.

    Raises
    ------
    KinetError
        If nothing is left to train on, or no nuclei to validate with.
    """
    fields = [f for f in fields if f.split != "test" and (f.labelled or f.split != "val")]
    marked = [f for f in fields if f.labelled]
    if not marked:
        raise KinetError("no fields to train on: expected fields with labelled nuclei outside the test split")
    train, val = [], []
    for f in fields:
        alone = sum(g.source == f.source for g in marked) == 1 and bool(f.labelled)
        if f.split == "val":
            val.append(f)
            continue
        width = f.pixels().shape[1] if alone else 0
        if width // 5 >= MIN_SIDE:
            train.append(f.part(0, width - width // 5))
            val.append(f.part(width - width // 5, width))
        else:
            train.append(f)
    if not val:
        val = list(marked[4::5]) or [marked[-1]]
        train = [f for f in fields if f not in val]
        if not any(f.labelled for f in train):
            train += val
    if not train:
        raise KinetError("no fields to train on: all are marked as validation fields")
    return train, val


def train(
    fields: Sequence[LabelledField],
    out: Path,
    config: NetworkConfig,
    recipe: Recipe = PAPER,
    *,
    factors: Mapping[str, float] | None = None,
    start: checkpoint.Checkpoint | None = None,
    teacher: checkpoint.Checkpoint | None = None,
    task: Task = "both",
    seed: int = 0,
    data: str = "",
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> checkpoint.Traits:
    """Train a network and write its best checkpoint to ``out``, the newest beside it as ``NAME.last.pt``.

    A run that was interrupted goes on from ``NAME.last.pt``. A table of the validations stands in ``NAME.csv``, a
    picture of each, with misses and inventions, in ``NAME.pictures``.

    Parameters
    ----------
    fields
        Labelled fields; :func:`split` decides which validate.
    out
        The checkpoint to write.
    config, recipe
        The network and the regime.
    factors
        Factors on how often a source is drawn, by name.
    start
        A network to begin with, instead of random weights. Its normalisation and scale stay, and what is written is
        never worse than it is on the validation fields.
    teacher
        A trained network whose maps are imitated beside the labels, and alone where there are none (Hinton, Vinyals and
        Dean 2015): so that a small network learns what a large one found in fields that nobody labelled. Its maps are
        the mean over turned and mirrored views, computed once a field and kept in ``NAME.teacher``. In drawn tissue
        that is no tumour, the nuclei that it found count as non-tumour.
    task
        What is learnt. With ``"roi"`` the newest weights count as the best, since validation is of nuclei.
    seed
        Of weights, crops and dropout.
    data
        Where the fields came from, for the model card.
    workers
        Processes that prepare crops; None: one, and none where fewer than 50 iterations are left, since a process takes
        seconds to start. The result does not depend on it.
    report
        Called after each iteration.

    Raises
    ------
    KinetError
        If the loss is no longer finite, or a checkpoint to resume from is of another network.
    """
    if teacher and build(config).target:
        raise KinetError(f"teacher: its maps are proximity maps, but {config.architecture} learns other maps: omit it")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    training, validating = split(fields)
    network = (start.network if start else build(config)).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).eval()
    optimizer = _optimizer(network, recipe)
    traits = _traits(training, data)
    if start:
        more = "" if start.traits.data == traits.data else f"; then {traits.data}"
        traits = replace(start.traits, data=start.traits.data + more, metrics={})

    last, first, best = out.with_suffix(".last.pt"), 0, -1.0
    best_at = 0
    weights = source_weights(training, factors or {})
    fingerprint = _fingerprint(training, weights, recipe, seed, teacher, task)
    if last.exists():
        first, best, best_at, traits = _resume(last, network, average, optimizer, fingerprint)
        if first >= recipe.iterations:
            raise KinetError(
                f"{out} is finished after {first} iterations: set more iterations, or remove {last} to start over"
            )
        log.warning("resuming from iteration %d of %s; remove that file to start over", first, last)
    elif start:
        begun = validate(average, traits, validating)
        best, traits = begun.figure, replace(traits, threshold=begun.threshold, metrics=_metrics(begun))
        checkpoint.save(out, average, traits)
        _record(out, 0, 0.0, begun, validating)
        report(Progress(0, recipe.iterations, 0.0, begun))
    if workers is None:
        workers = int(recipe.iterations - first >= SHORT)
    taught = _taught(teacher, training, out.with_suffix(".teacher"), device) if teacher else []
    crops = Crops(training, weights, recipe.crops, seed, recipe.iterations * recipe.batch, network.target, taught)
    loader = DataLoader(
        torch.utils.data.Subset(crops, range(first * recipe.batch, len(crops))),
        batch_size=recipe.batch,
        num_workers=workers,
        # A fork would inherit the locks of OpenCV's and torch's threads, and could wait for them for ever.
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_one_thread,
        prefetch_factor=4 if workers else None,
    )
    losses: list[float] = []  # since the last validation
    warm = 0.0
    for iteration, examples in enumerate(loader, start=first + 1):
        torch.manual_seed(seed * 1_000_003 + iteration)  # so that a resumed run drops the same channels
        due = iteration % recipe.every == 0 or iteration == recipe.iterations
        kept = due or iteration % KEPT == 0
        loss = _step(network, optimizer, recipe, iteration, [t.to(device) for t in examples], traits, task)
        if not np.isfinite(loss) or (kept and not _is_finite(network)):
            if last.exists():  # its weights are on the way there: the next try must not begin with them
                last.replace(out.with_suffix(".diverged.pt"))
            raise KinetError(
                f"training diverged at iteration {iteration}: the loss is {loss}. Expected it to stay finite with "
                f"lambda {recipe.lam:g} and lr {recipe.lr:g}: lower lr by 10, or lambda (the paper saw the same at 50)"
            )
        losses.append(loss)
        _follow(average, network, min(recipe.average, iteration / (iteration + 10)))
        validation = None
        if due:
            validation = validate(average, traits, validating)
            traits = replace(traits, threshold=validation.threshold, metrics=_metrics(validation))
            if validation.figure > best or task == "roi":
                best, best_at = validation.figure, iteration
                checkpoint.save(out, average, traits)
        if kept:
            state = {
                "iteration": iteration,
                "best": best,
                "best_at": best_at,
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "fingerprint": fingerprint,
            }
            checkpoint.save(last, average, traits, state)
        if validation:
            _record(out, iteration, float(np.mean(losses)), validation, validating)
            losses.clear()
        seconds = None
        if iteration == first + 1:
            warm = time.perf_counter()
        elif iteration == first + 1 + TIMED and iteration < recipe.iterations:
            each = (time.perf_counter() - warm) / TIMED
            seconds = _left(average, traits, validating, recipe, iteration, each)
        report(Progress(iteration, recipe.iterations, loss, validation, seconds))
        if iteration - best_at >= recipe.patience:
            log.info("no gain for %d iterations: stopping", recipe.patience)
            break
    if start and best_at == 0:
        log.warning(
            "no result was better on the validation fields than the initial network: %s is the initial network", out
        )
    return checkpoint.load(out).traits


def train_by_stages(
    fields: Sequence[LabelledField],
    out: Path,
    config: NetworkConfig,
    recipe: Recipe = PAPER,
    *,
    factors: Mapping[str, float] | None = None,
    seed: int = 0,
    data: str = "",
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> checkpoint.Traits:
    """Train KiNet's branches one after the other: what the paper compares joint learning with (sKiNet, Figure 7).

    First the region branch, from the picture to its output, while the nucleus branch's own layers stay as they are;
    then the nucleus branch while the region branch's own layers stay. The encoder belongs to both, and learns in both
    stages: the paper's text leaves that open. Each stage has all of the recipe's iterations, so that the nucleus branch
    learns from as many crops as in joint learning. The first stage's checkpoint is ``NAME.roi.pt``.

    Parameters
    ----------
    fields, out, config, recipe, factors, seed, data, workers, report
        As in :func:`train`; an interrupted run goes on in the stage that it was in.

    Raises
    ------
    KinetError
        As :func:`train`, and if the network has no region branch.
    """
    if not config.roi:
        raise KinetError("training by stages starts with the region branch: this network has none")
    first = out.with_name(f"{out.stem}.roi.pt")
    if not is_finished(first, recipe):

        def report_first(progress: Progress) -> None:
            if progress.seconds is not None:  # the second stage takes about as long
                whole = progress.seconds * progress.iterations / (progress.iterations - progress.iteration)
                progress = replace(progress, seconds=progress.seconds + whole)
            report(progress)

        train(
            *(fields, first, config, recipe),
            factors=factors,
            task="roi",
            seed=seed,
            data=data,
            workers=workers,
            report=report_first,
        )
    start = checkpoint.load(first)
    return train(
        *(fields, out, config, recipe),
        factors=factors,
        start=start,
        task="nuclei",
        seed=seed,
        data=data,
        workers=workers,
        report=report,
    )


def is_finished(out: Path, recipe: Recipe) -> bool:
    """Whether a run that writes ``out`` has had all of its iterations."""
    last = out.with_suffix(".last.pt")
    return last.exists() and checkpoint.load(last).resume.get("iteration", 0) >= recipe.iterations


def predict(network: Network, traits: checkpoint.Traits, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the maps of one RGB image, uint8 [H, W, 3], as float32 [classes, H', W'], H' and W' padded."""
    fitted = fit(Frame(pixels), traits.mpp, MULTIPLE)
    device = next(network.parameters()).device
    image = normalise(torch.tensor(fitted.pixels[None], device=device), traits)
    with torch.inference_mode():
        maps, _ = network(image)
    return maps[0].float().cpu().numpy()  # type: ignore[no-any-return]


def normalise(pixels: Tensor, traits: checkpoint.Traits) -> Tensor:
    """Turn uint8 [N, H, W, 3] into the network's input, float32 [N, 3, H, W]."""
    mean = torch.tensor(traits.mean, device=pixels.device)
    std = torch.tensor(traits.std, device=pixels.device)
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def validate(network: Network, traits: checkpoint.Traits, fields: Sequence[LabelledField]) -> Validation:
    """Find the threshold with the best mean F1 over sources, and the figures there."""
    found = []
    for f in fields:
        maps = predict(network, traits, f.pixels())
        height, width = f.pixels().shape[:2]
        peaks = find_peaks(maps, THRESHOLDS[0], traits.nms_radius)
        found.append(peaks.where((peaks.x < width) & (peaks.y < height)))
    best = Validation(THRESHOLDS[0], -1.0, {})
    for threshold in THRESHOLDS:
        by_source = {
            source: _source_f1([(d, f) for d, f in zip(found, fields, strict=True) if f.source == source], threshold)
            for source in sorted({f.source for f in fields})
        }
        figure = float(np.mean([np.mean(pair) for pair in by_source.values()]))
        if figure > best.figure:
            best = Validation(threshold, figure, by_source)
    return replace(best, found=tuple(found))


def _left(
    network: Network,
    traits: checkpoint.Traits,
    fields: Sequence[LabelledField],
    recipe: Recipe,
    iteration: int,
    each: float,
) -> float:
    """Estimate how many seconds are left of a run whose iterations take ``each`` seconds: one field is predicted."""
    begun = time.perf_counter()
    predict(network, traits, fields[0].pixels())
    pixel = (time.perf_counter() - begun) / fields[0].pixels()[..., 0].size
    validation = pixel * sum(f.pixels()[..., 0].size for f in fields)
    validations = -(-recipe.iterations // recipe.every) - iteration // recipe.every
    return (recipe.iterations - iteration) * each + validations * validation


def _source_f1(pairs: Sequence[tuple[Detections, LabelledField]], threshold: float) -> tuple[float, float]:
    """Return detection F1 and weighted classification F1 of one source's fields; unlabelled classes do not count.

    Of fields whose nuclei have no class, both are detection F1.
    """
    total = Comparison.nothing(len(CLASSES))
    for detected, f in pairs:
        found = detected.where(detected.score >= threshold)
        if not f.classified:
            found = replace(found, cls=np.zeros_like(found.cls))
            f = replace(f, cls=np.zeros_like(f.cls), labelled=CLASSES[:1])
        total += compare(*comparable(found, f), len(CLASSES))
    return total.detection.f1, total.weighted[2]


def _metrics(validation: Validation) -> dict[str, float]:
    named = {"figure": validation.figure}
    for source, (detection, classification) in validation.by_source.items():
        source = source or "fields"
        named[f"{source}.detection_f1"] = detection
        named[f"{source}.classification_f1"] = classification
    return {name: round(value, 4) for name, value in named.items()}


def _step(
    network: Network,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    iteration: int,
    examples: Sequence[Tensor],
    traits: checkpoint.Traits,
    task: Task = "both",
) -> float:
    """Do one iteration and return its loss."""
    pixels, target, known, tumor, region, total, unclassified, *teacher = examples
    for group in optimizer.param_groups:
        group["lr"] = _rate(recipe, iteration)
    network.train()
    image = normalise(pixels, traits).contiguous(memory_format=torch.channels_last)
    with torch.autocast(image.device.type, torch.bfloat16, enabled=_has_bfloat16(image.device)):
        predicted, logits = network.outputs(image, roi=network.config.roi and task != "nuclei")
    predicted = predicted.float()
    nucleus = network.loss(predicted, target, known, recipe.lam, recipe.floor)
    if not network.target:
        nucleus = nucleus + nucleus_loss(predicted.sum(1, keepdim=True), total, unclassified, recipe.lam, recipe.floor)
    has_nuclei = (torch.cat([known, unclassified], 1).amax((1, 2, 3)) > 0).float()
    if teacher:
        taught, imitated = teacher
        share = TAUGHT * imitated.amax((1, 2, 3))
        imitation = nucleus_loss(predicted, taught, imitated.expand_as(known), recipe.lam, recipe.floor)
        nucleus = (1 - share) * nucleus + share * imitation
        has_nuclei = torch.ones_like(nucleus)
    if recipe.eta and iteration > recipe.eta_after and network.config.architecture in KINET_ARCHITECTURES:
        nucleus = nucleus + recipe.eta * correlation_penalty(predicted)
    roi = torch.zeros_like(nucleus) if logits is None else roi_loss(logits.float(), tumor, region)
    if recipe.mean_loss:
        area = pixels.shape[1] * pixels.shape[2]
        nucleus, roi = nucleus / area, roi / area
    if task == "roi":
        # What the loss does not reach has no gradient, and the optimiser leaves it alone, decay included.
        nucleus = torch.zeros_like(nucleus)
    loss = joint_loss(nucleus, roi, has_nuclei, recipe.gamma)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if recipe.clip:
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip)
    optimizer.step()
    return float(loss.detach())


def _taught(
    teacher: checkpoint.Checkpoint, fields: Sequence[LabelledField], folder: Path, device: torch.device
) -> list[NDArray[np.uint8]]:
    """Return a teacher's maps of each field, uint8 [H, W, classes]."""
    teacher.network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    log.info("maps of the teacher are kept in %s", folder)

    def maps_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.autocast(device.type, torch.bfloat16, enabled=_has_bfloat16(device)):
            return predict(teacher.network, teacher.traits, pixels)

    return maps_of_fields(maps_of, fields, folder, repr((_sums(teacher.network), teacher.traits.mean)))


def _sums(network: Network) -> list[float]:
    """Return a number for each of the network's weights, to recognise it by."""
    return [float(value.double().sum()) for value in network.state_dict().values()]


def _optimizer(network: Network, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimizer not in ("sgd", "adamw"):
        raise ValueError(f"optimizer: expected sgd or adamw, found {recipe.optimizer!r}")
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(network.parameters(), recipe.lr, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        network.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )


def _rate(recipe: Recipe, iteration: int) -> float:
    if recipe.optimizer == "sgd":
        return recipe.lr
    warm = min(1.0, iteration / min(200, max(1, recipe.iterations // 10)))
    return recipe.lr * warm * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * iteration / recipe.iterations))))


def _has_bfloat16(device: torch.device) -> bool:
    """Whether mixed precision pays: any GPU here, and CPUs with BF16 arithmetic."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # oneDNN may be limited to older instructions, and then only imitates BF16; PyTorch does not say so.
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_BFLOAT16:
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.cpu._is_avx512_bf16_supported()


def _follow(average: Network, network: Network, decay: float) -> None:
    with torch.no_grad():
        for a, b in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if a.dtype.is_floating_point:
                a.lerp_(b, 1 - decay)
            else:
                a.copy_(b)


def _traits(training: Sequence[LabelledField], data: str) -> checkpoint.Traits:
    """Normalise by the mean and deviation of the training pixels."""
    samples = np.concatenate([f.pixels()[::7, ::7].reshape(-1, 3) for f in training]).astype(np.float64) / 255
    mean, std = samples.mean(axis=0), np.maximum(samples.std(axis=0), 0.02)
    sources: dict[str, int] = {}
    for f in training:
        sources[f.source or "unnamed"] = sources.get(f.source or "unnamed", 0) + 1
    listed = ", ".join(f"{source} ({n} fields)" for source, n in sorted(sources.items()))
    return checkpoint.Traits(
        mpp=MPP,
        mean=_triple(mean),
        std=_triple(std),
        data=f"{data} {listed}".strip(),
    )


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue


def _resume(
    last: Path, network: Network, average: Network, optimizer: torch.optim.Optimizer, fingerprint: str
) -> tuple[int, float, int, checkpoint.Traits]:
    """Take up a run where it was; the normalisation is the one that its weights were trained with."""
    saved = checkpoint.load(last)
    if asdict(saved.network.config) != asdict(network.config):
        raise KinetError(f"{last} is of another network ({saved.network.config}): remove it, or choose another -o")
    state: dict[str, Any] = saved.resume
    if state.get("fingerprint") != fingerprint:
        raise KinetError(
            f"{last} is of another run (recipe, seed, fields or weights differ): remove it to start over, or choose "
            "another -o"
        )
    network.load_state_dict(state["network"])
    average.load_state_dict(saved.network.state_dict())
    optimizer.load_state_dict(state["optimizer"])
    return state["iteration"], state["best"], state["best_at"], saved.traits


def _fingerprint(
    training: Sequence[LabelledField],
    weights: Sequence[float],
    recipe: Recipe,
    seed: int,
    teacher: checkpoint.Checkpoint | None,
    task: Task,
) -> str:
    """Return what must be the same for a run to go on; its length may change, and how often it is looked at."""
    same = replace(recipe, iterations=0, patience=0, every=0)
    fields = [
        (f.source, f.name, len(f.x), f.labelled, f.partial, *([] if f.classified else ["no classes"]), float(weight))
        for f, weight in zip(training, weights, strict=True)
    ]
    run: tuple[object, ...] = (same, seed, fields)
    if teacher:
        run = (*run, _sums(teacher.network))
    if task != "both":
        run = (*run, task)
    return hashlib.sha256(repr(run).encode()).hexdigest()


def _is_finite(network: Network) -> bool:
    return all(bool(value.isfinite().all()) for value in network.state_dict().values())


def _record(out: Path, iteration: int, loss: float, validation: Validation, fields: Sequence[LabelledField]) -> None:
    """Add a validation to the table, and draw it."""
    sheet = contact_sheet(validation.found, fields, validation.threshold)
    write_atomic(out.with_suffix(".pictures") / f"{iteration:06d}.jpg", sheet)
    path, figures = out.with_suffix(".csv"), _metrics(validation)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        if new:
            table.writerow(["time", "iteration", "loss", "threshold", *figures])
        row = [time.strftime("%Y-%m-%d %H:%M:%S"), iteration, f"{loss:.5g}", validation.threshold, *figures.values()]
        table.writerow(row)


def _one_thread(_: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
