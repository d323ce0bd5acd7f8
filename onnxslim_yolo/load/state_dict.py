"""State dictionaries: reading `.safetensors`, undoing prefixes and `torch.nn.utils.prune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from onnxslim_yolo.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

_PREFIXES = ("module.", "_orig_mod.")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, floating point as float32.

    Raises:
        InputError: the `safetensors` package is missing, or the file is damaged.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise InputError("needs the 'safetensors' package", file=path, hint="pip install safetensors") from error
    try:
        tensors = load_file(str(path))
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError, OverflowError) as error:
        raise InputError(f"is no safetensors file ({str(error)[:200]})", file=path) from error
    return tidy_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    )


def tidy_state_dict(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without DataParallel's prefixes, and with masks of `torch.nn.utils.prune` applied.

    Raises:
        InputError: a `…_orig` without its mask.
    """
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    result = {name: tensor for name, tensor in tensors.items() if not name.endswith(("_orig", "_mask"))}
    for name, tensor in tensors.items():
        stem = name.removesuffix("_orig")
        if stem == name:
            continue
        mask = tensors.get(f"{stem}_mask")
        if mask is None or mask.shape != tensor.shape:
            raise InputError(f"'{name}' has no mask of its shape")
        result[stem] = tensor * mask
    return result
