"""What a layer's instructions and a byte of its maps take on a board, fitted to published times of networks.

milliseconds = Σ over layers: ns of a slot × slots + ns of a byte × bytes of maps read and written + more of far ones:
maps of layers that read and write more than the last level of the caches holds. A layer's *slots* are what its
instructions take up where most is needed, as cores issue several at a time: the vector units (a multiply-add one slot,
other vector instructions a share), or decoding (a share of a slot for any). What the other side does meanwhile is free:
a kernel that multiplies all the time and one that only moves data are told apart layer by layer. No weight is negative,
and the squared *relative* error is least.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from arm_counting import CLASSES

from onnxslim_yolo.latency.layers import LayerKey
from onnxslim_yolo.latency.methods import INSTRUCTIONS

RESULTS = Path(__file__).with_name("results")
TITLE = {"a76": "Raspberry Pi 5 (Cortex-A76, fp16)", "a72": "Raspberry Pi 4 (Cortex-A72, fp32)"}
NUMBER_BYTES = {"a76": 2, "a72": 4}
LAST_CACHE = {"a76": 2 << 20, "a72": 1 << 20}
SLOTS = {"a76": (1.0, 1.0), "a72": (0.75, 0.5)}
"""What a vector instruction other than a multiply-add takes, and any instruction at all, in slots of multiply-adds.

Chosen among `CHOICES` by the mean error of networks held out (bench/results/arm_latency.md has all)."""
CHOICES = tuple((other, any_) for other in (1.0, 0.75, 0.5) for any_ in (0.4, 0.5, 0.6, 0.75, 1.0))
TERMS = ("slot", "map byte", "far byte")

Rows = np.ndarray[Any, np.dtype[np.float64]]
Counts = Sequence[int]
"""Instructions by class."""


@dataclass(frozen=True)
class Network:
    """A network: its published time of one thread, instructions by layer, bytes of its maps and of far ones."""

    name: str
    ms: float
    layers: Sequence[Counts]
    map_bytes: int
    far_bytes: int

    @property
    def instructions(self) -> dict[str, int]:
        """All of them by class."""
        return dict(zip(CLASSES, map(sum, zip(*self.layers, strict=True)), strict=True))


@dataclass(frozen=True)
class Weights:
    """Nanoseconds of a slot, of a byte of maps, and what one more takes that the caches do not hold."""

    core: str
    slot: float
    byte: float
    far: float
    about: str = ""
    bf16: bool = False

    def us(self, layers: Sequence[Counts], keys: Sequence[LayerKey]) -> float:
        """µs of layers by their instructions, which are those of these layers' (or of a network's in any other cut)."""
        ns = self.slot * sum(slots(self.core, counts) for counts in layers)
        elements = [elements_of(key) for key in keys]
        width = 2 if self.bf16 else NUMBER_BYTES[self.core]
        ns += self.byte * width * sum(elements) + self.far * far_bytes(self.core, elements, width)
        return ns / 1e3

    @classmethod
    def read(cls, core: str, *, bf16: bool = False) -> Weights:
        """As bench/results/arm_latency.json has them, which of bf16 has no published times."""
        board = json.loads((RESULTS / "arm_latency.json").read_text())[core]
        about = f"{INSTRUCTIONS} in bf16, of which nothing is published" if bf16 else board["about"]
        return cls(core, *(board["ns"][name] for name in TERMS), about, bf16)


def slots(core: str, counts: Counts, choice: tuple[float, float] | None = None) -> float:
    """What a layer's instructions take up."""
    other, any_ = choice or SLOTS[core]
    fma, simd = (counts[CLASSES.index(name)] for name in ("fma", "simd"))
    return max(fma + other * simd, any_ * sum(counts))


def elements_of(key: LayerKey) -> int:
    """How many numbers a layer reads and writes, apart from weights."""
    family = key.family
    return family.area * (prod(family.stride) * sum(key.ins) + sum(key.outs))


def far_bytes(core: str, elements: Sequence[int], width: int | None = None) -> int:
    """The bytes of the layers' maps, of so many numbers a layer, that the caches do not hold; `width`: of a number."""
    sizes = [(width or NUMBER_BYTES[core]) * each for each in elements]
    return sum(size for size in sizes if size > LAST_CACHE[core])


