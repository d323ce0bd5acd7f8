"""One network, pruned by other tools until a given share of its convolutions' weights is left. Run by `table_b.py`:

    VENV/bin/python bench/peers_prune.py yolov8n --size 640 --left 0.6 --out FOLDER

in an environment as `peers_compile.py` asks for. Writes FOLDER/source.onnx (BatchNorms kept: what onnxslim-yolo reads),
FOLDER/unpruned.onnx (BatchNorms folded, as exporters write it) and one file for each tool that gets there, and prints a
JSON list of rows {name, file, ratio, left, seconds, export_seconds, remark} (`file` null, `remark` the reason, where a
tool does not get there).

The ratio that a tool is given is found by bisection. seconds: the least CPU time of three runs of the pruning alone at
that ratio; export_seconds: of writing ONNX, for tools that do not work on ONNX.

γ is drawn as trained networks have it: every layer of its own scale (log-normal, σ = 0.35), spread uniformly within
±50 % around it. Heads end in their raw maps.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from peers_compile import SplitC2f, attempt, exported, rewritten, timed, torch_pruned
from torch import nn

from onnxslim_yolo.models.zoo.architectures import build, randomise

STEPS = 6
SCAN = tuple(k / 10 for k in range(1, 10))
Row = dict[str, Any]


def source_of(name: str) -> nn.Module:
    """The network, in eval mode."""
    module = randomise(build(name, head="raw"), 0)
    random = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data *= torch.exp(0.35 * torch.randn(1, generator=random))
    return module


def conv_weights(proto: onnx.ModelProto) -> int:
    """Elements of the convolutions' weights. BatchNorms are folded by some tools and kept by others: not counted."""
    used = {node.input[1] for node in proto.graph.node if node.op_type == "Conv"}
    return sum(torch.Size(w.dims).numel() for w in proto.graph.initializer if w.name in used)


def module_weights(module: nn.Module) -> int:
    """The same of a module."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Conv2d))


def reached(share: Callable[[float], float], left: float) -> float:
    """A ratio that leaves just no more than this share: the first of a coarse scan, then bisection below it.

    Not bisection alone: with `round_to`, a higher ratio may remove less (a layer that would vanish is left whole).
    Raises ValueError if no ratio of the scan gets there.
    """
    least, before = 1.0, 0.0
    for high in SCAN:
        there = share(high)
        least = min(least, there)
        if there <= left:
            break
        before = high
    else:
        raise ValueError(f"cannot get there: at no ratio does it leave less than {least:.3f}")
    for _ in range(STEPS):
        middle = (before + high) / 2
        before, high = (before, middle) if share(middle) <= left else (middle, high)
    return high


def torch_pruning_row(module: nn.Module, size: int, left: float, round_to: int | None, file: Path) -> Row:
    def run(ratio: float) -> nn.Module:
        return torch_pruned(module, size, ratio, whole_head=False, global_pruning=True, round_to=round_to)

    whole = module_weights(module)
    ratio = reached(lambda r: module_weights(run(r)) / whole, left)
    seconds, net = timed(lambda: run(ratio))
    export_seconds, proto = timed(lambda: exported(net, size, fold=True))
    onnx.save(proto, file)
    remark = "C2f rewritten by hand" if any(isinstance(part, SplitC2f) for part in module.modules()) else ""
    return {
        "file": str(file), "ratio": ratio, "left": module_weights(net) / whole, "seconds": seconds,
        "export_seconds": export_seconds, "remark": remark,
    }  # fmt: skip


def onnxsim_row(folded: onnx.ModelProto, left: float, globally: bool, file: Path) -> Row:
    import onnxsim

    before = onnxsim.simplify(copy.deepcopy(folded))[0]

    def run(ratio: float) -> onnx.ModelProto:
        return onnxsim.apply_structured_pruning(copy.deepcopy(before), sparsity=ratio, global_sparsity=globally)

    whole = conv_weights(before)
    ratio = reached(lambda r: conv_weights(run(r)) / whole, left)
    seconds, proto = timed(lambda: run(ratio))
    simplify_seconds, _ = timed(lambda: onnxsim.simplify(copy.deepcopy(folded)))
    onnx.save(proto, file)
    return {
        "file": str(file), "ratio": ratio, "left": conv_weights(proto) / whole, "seconds": seconds + simplify_seconds,
        "export_seconds": None, "remark": "simplify, then structured pruning",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--left", type=float, default=0.6)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):
        found = rows(options.model, options.size, options.left, options.out)
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def rows(name: str, size: int, left: float, out: Path) -> list[Row]:
    module = source_of(name)
    folded = exported(module, size, fold=True)
    onnx.save(folded, out / "unpruned.onnx")
    onnx.save(exported(module, size, fold=False), out / "source.onnx")
    net = rewritten(module)  # a plain copy where there is no C2f
    actions = {
        "Torch-Pruning 1.6.1": partial(torch_pruning_row, net, size, left, None, out / "torch-pruning.onnx"),
        "Torch-Pruning 1.6.1, round_to 8": partial(torch_pruning_row, net, size, left, 8, out / "torch-pruning-8.onnx"),
        "onnxsim 0.8.1, global": partial(onnxsim_row, folded, left, True, out / "onnxsim-global.onnx"),
        "onnxsim 0.8.1, layer by layer": partial(onnxsim_row, folded, left, False, out / "onnxsim.onnx"),
    }
    return [{"file": None, **attempt(title, name, action)} for title, action in actions.items()]


if __name__ == "__main__":
    main()
