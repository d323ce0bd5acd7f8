"""How far a long piece of work has come, told to whoever listens; nobody does unless the command line draws a bar.

Passes are values and take nothing but a model. What watches them is therefore the context's, not an argument:

    with listening(draw):
        for image in counted("images", images): …     # draw("images", 1, 32), …
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Listener = Callable[[str, int, int], None]
"""Called with what is counted, how many are done, and how many there are."""

T = TypeVar("T")
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` how far things are."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(what: str, done: int, total: int) -> None:
    """Say that so many of `what` are done."""
    listener = _listener.get()
    if listener is not None:
        listener(what, done, total)


def counted(what: str, items: Iterable[T], total: int) -> Iterator[T]:
    """The items; each is told as it is asked for, and is done when the next one is."""
    for done, item in enumerate(items):
        tell(what, done, total)
        yield item
    tell(what, total, total)
