"""What other pruners take and reach on the same networks. Run by `compile_time.py --peers PYTHON`, or alone:

    OMP_NUM_THREADS=1 VENV/bin/python bench/peers_compile.py [YOLOV8N.onnx] [--keep]

in an environment with onnxsim 0.8.1, onnxslim, torch-pruning 1.6.1, torch and onnx-graphsurgeon. Prints a JSON list of
rows {name, seconds, left, remark, model, prunable}, and nothing else on standard output; with --keep it also writes
bench/results/peers_compile.{json,md}.

* seconds: the least of three runs, CPU time, of the call alone (file in memory; no export, no interpreter start).
* left: the share of parameters left when half of the channels are asked for, ranked over the whole network where the
  tool can.
* prunable: the share of output channels of ordinary convolutions that lie in a layer which the tool makes narrower when
  it is asked for half of *every* layer. The last convolutions of a detection head cannot be pruned by anyone.

Networks are this package's own definitions with random γ in [0.5, 1.5]. A tool that raises is reported with its error.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from onnxslim_yolo.models.blocks_c2f import C2f
from onnxslim_yolo.models.blocks_common import Conv
from onnxslim_yolo.models.heads import Head
from onnxslim_yolo.models.zoo.architectures import build, randomise

MODELS = {"yolov8n": 640, "yolov5n": 640, "shufflenetv2": 224}
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")
RUNS = 3
RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def exported(module: nn.Module, size: int, *, fold: bool) -> onnx.ModelProto:
    """ONNX as exporters write it (`fold`: BatchNorms folded, which is their default), or with BatchNorms kept."""
    buffer = io.BytesIO()
    mode = torch.onnx.TrainingMode.EVAL if fold else torch.onnx.TrainingMode.PRESERVE
    keep = {} if fold else {"keep_initializers_as_inputs": True}
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        example = (torch.rand(1, 3, size, size),)
        torch.onnx.export(module, example, buffer, dynamo=False, opset_version=17, training=mode, **keep)
    proto = onnx.load_model_from_string(buffer.getvalue())
    names = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in names]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return proto


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """The least CPU seconds of a few runs, and what the last returned."""
    best, result = float("inf"), None
    for _ in range(RUNS):
        start = time.process_time()
        result = action()
        best = min(best, time.process_time() - start)
    return best, result


def attempt(name: str, model: str, action: Callable[[], Row]) -> Row:
    """A row, or the error in its place: that a tool fails is a result."""
    row: Row = {"name": name, "model": model}
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return row | action()
    except Exception as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        return row | {"seconds": None, "left": None, "prunable": None, "remark": f"fails: {text}"}


def parameters(proto: onnx.ModelProto) -> int:
    """Elements of the weights of layers. Other constants move between nodes and initializers as tools please."""
    layers = [node for node in proto.graph.node if node.op_type in LAYERS]
    used = {name for node in layers for name in node.input[1:]}
    return sum(torch.Size(w.dims).numel() for w in proto.graph.initializer if w.name in used)


def widths(proto: onnx.ModelProto) -> list[int]:
    """Output channels of the ordinary convolutions, in the file's order."""
    shape = {w.name: tuple(w.dims) for w in proto.graph.initializer}
    found = []
    for node in proto.graph.node:
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        if node.op_type == "Conv" and group == 1 and node.input[1] in shape:
            found.append(shape[node.input[1]][0])
    return found


def touched(before: list[int], after: list[int]) -> float:
    """The share of channels in layers that became narrower."""
    if len(before) != len(after):
        raise ValueError(f"{len(before)} convolutions before, {len(after)} after: cannot be compared one by one")
    return sum(b for b, a in zip(before, after, strict=True) if a < b) / sum(before)


