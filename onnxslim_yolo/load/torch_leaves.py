"""Modules of `torch.nn` rebuilt from the attributes and tensors a checkpoint holds, through their constructors only.

One row a class. Widths come from the tensors, so a pruned checkpoint's stale `in_channels` does no harm; constructing
on the meta device neither reserves memory nor draws random numbers. `inplace` is dropped: it changes no result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from onnxslim_yolo.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

Values: TypeAlias = Mapping[str, Any]
Tensors: TypeAlias = "Mapping[str, Tensor | None]"

_PLAIN: dict[str, tuple[str, ...]] = {
    "Identity": (),
    "ReLU": (),
    "ReLU6": (),
    "SiLU": (),
    "Mish": (),
    "Hardswish": (),
    "Hardsigmoid": (),
    "Sigmoid": (),
    "Tanh": (),
    "GELU": ("approximate",),
    "ELU": ("alpha",),
    "LeakyReLU": ("negative_slope",),
    "CELU": ("alpha",),
    "SELU": (),
    "Softsign": (),
    "LogSigmoid": (),
    "Hardtanh": ("min_val", "max_val"),
    "Softplus": ("beta", "threshold"),
    "Softmax": ("dim",),
    "MaxPool2d": ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    "AvgPool2d": ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    "AdaptiveAvgPool2d": ("output_size",),
    "AdaptiveMaxPool2d": ("output_size",),
    "Upsample": ("size", "scale_factor", "mode", "align_corners"),
    "ZeroPad2d": ("padding",),
    "ConstantPad2d": ("padding", "value"),
    "Dropout": ("p",),
    "Dropout2d": ("p",),
    "Flatten": ("start_dim", "end_dim"),
    "PixelShuffle": ("upscale_factor",),
    "PixelUnshuffle": ("downscale_factor",),
    "ChannelShuffle": ("groups",),
}
"""Classes without tensors, and the constructor's arguments that are attributes of the same name."""

_RENAMED = {
    "Swish": "SiLU",
    "MemoryEfficientSwish": "SiLU",
    "MemoryEfficientMish": "Mish",
    "SyncBatchNorm": "BatchNorm2d",
    "UpsamplingNearest2d": "Upsample",
}
_LIMITS = {
    "size": 1024,
    "output_size": 1024,
    "scale_factor": 16,
    "padding": 1024,
    "upscale_factor": 16,
    "downscale_factor": 16,
}
_CONVOLUTION = ("stride", "padding", "dilation", "groups", "padding_mode")
_DECONVOLUTION = ("stride", "padding", "output_padding", "dilation", "groups")
_READ = {
    "Conv2d": _CONVOLUTION,
    "ConvTranspose2d": _DECONVOLUTION,
    "BatchNorm2d": ("eps", "momentum"),
    "GroupNorm": ("eps", "num_groups"),
}
"""Of the classes with tensors."""

_LEAST = {"kernel_size": 1, "stride": 1, "dilation": 1, "groups": 1, "output_padding": 0}


def known_leaf(name: str) -> str | None:
    """The `torch.nn` class that stands for a dotted class name, or None.

    Repositories' own activations (`utils.activations.Hardswish`) may stand for torch's of that name: whether they do,
    `own_activations` says.
    """
    short = name.rpartition(".")[2]
    renamed = _RENAMED.get(short, short)
    if name.startswith("torch.nn.") or short in _RENAMED:
        return renamed if renamed in _PLAIN or renamed in _WITH_TENSORS else None
    return renamed if renamed in _OWN_ACTIVATIONS else None


def leaf_arguments(kind: str) -> tuple[str, ...]:
    """The attributes that a leaf without tensors is rebuilt from."""
    return _PLAIN.get(kind, ())


def leaf_reads(kind: str) -> frozenset[str]:
    """Every attribute that decides what a leaf computes."""
    return frozenset(_PLAIN.get(kind) or _READ.get(kind, ()))


def build_leaf(kind: str, attributes: Values, tensors: Tensors) -> nn.Module:
    """A module of class `kind` (from `known_leaf`).

    Raises:
        InputError: tensors are missing or attributes make no sense.
    """
    from onnxslim_yolo.models.leaves import leaf_class

    try:
        if kind in _PLAIN:
            _refuse_more(tensors, ())
            arguments = _arguments(attributes, _PLAIN[kind])
            return leaf_class(kind, arguments)(**arguments)
        return _filled(_WITH_TENSORS[kind](attributes, tensors), tensors)
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError, AttributeError) as error:
        raise InputError(f"torch.nn.{kind} cannot be rebuilt from its attributes ({error})") from error


