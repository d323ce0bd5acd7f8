"""Writes checkpoints with a real Ultralytics, as its trainer does, and what it computes with them.

Runs in an environment of its own: `python write_ultralytics.py FOLDER yolov8n yolo11n …`. For each name it writes
`NAME.pt`, `NAME.yaml` and `NAME.reference.pt` ({'x': image, 'outputs': tensors, 'towers': the maps before decoding of a
model with two heads}).
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch  # noqa: TID253
from torch import nn  # noqa: TID253


def calibrate(model: nn.Module, random: torch.Generator, size: int) -> None:
    """BatchNorm statistics of real activations and varied γ, β, so that every layer shows in the output.

    β is positive and the variance doubled, or a deep random net would amplify rounding a thousandfold.
    """

    def hook(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0], [0, 2, 3], correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(2 * variance.clamp(min=1e-2))
        norm.weight.data.copy_(torch.rand(norm.weight.shape, generator=random) + 0.5)
        norm.bias.data.copy_(torch.rand(norm.bias.shape, generator=random))

    hooks = [m.register_forward_pre_hook(hook) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        model(torch.rand(2, 3, size, size, generator=random))
    for each in hooks:
        each.remove()


def soften(head: nn.Module) -> None:
    """Scores away from 0 and 1: ties among saturated scores would make the order of the best ones arbitrary."""
    for name in ("cv3", "one2one_cv3"):
        for tower in getattr(head, name, None) or ():
            tower[-1].weight.data *= 0.02
            tower[-1].bias.data.zero_()


def towers(head: nn.Module, x: torch.Tensor, model: nn.Module) -> list[torch.Tensor]:
    """What the one-to-one towers give, per level boxes and scores side by side; empty if there are none."""
    caught: dict[tuple[str, int], torch.Tensor] = {}
    hooks = [
        tower[-1].register_forward_hook(lambda _m, _i, y, key=(name, level): caught.__setitem__(key, y))
        for name in ("one2one_cv2", "one2one_cv3")
        for level, tower in enumerate(getattr(head, name, None) or ())
    ]
    with torch.no_grad():
        model(x)
    for each in hooks:
        each.remove()
    levels = range(len(caught) // 2)
    return [torch.cat((caught["one2one_cv2", i], caught["one2one_cv3", i]), 1) for i in levels]


def flatten(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for item in items for tensor in flatten(item)]


def write(name: str, folder: Path) -> None:
    import ultralytics
    import yaml

    torch.manual_seed(0)
    random = torch.Generator().manual_seed(1)
    model = ultralytics.YOLO(f"{name}.yaml").model.eval()
    head = model.model[-1]
    if getattr(head, "one2one_cv2", None) is not None:
        head.end2end = True
    size = 256 if name.endswith("-p6") else 224
    calibrate(model, random, size)
    soften(head)
    model = model.half().float()
    head = model.model[-1]
    x = torch.rand(1, 3, size, size, generator=random)
    exported = copy.deepcopy(model)
    for module in exported.modules():
        if hasattr(module, "export"):
            module.export, module.format = True, "onnx"
    with torch.no_grad():
        outputs = flatten(exported(x))
    raw = towers(head, x, model)
    torch.save({"x": x, "outputs": outputs, "towers": raw}, folder / f"{name}.reference.pt")
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(model.yaml))
    checkpoint = {
        "epoch": -1,
        "best_fitness": None,
        "model": None,
        "ema": copy.deepcopy(model).half(),
        "updates": 3,
        "optimizer": torch.optim.SGD(model.parameters(), 0.01, momentum=0.9).state_dict(),
        "scaler": {},
        "train_args": {"imgsz": size, "data": "coco8.yaml"},
        "train_metrics": {"fitness": 0.1},
        "train_results": {"epoch": [1, 2]},
        "date": "2026-01-01T00:00:00",
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
    }
    torch.save(checkpoint, folder / f"{name}.pt")


if __name__ == "__main__":
    for each in sys.argv[2:]:
        write(each, Path(sys.argv[1]))