def report(boards: Mapping[str, Sequence[Network]], timed: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Everything in words, and the facts with the fitted weights."""
    parts, facts = [HEAD], {}
    for core, networks in boards.items():
        ns, fitted, held_out = judged(networks, core)
        summary = {kind: figures(values, networks) for kind, values in (("fitted", fitted), ("held out", held_out))}
        one = figures(alone(networks), networks)
        error = summary["held out"]["median error"]
        about = f"{INSTRUCTIONS}, ±{100 * error:.0f} % on ncnn's published networks"
        choices = {f"{c[0]}, {c[1]}": figures(judged(networks, core, c)[2], networks) for c in CHOICES}
        facts[core] = {
            "about": about, "counted in": f"ncnn 1.0.{timed[core]}", "ns": ns, **summary, "one constant, held out": one,
            "held out, by slots": choices,
            "networks": [
                {"name": n.name, "published ms": n.ms, "fitted ms": round(a, 2), "held out ms": round(b, 2),
                 "instructions": n.instructions, "slots": round(sum(slots(core, c) for c in n.layers)),
                 "map bytes": n.map_bytes, "far bytes": n.far_bytes}
                for n, a, b in zip(networks, fitted, held_out, strict=True)
            ],
        }  # fmt: skip
        parts.append(section(core, networks, facts[core]))
    return "\n".join(parts), facts


def judged(
    networks: Sequence[Network], core: str, choice: tuple[float, float] | None = None
) -> tuple[dict[str, float], list[float], list[float]]:
    """The weights, what they predict of every network, and what those say that were fitted without it."""
    rows, ms = features(networks, core, choice), np.array([n.ms for n in networks])
    weights = fit(rows, ms)
    held_out = [float(rows[i] @ fit(np.delete(rows, i, 0), np.delete(ms, i))) for i in range(len(ms))]
    named = {name: float(f"{w:.4g}") for name, w in zip(TERMS, weights, strict=True)}
    return named, (rows @ weights).tolist(), held_out


def features(networks: Sequence[Network], core: str, choice: tuple[float, float] | None = None) -> Rows:
    """10⁶ slots, megabytes of maps and of far ones; a row a network."""
    rows = [[sum(slots(core, c, choice) for c in n.layers), n.map_bytes, n.far_bytes] for n in networks]
    return np.array(rows, dtype=np.float64) / 1e6


def alone(networks: Sequence[Network]) -> list[float]:
    """Held out: one constant for every instruction."""
    sums = np.array([sum(n.instructions.values()) for n in networks]) / 1e6
    ms = np.array([n.ms for n in networks])
    return [float(s * constant(np.delete(sums, i), np.delete(ms, i))) for i, s in enumerate(sums)]


def constant(sums: Rows, ms: Rows) -> float:
    """Of one feature, what leaves the least squared relative error."""
    share = sums / ms
    return float(share.sum() / (share**2).sum())


def fit(rows: Rows, ms: Rows) -> Rows:
    """Weights, none negative, of the least squared relative error."""
    return not_negative(rows / ms[:, None], np.ones(len(ms)))


def not_negative(rows: Rows, wanted: Rows) -> Rows:
    """Least squares with no negative solution: one unknown after another, until nothing moves."""
    gram, right = rows.T @ rows, rows.T @ wanted
    found = np.zeros(len(right))
    for _ in range(20_000):
        before = found.copy()
        for i in range(len(found)):
            found[i] = max(0.0, found[i] + (right[i] - gram[i] @ found) / gram[i, i])
        if np.abs(found - before).max() < 1e-12:
            break
    return found


def figures(predicted: Sequence[float], networks: Sequence[Network]) -> dict[str, float]:
    """As `figures_of`."""
    return figures_of(predicted, [n.ms for n in networks])


def figures_of(predicted: Sequence[float], published: Sequence[float] | Rows) -> dict[str, float]:
    """Median and largest relative error, and the rank correlation."""
    ms, guess = np.array(published), np.array(predicted)
    errors = np.abs(guess / ms - 1)
    ranks = [np.argsort(np.argsort(values)) for values in (ms, guess)]
    found = {"median error": np.median(errors), "mean error": errors.mean(), "largest error": errors.max()}
    found["rank correlation"] = np.corrcoef(ranks[0], ranks[1])[0, 1]
    return {name: round(float(value), 4) for name, value in found.items()}


HEAD = """# Published times of ncnn against counted instructions

`python bench/arm_latency.py fit --write`. Published: single thread, minimum of ten, `benchmark/README.md` of
github.com/Tencent/ncnn. Counted: ncnn's aarch64 wheel of then, layer by layer, one run under emulation, weights 0 as in
its benchmark, caches as the board has them. A layer takes as many slots as its vector instructions, or as a share of
all its instructions, whichever is more. Held out: predicted by weights that were fitted without that network.
"""


def section(core: str, networks: Sequence[Network], facts: Mapping[str, Any]) -> str:
    """A board: figures, weights, and a row a network."""
    lines = [f"## {TITLE[core]}, {facts['counted in']}", "", f"{len(networks)} networks.", ""]
    lines += ["| | median error | mean | largest | rank correlation |", "|---|---|---|---|---|"]
    kinds = {kind: facts[kind] for kind in ("fitted", "held out", "one constant, held out")}
    for kind, one in kinds.items():
        lines.append(_row(kind, one))
    ns = ", ".join(f"{name} {value:.3f}" for name, value in facts["ns"].items())
    chosen = "{}, {}".format(*SLOTS[core])
    lines += [
        "",
        f"Nanoseconds: {ns}. Slots of other vector instructions, and of any: {chosen}; others, held out:",
    ]
    lines += ["", "| slots | median error | mean | largest | rank correlation |", "|---|---|---|---|---|"]
    lines += [_row(name, one) for name, one in facts["held out, by slots"].items()]
    lines += ["", "| network | 10⁶ instructions | 10⁶ slots | published ms | fitted | held out | ÷ published |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in facts["networks"]:
        count, ms, held = sum(row["instructions"].values()) / 1e6, row["published ms"], row["held out ms"]
        cells = (row["name"], f"{count:.1f}", f"{row['slots'] / 1e6:.1f}", ms, row["fitted ms"], held)
        lines.append(f"| {' | '.join(map(str, cells))} | {held / ms:.2f} |")
    return "\n".join([*lines, ""])


def _row(name: str, one: Mapping[str, float]) -> str:
    errors = " | ".join(f"{one[key]:.1%}" for key in ("median error", "mean error", "largest error"))
    return f"| {name} | {errors} | {one['rank correlation']:.3f} |"
