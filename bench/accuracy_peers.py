"""One network pruned by another tool to a share of its MACs. Run by `accuracy.py`, in the peers' environment:

    VENV/bin/python bench/accuracy_peers.py "onnxsim 0.8.1" KEPT.onnx FOLDED.onnx OUT.onnx --macs 0.8

KEPT has its BatchNorms, FOLDED is as exporters write it; OUT is written, and {macs, ratio, seconds} printed as JSON.
The ratio that a tool is given is the smallest of a scan and a bisection below it that gets there.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer

SCAN = tuple(k / 20 for k in range(1, 20))
STEPS = 5


def macs_of(proto: onnx.ModelProto) -> float:
    """Multiply-accumulates of one inference."""
    model = Model.from_onnx(copy.deepcopy(proto))
    reinfer(model.graph)
    return float(cost_of(model.graph).macs)


def reached(run: Callable[[float], onnx.ModelProto], limit: float) -> tuple[float, onnx.ModelProto]:
    """The smallest ratio found that comes down to `limit` MACs, and its result. Raises ValueError if none does."""
    before, best = 0.0, None
    for high in SCAN:
        proto = run(high)
        if macs_of(proto) <= limit:
            best = (high, proto)
            break
        before = high
    if best is None:
        raise ValueError(f"cannot get there: {macs_of(proto) / limit:.2f} times the limit is left at {high}")
    for _ in range(STEPS):
        middle = (before + best[0]) / 2
        proto = run(middle)
        if macs_of(proto) <= limit:
            best = (middle, proto)
        else:
            before = middle
    return best


def onnxsim_run(folded: onnx.ModelProto, globally: bool) -> Callable[[float], onnx.ModelProto]:
    import onnxsim

    ready = onnxsim.simplify(copy.deepcopy(folded))[0]
    return lambda ratio: onnxsim.apply_structured_pruning(
        copy.deepcopy(ready), sparsity=ratio, global_sparsity=globally
    )


def torch_pruning_run(kept: onnx.ModelProto, kind: str, out: Path) -> Callable[[float], onnx.ModelProto]:
    """Torch-Pruning on the graph as a module; layers that make outputs are ignored, and what tracing ties to them."""
    import torch
    import torch_pruning
    from torch import nn

    from onnxslim_yolo.emit.torch import to_torch

    model = Model.from_onnx(kept)
    reinfer(model.graph)
    shape = tuple(model.graph.inputs[0].shape)
    importances = torch_pruning.importance
    chosen = importances.BNScaleImportance() if kind == "γ" else importances.GroupMagnitudeImportance(p=2)

    def run(ratio: float) -> onnx.ModelProto:
        net = to_torch(model)
        for parameter in net.parameters():
            parameter.requires_grad_(True)
        # The last convolutions of a head are those with a bias where BatchNorm is kept.
        last = [part for part in net.modules() if isinstance(part, nn.Conv2d) and part.bias is not None]
        torch_pruning.pruner.BasePruner(
            net, torch.rand(shape), importance=chosen, global_pruning=True, pruning_ratio=ratio, ignored_layers=last
        ).step()
        torch.onnx.export(net.eval(), torch.rand(shape), str(out), opset_version=17, dynamo=False)
        return onnx.load(out)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool")
    parser.add_argument("kept", type=Path)
    parser.add_argument("folded", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--macs", type=float, required=True)
    given: Any = parser.parse_args()
    folded = onnx.load(given.folded)
    whole = macs_of(folded)
    if given.tool.startswith("onnxsim"):
        run = onnxsim_run(folded, "layer by layer" not in given.tool)
    else:
        run = torch_pruning_run(onnx.load(given.kept), given.tool.rsplit(" ", 1)[1], given.out)
    start = time.perf_counter()
    ratio, proto = reached(run, given.macs * whole)
    seconds = time.perf_counter() - start
    onnx.save(proto, given.out)
    row = {"macs": round(macs_of(proto) / whole, 4), "ratio": round(ratio, 4), "seconds": round(seconds, 1)}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
