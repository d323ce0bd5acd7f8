"""Train a small detector with own blocks on a CPU: the demo's weights, and an example of sparsity training.

    python -m onnxslim_yolo.models.demo.train --data digits --out digits.onnx --sparsity 1.0
    python -m onnxslim_yolo.models.demo.train --data bccd/data.yaml --imgsz 192,256 --out bccd.onnx

AdamW with warm-up and a cosine, light augmentation, an EMA of the weights. With `--sparsity RATE` the γ of `--target`
of the coupled channels are brought to zero between `--push FROM,TO` (shares of the epochs), then the net settles.
Written are NAME.onnx (BatchNorm kept, decoded outputs) and NAME.json (how it was made, mAP). A run that was
interrupted goes on from `--state`, and gives the same weights as one that was not.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from onnxslim_yolo.errors import InputError, OnnxSlimError
from onnxslim_yolo.models.demo.train_data import Augmentation, Images, batches, cache
from onnxslim_yolo.models.demo.train_loss import detection_loss, read_head, start_rare
from onnxslim_yolo.models.demo.train_recipe import Recipe, recipe_from
from onnxslim_yolo.models.heads import Head
from onnxslim_yolo.models.zoo.architectures import build
from onnxslim_yolo.runtime.dataset import Dataset, read_dataset
from onnxslim_yolo.training.sparsity import GammaSparsity, coupled_channels


class Trainer:
    """One training run: the net, its EMA copy, the optimiser, and where it stands."""

    def __init__(self, recipe: Recipe, names: Sequence[str]) -> None:
        self.recipe, self.names, self.epoch, self.seconds = recipe, tuple(names), 0, 0.0
        net: Any = build(recipe.arch, nc=len(names), width=recipe.width, seed=recipe.seed, head="raw")
        grouped = any(isinstance(part, nn.Conv2d) and part.groups > 1 for part in net.modules())
        # channels_last is a tenth faster on a CPU, but torch 2.13's backward of depthwise convolutions corrupts memory.
        self.layout = torch.contiguous_format if grouped else torch.channels_last
        self.net: nn.Module = net.to(memory_format=self.layout)
        self.head = next(part for part in self.net.modules() if isinstance(part, Head))
        start_rare(self.head)
        if recipe.init:
            self.net.load_state_dict(torch.load(recipe.init, weights_only=True)["ema"])
        self.ema = copy.deepcopy(self.net)
        self.steps = 0
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.net, recipe.weight_decay), lr=recipe.lr, fused=True)
        self.sparsity: GammaSparsity | None = None
        if recipe.sparsity:
            coupling = coupled_channels(self.net, torch.zeros(1, 3, *recipe.imgsz))
            self.sparsity = GammaSparsity(
                self.net,
                self.optimizer,
                recipe.sparsity,
                bias_mult=5.0,
                coupling=coupling,
                target=recipe.target,
            )

    def run_epoch(self, images: Images) -> dict[str, float]:
        """Train one epoch; returns the mean losses."""
        begun = time.perf_counter()
        recipe = self.recipe
        random = torch.Generator().manual_seed(recipe.seed * 100_003 + self.epoch)
        self._announce_epoch()
        self.net.train()
        totals: dict[str, float] = {}
        flip = 0.5 if recipe.flips else 0.0
        count = max(len(images) // recipe.batch, 1)
        for number, (pixels, boxes, labels) in enumerate(
            batches(images, recipe.batch, Augmentation(flip_x=flip, flip_y=flip), random)
        ):
            self._set_lr(self.epoch + number / count)
            self.optimizer.zero_grad()
            raw = self.net(pixels.contiguous(memory_format=self.layout))
            loss, parts = detection_loss(read_head(self.head, raw), boxes, labels, recipe.class_gain)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.net.parameters(), 10.0)
            self.optimizer.step()
            self._average()
            for key, value in parts.items():
                totals[key] = totals.get(key, 0.0) + value / count
        self.epoch += 1
        if self.sparsity is not None:
            self.sparsity.apply_zeros(self.ema)
        self.seconds += time.perf_counter() - begun
        return totals

    def save(self, path: Path) -> None:
        """Write everything that resuming needs, completely or not at all."""
        partial = path.with_name(path.name + ".part")
        torch.save(
            {
                "recipe": json.dumps(asdict(self.recipe)),
                "epoch": self.epoch,
                "steps": self.steps,
                "seconds": self.seconds,
                "net": self.net.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "sparsity": None if self.sparsity is None else self.sparsity.state_dict(),
            },
            partial,
        )
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Go on where `save` was called. Raises InputError if that was another recipe."""
        state = torch.load(path, weights_only=True)
        if recipe_from(state["recipe"]) != self.recipe:
            raise InputError("was written by a run with other options", file=path, hint="delete it, or name another")
        self.epoch, self.steps, self.seconds = state["epoch"], state["steps"], state["seconds"]
        self.net.load_state_dict(state["net"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.sparsity is not None:
            self.sparsity.load_state_dict(state["sparsity"])

    def _announce_epoch(self) -> None:
        if self.sparsity is None:
            return
        first, last = (round(share * self.recipe.epochs) for share in self.recipe.push)
        self.sparsity.rate = self.recipe.sparsity if self.epoch >= first else 0.0
        self.sparsity.set_epoch(max(self.epoch - first, 0), max(last - first, 1))

    def _set_lr(self, epoch: float) -> None:
        recipe = self.recipe
        warm = min(1.0, epoch / recipe.warmup + 0.02) if recipe.warmup else 1.0
        cosine = 0.05 + 0.95 * (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.lr * warm * cosine

    def _average(self) -> None:
        self.steps += 1
        decay = self.recipe.ema * (1 - math.exp(-self.steps / 100))
        own, average = (_tensors(net) for net in (self.net, self.ema))
        with torch.no_grad():
            torch._foreach_lerp_(average, own, 1 - decay)


def _tensors(net: nn.Module) -> list[torch.Tensor]:
    """What an average is taken of: parameters and running statistics."""
    return [*net.parameters(), *(buffer for buffer in net.buffers() if buffer.is_floating_point())]


def _parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay for convolutions only: neither biases nor γ and β."""
    matrices = [p for p in net.parameters() if p.requires_grad and p.dim() > 1]
    others = [p for p in net.parameters() if p.requires_grad and p.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def export(net: nn.Module, names: Sequence[str], imgsz: tuple[int, int], path: Path, description: str) -> None:
    """Trace with decoded outputs and BatchNorm kept, and note what the ecosystem's tools look for."""
    import onnx

    from onnxslim_yolo.load.trace import trace

    model = copy.deepcopy(net).eval()
    strides: tuple[float, ...] = (32.0,)
    for part in model.modules():
        if isinstance(part, Head):
            part.output, strides = "decoded", part.stride
    proto = trace(model, torch.zeros(1, 3, *imgsz))
    metadata = {
        "description": description,
        "author": "onnxslim-yolo",
        "license": "Apache-2.0",
        "task": "detect",
        "stride": str(int(max(strides))),
        "batch": "1",
        "imgsz": str(list(imgsz)),
        "names": str(dict(enumerate(names))),
    }
    onnx.helper.set_model_props(proto, metadata)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(proto.SerializeToString(deterministic=True))
    partial.replace(path)


def measure(path: Path, dataset: Dataset) -> dict[str, float]:
    """mAP50 and mAP50-95 of a written file in onnxruntime."""
    from onnxslim_yolo.measure.evaluate import evaluate
    from onnxslim_yolo.verify.detector import Detector, open_network

    result = evaluate(Detector(open_network(path, threads=1)), dataset)
    return {"map50": round(result.map50, 4), "map": round(result.map, 4)}


def train(recipe: Recipe, out: Path, *, state: Path | None = None, every: int = 10) -> dict[str, Any]:
    """Train by a recipe and write `out` and a JSON beside it. Returns what the JSON holds.

    Args:
        recipe: what and how.
        out: the ONNX file.
        state: where to keep what resuming needs, and to resume from if it is there.
        every: measure the EMA copy after so many epochs; 0: at the end only.
    """
    from rich.progress import Progress

    data = _data_file(recipe, out)
    images = cache(read_dataset(data, ("train",)), recipe.imgsz)
    val = read_dataset(data)
    trainer = Trainer(recipe, val.names)
    if state is not None and state.is_file():
        trainer.resume(state)
    described = f"{recipe.arch} trained on {Path(recipe.data).parent.name or recipe.data} by models.demo.train"
    with Progress() as bar:
        task = bar.add_task("training", total=recipe.epochs, completed=trainer.epoch)
        while trainer.epoch < recipe.epochs:
            losses = trainer.run_epoch(images)
            line = f"epoch {trainer.epoch} " + " ".join(f"{key} {value:.3f}" for key, value in losses.items())
            if trainer.sparsity is not None:
                line += f" | {trainer.sparsity.statistics()}"
            if every and trainer.epoch % every == 0:
                line += f" | {_peek(trainer, val)}"
            bar.console.print(line, highlight=False)
            bar.update(task, completed=trainer.epoch)
            if state is not None:
                trainer.save(state)
    export(trainer.ema, val.names, recipe.imgsz, out, described)
    result = {"recipe": asdict(recipe), "seconds": round(trainer.seconds), **measure(out, val)}
    if trainer.sparsity is not None:
        result["gamma"] = str(trainer.sparsity.statistics())
    out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _peek(trainer: Trainer, val: Dataset) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "peek.onnx")
        export(trainer.ema, trainer.names, trainer.recipe.imgsz, path, "")
        return ", ".join(f"{key} {value:.3f}" for key, value in measure(path, val).items())


def _data_file(recipe: Recipe, out: Path) -> Path:
    if recipe.data != "digits":
        return Path(recipe.data)
    from onnxslim_yolo.models.demo.train_digits import write_digits

    return write_digits(out.parent / "digits-data", size=max(recipe.imgsz), seed=recipe.seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    defaults = Recipe()
    parser = argparse.ArgumentParser(
        prog="python -m onnxslim_yolo.models.demo.train", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--data", default=defaults.data, help="digits (made on the spot), or a data.yaml")
    parser.add_argument("--arch", default=defaults.arch, help="a name of models.zoo.architectures")
    parser.add_argument(
        "--init", default=defaults.init, help="the --state of an earlier run, to begin with its weights"
    )
    parser.add_argument("--imgsz", default="192,192", help="h,w in pixels, multiples of 32")
    parser.add_argument("--push", default="0.25,0.7", help="shares of the epochs between which γ are pushed")
    for name in ("width", "lr", "sparsity", "target", "class_gain"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(defaults, name))
    for name in ("epochs", "batch", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    parser.add_argument("--no-flips", action="store_true", help="do not mirror; implied by digits")
    parser.add_argument("--out", type=Path, required=True, help="the ONNX file to write")
    parser.add_argument("--state", type=Path, help="file to resume from and keep the run's state in")
    parser.add_argument("--every", type=int, default=10, help="measure mAP after so many epochs; 0: at the end")
    values = vars(parser.parse_args(arguments))
    out, state, every = values.pop("out"), values.pop("state"), values.pop("every")
    values["flips"] = not values.pop("no_flips") and values["data"] != "digits"
    try:
        values["imgsz"] = tuple(int(part) for part in values["imgsz"].split(","))
        values["push"] = tuple(float(part) for part in values["push"].split(","))
        result = train(Recipe(**values), out, state=state, every=every)
    except OnnxSlimError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
