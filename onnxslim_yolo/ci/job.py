"""One compilation as a CI step wants it: from the cache if nothing changed, summed up in Markdown, judged last."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxslim_yolo.ci.cache import Entry, key_of
from onnxslim_yolo.compiler import build, require_budget
from onnxslim_yolo.errors import BudgetError, InputError, NotAliveError
from onnxslim_yolo.files.atomic import require_folder
from onnxslim_yolo.options import CompileOptions


@dataclass(frozen=True)
class Job:
    """What to compile, where results are kept (`cache`), and the file that the summary is appended to."""

    source: Path
    options: CompileOptions
    cache: Path | None = None
    summary: Path | None = None


@dataclass
class Outcome:
    """What came of a job: the report, where the files are, and whether they came from the cache."""

    job: Job
    report: dict[str, Any]
    folder: Path
    cached: bool = False
    timings: dict[str, Any] = field(default_factory=dict)

    def require(self) -> None:
        """Raises BudgetError as `require_budget`, then NotAliveError where the result no longer detects.

        A limit comes first, as it is the user's own: its status says more to whoever set it.
        """
        self.require_budget()
        if self.report.get("exit") == NotAliveError.exit_status:
            verdict = self.report["verdict"]
            raise NotAliveError(
                f"{verdict['word']}: {verdict['text']}",
                file=self.job.source,
                hint=f"the files are in {self.folder}; {verdict['advice'][-1]}",
            )

    def require_budget(self) -> None:
        """Raises BudgetError where the result breaks a limit, whether it was compiled now or earlier."""
        require_budget(self.report, self.job.options, self.job.source, self.folder)


def compile_job(job: Job, progress: Callable[[str], None]) -> Outcome:
    """Compile, or fetch what was compiled before; write the summary in either case. Failures are the caller's.

    Raises:
        OnnxSlimError: as `compile`, without BudgetError: `Outcome.require_budget` raises that.
    """
    if job.summary is not None:
        append(job.summary, "")  # what cannot be written is said before any work
    outcome = _outcome(job, progress)
    if job.summary is not None:
        from onnxslim_yolo.report.markdown import markdown_summary

        append(job.summary, markdown_summary(outcome.report) + _verdict(outcome))
    return outcome


def _outcome(job: Job, progress: Callable[[str], None]) -> Outcome:
    entry = _entry(job)
    report = None if entry is None else entry.report()
    if entry is not None and report is not None:
        folder = job.options.folder_for(job.source)
        entry.fetch(folder)
        return Outcome(job, report, folder, cached=True)
    result = build(job.source, job.options, progress)
    outcome = Outcome(job, result.report, result.folder, timings=result.timings)
    if entry is not None and _may_be_kept(outcome):
        name = job.options.name_for(job.source)
        reports = [f"{name}.{kind}" for kind in ("plan.json", "report.json", "report.html")]
        entry.store(result.folder, [*result.report["files"], *reports])
    return outcome


def _entry(job: Job) -> Entry | None:
    if job.cache is None or job.options.dump_to is not None:  # dumps are made by compiling
        return None
    if not job.source.exists():
        raise InputError("no such file", file=job.source)
    require_folder(job.cache, "--cache")  # said before anything is compiled
    return Entry(job.cache / key_of(job.source, job.options))


def _may_be_kept(outcome: Outcome) -> bool:
    """A limit broken by a measurement may hold the next time: such a result is not kept."""
    if outcome.report.get("speed") is None:
        return True
    try:
        outcome.require_budget()
    except BudgetError:
        return False
    return True


def _verdict(outcome: Outcome) -> str:
    return "\nUnchanged: taken from the cache.\n" if outcome.cached else ""


def _without_waiting(path: str, flags: int) -> int:
    """Opens; a pipe that nobody reads is an OSError, and is not waited for."""
    opened = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(opened, True)
    return opened


def append(path: Path, text: str) -> None:
    """Add text to a file. Raises InputError where it cannot be written."""
    try:
        with open(path, "a", encoding="utf-8", opener=_without_waiting) as stream:
            stream.write(text)
    except OSError as error:
        raise InputError(f"cannot write the summary: {error.strerror or error}", file=path) from error
