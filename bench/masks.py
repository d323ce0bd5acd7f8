"""Masks: what `torch.nn.utils.prune` gives, and what removing the masked channels gives.

    python bench/masks.py [--model yolov5n] [--amount 0.5] [--size 640] [--threads 1 2]

`prune.ln_structured` (n = 2, dim = 0) masks a share of every BatchNorm-followed convolution's output channels, and the
same channels of its BatchNorm, so that what is masked is zero and not its β. Compared, all exported to ONNX by PyTorch:

* dense: nothing masked;
* masked: weights are computed from `weight_orig` and `weight_mask`, as after `prune.ln_structured`;
* zeros in place: after `prune.remove`; and the same with masks that agree: one mask for all layers that a shortcut adds
  up (the channels' summed norm decides), which torch does not know and `compile --prune R` does by itself;
* compiled, of the dense one: `compile --prune 0`, so that what fusion gives is not counted as pruning's;
* compiled, of those with zeros: `compile --prune dead`, which removes channels only where the outputs stay the same.
  Where added layers' masks differ, a channel is not dead.

In onnxruntime as exported; in ncnn the exported files go through our emitter. Outputs of masked and compiled are
compared, next to a control with one layer's weights 1 % larger. Writes bench/results/masks.json and .md.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from interleaved import Entry, Facts, arguments, attempt, block, keep, latency_cells, protocol, table, written
from interleaved import through_our_emitter as emitted
from peers_compile import exported
from torch import nn
from torch.nn.utils import prune

from onnxslim_yolo.analysis.channels import analyse_channels
from onnxslim_yolo.ir.graph import input_constant
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load import load
from onnxslim_yolo.load.trace import trace
from onnxslim_yolo.models.blocks_common import Conv
from onnxslim_yolo.models.zoo.architectures import build, randomise
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.pipeline import remainder

HEAD = ("", "ms", "ratio", "quartiles", "weights", "of them zero", "file", "difference from masked")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="yolov5n")
    parser.add_argument("--amount", type=float, default=0.5, help="share of each layer's channels that is masked")
    parser.add_argument("--size", type=int, default=640)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        blocks = blocks_of(options, Path(folder))
    facts = {"model": options.model, "amount": options.amount, "blocks": blocks}
    keep(facts, markdown(facts), options.out, "masks")


def blocks_of(options: argparse.Namespace, folder: Path) -> list[Facts]:
    """Every runtime and number of threads."""
    files = exports(options, folder)
    blocks = []
    for runtime in options.runtimes.split(","):
        place = folder / runtime
        place.mkdir()
        entries = [entry(name, files, place / str(k), runtime) for k, name in enumerate(files)]
        for threads in options.threads:
            blocks.append(block(entries, rounds=options.rounds, threads=threads, runtime=runtime, size=options.size))
    return blocks


def exports(options: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Every variant as ONNX, by name."""

    def fresh() -> nn.Module:
        return randomise(build(options.model, head="raw"), 0)

    def kept(name: str, module: nn.Module) -> Path:
        """With BatchNorms kept: what is compiled."""
        path = folder / f"kept-{name}.onnx"
        trace(module, torch.rand(1, 3, options.size, options.size), path)
        return path

    dense, masked, zeros, agreeing = fresh(), fresh(), fresh(), fresh()
    mask(masked, options.amount)
    remove(mask(zeros, options.amount))
    source = kept("dense", dense)
    remove(mask_together(agreeing, options.amount, load(source)))
    files: dict[str, Path] = {}
    exporting = {"dense": dense, "masked": masked, "zeros in place": zeros, "zeros in place, agreeing": agreeing}
    for name, module in exporting.items():
        files[name] = folder / f"{name.replace(' ', '-')}.onnx"
        onnx.save(exported(module, options.size, fold=True), files[name])
    ratio: float | str
    for name, ratio in (("dense", 0.0), ("zeros in place", "dead"), ("zeros in place, agreeing", "dead")):
        file = source if name == "dense" else kept(name.replace(" ", "-"), exporting[name])
        path = folder / f"compiled-{name.replace(' ', '-')}.onnx"
        files[f"compiled, {name}"] = compiled(file, ratio).save(path)
    return files


def layers_of(module: nn.Module) -> dict[str, Conv]:
    """Convolutions with a BatchNorm behind them, by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, Conv) and part.bn is not None}


def mask(module: nn.Module, amount: float) -> nn.Module:
    """Mask the least channels of every layer by its weights' L2 norm, in place."""
    for part in layers_of(module).values():
        prune.ln_structured(part.conv, "weight", amount=amount, n=2, dim=0)
        mask_norm(part, part.conv.weight_mask.flatten(1).amax(1))
    return module


