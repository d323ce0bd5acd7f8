"""What every fuzzer here shares: mutations of bytes and text, and a runner that notices whatever is no clear refusal.

Inputs run in a forked child with a limit on memory and a timer, so that a crash of a C++ parser, a hang or an
allocation gone wild is a finding as well, with the input that caused it, and the run goes on behind it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TextIO

from onnxslim_yolo.errors import OnnxSlimError

RESULTS = Path(__file__).resolve().parent / "results" / "fuzz.md"
PAGE = RESULTS.parents[2] / "docs" / "pages" / "reliability.md"
MARKS = ("<!-- fuzz: written by bench/fuzz_*.py --write -->", "<!-- /fuzz -->")
TITLE = "# Readers under mutated input\n\nWritten by the fuzzers in `bench/` with `--write`.\n\n"
HEAD = (
    "| reader | inputs | outcomes | findings | slowest (CPU s) | memory grew | command |\n"
    "|---|--:|---|--:|--:|--:|---|\n"
)
SECONDS = 10
"""CPU seconds for one input. A refusal takes milliseconds; this is what counts as a hang."""
GROWTH = 1 << 30
"""Bytes of address space that an input may ask for beyond what the process has."""
BATCH = 2_000
TOKENS = [
    *(b"0", b"-1", b"1e999", b"nan", b"inf", b"9" * 40, b"2147483648", b"-9223372036854775808", b"=", b",", b"[", b"]"),
    *(b"{", b"}", b'"', b"'", b"\\", b"\x00", b"\xff", b"\xed\xa0\x80", "é".encode(), b"\r\n", b"\n", b" ", b"null"),
    *(b"true", b"[net]", b"../../../etc/passwd", b"/dev/zero", b"%s%n", b"\x1b[31m", b"<script>"),
]


def mutate(rng: random.Random, data: bytes, tokens: Sequence[bytes] = TOKENS) -> bytes:
    """A few random edits: bytes flipped, tokens inserted, parts cut, doubled, swapped, repeated."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + rng.choice(tokens) + data[at + rng.randrange(12) :]
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            data = _lines(rng, data, swap=True)
        elif kind == 4:
            data = _lines(rng, data, swap=False)
        elif kind == 5:
            data = data[:at] + rng.choice(tokens) * rng.randrange(1, 2000) + data[at:]
        elif kind == 6 and data:
            end = min(len(data), at + rng.randrange(1, 64))
            data = data[:at] + data[at:end] * rng.randrange(2, 9) + data[end:]
        else:
            data = data[:at] + data[at + rng.randrange(1, 64) :]
    return data


def _lines(rng: random.Random, data: bytes, *, swap: bool) -> bytes:
    lines = data.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    if swap:
        lines[first], lines[second] = lines[second], lines[first]
    else:
        lines.insert(first, lines[second])
    return b"\n".join(lines)


@dataclass
class Tally:
    """What came of the inputs of one reader."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    grown: int = 0
    findings: list[str] = field(default_factory=list)


def fuzz(
    name: str, make: Callable[[random.Random], object], read: Callable[[object], object], options: Options
) -> Tally:
    """Feed `options.inputs` inputs of `make` to `read`, in children of BATCH inputs each.

    Args:
        make: builds one input from a generator that is seeded with the input's own number, so that each repeats alone.
        read: what is tested. Returning and OnnxSlimError are fine, everything else is a finding.
    """
    tally, at = Tally(), options.first
    end = options.first + options.inputs
    while at < end:
        at = _batch(name, make, read, options.seed, at, min(end, at + BATCH), tally)
        options.seen(tally)
        if len(tally.findings) >= options.most:
            break
    for finding in tally.findings:
        print(finding)
    memory = f"{tally.grown / 2**20:.0f} MB"
    print(f"{name}: {tally.inputs} inputs, {dict(tally.outcomes)}, slowest {tally.slowest:.2f} s, grew by {memory}")
    return tally


def _batch(
    name: str,
    make: Callable[[random.Random], object],
    read: Callable[[object], object],
    seed: int,
    first: int,
    end: int,
    tally: Tally,
) -> int:
    """Run inputs [first, end) in a child. Returns where to go on: behind the input that ended the child, or `end`."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        try:
            with os.fdopen(send, "w") as stream:
                _child(name, make, read, seed, range(first, end), stream)
        except BaseException:  # of `make`: the child must not go on as a second parent
            traceback.print_exc()
            os._exit(70)
        os._exit(0)
    os.close(send)
    last = first
    with os.fdopen(receive) as stream:
        for line in stream:
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                last = row["number"] + 1
                tally.inputs += 1
                tally.outcomes[row["outcome"]] += 1
                tally.slowest = max(tally.slowest, row["seconds"])
                tally.grown = max(tally.grown, row["grown"])
                tally.findings += [row["finding"]] if row["finding"] else []
    _, status = os.waitpid(child, 0)
    if status == 0:
        return end
    what = signal.Signals(status & 0x7F).name if status & 0x7F else f"exit {status >> 8}"
    tally.inputs += 1
    tally.outcomes[what] += 1
    tally.findings.append(f"{name} --first {last} --inputs 1: {what}")
    return last + 1


