"""What a benchmark has left behind, for the page of results: see `results_list`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """A benchmark: what it shows, which files it left in `bench/results` (patterns), and how to repeat it.

    Attributes:
        needs: what has to be there besides `pip install -e '.[torch]'`.
        page: where it is shown, in the site; by default on a page of its own, made of the Markdown files.
    """

    title: str
    says: str
    files: tuple[str, ...]
    commands: tuple[str, ...]
    needs: str = ""
    page: str = ""
