"""Writes checkpoints as training repositories do: pickled instances of *their* classes.

Our own blocks have the attributes of the repositories' classes, so a model of ours whose classes are swapped for
subclasses living in `models.common` pickles into what such a repository writes. The module is gone when the file is
read, as it is on a user's machine.
"""

from __future__ import annotations

import sys
import types
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from torch import nn  # noqa: TID253

from onnxslim_yolo.models import Block
from onnxslim_yolo.models.registry import _VARIANTS

HOME = "models.common"


def repository_name(cls: type) -> str:
    """The name that a repository gives this class of ours."""
    if cls.__name__ in _VARIANTS:
        return cls.__name__
    return next(name for name, known in _VARIANTS.items() if cls in known)


def _state(part: nn.Module) -> dict[str, Any]:
    """What a repository's class would hold: not what ours make of it when they settle."""
    return {key: value for key, value in vars(part).items() if key not in ("_pixels", "_running")}


@contextmanager
def in_repository(*models: nn.Module, names: dict[str, str] | None = None):
    """While this is open, the models' blocks belong to classes of a module `models.common`.

    `names` renames classes, `{"Conv": "MyConv"}`.
    """
    home = types.ModuleType(HOME)
    sys.modules["models"] = types.ModuleType("models")
    sys.modules[HOME] = home
    original = [(part, part.__class__) for model in models for part in model.modules() if isinstance(part, Block)]
    try:
        for part, cls in original:
            name = repository_name(cls)
            name = (names or {}).get(name, name)
            if not hasattr(home, name) or not issubclass(getattr(home, name), cls):
                own = {"__module__": HOME, "__qualname__": name, "__getstate__": _state}
                setattr(home, name, type(name, (cls,), own))
            part.__class__ = getattr(home, name)
        yield
    finally:
        for part, cls in original:
            part.__class__ = cls
        del sys.modules[HOME], sys.modules["models"]


def save_like_a_trainer(
    path: Path,
    model: nn.Module,
    *,
    key: str = "model",
    half: bool = False,
    extra: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Write `{'epoch': …, key: model}` with torch.save; `options` go to it."""
    names = options.pop("rename", None)
    others = [value for value in (extra or {}).values() if isinstance(value, nn.Module)]
    with in_repository(model, *others, names=names):
        if half:
            model = model.half()
        torch.save({"epoch": 7, "optimizer": None, key: model, **(extra or {})}, path, **options)
        if half:
            model.float()
