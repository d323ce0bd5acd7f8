"""A pruned network in anyone's training script: the full-width module that it has built takes the plan's widths.

    model = Model(cfg)                                   # their line: YOLOv5's, YOLOv7's, one's own
    narrow_to(model, "slim-weights.pt")                  # what `onnxslim-yolo apply-plan` has written
    optimizer = …                                        # behind it: the parameters are new ones

Their code is neither changed nor copied; what its blocks read of their widths is set anew (`module_widths`). A script
that builds its model again to resume is handed its own checkpoint's tensors instead:
`narrow_to(model, ckpt["model"].state_dict())`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.training.apply_plan import read_state_dict
from onnxslim_yolo.training.module_widths import narrow

if TYPE_CHECKING:
    from torch import nn

    Network = TypeVar("Network", bound=nn.Module)

HINT = "compile with --depth none, which leaves every layer a channel, and apply that plan"


def narrow_to(module: Network, weights: str | Path | Mapping[str, Any]) -> Network:
    """Give a module the tensors of a narrower one, in place; returns it.

    Args:
        module: built at full width. Its parameters are replaced: make optimisers and averages of it afterwards.
        weights: of `apply-plan`, a file or its content, or the state_dict of a module that has been narrowed before.

    Raises:
        InputError: it lacks a tensor of the module's, or has one of a layer that the module does not have.
    """
    file = weights if isinstance(weights, (str, Path)) else None
    tensors = read_state_dict(Path(file)) if file is not None else dict(weights)  # type: ignore[arg-type]
    own = set(module.state_dict())
    missing = sorted(key for key in own - set(tensors) if not key.endswith("num_batches_tracked"))
    if missing:
        raise InputError(f"lacks {missing[0]}, which the module has", file=file, hint=HINT)
    foreign = sorted(key for key in set(tensors) - own if not key.endswith((".bias", "num_batches_tracked")))
    if foreign:
        raise InputError(f"holds {foreign[0]}, which the module lacks", file=file, hint="build the model of its yaml")
    state = module.state_dict()
    counters = {key: state[key] for key in own - set(tensors)}
    narrow(module, {**counters, **tensors})
    return module
