"""Networks of torchvision and timm at half their channels, beside Torch-Pruning's.

    VENV/bin/python bench/strangers.py [--only WORD] [--minutes M]

in an environment that has torchvision, timm, torch-pruning 1.6.1, onnxscript and this package. Random weights,
BatchNorms calibrated, 64 to 96 px. Each network is exported by both of PyTorch's exporters with BatchNorm kept
(TorchScript at opset 12 and 17, dynamo with optimize=False at 20; timm's: TorchScript at 17 and dynamo at 20), and
`compile --prune 0.5` runs as anyone would run it: verified in onnxruntime and as NCNN pair, or without the pair where
ncnn has no way to say it.

* prunable: of the outputs of convolutions and linear layers, the share in channels that may go.
* left, global and per layer: parameters and multiplications at a ratio of 0.5 by |weight|, over the whole network and
  within every group; from the opset 17 file.
* Torch-Pruning: MagnitudePruner at the same ratios, classifiers left alone, counted by its own counter; heads of
  attention are told to it where the network has them.

Rows are kept in bench/results/strangers.json as they come; a later run goes on with what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from onnxslim_yolo.analysis.constraints import complete
from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.analysis.levels import levelled
from onnxslim_yolo.load import load
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.passes import Canonicalise, PruneChannels, ShuffleToGather, SliceChannels
from onnxslim_yolo.pruning.plan import open_plan

RESULTS = Path(__file__).parent / "results" / "strangers.json"
ROOT = Path(__file__).resolve().parents[1]
TORCHVISION = [
    "resnet18",
    "resnext50_32x4d",
    "alexnet",
    "densenet121",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mnasnet0_5",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "efficientnet_b0",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "convnext_tiny",
    "swin_t",
    "vit_b_16",
    "lraspp_mobilenet_v3_large",
]
TIMM = [
    "mobilenetv4_conv_small",
    "repvit_m0_9",
    "ghostnetv2_100",
    "hrnet_w18_small",
    "dla46_c",
    "res2net50_14w_8s",
    "cspdarknet53",
    "efficientformer_l1",
    "edgenext_xx_small",
    "selecsls42b",
    "mixnet_s",
    "fbnetv3_b",
    "mobileone_s0",
    "resnest14d",
    "poolformer_s12",
]
SIZES = {"alexnet": 224, "inception_v3": 96, "efficientformer_l1": 224}
LIMIT = 600
Row = dict[str, Any]


def network(name: str) -> tuple[nn.Module, int]:
    """A network in eval mode with calibrated BatchNorms, and its input's extent."""
    torch.manual_seed(0)
    size = SIZES.get(name, 64)
    if name in TIMM:
        import timm

        net = timm.create_model(name, pretrained=False, exportable=True)
    else:
        import torchvision

        place = torchvision.models.segmentation if name.startswith("lraspp") else torchvision.models
        options: Row = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
        options |= {"image_size": size} if name.startswith("vit") else {}
        options |= {"weights_backbone": None} if name.startswith("lraspp") else {}
        net = getattr(place, name)(weights=None, **options)
    if name.startswith("lraspp"):
        net = Maps(net)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    net.train()
    with torch.no_grad():
        for _ in range(2 if norms else 0):
            net(torch.randn(4, 3, size, size))
    return net.eval(), size


class Maps(nn.Module):
    """The map of a segmentation network instead of its dictionary."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The map."""
        out: torch.Tensor = self.net(x)["out"]
        return out


def export(net: nn.Module, size: int, exporter: str, opset: int, file: Path) -> None:
    """As PyTorch writes it, BatchNorm kept."""
    x, quiet = torch.randn(1, 3, size, size), io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            program = torch.onnx.export(net, (x,), dynamo=True, optimize=False, opset_version=opset)
            assert program is not None
            onnx.save(program.model_proto, file)
            return
        mode = torch.onnx.TrainingMode.PRESERVE
        torch.onnx.export(net, (x,), file, dynamo=False, opset_version=opset, training=mode, do_constant_folding=False)


