"""Progress on standard error: what is being done, how far it is, and for how long; nothing when that is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from onnxslim_yolo.cli.shared import err
from onnxslim_yolo.runtime.progress import listening


@contextmanager
def bar(title: str, silent: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with counts, percent and the time it has taken, as a callback (done, total)."""
    if silent or not err.is_terminal:
        yield lambda done, total: None
        return
    with _drawn(title) as (progress, task):
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def spinner(title: str, silent: bool = False) -> Iterator[None]:
    """Something that turns beside what is being done, with the time it has taken, and counts where there are some."""
    with stages(silent) as tell:
        tell(title)
        yield


@contextmanager
def stages(silent: bool) -> Iterator[Callable[[str], None]]:
    """A line with the stage's name and how far it is; warnings are printed in any case."""
    if silent:
        yield lambda stage: None
    elif not err.is_terminal:
        yield _say_warning
    else:
        with _drawn("starting") as (progress, task):
            now = "starting"

            def begin(stage: str) -> None:
                nonlocal now
                if not _warn(stage):
                    now = stage
                    progress.update(task, description=stage, completed=0)
                    progress.tasks[-1].total = None  # to `update`, None is the total that it has

            def count(what: str, done: int, total: int) -> None:
                progress.update(task, description=f"{now}: {what}", completed=done, total=total)

            with listening(count):
                yield lambda stage: begin(stage)


def _say_warning(stage: str) -> None:
    _warn(stage)


def _warn(stage: str) -> bool:
    """Print a stage that is a warning; whether it was one."""
    if not stage.startswith("WARNING: "):
        return False
    err.print(stage, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return True


@contextmanager
def _drawn(title: str) -> Iterator[tuple[Any, Any]]:
    """The bar and its one task; it goes when it is over."""
    from rich import progress as parts

    columns = (
        parts.SpinnerColumn(),
        parts.TextColumn("{task.description}", markup=False),
        parts.BarColumn(bar_width=20),
        parts.TaskProgressColumn(),
        parts.MofNCompleteColumn(),
        parts.TimeElapsedColumn(),
    )
    with parts.Progress(*columns, console=err, transient=True) as progress:
        yield progress, progress.add_task(title, total=None)
