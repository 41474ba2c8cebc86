"""Training of a network on labelled fields: resumable, with validation and early stopping."""

from __future__ import annotations

import copy
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from kinet_trt.export import checkpoint
from kinet_trt.export.checkpoint import MPP, Checkpoint, ModelInfo
from kinet_trt.export.crops import Crops
from kinet_trt.export.distillation import maps_of_fields
from kinet_trt.export.networks.base import Network, NetworkConfig
from kinet_trt.export.networks.registry import build
from kinet_trt.export.optimization import Task, make_optimizer, training_step, update_average
from kinet_trt.export.prediction import has_bfloat16, predict
from kinet_trt.export.recipes import PAPER, Recipe
from kinet_trt.export.sampling import sampling_weights, split_fields
from kinet_trt.export.validation import Validation, validate
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from kinet_trt.core.errors import KinetError
from kinet_trt.datasets.labelled_field import LabelledField

log = logging.getLogger(__name__)

MIN_ITERATIONS_FOR_WORKER = 50
"""Iterations from which starting a process that prepares crops saves time."""
TIMED_ITERATIONS = 4
"""Iterations that are timed to estimate the remaining time; the first one, which is slower, is skipped."""
SAVE_EVERY = 50
"""Iterations between checkpoints for resuming, in addition to those at validations."""


@dataclass(frozen=True)
class Progress:
    """Progress of a training run after an iteration, with the accuracy where it was validated.

    Iteration 0 is the initial network, if one was given; its loss is 0. ``seconds`` is an estimate of the remaining
    time on this machine, reported once, after the first iterations of a run.
    """

    iteration: int
    iterations: int
    loss: float
    validation: Validation | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class TrainingRun:
    """Input of :func:`train` and :func:`train_by_stages`.

    ``start`` is an initial network, instead of random weights. Its normalisation and scale are kept, and the result is
    never worse than it on the validation fields.

    ``teacher`` is a trained network whose maps are imitated in addition to the labels, and alone where there are none
    (Hinton, Vinyals and Dean 2015). Its maps are the mean over rotated and mirrored views, computed once per field and
    cached in ``NAME.teacher``. Nuclei that it finds in drawn tissue other than tumour count as non-tumour.

    With the task ``"roi"`` the last weights count as the best, since validation is of nuclei. ``workers`` are processes
    that prepare crops; None for one, or none for fewer than 50 iterations, since a process takes seconds to start.
    Their number does not change the result.
    """

    fields: Sequence[LabelledField]  # :func:`split_fields` selects those for validation
    out: Path  # checkpoint to write
    config: NetworkConfig
    recipe: Recipe = PAPER
    factors: Mapping[str, float] = field(default_factory=dict)  # factors of the sampling weights of sources
    start: Checkpoint | None = None
    teacher: Checkpoint | None = None
    task: Task = "both"
    seed: int = 0  # of weights, crops and dropout
    data: str = ""  # origin of the fields, for the model card
    workers: int | None = None
    report: Callable[[Progress], None] = lambda _: None  # called after each iteration

    @property
    def last(self) -> Path:
        """Checkpoint from which an interrupted run resumes."""
        return self.out.with_suffix(".last.pt")


def train(run: TrainingRun) -> ModelInfo:
    """Train a network and write its best checkpoint to ``run.out``, and the last one beside it as ``NAME.last.pt``.

    An interrupted run resumes from ``NAME.last.pt``. Validations are recorded in the table ``NAME.csv`` and, with their
    false negatives and false positives, as pictures in ``NAME.pictures``. Raise a KinetError if the loss is no longer
    finite, or the checkpoint to resume from belongs to another run.
    """
    if run.teacher and build(run.config).target:
        raise KinetError(
            f"teacher: expected a network that learns proximity maps, found {run.config.architecture}. Omit the teacher"
        )
    trainer = _Trainer(run)
    trainer.resume_or_start()
    losses: list[float] = []  # since the last validation
    first, start = trainer.iteration + 1, 0.0
    for iteration, examples in enumerate(trainer.batches(), start=first):
        validates = iteration % run.recipe.every == 0 or iteration == run.recipe.iterations
        saves = validates or iteration % SAVE_EVERY == 0
        loss = trainer.step(iteration, examples, check_weights=saves)
        losses.append(loss)
        validation = trainer.validate() if validates else None
        if saves:
            trainer.save()
        if validation:
            validation.record(run.out, iteration, float(np.mean(losses)), trainer.validation_fields)
            losses.clear()
        seconds = None
        if iteration == first:
            start = time.perf_counter()
        elif iteration == first + TIMED_ITERATIONS and iteration < run.recipe.iterations:
            seconds = _remaining_seconds(trainer, (time.perf_counter() - start) / TIMED_ITERATIONS)
        run.report(Progress(iteration, run.recipe.iterations, loss, validation, seconds))
        if iteration - trainer.best_iteration >= run.recipe.patience:
            log.info("no improvement for %d iterations: stopping", run.recipe.patience)
            break
    if run.start and trainer.best_iteration == 0:
        log.warning(
            "no result was better on the validation fields than the initial network: %s is the initial network", run.out
        )
    return checkpoint.load(run.out).info