def compiled(file: Path, folder: Path) -> Row:
    """`compile --prune 0.5`, with the pair, or without it where that is the way out."""
    row: Row = {}
    for emit in ("onnx,ncnn", "onnx"):
        line = [sys.executable, "-m", "onnxslim_yolo", "compile", str(file), "-o", str(folder), "--name", "m"]
        start = time.monotonic()
        try:
            done = subprocess.run(
                [*line, "--prune", "0.5", "--emit", emit, "--will-train"],
                capture_output=True, text=True, timeout=LIMIT, cwd=ROOT,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {**row, "exit": "no end", "emit": emit}
        words = " ".join((done.stdout + done.stderr).split())
        row |= {"exit": done.returncode, "emit": emit, "seconds": round(time.monotonic() - start, 1)}
        if done.returncode in (0, 4, 5):
            return row
        row["remark"] = words[-240:]
    return row


def prepared(file: Path) -> Any:
    """The graph as the analysis reads it."""
    model = load(file)
    PassManager([Canonicalise(), ShuffleToGather(), Canonicalise()]).run(model)
    return model


def facts_of(file: Path) -> Row:
    """What may go, what is left at 0.5, and what holds the rest."""
    model = prepared(file)
    channels = open_plan(model).channels
    free = total = 0
    for use in channels.uses:
        if use.role == "out":
            total += use.labels.size
            free += int(channels.prunable[np.maximum(use.labels, 0)][use.labels > 0].sum())
    held: dict[str, int] = {}
    for reason in channels.frozen:
        if reason:
            kind = f"{reason.split()[0]} {reason.split(chr(39))[-1].strip(' :')[:50]}"
            held[kind] = held.get(kind, 0) + 1
    model.plan = None
    before = sizes(model)
    row: Row = {"prunable": free / max(total, 1)}
    row["held"] = dict(sorted(held.items(), key=lambda item: -item[1])[:3])
    for name, act in (("global", _globally), ("layer", _per_layer)):
        after = model.copy()
        act(after)
        PassManager([SliceChannels()]).run(after)
        row[name] = [a / b for a, b in zip(sizes(after), before, strict=True)]
    return row


def _globally(model: Any) -> None:
    PassManager([PruneChannels(ratio=0.5, importance="weight", per="none")]).run(model)


def _per_layer(model: Any) -> None:
    PassManager([PruneChannels(ratio=0.0, importance="weight", per="none", absorb=False)]).run(model)
    plan = model.plan
    rank = np.ones(plan.channels.count)
    # Of a grouped convolution whole levels go, the least important of every part together, as `prune` takes them.
    values, level = levelled(plan.channels, plan.importance, plan.channels.prunable)
    for group in plan.channels.groups:
        order = np.lexsort((level[group.classes], values[group.classes]))
        rank[group.classes[order]] = (np.arange(len(order)) + 0.5) / len(order)
    keep = complete(plan.channels, rank > 0.5, rank)
    model.plan = replace(plan, keep=keep, wanted=keep, lossless=False)


def sizes(model: Any) -> tuple[float, float]:
    """Parameters and multiplications."""
    cost = cost_of(model.graph)
    return float(cost.parameters), float(cost.macs)


def torch_pruning(net: nn.Module, size: int, globally: bool) -> list[float]:
    """What Torch-Pruning leaves at the same ratio: shares of parameters and multiplications."""
    import torch_pruning as tp

    net, x = copy.deepcopy(net), torch.randn(1, 3, size, size)
    last = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1:]
    classes = [m for m in net.modules() if isinstance(m, nn.Linear) and m.out_features in (21, 1000)]
    classes += [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.out_channels in (21, 1000)]
    heads = {m: m.num_heads for m in net.modules() if isinstance(m, nn.MultiheadAttention)}
    heads |= {m.qkv: m.num_heads for m in net.modules() if hasattr(m, "qkv") and hasattr(m, "num_heads")}
    before = tp.utils.count_ops_and_params(net, x)
    pruner = tp.pruner.MagnitudePruner(
        net, x, importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=0.5, global_pruning=globally,
        ignored_layers=classes or last, num_heads=heads, round_to=None,
    )  # fmt: skip
    pruner.step()
    with torch.no_grad():
        net(x)
    after = tp.utils.count_ops_and_params(net, x)
    return [after[1] / before[1], after[0] / before[0]]


