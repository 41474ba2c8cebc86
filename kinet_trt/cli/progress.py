"""Progress of long commands, on standard error."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from kinet_trt.core.errors import printable
from kinet_trt.core.logs import is_quiet

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 10.0
"""Interval between lines of progress where no bar can be shown."""


class Bars(Progress):
    """Progress bars on standard error; a line every ten seconds if that is no terminal."""

    def __init__(
        self, *, quiet: bool = False, file: IO[str] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        out = Console(stderr=True, file=file, markup=False, emoji=False, quiet=quiet)
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, max_width=32)),
            console=out,
            transient=True,
            disable=not out.is_terminal,
            get_time=clock,
            # One image may take minutes: the rate of the last half minute, rich's default, would often be unknown.
            speed_estimate_period=3600.0,
        )
        self._last_line = clock()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Change a task; see rich."""
        super().update(task_id, **changes)
        self._print_line(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Add to the completed steps of a task."""
        super().advance(task_id, advance)
        self._print_line(task_id)

    def _print_line(self, task_id: TaskID) -> None:
        """Print the progress of a task if there is no bar and the last line is old."""
        now = self.get_time()
        if not self.disable or now - self._last_line < SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        task = next(task for task in self.tasks if task.id == task_id)
        total = "" if task.total is None else f" of {task.total:,.0f}"
        left = "" if not task.time_remaining else f", {duration(task.time_remaining)} left"
        item = f" ({task.fields['note']})" if task.fields["note"] else ""
        self.console.print(f"{task.description}: {task.completed:,.0f}{total} done{left}{item}", soft_wrap=True)


def bars() -> Bars:
    """Return progress bars, unless ``--quiet`` was given."""
    return Bars(quiet=is_quiet())


def track(items: Sequence[T], title: str, names: Sequence[str] = ()) -> Iterator[T]:
    """Yield the items; with more than one, show progress and the names of the items."""
    if len(items) < 2:
        yield from items
        return
    with bars() as bar:
        task = bar.add_task(title, total=len(items), note="")
        for number, item in enumerate(items):
            bar.update(task, note=printable(names[number]) if names else "")
            yield item
            bar.advance(task)


@contextmanager
def counting_progress(images: Sequence[Path]) -> Iterator[tuple[Iterator[Path], Callable[[int, int], None]]]:
    """Provide the images, with a progress bar over them, and a function that shows the progress of a slide."""
    with bars() as bar:
        every = bar.add_task("Counting", total=len(images), note="", visible=len(images) > 1)
        tiles: list[TaskID] = []

        def report(done: int, total: int) -> None:
            if not tiles:
                # Added here, so that tiles of an earlier run do not make the time left look short.
                tiles.append(bar.add_task("Tiles", total=total, completed=done, note=""))
            bar.update(tiles[0], completed=done)

        def each() -> Iterator[Path]:
            for image in images:
                bar.update(every, note=printable(image.name))
                yield image
                bar.advance(every)
                while tiles:
                    bar.remove_task(tiles.pop())

        yield each(), report


@contextmanager
def steps(title: str) -> Iterator[Callable[[int, int], None]]:
    """Provide a function that shows the number of finished steps and of all steps."""
    with bars() as bar:
        task = bar.add_task(title, total=None, note="")
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stages(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """Provide a function that shows the current stage, its finished steps and all of its steps."""
    with bars() as bar:
        task = bar.add_task(title, total=None, note="")
        yield lambda stage, done, total: bar.update(task, completed=done, total=total, note=stage)


def duration(seconds: float) -> str:
    """Return an approximate duration, like ``about 70 s`` or ``about 3.5 h``."""
    if seconds < 100:
        return f"about {max(10, round(seconds, -1)):.0f} s"
    if seconds < 100 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
