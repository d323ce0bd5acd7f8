"""Progress on standard error, for whatever takes over a second; nothing when that is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from onnxslim_yolo.cli.shared import err


@contextmanager
def bar(title: str, silent: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, as a callback (done, total)."""
    if silent or not err.is_terminal:
        yield lambda done, total: None
        return
    from rich.progress import Progress

    with Progress(console=err, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def spinner(title: str, silent: bool = False) -> Iterator[None]:
    """Something that turns, beside what is being done."""
    if silent or not err.is_terminal:
        yield
        return
    with err.status(title):
        yield