def within_limits(action: Callable[[], Any], seconds: int = 100, more: int = 5 << 30) -> Any:
    """An answer within some time and memory: of Swin's dependencies Torch-Pruning makes a graph of over 15 GB."""

    def stop(signum: int, frame: object) -> None:
        raise TimeoutError(f"no end within {seconds} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + more
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    resource.setrlimit(resource.RLIMIT_AS, (memory, before[1]))
    try:
        return action()
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, before)


def attempt(row: Row, name: str, action: Callable[[], Any]) -> None:
    """An entry, or why there is none."""
    try:
        row[name] = action()
    except Exception as error:
        row[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def exports_of(name: str) -> list[tuple[str, int]]:
    """Exporters and opsets."""
    short = [("torchscript", 17), ("dynamo", 20)]
    return short if name in TIMM else [("torchscript", 12), *short]


def one(name: str) -> Row:
    """Everything of one network."""
    net, size = network(name)
    row: Row = {"name": name, "size": size}
    attempt(row, "tp-global", lambda: within_limits(lambda: torch_pruning(net, size, True)))
    attempt(row, "tp-layer", lambda: within_limits(lambda: torch_pruning(net, size, False)))
    for exporter, opset in exports_of(name):
        with tempfile.TemporaryDirectory() as folder:
            file, key = Path(folder) / f"{name}.onnx", f"{exporter}-{opset}"
            try:
                export(net, size, exporter, opset, file)
            except Exception as error:
                row[key] = {
                    "exit": "not exported",
                    "remark": f"{type(error).__name__}: {str(error).splitlines()[0][:120]}",
                }
                continue
            attempt(row, key, lambda file=file, folder=folder: compiled(file, Path(folder) / "out"))
            if opset > 12:
                attempt(row, f"{key}-facts", lambda file=file: facts_of(file))
    return row


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--again", action="store_true", help="run networks that have a row, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Row] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    end = time.monotonic() + 60 * args.minutes
    for name in (*TORCHVISION, *TIMM):
        if args.only not in name or (name in rows and not args.again) or time.monotonic() > end:
            continue
        try:
            rows[name] = one(name)
        except Exception as error:
            rows[name] = {"name": name, "failed": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps(rows[name]), flush=True)
        RESULTS.write_text(json.dumps(rows, indent=1))
        RESULTS.with_suffix(".md").write_text(markdown(rows))


def _shares(value: Any) -> str:
    return f"{value[0]:.1%} / {value[1]:.1%}" if isinstance(value, list) else "does not run" if value else ""


def markdown(rows: dict[str, Row]) -> str:
    """The table."""
    lines = [
        "# Networks of torchvision and timm at half their channels",
        "",
        "`compile --prune 0.5`: exit 0 is verified; *pair*: also as an NCNN pair. Shares: parameters / multiplications "
        "left at 0.5 by |weight|.",
        "",
        "| network | TorchScript 12 | TorchScript 17 | dynamo 20 | prunable, 17 | prunable, dynamo | global | "
        "Torch-Pruning | per layer | Torch-Pruning | most of what is held, 17 |",
        "|" + "---|" * 11,
    ]
    for name in (*TORCHVISION, *TIMM):
        row = rows.get(name)
        if row is None or "failed" in row:
            lines += [f"| {name} | {row['failed']} |" + " |" * 9] if row else []
            continue
        seventeen, twenty = (_facts(row, key) for key in ("torchscript-17", "dynamo-20"))
        held = "; ".join(f"{n}: {reason}" for reason, n in list(seventeen.get("held", {}).items())[:2])
        cells = [_compiled(row.get(key)) for key in ("torchscript-12", "torchscript-17", "dynamo-20")]
        cells += [f"{facts['prunable']:.1%}" if facts else "" for facts in (seventeen, twenty)]
        cells += [_shares(seventeen.get("global")), _shares(row["tp-global"])]
        cells += [_shares(seventeen.get("layer")), _shares(row["tp-layer"]), held]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _facts(row: Row, key: str) -> Row:
    found = row.get(f"{key}-facts")
    return found if isinstance(found, dict) else {}


def _compiled(found: Any) -> str:
    if not isinstance(found, dict):
        return str(found or "")[:60]
    if found["exit"] != 0:
        return f"exit {found['exit']}: {found.get('remark', '')[-80:]}".replace("|", "/")
    return "0, pair" if "ncnn" in found["emit"] else "0, ONNX only"


if __name__ == "__main__":
    main()
