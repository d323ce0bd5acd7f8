"""What an instruction of each class and a byte of weights take on a board, fitted to published times of networks.

milliseconds = Σ weight of a class × instructions of it + weight of a byte × bytes of weights + the same of far maps:
those of layers that read and write more than the last level of the caches holds. No weight is negative, the squared
*relative* error is least, and each class is drawn towards what one instruction takes on average (`DRAWN`): 35 networks
cannot tell six classes apart that occur together.
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
DRAWN = 10.0
"""How strongly: as if so many networks more had said that every class takes the same."""

OTHER = -2
"""Where the columns begin that are no instructions."""

Rows = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Network:
    """A network: its published time of one thread, instructions by class, bytes of weights and of far maps."""

    name: str
    ms: float
    counts: Mapping[str, int]
    weight_bytes: int
    far_bytes: int


@dataclass(frozen=True)
class Weights:
    """Nanoseconds of an instruction by class, of a byte of weights, of one of far maps."""

    core: str
    classes: Sequence[float]
    byte: float
    far: float
    about: str = ""

    def us(self, counts: Sequence[int], keys: Sequence[LayerKey]) -> float:
        """µs of so many instructions by class, which are those of these layers."""
        ns = sum(w * n for w, n in zip(self.classes, counts, strict=True))
        ns += self.byte * NUMBER_BYTES[self.core] * sum(map(weights_of, keys))
        return (ns + self.far * sum(far_bytes(self.core, elements_of(key)) for key in keys)) / 1e3

    @classmethod
    def read(cls, core: str) -> Weights:
        """As bench/results/arm_latency.json has them."""
        board = json.loads((RESULTS / "arm_latency.json").read_text())[core]
        ns = board["ns"]
        return cls(core, [ns[name] for name in CLASSES], ns["weight byte"], ns["far byte"], board["about"])


def weights_of(key: LayerKey) -> int:
    """How many weights a layer reads."""
    family = key.family
    if family.kind == "depthwise":
        return prod(family.kernel) * key.outs[0]
    if family.kind in ("conv", "group-conv", "deconv", "matmul"):
        return prod(family.kernel) * key.ins[0] * key.outs[0] // family.groups
    return 0


def elements_of(key: LayerKey) -> int:
    """How many numbers a layer reads and writes, apart from weights."""
    family = key.family
    return family.area * (prod(family.stride) * sum(key.ins) + sum(key.outs))


def far_bytes(core: str, elements: int) -> int:
    """The bytes of a layer's maps if the caches do not hold them, else 0."""
    size = NUMBER_BYTES[core] * elements
    return size if size > LAST_CACHE[core] else 0


def report(boards: Mapping[str, Sequence[Network]], timed: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """Everything in words, and the facts with the fitted weights."""
    parts, facts = [HEAD], {}
    for core, networks in boards.items():
        ns, fitted, held_out = judged(networks)
        summary = {kind: figures(values, networks) for kind, values in (("fitted", fitted), ("held out", held_out))}
        one = figures(alone(networks), networks)
        error = summary["held out"]["median error"]
        about = f"{INSTRUCTIONS}, ±{100 * error:.0f} % on ncnn's published networks"
        facts[core] = {
            "about": about, "counted in": f"ncnn 1.0.{timed[core]}", "ns": ns, **summary, "one constant, held out": one,
            "networks": [
                {"name": n.name, "published ms": n.ms, "fitted ms": round(a, 2), "held out ms": round(b, 2),
                 "instructions": dict(n.counts), "weight bytes": n.weight_bytes, "far bytes": n.far_bytes}
                for n, a, b in zip(networks, fitted, held_out, strict=True)
            ],
        }  # fmt: skip
        parts.append(section(core, networks, facts[core]))
    return "\n".join(parts), facts


def judged(networks: Sequence[Network]) -> tuple[dict[str, float], list[float], list[float]]:
    """The weights, what they predict of every network, and what those say that were fitted without it."""
    rows, ms = features(networks), np.array([n.ms for n in networks])
    weights = fit(rows, ms)
    held_out = [float(rows[i] @ fit(np.delete(rows, i, 0), np.delete(ms, i))) for i in range(len(ms))]
    names = (*CLASSES, "weight byte", "far byte")
    return (
        {name: float(f"{w:.4g}") for name, w in zip(names, weights, strict=True)},
        (rows @ weights).tolist(),
        held_out,
    )


def features(networks: Sequence[Network]) -> Rows:
    """10⁶ instructions by class, megabytes of weights, and of far maps; a row a network."""
    return (
        np.array([[*(n.counts[c] for c in CLASSES), n.weight_bytes, n.far_bytes] for n in networks], dtype=np.float64)
        / 1e6
    )


def alone(networks: Sequence[Network]) -> list[float]:
    """Held out: one constant for every instruction."""
    sums = features(networks)[:, :OTHER].sum(axis=1)
    ms = np.array([n.ms for n in networks])
    return [float(s * constant(np.delete(sums, i), np.delete(ms, i))) for i, s in enumerate(sums)]


def constant(sums: Rows, ms: Rows) -> float:
    share = sums / ms
    return float(share.sum() / (share**2).sum())


def fit(rows: Rows, ms: Rows) -> Rows:
    """Weights, none negative, of the least squared relative error."""
    relative, common = rows / ms[:, None], constant(rows[:, :OTHER].sum(axis=1), ms)
    typical = np.sqrt(DRAWN) * relative[:, :OTHER].mean(axis=0)
    drawn = np.concatenate([np.diag(typical), np.zeros((len(typical), -OTHER))], axis=1)
    return not_negative(np.concatenate([relative, drawn]), np.concatenate([np.ones(len(ms)), typical * common]))


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
github.com/Tencent/ncnn. Counted: ncnn's aarch64 wheel of then, one run under emulation, weights 0 as in its benchmark,
caches as the board has them. Held out: predicted by weights that were fitted without that network.
"""


def section(core: str, networks: Sequence[Network], facts: Mapping[str, Any]) -> str:
    """A board: figures, weights, and a row a network."""
    lines = [f"## {TITLE[core]}, {facts['counted in']}", "", f"{len(networks)} networks.", ""]
    lines += ["| | median error | mean | largest | rank correlation |", "|---|---|---|---|---|"]
    for kind in ("fitted", "held out", "one constant, held out"):
        one = facts[kind]
        errors = " | ".join(f"{one[name]:.1%}" for name in ("median error", "mean error", "largest error"))
        lines.append(f"| {kind} | {errors} | {one['rank correlation']:.3f} |")
    ns = ", ".join(f"{name} {value:.3f}" for name, value in facts["ns"].items())
    lines += ["", f"Nanoseconds: {ns}.", ""]
    lines += ["| network | 10⁶ instructions | published ms | fitted | held out | held out / published |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in facts["networks"]:
        count, ms, held = sum(row["instructions"].values()) / 1e6, row["published ms"], row["held out ms"]
        lines.append(f"| {row['name']} | {count:.1f} | {ms} | {row['fitted ms']} | {held} | {held / ms:.2f} |")
    return "\n".join([*lines, ""])
