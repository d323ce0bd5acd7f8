"""Every architecture by name, and weights under which every layer matters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, Literal

import torch
from torch import Tensor, nn

from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.models.heads import Head
from onnxslim_yolo.models.heads_dfl import Classify
from onnxslim_yolo.models.yolov6 import YOLOv6
from onnxslim_yolo.models.yolov6_r3 import yolov6_r3
from onnxslim_yolo.models.zoo import classic_mobile, layouts, layouts_more, layouts_tasks
from onnxslim_yolo.models.zoo.classic import ConvNeXt, DenseNet, GoogLeNet, ResNet
from onnxslim_yolo.models.zoo.classic_shuffle import ShuffleNetV1, ShuffleNetV2
from onnxslim_yolo.models.zoo.detectors import RTDETR, YOLOX, NanoDet
from onnxslim_yolo.models.zoo.detectors_anchor import SSD, EfficientDet
from onnxslim_yolo.models.zoo.ppyoloe import PPYOLOE

ARCHITECTURES: Final[dict[str, Callable[[int, float], nn.Module]]] = {
    "yolov3-tiny": layouts.yolov3_tiny,
    "yolov4-tiny": layouts_more.yolov4_tiny,
    "yolov5n": layouts.yolov5n,
    "yolov5n-focus": layouts.yolov5n_focus,
    "yolov5n-seg": layouts.yolov5n_seg,
    "yolov6n": YOLOv6,
    "yolov6n-r3": yolov6_r3,
    "yolov7-tiny": layouts_more.yolov7_tiny,
    "yolov7-rep": layouts_more.yolov7_rep,
    "yolov8n": layouts.yolov8n,
    "yolov8n-seg": layouts.yolov8n_seg,
    "yolov8n-pose": layouts.yolov8n_pose,
    "yolov8n-obb": layouts.yolov8n_obb,
    "yolov8n-cls": layouts.yolov8n_cls,
    "yolov8n-ghost": layouts_tasks.yolov8n_ghost,
    "yolov9t": layouts_more.yolov9t,
    "yolov10n": layouts.yolov10n,
    "yolo11n": layouts.yolo11n,
    "yolo12n": layouts_more.yolo12n,
    "yolo26n": layouts.yolo26n,
    "yolo26n-seg": layouts_tasks.yolo26n_seg,
    "yolo26n-pose": layouts_tasks.yolo26n_pose,
    "yolo26n-obb": layouts_tasks.yolo26n_obb,
    "v5lite-e": layouts_more.v5lite_e,
    "v5lite-s": layouts_more.v5lite_s,
    "v5lite-c": layouts_more.v5lite_c,
    "v5lite-g": layouts_more.v5lite_g,
    "yolox": YOLOX,
    "nanodet": NanoDet,
    "rtdetr": RTDETR,
    "ssd": SSD,
    "efficientdet": EfficientDet,
    "ppyoloe": PPYOLOE,
    "resnet": ResNet,
    "resnet-bottleneck": partial(ResNet, bottleneck=True),
    "regnet": partial(ResNet, bottleneck=True, group_width=8),
    "densenet": DenseNet,
    "googlenet": GoogLeNet,
    "convnext": ConvNeXt,
    "repvgg": classic_mobile.repvgg,
    "mobileone": classic_mobile.mobileone,
    "mobilenetv2": classic_mobile.mobilenetv2,
    "mobilenetv3": classic_mobile.mobilenetv3,
    "efficientnet": classic_mobile.efficientnet,
    "ghostnet": classic_mobile.ghostnet,
    "shufflenetv1": ShuffleNetV1,
    "shufflenetv2": ShuffleNetV2,
}
"""Name → function of (nc, width). `width` 1 is the published nano size."""


def build(
    name: str,
    *,
    nc: int = 80,
    width: float = 1.0,
    seed: int = 0,
    head: Literal["decoded", "raw"] = "decoded",
) -> nn.Module:
    """A model in eval mode with PyTorch's initialisation, the same for the same arguments.

    Args:
        name: a key of `ARCHITECTURES`.
        nc: number of classes.
        width: factor on the published nano size's channels; 1 gives the published parameter count.
        seed: of the weights. The global random state is left alone.
        head: a detector's output, decoded boxes or the maps per level. Backbones ignore it.

    Raises:
        UsageError: unknown name.
    """
    if name not in ARCHITECTURES:
        raise UsageError(f"no architecture is named '{name}'", hint=f"one of: {', '.join(ARCHITECTURES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ARCHITECTURES[name](nc, width)
    for module in model.modules():
        if isinstance(module, (Head, Classify, NanoDet)):
            module.output = head
    return model.eval()


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums come in one order: several threads split them otherwise, and the same seed would give other weights."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def randomise(module: nn.Module, seed: int = 0, dead: float = 0.0, size: int = 96) -> nn.Module:
    """Give a model weights under which activations have about unit scale and every layer shows in the output.

    On freshly initialised weights doubling a convolution changes a YOLO's output by 2e-5: a numeric check would be
    blind. So γ is drawn from [0.5, 1.5], β from [0, 1], and running statistics are those of a batch of noise images
    (half smooth, half white), layer after layer, the variance doubled. A random net is chaotic: with β around zero
    and the plain variance it amplifies rounding a thousandfold (measured: 2e-3 of the output on v9t). With these it
    stays near 1e-5, while 1 % on any convolution's weight moves the output by 1e-2.
    Edits in place and returns `module`, in eval mode.

    Args:
        module: maps (b, 3, size, size) to anything.
        seed: of everything drawn. The global random state is left alone, and the number of threads does not matter.
        dead: share of each BatchNorm's channels whose γ and β become zero.
        size: side of the noise images in pixels, a multiple of 32.
    """
    module.eval()
    random = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=random)

    def calibrate(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None or norm.running_var is None:
            return
        alive = torch.rand(norm.weight.shape, generator=random) >= dead
        norm.weight.copy_(uniform(norm.weight, 0.5, 1.5) * alive)
        norm.bias.copy_(uniform(norm.bias, 0.0, 1.0) * alive)
        axes = [axis for axis in range(inputs[0].dim()) if axis != 1]
        variance, mean = torch.var_mean(inputs[0], axes, correction=0)
        norm.running_mean.copy_(mean)
        # Nearly dead inputs have hardly a variance to divide by: the floor keeps rounding from being blown up.
        norm.running_var.copy_(2 * variance.clamp_min(variance.mean() / 100 + 1e-6))

    with torch.no_grad(), one_thread():
        for part in module.modules():
            if not isinstance(part, nn.BatchNorm2d):
                _draw(part, uniform)
        hooks = [
            part.register_forward_pre_hook(calibrate) for part in module.modules() if isinstance(part, nn.BatchNorm2d)
        ]
        coarse = torch.rand(8, 3, size // 16, size // 16, generator=random)
        images = 0.7 * nn.functional.interpolate(coarse, (size, size), mode="bilinear")
        white = torch.rand(images.shape, generator=random)
        images = torch.cat((images + 0.3 * white, white))
        try:
            module(images)
        finally:
            for hook in hooks:
                hook.remove()
    return module


def _draw(part: nn.Module, uniform: Callable[[Tensor, float, float], Tensor]) -> None:
    """Redraw a module's own learnt tensors, BatchNorm excepted. Fixed tensors (`requires_grad` false) stay."""
    for name, tensor in part.named_parameters(recurse=False):
        if not tensor.requires_grad:
            continue
        if tensor.dim() >= 2 and name == "weight":
            bound = (3.0 / (tensor.numel() / tensor.shape[0])) ** 0.5
            tensor.copy_(uniform(tensor, -bound, bound))
        elif name == "bias":
            tensor.copy_(uniform(tensor, -0.5, 0.5))
        else:  # γ of other norms, layer scale, implicit knowledge
            tensor.copy_(uniform(tensor, 0.5, 1.5))