def train_by_stages(run: TrainingRun) -> ModelInfo:
    """Train KiNet's branches one after the other, the paper's alternative to joint training (sKiNet, Figure 7).

    First the region branch is trained while the nucleus branch's own layers stay unchanged, then the nucleus branch
    while the region branch's own layers stay unchanged. The encoder belongs to both and is trained in both stages; the
    paper does not specify this. Each stage has all iterations of the recipe, so that the nucleus branch learns from as
    many crops as in joint training. The checkpoint of the first stage is ``NAME.roi.pt``. An interrupted run resumes in
    its stage.
    """
    if not run.config.roi:
        raise KinetError("training by stages starts with the region branch: this network has none")
    roi_checkpoint = run.out.with_name(f"{run.out.stem}.roi.pt")
    if not is_finished(roi_checkpoint, run.recipe):

        def report_first_stage(progress: Progress) -> None:
            if progress.seconds is not None:  # the second stage takes about as long
                stage_seconds = progress.seconds * progress.iterations / (progress.iterations - progress.iteration)
                progress = replace(progress, seconds=progress.seconds + stage_seconds)
            run.report(progress)

        train(replace(run, out=roi_checkpoint, task="roi", report=report_first_stage))
    return train(replace(run, start=checkpoint.load(roi_checkpoint), task="nuclei"))


def is_finished(out: Path, recipe: Recipe) -> bool:
    """Return whether the run that writes ``out`` has completed all iterations."""
    last = out.with_suffix(".last.pt")
    return last.exists() and checkpoint.load(last).resume.get("iteration", 0) >= recipe.iterations


class _Trainer:
    """State of a training run: networks, optimizer, fields, last completed iteration, and the best result."""

    def __init__(self, run: TrainingRun) -> None:
        self.run = run
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(run.seed)
        self.training_fields, self.validation_fields = split_fields(run.fields)
        network = run.start.network if run.start else build(run.config)
        self.network: Network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network).eval()
        self.optimizer = make_optimizer(self.network, run.recipe)
        self.info = _model_info(self.training_fields, run.data)
        if run.start:
            suffix = "" if run.start.info.data == self.info.data else f"; then {self.info.data}"
            self.info = replace(run.start.info, data=run.start.info.data + suffix, metrics={})
        self.weights = sampling_weights(self.training_fields, run.factors)
        self.fingerprint = _fingerprint(run, self.training_fields, self.weights)
        self.iteration = self.best_iteration = 0
        self.best = -1.0

    def resume_or_start(self) -> None:
        """Load the state of an interrupted run, or else save and report the initial network, if one was given."""
        run = self.run
        if run.last.exists():
            self._resume()
            if self.iteration >= run.recipe.iterations:
                raise KinetError(
                    f"{run.out} is finished after {self.iteration} iterations. Set more iterations, or remove "
                    f"{run.last} to start over"
                )
            log.warning("resuming from iteration %d of %s; remove that file to start over", self.iteration, run.last)
        elif run.start:
            initial = self._validate()
            self.best = initial.figure
            checkpoint.save(run.out, self.average, self.info)
            initial.record(run.out, 0, 0.0, self.validation_fields)
            run.report(Progress(0, run.recipe.iterations, 0.0, initial))

    def _resume(self) -> None:
        """Load the state; the normalisation stays that of the saved weights."""
        last = self.run.last
        saved = checkpoint.load(last)
        if asdict(saved.network.config) != asdict(self.network.config):
            raise KinetError(f"{last} is of another network ({saved.network.config}). Remove it, or choose another -o")
        if saved.resume.get("fingerprint") != self.fingerprint:
            raise KinetError(
                f"{last} is of another run (recipe, seed, fields or weights differ). Remove it to start over, or "
                "choose another -o"
            )
        self.network.load_state_dict(saved.resume["network"])
        self.average.load_state_dict(saved.network.state_dict())
        self.optimizer.load_state_dict(saved.resume["optimizer"])
        self.iteration, self.best = saved.resume["iteration"], saved.resume["best"]
        self.best_iteration, self.info = saved.resume["best_at"], saved.info

    def batches(self) -> Iterator[Sequence[Tensor]]:
        """Yield the batches of the remaining iterations."""
        run, recipe = self.run, self.run.recipe
        maps = _teacher_maps(run.teacher, self.training_fields, run.out, self.device) if run.teacher else []
        length = recipe.iterations * recipe.batch
        crops = Crops(self.training_fields, self.weights, recipe.crops, run.seed, length, self.network.target, maps)
        workers = run.workers
        if workers is None:
            workers = int(recipe.iterations - self.iteration >= MIN_ITERATIONS_FOR_WORKER)
        loader = DataLoader(
            Subset(crops, range(self.iteration * recipe.batch, len(crops))),
            batch_size=recipe.batch,
            num_workers=workers,
            # A forked process would inherit the locks of the threads of OpenCV and torch, and could deadlock.
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=_use_one_thread,
            prefetch_factor=4 if workers else None,
        )
        for examples in loader:
            yield [tensor.to(self.device) for tensor in examples]

    def step(self, iteration: int, examples: Sequence[Tensor], check_weights: bool) -> float:
        """Do one iteration and return its loss.

        Raise a KinetError if the loss, or with ``check_weights`` a weight, is not finite.
        """
        run, recipe = self.run, self.run.recipe
        torch.manual_seed(run.seed * 1_000_003 + iteration)  # the same dropout in a resumed run
        loss = training_step(self.network, self.optimizer, recipe, iteration, examples, self.info, run.task)
        if not np.isfinite(loss) or (check_weights and not _is_finite(self.network)):
            if run.last.exists():  # keep the next attempt from resuming with diverging weights
                run.last.replace(run.out.with_suffix(".diverged.pt"))
            raise KinetError(
                f"training diverged at iteration {iteration} with lambda {recipe.lam:g} and lr {recipe.lr:g}: expected "
                f"a finite loss, found {loss}. Divide lr by 10, or lower lambda (in the paper training diverged with "
                "lambda 50, too)"
            )
        update_average(self.average, self.network, min(recipe.average, iteration / (iteration + 10)))
        self.iteration = iteration
        return loss

    def validate(self) -> Validation:
        """Validate the averaged weights, and save them if they are the best."""
        validation = self._validate()
        if validation.figure > self.best or self.run.task == "roi":
            self.best, self.best_iteration = validation.figure, self.iteration
            checkpoint.save(self.run.out, self.average, self.info)
        return validation

    def _validate(self) -> Validation:
        validation = validate(self.average, self.info, self.validation_fields)
        self.info = replace(self.info, threshold=validation.threshold, metrics=validation.metrics())
        return validation

    def save(self) -> None:
        """Save the state for resuming."""
        state = {
            "iteration": self.iteration,
            "best": self.best,
            "best_at": self.best_iteration,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "fingerprint": self.fingerprint,
        }
        checkpoint.save(self.run.last, self.average, self.info, state)