def onnxsim_row(proto: onnx.ModelProto, *, simplify: bool) -> Row:
    import onnxsim

    def prepared() -> onnx.ModelProto:
        return onnxsim.simplify(copy.deepcopy(proto))[0] if simplify else copy.deepcopy(proto)

    def run(globally: bool) -> onnx.ModelProto:
        return onnxsim.apply_structured_pruning(prepared(), sparsity=0.5, global_sparsity=globally)

    before = prepared()
    seconds, half = timed(lambda: run(True))
    local = run(False)
    base = parameters(before)
    remark = (
        f"{'simplify, then ' if simplify else ''}structured pruning; {parameters(local) / base:.2f} left layer by layer"
    )
    prunable = touched(widths(before), widths(local))
    return {"seconds": seconds, "left": parameters(half) / base, "prunable": prunable, "remark": remark}


def onnxslim_row(proto: onnx.ModelProto) -> Row:
    import onnxslim

    seconds, slim = timed(lambda: onnxslim.slim(copy.deepcopy(proto)))
    remark = f"no pruning: {len(proto.graph.node)} → {len(slim.graph.node)} nodes"
    return {"seconds": seconds, "left": parameters(slim) / parameters(proto), "prunable": 0.0, "remark": remark}


class SplitC2f(nn.Module):
    """C2f with two convolutions in place of one and a chunk: the rewrite by hand that Torch-Pruning asks for."""

    def __init__(self, block: C2f) -> None:
        super().__init__()
        half = block.cv1.conv.out_channels // 2
        self.left, self.right = (_rows(block.cv1, part) for part in (slice(0, half), slice(half, None)))
        self.cv2, self.m = block.cv2, block.m
        self.i, self.f = getattr(block, "i", -1), getattr(block, "f", -1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.left(x), self.right(x)]
        for step in self.m:
            parts.append(step(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


def _rows(block: Conv, rows: slice) -> Conv:
    half = copy.deepcopy(block)
    half.conv.weight = nn.Parameter(block.conv.weight.detach()[rows].clone())
    half.conv.out_channels = half.bn.num_features = len(half.conv.weight)
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(block.bn, name).detach()[rows].clone()
        setattr(half.bn, name, nn.Parameter(value) if name in ("weight", "bias") else value)
    return half


def rewritten(module: nn.Module) -> nn.Module:
    """A copy with every C2f replaced."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, C2f):
                setattr(parent, name, SplitC2f(child))
    return module


def ignored(net: nn.Module, whole_head: bool) -> list[nn.Module]:
    """What has to keep its outputs: the whole head, or its last convolutions (they have a bias) and DFL's sum."""
    heads = [part for part in net.modules() if isinstance(part, Head)]
    if not heads:
        return [part for part in net.modules() if isinstance(part, nn.Linear)]
    if whole_head:
        return list(heads)
    inner = [part for head in heads for part in head.modules() if isinstance(part, nn.Conv2d)]
    return [part for part in inner if part.bias is not None or len(part.weight) == 1]


def torch_pruned(module: nn.Module, size: int, ratio: float, *, whole_head: bool, **options: Any) -> nn.Module:
    """A copy pruned by Torch-Pruning's BNScalePruner; `options` are the pruner's own."""
    import torch_pruning

    net = copy.deepcopy(module)
    pruner = torch_pruning.pruner.BNScalePruner(
        net,
        torch.rand(1, 3, size, size),
        importance=torch_pruning.importance.BNScaleImportance(),
        pruning_ratio=ratio,
        ignored_layers=ignored(net, whole_head),
        **options,
    )
    pruner.step()
    return net


def torch_pruning_row(module: nn.Module, size: int, whole_head: bool, remark: str = "") -> Row:
    def run(globally: bool) -> nn.Module:
        return torch_pruned(module, size, 0.5, whole_head=whole_head, global_pruning=globally)

    seconds, globally = timed(lambda: run(True))
    local = run(False)
    with torch.no_grad():
        globally(torch.rand(1, 3, size, size))  # what it left has to run
        local(torch.rand(1, 3, size, size))
    left = count(globally) / count(module)
    remark = f"{'whole head' if whole_head else 'last layers'} left alone{remark}"
    return {"seconds": seconds, "left": left, "prunable": touched(convs(module), convs(local)), "remark": remark}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def convs(module: nn.Module) -> list[int]:
    found = [part for part in module.modules() if isinstance(part, nn.Conv2d) and part.groups == 1]
    return [part.weight.shape[0] for part in found if part.weight.shape[:2] != (1, 16)]  # not DFL's fixed sum


def own_row(proto: onnx.ModelProto) -> Row:
    from onnxslim_yolo.analysis.channels import analyse_channels
    from onnxslim_yolo.ir.model import Model
    from onnxslim_yolo.passes import Canonicalise, PruneChannels, ShuffleToGather, SliceChannels

    def run() -> Model:
        model = Model.from_onnx(proto)
        for step in (Canonicalise(), ShuffleToGather(), Canonicalise(), PruneChannels(ratio=0.5), SliceChannels()):
            step.run(model)
        return model

    seconds, model = timed(run)
    source = Model.from_onnx(proto)
    for step in (Canonicalise(), ShuffleToGather(), Canonicalise()):
        step.run(source)
    channels = analyse_channels(source.graph)
    free = total = 0
    for use in channels.uses:
        if use.node.op == "Conv" and use.index == 1 and use.role == "out" and use.node.attrs.get("group", 1) == 1:
            total += len(use.labels)
            free += int(sum(label >= 0 and channels.frozen[label] is None for label in use.labels.tolist()))
    left = parameters(model.to_onnx()) / parameters(source.to_onnx())
    remark = "canonicalise, prune 0.5, slice; prunable by analysis"
    return {"seconds": seconds, "left": left, "prunable": free / total, "remark": remark}


def rows(name: str, size: int, path: Path | None) -> list[Row]:
    module = randomise(build(name), 0)
    folded, kept = exported(module, size, fold=True), exported(module, size, fold=False)
    if path is not None:
        kept = onnx.load(path)
    found = [
        attempt("onnxslim-yolo", name, lambda: own_row(kept)),
        attempt("onnxsim 0.8.1", name, lambda: onnxsim_row(folded, simplify=True)),
        attempt("onnxsim 0.8.1, BatchNorm kept", name, lambda: onnxsim_row(kept, simplify=False)),
        attempt("OnnxSlim", name, lambda: onnxslim_row(folded)),
        attempt("Torch-Pruning 1.6.1", name, lambda: torch_pruning_row(module, size, False)),
    ]
    if any(isinstance(part, C2f) for part in module.modules()):
        by_hand, remark = rewritten(module), ", C2f rewritten by hand"
        for whole in (False, True):
            run = partial(torch_pruning_row, by_hand, size, whole, remark)
            found.append(attempt("Torch-Pruning 1.6.1", name, run))
    return found


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--keep"]
    path = Path(arguments[0]) if arguments else None
    found = [row for name, size in MODELS.items() for row in rows(name, size, path if name == "yolov8n" else None)]
    for row in found:
        for key in ("seconds", "left", "prunable"):
            row[key] = None if row[key] is None else round(row[key], 3)
        row["remark"] = f"{row['model']}: {row['remark']}"
    text = json.dumps(found, indent=1) + "\n"
    if "--keep" in sys.argv:
        (RESULTS / "peers_compile.json").write_text(text)
        (RESULTS / "peers_compile.md").write_text(table(found))
    sys.stdout.write(text)


def table(found: list[Row]) -> str:
    head = (
        "Half of the channels asked for. *Prunable*: share of the ordinary convolutions' output channels that lie in "
        "layers which the tool can make narrower. *Left*: share of the layers' parameters left. *Seconds*: CPU time of "
        "the call, one thread.\n\n| model | tool | prunable | left | seconds | remark |\n|---|---|---|---|---|---|\n"
    )
    return head + "".join(f"| {' | '.join(_cells(row))} |\n" for row in found)


def _cells(row: Row) -> list[str]:
    numbers = [_share(row["prunable"]), _share(row["left"]), str(row["seconds"] or "–")]
    return [row["model"], row["name"], *numbers, row["remark"].partition(": ")[2].replace("|", "/")]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    main()
