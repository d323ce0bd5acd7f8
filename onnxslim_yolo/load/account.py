"""Whether everything a checkpoint holds took part when the rebuilt model ran.

A class is known here by its name, and two repositories may give one name to two things. What tells them apart is what
they hold: a Bottleneck with a third convolution is not the one known here, however well it runs without it. So every
parameter and buffer must be in the traced graph, and every leaf (activations, pools) must have been called, but for
what a block says that only training uses (`Block.idle`), and for what does nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from typing import TYPE_CHECKING

import onnx

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.graph import TRANSPOSED

if TYPE_CHECKING:
    from torch import nn

_IDLE = ("Identity", "Dropout", "Dropout2d", "Sequential", "ModuleList")
"""Leaves that do nothing in inference, and empty containers."""
_COUNTERS = ("num_batches_tracked",)
_MAX_NAMED = 12

_HINT = (
    "register a class of your own under that name, which goes before ours (onnxslim_yolo.models.register_block), or "
    "export the model with its own code and compile that file"
)


def account(
    module: nn.Module, proto: onnx.ModelProto, called: Collection[str], shape: tuple[int, ...]
) -> tuple[str, ...]:
    """Check that a rebuilt model uses what it holds. Returns notes on what serves training only, and what is assumed.

    Args:
        module: the rebuilt model.
        proto: its trace, initializers named as in the state_dict.
        called: paths of the modules that were called when it ran.
        shape: of its input.

    Raises:
        InputError: something trained, or an activation, was not reached; all of it is named.
    """
    traced = {tensor.name.removesuffix(TRANSPOSED) for tensor in proto.graph.initializer}
    idle = _idle_paths(module)
    parts = dict(_parts(module, traced, called))
    left = {
        path
        for path, used in parts.items()
        if not used and not any(path == each or path.startswith(f"{each}.") for each in idle)
    }
    renamed = _differentiable(module, left, shape) if left else set()
    left -= renamed
    reached = {above for path, used in parts.items() if used for above in _ancestors(path)} | {""}
    if left:
        raise InputError(_message(module, sorted({_topmost(path, reached) for path in left})), hint=_HINT)
    return (*_note_idle(module, {*traced, *renamed}), *_note_assumed(module))


def _parts(module: nn.Module, traced: Collection[str], called: Collection[str]) -> Iterator[tuple[str, bool]]:
    """Every tensor and every leaf, and whether it took part."""
    for name, _ in (*module.named_parameters(), *module.named_buffers()):
        if name.rpartition(".")[2] not in _COUNTERS:
            yield name, name in traced
    for path, part in module.named_modules():
        if path and type(part).__name__ not in _IDLE and next(part.children(), None) is None:
            yield path, path in called


def _differentiable(module: nn.Module, names: Collection[str], shape: tuple[int, ...]) -> set[str]:
    """Those tensors on which an output depends. Exporters rename what they fold a reshape into: a PReLU's slopes.

    Found by differentiating on the meta device, where no number is computed.
    """
    import torch

    from onnxslim_yolo.load.trace_check import flatten_outputs

    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]
    held = {name: tensor.detach().to("meta") for name, tensor in tensors}
    asked = [name for name in names if name in held and held[name].is_floating_point()]
    for name in asked:
        held[name].requires_grad_(True)
    if not asked:
        return set()
    with torch.enable_grad():
        outputs = flatten_outputs(torch.func.functional_call(module, held, (torch.empty(shape, device="meta"),)))
        depending = [output for output in outputs if output.requires_grad]
        if not depending:
            return set()
        total = torch.stack([output.sum() for output in depending]).sum()
        found = torch.autograd.grad(total, [held[name] for name in asked], allow_unused=True)
    return {name for name, gradient in zip(asked, found, strict=True) if gradient is not None}


def _idle_paths(module: nn.Module) -> set[str]:
    from onnxslim_yolo.models.registry import Block

    found: set[str] = set()
    for path, part in module.named_modules():
        patterns = part.idle() if isinstance(part, Block) else ()
        if patterns:
            own = (*dict(part.named_children()), *part._parameters, *part._buffers)
            chosen = {name for name in own if any(fnmatch(name, pattern) for pattern in patterns)}
            below = {pattern for pattern in patterns if "." in pattern}  # a place further down
            found |= {f"{path}.{name}".lstrip(".") for name in chosen | below}
    return found


def _ancestors(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _topmost(path: str, reached: Collection[str]) -> str:
    """The highest module above a path of which nothing took part, or the path."""
    while (above := path.rpartition(".")[0]) and above not in reached:
        path = above
    return path


def _message(module: nn.Module, paths: list[str]) -> str:
    count = {path: sum(1 for key in module.state_dict() if f"{key}.".startswith(f"{path}.")) for path in paths}
    modules = dict(module.named_modules())
    shown = []
    for path in paths[:_MAX_NAMED]:
        kind = type(modules[path]).__name__ if path in modules else "tensor"
        owner = type(modules[path.rpartition(".")[0]]).__name__
        tensors = f", {count[path]} tensors" if path in modules and count[path] else ""
        shown.append(f"{path} ({kind}{tensors}, in a {owner})")
    more = f" and {len(paths) - len(shown)} more" if len(paths) > len(shown) else ""
    return (
        "the checkpoint holds parts that no call reached when it was rebuilt from the classes known here, so these "
        f"are not what it was trained with: {', '.join(shown)}{more}"
    )


def _note_idle(module: nn.Module, traced: Collection[str]) -> tuple[str, ...]:
    """A note on the modules that hold parameters of which none is in the graph: training-only branches."""
    owned = {name: [key for key, _ in part.named_parameters(name)] for name, part in module.named_modules()}
    idle = [name for name, keys in owned.items() if keys and not any(key in traced for key in keys)]
    topmost = [name for name in idle if not any(name.startswith(f"{other}.") for other in idle)]
    if not topmost:
        return ()
    count = sum(key.startswith(tuple(f"{name}." for name in topmost)) for key in module.state_dict())
    left = {name.rpartition(".")[2] for name in topmost}
    why = "they serve training"
    if "cv2" in left and any("one2one_cv2." in key for key in traced):
        why = "one-to-one copies run in their place; the rest serves training"
    elif "one2one_cv2" in left:
        why = "the head is set to one-to-many, _end2end = False, whose boxes need NMS; the one-to-one copies do not run"
    return (f"{count} tensors of modules that do not run are not in the graph: {', '.join(topmost)} ({why})",)


def _note_assumed(module: nn.Module) -> tuple[str, ...]:
    """A note on activations that the checkpoint does not hold, since its code calls functions."""
    from onnxslim_yolo.models.registry import Block

    found: dict[tuple[str, str], list[str]] = {}
    for path, part in module.named_modules():
        if isinstance(part, Block) and (what := part.assumed()):
            found.setdefault((what, type(part).__name__), []).append(path)
    return tuple(
        f"{what} is assumed in {len(paths)} {kind} block(s) ({', '.join(paths[:4])}{', …' if len(paths) > 4 else ''}): "
        "the checkpoint does not hold their activations; --reference compares with your own export"
        for (what, kind), paths in found.items()
    )