def _remaining_seconds(trainer: _Trainer, step: float) -> float:
    """Estimate the remaining time from that of an iteration and from the prediction of one validation field."""
    recipe, fields = trainer.run.recipe, trainer.validation_fields
    start = time.perf_counter()
    predict(trainer.average, trainer.info, fields[0].pixels())
    per_pixel = (time.perf_counter() - start) / fields[0].pixels()[..., 0].size
    validation = per_pixel * sum(f.pixels()[..., 0].size for f in fields)
    validations = -(-recipe.iterations // recipe.every) - trainer.iteration // recipe.every
    return (recipe.iterations - trainer.iteration) * step + validations * validation


def _teacher_maps(
    teacher: Checkpoint, fields: Sequence[LabelledField], out: Path, device: torch.device
) -> list[NDArray[np.uint8]]:
    """Return the teacher's maps of each field, uint8 [H, W, classes], cached in ``NAME.teacher``."""
    teacher.network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    folder = out.with_suffix(".teacher")
    log.info("caching the teacher's maps in %s", folder)

    def maps_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device)):
            return predict(teacher.network, teacher.info, pixels)

    return maps_of_fields(maps_of, fields, folder, repr((_weight_sums(teacher.network), teacher.info.mean)))


def _weight_sums(network: Network) -> list[float]:
    """Return the sum of each weight tensor, to identify the network."""
    return [float(value.double().sum()) for value in network.state_dict().values()]


def _model_info(fields: Sequence[LabelledField], data: str) -> ModelInfo:
    """Return the information on a new network, normalised by the mean and standard deviation of the training pixels."""
    samples = np.concatenate([f.pixels()[::7, ::7].reshape(-1, 3) for f in fields]).astype(np.float64) / 255
    mean, std = samples.mean(axis=0), np.maximum(samples.std(axis=0), 0.02)
    sources = Counter(f.source or "unnamed" for f in fields)
    listed = ", ".join(f"{source} ({n} fields)" for source, n in sorted(sources.items()))
    return ModelInfo(mpp=MPP, mean=_triple(mean), std=_triple(std), data=f"{data} {listed}".strip())


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 4) for value in values)
    return red, green, blue


def _fingerprint(run: TrainingRun, fields: Sequence[LabelledField], weights: Sequence[float]) -> str:
    """Return a hash of everything that must not change in a resumed run: not its length, nor its validations."""
    recipe = replace(run.recipe, iterations=0, patience=0, every=0)
    rows = [
        (f.source, f.name, len(f.x), f.labelled, f.partial, *([] if f.classified else ["no classes"]), float(weight))
        for f, weight in zip(fields, weights, strict=True)
    ]
    parts: tuple[object, ...] = (recipe, run.seed, rows)
    if run.teacher:
        parts = (*parts, _weight_sums(run.teacher.network))
    if run.task != "both":
        parts = (*parts, run.task)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _is_finite(network: Network) -> bool:
    return all(bool(value.isfinite().all()) for value in network.state_dict().values())


def _use_one_thread(_: int) -> None:
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