def _arguments(attributes: Values, names: tuple[str, ...]) -> dict[str, Any]:
    chosen = {name: attributes[name] for name in names if name in attributes}
    for name, value in chosen.items():
        limit = _LIMITS.get(name, 1 << 16)
        least = 0 if name == "padding" and "stride" in names else _LEAST.get(name)  # other padding may cut
        for part in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(part, (int, float)) and not abs(part) <= limit:
                raise ValueError(f"{name} = {part}")
            if least is not None and isinstance(part, (int, float)) and part < least:
                raise ValueError(f"{name} = {part}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in chosen.items()}


def _filled(module: nn.Module, tensors: Tensors) -> nn.Module:
    """The meta module with its tensors put in; their shapes have to be the module's."""
    from torch import nn

    for name, slot in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        tensor = tensors.get(name)
        if tensor is None and name == "num_batches_tracked":
            tensor = slot.new_zeros((), device="cpu")
        if tensor is None or tensor.shape != slot.shape:
            found = "none" if tensor is None else str(tuple(tensor.shape))
            raise ValueError(f"{name} should have shape {tuple(slot.shape)}, found {found}")
        if isinstance(slot, nn.Parameter):
            module.register_parameter(name, nn.Parameter(tensor))
        else:
            module.register_buffer(name, tensor)
    _refuse_more(tensors, [*dict(module.named_parameters()), *dict(module.named_buffers()), "num_batches_tracked"])
    return module


def _refuse_more(tensors: Tensors, expected: Collection[str]) -> None:
    """A reparametrised weight, a learnt slope: what such a class does with it is not what torch's does."""
    more = [name for name, tensor in tensors.items() if tensor is not None and name not in expected]
    if more:
        raise ValueError(f"it holds more than torch's: {', '.join(more)}")


def _weight(tensors: Tensors, name: str = "weight", dims: int | None = None) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None or (dims is not None and tensor.dim() != dims):
        raise ValueError(f"a tensor '{name}' of {dims} dimensions is needed")
    return tensor


def _conv(attributes: Values, tensors: Tensors) -> nn.Module:
    from torch import nn

    filters, channels, *kernel = _weight(tensors, dims=4).shape
    arguments = _arguments(attributes, _CONVOLUTION)
    return nn.Conv2d(
        channels * int(arguments.get("groups", 1)),
        filters,
        tuple(kernel),  # type: ignore[arg-type]
        bias=tensors.get("bias") is not None,
        device="meta",
        **arguments,
    )


def _deconv(attributes: Values, tensors: Tensors) -> nn.Module:
    from torch import nn

    channels, filters, *kernel = _weight(tensors, dims=4).shape
    arguments = _arguments(attributes, _DECONVOLUTION)
    return nn.ConvTranspose2d(
        channels,
        filters * int(arguments.get("groups", 1)),
        tuple(kernel),  # type: ignore[arg-type]
        bias=tensors.get("bias") is not None,
        device="meta",
        **arguments,
    )


def _batch_norm(attributes: Values, tensors: Tensors) -> nn.Module:
    from torch import nn

    mean = _weight(tensors, "running_mean", dims=1)
    arguments = _arguments(attributes, ("eps", "momentum"))
    return nn.BatchNorm2d(mean.shape[0], affine=tensors.get("weight") is not None, device="meta", **arguments)


def _group_norm(attributes: Values, tensors: Tensors) -> nn.Module:
    from torch import nn

    width = _weight(tensors, dims=1).shape[0]
    arguments = _arguments(attributes, ("eps",))
    return nn.GroupNorm(int(attributes["num_groups"]), width, device="meta", **arguments)


def _linear(_: Values, tensors: Tensors) -> nn.Module:
    from torch import nn

    rows, columns = _weight(tensors, dims=2).shape
    return nn.Linear(columns, rows, bias=tensors.get("bias") is not None, device="meta")


def _prelu(_: Values, tensors: Tensors) -> nn.Module:
    from torch import nn

    return nn.PReLU(_weight(tensors, dims=1).shape[0], device="meta")


_WITH_TENSORS: dict[str, Callable[[Values, Tensors], nn.Module]] = {
    "Conv2d": _conv,
    "ConvTranspose2d": _deconv,
    "BatchNorm2d": _batch_norm,
    "GroupNorm": _group_norm,
    "Linear": _linear,
    "PReLU": _prelu,
}
_OWN_ACTIVATIONS = frozenset({"SiLU", "Mish", "Hardswish", "Hardsigmoid"})

LEAVES = frozenset(_PLAIN) | frozenset(_WITH_TENSORS)
"""Every class that `build_leaf` knows."""