def _child(
    name: str,
    make: Callable[[random.Random], object],
    read: Callable[[object], object],
    seed: int,
    numbers: range,
    stream: TextIO,
) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + GROWTH, size + GROWTH))
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)  # ends the child, in C++ as well
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        value = make(random.Random(f"{name} {seed} {number}"))
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        start, finding = time.process_time(), ""
        try:
            read(value)
            outcome = "accepted"
        except OnnxSlimError as error:
            outcome = "refused"
            if error.exit_status != 2:
                outcome = f"exit {error.exit_status}"
            if len(str(error)) > 2000:
                finding = f"a message of {len(str(error))} characters"
        except BaseException as error:
            outcome, finding = type(error).__name__, f"{type(error).__name__}: {error!s:.200}"
            frames = []
            trace = error.__traceback__
            while trace is not None:
                frames.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
                trace = trace.tb_next
            finding += f" at {' < '.join(reversed(frames[-4:]))}"
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        row = {
            "number": number,
            "outcome": outcome,
            "seconds": time.process_time() - start,
            "grown": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10,
            "finding": finding and f"{name} --first {number} --inputs 1: {finding}",
        }
        stream.write(json.dumps(row) + "\n")
        stream.flush()


@dataclass(frozen=True)
class Options:
    """Which inputs to run: numbers [first, first + inputs) of a seed; stop after `most` findings."""

    inputs: int = 10_000
    first: int = 0
    seed: int = 0
    most: int = 20
    seen: Callable[[Tally], None] = lambda tally: None
    """Called after each batch with what came of the inputs so far."""


def run(readers: dict[str, Callable[[Options], Tally]], doc: str | None) -> int:
    """The command line of a fuzzer: which readers, how many inputs; results into bench/results/fuzz.md."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", help=f"of {', '.join(readers)}; default: all")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"put the figures into {RESULTS.name}; not with --first")
    given = parser.parse_args()
    failed = False
    for name in given.readers or readers:
        seen = partial(record, name, given.seed, given.inputs) if given.write and not given.first else Options.seen
        failed |= bool(readers[name](Options(given.inputs, given.first, given.seed, seen=seen)).findings)
    return int(failed)


def record(name: str, seed: int, wanted: int, tally: Tally, arguments: str = "") -> None:
    """Replace a reader's row in the table of results.

    Done after each batch, so that a run that is stopped leaves what it did, once that is more than there was before.
    """
    arguments = arguments or f"{name} --inputs {tally.inputs}"
    command = f"python bench/{Path(sys.argv[0]).name} {arguments}"
    rows: dict[str, str] = {}
    if RESULTS.exists():
        for line in RESULTS.read_text(encoding="utf-8").splitlines():
            if line.startswith("| ") and not line.startswith("| reader"):
                rows[line.split("|")[1].strip()] = line
    there = int(rows[name].split("|")[2]) if name in rows else 0
    if tally.inputs < min(wanted, there) and not tally.findings:
        return
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(tally.outcomes.items()))
    seeded = f"{command} --seed {seed}" if seed else command
    slowest = f"{tally.slowest:.2f} | {tally.grown / 2**20:.0f} MB" if tally.slowest else "– | –"
    rows[name] = f"| {name} | {tally.inputs} | {outcomes} | {len(tally.findings)} | {slowest} | `{seeded}` |"
    RESULTS.parent.mkdir(exist_ok=True)
    table = HEAD + "\n".join(rows[key] for key in sorted(rows)) + "\n"
    RESULTS.write_text(TITLE + table, encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_table(page, table), encoding="utf-8")


def with_table(page: str, table: str) -> str:
    """The page on reliability with this table between its marks."""
    before, _, rest = page.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    return f"{before}{MARKS[0]}\n\n{table}\n{MARKS[1]}{after}"