def mask_together(module: nn.Module, amount: float, model: Model) -> nn.Module:
    """Mask the least coupled channels of every group, by the L2 norm of all filters that make one, in place."""
    channels, layers = analyse_channels(model.graph), layers_of(module)
    filters = {
        use.constant.name.removesuffix(".conv.weight"): use.labels
        for use in channels.uses
        if use.node.op == "Conv" and use.index == 1 and use.role == "out"
    }
    norms = np.zeros(channels.count)
    for name, labels in filters.items():
        if name in layers:
            weight = layers[name].conv.weight.detach().numpy()
            np.add.at(norms, labels, np.square(weight).sum((1, 2, 3)))
    stays = np.ones(channels.count, bool)
    for group in channels.groups:
        if not group.frozen:
            order = group.classes[np.argsort(norms[group.classes], kind="stable")]
            stays[order[: round(amount * len(order))]] = False
    for name, labels in filters.items():
        if name in layers:
            kept = torch.from_numpy(stays[labels].astype(np.float32))
            filters_kept = kept[:, None, None, None].expand_as(layers[name].conv.weight)
            prune.custom_from_mask(layers[name].conv, "weight", filters_kept)
            mask_norm(layers[name], kept)
    return module


def mask_norm(part: Conv, kept: torch.Tensor) -> None:
    """The same mask for γ and β, or a masked channel is β and not zero."""
    for name in ("weight", "bias"):
        prune.custom_from_mask(part.bn, name, kept)


def remove(module: nn.Module) -> nn.Module:
    """`prune.remove` everywhere, in place: the zeros are in the weights then."""
    for part in layers_of(module).values():
        prune.remove(part.conv, "weight")
        for name in ("weight", "bias"):
            prune.remove(part.bn, name)
    return module


def compiled(source: Path, ratio: float | str) -> Model:
    """`compile --prune RATIO`'s graph."""
    model = load(source)
    for step in remainder(CompileOptions(prune=ratio), model):
        step.run(model)
    return model


def entry(name: str, files: dict[str, Path], stem: Path, runtime: str) -> Entry:
    """A row, with what the ONNX file holds and how far its outputs are from those of the masks it stands for."""
    file = files[name]
    action = partial(emitted, file, stem) if runtime == "ncnn" else partial(Path, file)
    if name.startswith("compiled") and runtime == "ncnn":
        action = partial(written, Model.from_onnx(onnx.load(file)), stem, runtime)
    found = attempt(name, action)
    weights = [input_constant(node, 1) for node in load(file).graph.nodes if node.op == "Conv"]
    constants = [weight for weight in weights if weight is not None]
    total = sum(weight.size for weight in constants)
    found.facts = {
        "weights": total, "zero": sum(int((weight == 0).sum()) for weight in constants) / total,
        "bytes": size_on_disk(found.file), "difference": None,
    }  # fmt: skip
    if name != "dense":
        reference = "dense" if name.endswith("dense") else "masked" if "agreeing" not in name else ""
        twin = files[reference or "zeros in place, agreeing"]
        found.facts |= {"difference": difference(file, twin), "control": difference(file, twin, spoil=True)}
    return found


def size_on_disk(file: Path | None) -> int:
    """Bytes of a file, or of an NCNN folder's pair."""
    if file is None:
        return 0
    return sum(f.stat().st_size for f in [file, *file.glob("model.ncnn.*")] if f.is_file())


def difference(file: Path, reference: Path, *, spoil: bool = False) -> float:
    """The largest difference of any output, over its spread; `spoil`: with the first layer's weights 1 % larger."""
    import onnxruntime as ort

    proto = onnx.load(file)
    if spoil:
        name = next(node.input[1] for node in proto.graph.node if node.op_type == "Conv")
        tensor = next(w for w in proto.graph.initializer if w.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.01), name))
    outputs = []
    for content in (proto.SerializeToString(), reference.read_bytes()):
        session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
        (port,) = session.get_inputs()
        image = np.random.default_rng(0).random(port.shape, np.float32)
        outputs.append(session.run(None, {port.name: image}))
    return max(float(np.abs(a - b).max() / b.std()) for a, b in zip(*outputs, strict=True))


def markdown(facts: Facts) -> str:
    lines = [
        f"# Masks: {facts['model']}, {facts['amount']:.0%} of every layer's channels masked",
        "",
        "`torch.nn.utils.prune.ln_structured` on convolutions, their BatchNorms' channels with them; exported by "
        "PyTorch. *compiled*: `--prune dead` (the dense one: `--prune 0`). *agreeing*: layers that a shortcut adds "
        "up share their mask. Ratios are to the dense network as exported. *difference*: of the outputs, from the "
        "masked network's (the dense one's), over their spread; in brackets with one layer's weights 1 % larger.",
        "",
    ]
    for found in facts["blocks"]:
        base = found["rows"][0]
        rows = [
            [
                row["name"], *latency_cells(row), f"{row['weights'] / base['weights']:.3f}", f"{row['zero']:.0%}",
                f"{row['bytes'] / base['bytes']:.2f}",
                "" if row["difference"] is None else f"{row['difference']:.1e} ({row['control']:.1e})",
            ]
            for row in found["rows"]
        ]  # fmt: skip
        title = f"## {found['runtime']}, {found['size']} px, {found['threads']} thread(s)"
        lines += [title, "", protocol(found), "", *table(HEAD, rows)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
