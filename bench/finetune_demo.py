"""Prune, then fine-tune without labels: the pruned network learns from the one it was cut from.

    python bench/finetune_demo.py models/bccd-sparse.onnx --data bccd/data.yaml --prune 0.7 --epochs 5 \
        --dense models/bccd-dense.onnx --out bench/results/finetune-bccd.json

1. The source is pruned and turned into a trainable module, BatchNorms kept (`onnxslim_yolo.emit.torch`).
2. The module is trained with Adam at 1e-4 on the images of the training split, mirrored and shifted at random; their
   labels are not read. The loss compares its outputs with the source's on the same images: cross entropy for scores
   (and objectness), relative error for boxes, each prediction weighted by the source's score, so that empty cells
   count little. Every eighth image is not trained on: the weights that do best on those are kept, be it the first.
3. It is saved, opened again, traced and compiled, unpruned; mAP is measured on the validation split on
the way.

The same loop serves any model: what is specific to detection is `distillation`, ten lines.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.emit.torch import GraphModule, load_module, module_to_onnx, save_module, to_torch
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.load import LoadOptions, read_model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.measure.evaluate import evaluate
from onnxslim_yolo.models.demo.train_data import Augmentation, Images, batches, cache
from onnxslim_yolo.passes import (
    AbsorbConstants,
    Canonicalise,
    FoldBatchNorm,
    PruneChannels,
    ReparamBranches,
    ShuffleToGather,
    SliceChannels,
    SnapWidths,
)
from onnxslim_yolo.pruning.calibration_images import HELD_OUT
from onnxslim_yolo.runtime.dataset import read_dataset
from onnxslim_yolo.verify.detector import Detector, open_network, open_onnx


def main() -> None:
    arguments = parse()
    torch.manual_seed(arguments.seed)
    source, _ = read_model(arguments.source, LoadOptions())
    PassManager([Canonicalise(), ShuffleToGather(), Canonicalise()]).run(source)
    cut = pruned(source, arguments.prune)
    if arguments.costs:
        found = json.loads(arguments.out.read_text(encoding="utf-8")) | costs(source, cut)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    teacher = to_torch(source)
    student = to_torch(cut)
    size = tuple(teacher.description["inputs"][0]["shape"][2:])
    images = cache(read_dataset(arguments.data, ("train",)), size)
    result: dict[str, Any] = {"source": arguments.source.name, "prune": arguments.prune, "epochs": arguments.epochs}
    result |= costs(source, cut)
    if arguments.dense:
        result["dense"] = measure(open_network(arguments.dense, threads=1), arguments.data)
    result["before pruning"] = measure_module(teacher, arguments.data)
    result["after pruning"] = measure_module(student, arguments.data)
    result["parameters"] = [sum(p.numel() for p in module.parameters()) for module in (teacher, student)]
    print(json.dumps(result), flush=True)
    begun = time.perf_counter()
    tuned = fine_tune(teacher, student, images, arguments)
    result["seconds"] = round(time.perf_counter() - begun)
    with tempfile.TemporaryDirectory() as folder:
        again = load_module(save_module(tuned, Path(folder, "slim.pt")))
    result["after fine-tuning"] = measure_module(again, arguments.data)
    compiled = Model.from_onnx(module_to_onnx(again))
    PassManager([Canonicalise(), ReparamBranches(), FoldBatchNorm(), Canonicalise()]).run(compiled)
    network = open_onnx(compiled.to_onnx().SerializeToString(), Path("fused"), threads=1)
    result["fine-tuned, compiled"] = measure(network, arguments.data)
    print(json.dumps(result))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("source", type=Path, help="ONNX with BatchNorm kept and decoded outputs, or a checkpoint")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dense", type=Path, help="a model to compare with")
    parser.add_argument("--prune", type=float, default=0.7)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-flips", action="store_true", help="for objects that must not be mirrored, such as digits")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--costs", action="store_true", help="train nothing: MACs and latency into what is in --out")
    return parser.parse_args()


def pruned(source: Model, ratio: float) -> Model:
    """A pruned copy, constants compensated, BatchNorms kept."""
    model = source.copy()
    PassManager([PruneChannels(ratio=ratio), SnapWidths(to="none"), AbsorbConstants(), SliceChannels()]).run(model)
    return model


def costs(source: Model, cut: Model) -> dict[str, float]:
    """Shares that are left of MACs, and of the latency as the table predicts it for ncnn on this computer."""
    found = []
    for model in (source.copy(), cut.copy()):
        PassManager([ReparamBranches(), FoldBatchNorm(), Canonicalise()]).run(model)
        found.append((cost_of(model.graph).macs, table_for("ncnn", "host").predict_graph(model.graph)))
    return {name: round(found[1][i] / found[0][i], 4) for i, name in enumerate(("macs", "latency"))}


def fine_tune(teacher: GraphModule, student: GraphModule, images: Images, arguments: argparse.Namespace) -> GraphModule:
    """Train the student on what the teacher says.

    Returns an average of its weights over the last steps, after the epoch when that did best on images held out; or
    the student as it came, if training does no good.
    """
    average = copy.deepcopy(student)
    unseen = set(range(HELD_OUT - 1, len(images), HELD_OUT))
    held = pick(images, sorted(unseen))
    images = pick(images, [index for index in range(len(images)) if index not in unseen])
    best, least = copy.deepcopy(average).eval(), held_out_loss(teacher, average, held, arguments.batch)
    print(f"before: {least:.4f} on images held out", flush=True)
    optimizer = torch.optim.Adam((p for p in student.parameters() if p.requires_grad), lr=arguments.lr)
    steps = arguments.epochs * (len(images) // arguments.batch)
    flip = 0.0 if arguments.no_flips else 0.5
    done = 0
    for epoch in range(arguments.epochs):
        student.train()
        random = torch.Generator().manual_seed(arguments.seed + epoch)
        total = 0.0
        for pixels, _, _ in batches(images, arguments.batch, Augmentation(flip_x=flip, flip_y=flip), random):
            for group in optimizer.param_groups:
                group["lr"] = arguments.lr * (0.05 + 0.95 * (1 + math.cos(math.pi * done / steps)) / 2)
            with torch.no_grad():
                wanted = teacher(pixels)
            optimizer.zero_grad()
            loss = distillation(student(pixels), wanted)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 10.0)
            optimizer.step()
            done += 1
            follow(average, student, min(0.99, done / (done + 10)))
            total += float(loss.detach())
        now = held_out_loss(teacher, average, held, arguments.batch)
        loss_of_epoch = total / max(len(images) // arguments.batch, 1)
        print(f"epoch {epoch + 1}: loss {loss_of_epoch:.4f}, {now:.4f} on images held out", flush=True)
        if now < least:
            best, least = copy.deepcopy(average).eval(), now
    return best


def pick(images: Images, indices: list[int]) -> Images:
    """Some of the images."""
    return Images(images.pixels[indices], *(tuple(of[i] for i in indices) for of in (images.boxes, images.labels)))


def held_out_loss(teacher: GraphModule, student: GraphModule, images: Images, batch: int) -> float:
    """The mean distillation loss of a network in inference, on images as they are."""
    network = copy.deepcopy(student).eval()
    random = torch.Generator().manual_seed(0)
    plain = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    with torch.no_grad():
        losses = [float(distillation(network(x), teacher(x))) for x, _, _ in batches(images, batch, plain, random)]
    return sum(losses) / len(losses)


def follow(average: GraphModule, student: GraphModule, decay: float) -> None:
    own = student.state_dict()
    with torch.no_grad():
        for key, value in average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(own[key], 1 - decay)


def distillation(found: Tensor, wanted: Tensor) -> Tensor:
    """Loss between two decoded outputs: (b, n, 5 + nc) of YOLOv5's head, or (b, 4 + nc, n) of YOLOv8's."""
    joint = found.shape[1] > found.shape[2]
    if not joint:
        found, wanted = found.transpose(1, 2), wanted.transpose(1, 2)
    targets = wanted[..., 4:].clamp(1e-6, 1 - 1e-6)
    scores = found[..., 4:].clamp(1e-6, 1 - 1e-6)
    excess = functional.binary_cross_entropy(scores, targets, reduction="none")
    excess = excess - functional.binary_cross_entropy(targets, targets, reduction="none")
    if joint:  # class scores are conditional: they count where there is an object
        weight = targets[..., 0]
        score = excess[..., 0].sum() + (excess[..., 1:].sum(-1) * weight).sum()
    else:
        weight = targets.amax(-1)
        score = excess.sum()
    side = wanted[..., 2:4].clamp(min=1.0).repeat(1, 1, 2)
    box = ((found[..., :4] - wanted[..., :4]).abs() / side).sum(-1)
    return (score + (box * weight).sum()) / weight.sum().clamp(min=1.0)


def measure(network: Any, data: Path) -> dict[str, float]:
    result = evaluate(Detector(network), read_dataset(data))
    return {"map50": round(result.map50, 4), "map": round(result.map, 4)}


def measure_module(module: GraphModule, data: Path) -> dict[str, float]:
    proto = module_to_onnx(copy.deepcopy(module).eval())
    return measure(open_onnx(proto.SerializeToString(), Path("module"), threads=1), data)


if __name__ == "__main__":
    sys.exit(main())
