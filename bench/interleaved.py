"""Files timed against each other, in blocks: one runtime, one number of threads, everything interleaved in one process.

The protocol is `onnxslim_yolo.measure.benchmark`'s. What a block adds: a file that its runtime cannot run does not stop
the others, it becomes a row with the reason.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_ncnn
from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load import load
from onnxslim_yolo.measure.benchmark import BenchResult, benchmark

RESULTS = Path(__file__).with_name("results")
RUNTIMES = ("ncnn", "onnxruntime")
Facts = dict[str, Any]


@dataclass
class Entry:
    """A row to be: its file, or why there is none, and whatever else is known of it."""

    name: str
    file: Path | None = None
    failed: str = ""
    facts: Facts = field(default_factory=dict)


def arguments(doc: str | None, rounds: int = 21) -> argparse.ArgumentParser:
    """The options that every table has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="one block each")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser


def written(model: Model, stem: Path, runtime: str) -> Path:
    """The network as the runtime reads it."""
    if runtime == "onnxruntime":
        return model.save(stem.with_suffix(".onnx"))
    return write_ncnn(emit_ncnn(model), stem, model.metadata)


def through_our_emitter(file: Path, stem: Path) -> Path:
    """Somebody else's ONNX as an NCNN folder: read into plain form, and converted without any pass of ours."""
    return written(load(file), stem, "ncnn")


def attempt(name: str, action: Callable[[], Path], **facts: object) -> Entry:
    """An entry, or the error in its place: that a tool fails is a result."""
    try:
        return Entry(name, action(), facts=facts)
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        return Entry(name, failed=text, facts=facts)


def block(entries: Sequence[Entry], *, rounds: int, threads: int, size: int, copies: int = 1, **facts: object) -> Facts:
    """Time the entries against the first of them.

    A network's time depends on the pages of memory that it happened to get when it was loaded: the same file, loaded
    again, differs by 1 to 2 % for as long as the process lives, which no number of rounds averages out. More copies do.

    Args:
        entries: the rows to be, each with a name of its own.
        rounds, threads: see `benchmark`.
        copies: how often each file is loaded. A round's time is the median over the copies.
        size: image side in pixels. Files without metadata do not say it, and ncnn takes any.
        facts: what else is known of the block.

    Returns:
        the facts given, the protocol's, and `rows`, in the entries' order: `name`, the entry's facts, and either
        `failed` or `ms`, `ms_best`, `ratio` and `quartiles` (to the first entry, paired round by round).
    """
    good, result = _measured(entries, rounds, threads, (size, size), copies)
    times = np.array(result.seconds)[:, :-1].reshape(rounds, copies, len(good))
    seconds = np.median(times, 1)
    measured = {entry.name: _summary(seconds, times, index) for index, entry in enumerate(good)}
    rows = [{"name": e.name, **e.facts, **measured.get(e.name, {"failed": e.failed})} for e in entries]
    loading = loading_spread(times)
    return {
        **facts, "size": size, "threads": threads, "rounds": rounds, "copies": copies, "clock": result.clock,
        "control": [result.control, *result.control_quartiles], "loading": loading,
        "resolution": max(0.02, 2 * loading * math.sqrt(2 / copies)) if copies > 1 else result.resolution,
        "denormals_flushed": result.denormals_flushed, "machine": result.machine, "rows": rows,
        "seconds": {entry.name: seconds[:, index].tolist() for index, entry in enumerate(good)},
    }  # fmt: skip


def _summary(seconds: Array, times: Array, index: int) -> Facts:
    """One entry's figures, from seconds as [round, entry] and [round, copy, entry]."""
    low, middle, high = np.percentile(seconds[:, index] / seconds[:, 0], [25, 50, 75]).tolist()
    return {
        "ms": float(np.median(seconds[:, index])) * 1000,
        "ms_best": float(times[:, :, index].min()) * 1000,
        "ratio": middle,
        "quartiles": [low, high],
    }


def loading_spread(times: Array) -> float:
    """The standard deviation of one loading's time from its file's, as a fraction; of one copy it is not known: 0."""
    _, copies, entries = times.shape
    if copies == 1:
        return 0.0
    each = np.median(times / np.median(times, (1, 2), keepdims=True), 0)
    apart = each / each.mean(0) - 1
    return math.sqrt(float((apart**2).sum()) / (entries * (copies - 1)))


def _measured(
    entries: Sequence[Entry], rounds: int, threads: int, size: tuple[int, int], copies: int
) -> tuple[list[Entry], BenchResult]:
    """The entries that could be run, and their times, copy by copy. The others get a reason."""
    good = [entry for entry in entries if entry.file is not None and not entry.failed]
    files = [entry.file for entry in good if entry.file]
    try:
        return good, benchmark(files * copies, rounds=rounds, threads=threads, size=size)
    except OnnxSlimError:
        # One bad pair of files is enough to crash ncnn: which one is found by running each alone.
        for entry in good:
            entry.failed = _why_not(entry, size)
        if not any(entry.failed for entry in good):
            raise
    return _measured(entries, rounds, threads, size, copies)


def _why_not(entry: Entry, size: tuple[int, int]) -> str:
    """Why the file of an entry cannot be run; empty where it can."""
    try:
        benchmark([entry.file] if entry.file else [], rounds=3, timeout=120, size=size)
    except OnnxSlimError as error:
        return error.message.splitlines()[0][:200]
    return ""


def protocol(found: Facts) -> str:
    """How a block was measured, in a sentence."""
    middle, low, high = found["control"]
    control = f"A/A control {middle:.3f} ({low:.3f} to {high:.3f})"
    if found.get("copies", 1) > 1:
        control = f"every file loaded {found['copies']} times (loadings of one file differ by {found['loading']:.1%})"
    return (
        f"{found['rounds']} rounds, {found['clock']} time, {found['threads']} thread(s); {control}, "
        f"nothing under {found['resolution']:.1%} means anything."
    )


def latency_cells(row: Facts) -> list[str]:
    """Milliseconds, ratio and quartiles of a row, or the reason why there are none."""
    if "ratio" not in row:
        return ["–", f"fails: {row['failed']}".replace("|", "/"), "–"]
    low, high = row["quartiles"]
    return [f"{row['ms']:.2f}", f"{row['ratio']:.3f}", f"{low:.3f} to {high:.3f}"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A markdown table's lines."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def keep(facts: Facts, markdown: str, out: Path, name: str) -> None:
    """Write NAME.json and NAME.md, and print the latter."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
    (out / f"{name}.md").write_text(markdown)
    print(markdown)
