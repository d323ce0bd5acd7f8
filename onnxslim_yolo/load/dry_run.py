"""What a checkpoint's module would compute, on shapes alone: nothing is reserved, however much it would ask for.

A few hundred bytes can describe upsamplings that blow an image up to terabytes, or layers that do not fit each other.
Both are found here, before the module is run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxslim_yolo.analysis.limits import BY_WEIGHTS, Asked
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.load.meta_shapes import shapes_only
from onnxslim_yolo.load.module_effort import Ledger
from onnxslim_yolo.load.trace_check import flatten_outputs

if TYPE_CHECKING:
    from torch import nn

MAX_ELEMENTS = 1 << 28
"""Numbers in one feature map: 1 GiB as float32. YOLOv9-E at 2560 pixels stays below."""

_COARSEST = 64
"""Sides that are multiples of this fit every stride."""

MAX_TOTAL = 1 << 34
"""Numbers in all modules' outputs together, those of nested modules counted at every level."""


def check_sizes(module: nn.Module, shape: tuple[int, ...], asked: Asked = BY_WEIGHTS) -> frozenset[str]:
    """Run `module` on PyTorch's meta device on an input of `shape`. Returns the paths of the modules that it called.

    Raises:
        InputError: the module does not run, a feature map is too large, or it takes more than `asked` allows.
    """
    import torch

    held = {
        name: tensor.to("meta")
        for name, tensor in [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]
    }
    left, ledger = [MAX_TOTAL], Ledger(module, asked)
    begun: list[str] = []
    inside: list[tuple[str, nn.Module]] = []
    hooks = [part.register_forward_pre_hook(_starter(name, begun, inside)) for name, part in module.named_modules()]
    hooks += [part.register_forward_hook(_counter(name, left, ledger, inside)) for name, part in module.named_modules()]

    def called(*call: Any) -> None:
        place, part = inside[-1] if inside else ("", module)
        if not type(part).__module__.startswith("torch.nn."):  # whose calls are counted as the part is
            ledger.add_call(place, *call)

    try:
        with torch.no_grad(), shapes_only(called):
            torch.func.functional_call(module, held, (torch.empty(shape, device="meta"),))
    except InputError:
        raise
    except Exception as error:  # a forward pass over a stranger's attributes raises anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        place = next((part for name, part in module.named_modules() if begun and name == begun[-1]), module)
        raise InputError(
            f"the model does not run on an input of {shape[2]}x{shape[3]} pixels, at a {type(place).__name__}: "
            f"{first[:300]}",
            node=begun[-1] if begun else None,
            hint=_way_out(module, held, shape),
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return frozenset(begun)


def _way_out(module: nn.Module, held: dict[str, Any], shape: tuple[int, ...]) -> str:
    """Another size, if the model runs at one; else its parts do not fit each other."""
    import torch

    height, width = (-(-side // _COARSEST) * _COARSEST for side in shape[2:])
    try:
        with torch.no_grad():
            torch.func.functional_call(module, held, (torch.empty(*shape[:2], height, width, device="meta"),))
    except Exception:
        return (
            "its class of that name is not the one known here, or the file is damaged: register a class of your own "
            "(onnxslim_yolo.models.register_block), or export the model with its own code and compile that file"
        )
    return f"it runs at --imgsz {height},{width}"


def _starter(name: str, begun: list[str], inside: list[tuple[str, nn.Module]]) -> Any:
    def note(part: nn.Module, _inputs: Any) -> None:
        begun.append(name)
        inside.append((name, part))

    return note


def _counter(name: str, left: list[int], ledger: Ledger, inside: list[tuple[str, nn.Module]]) -> Any:
    def count(part: nn.Module, inputs: Any, output: Any) -> None:
        inside.pop()
        for tensor in flatten_outputs(output):
            left[0] -= tensor.numel()
            if tensor.numel() > MAX_ELEMENTS or left[0] < 0:
                raise InputError(
                    f"its feature maps would take more memory than any detector's: {tuple(tensor.shape)}",
                    node=name,
                    hint="a smaller --imgsz, if the file is to be trusted",
                )
        ledger.add(name, part, inputs, output)

    return count
