"""The plan by which a pruned network was cut from its teacher: the given one, or the one that lies beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxslim_yolo.errors import InputError, OnnxSlimError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.pruning.plan import FORMAT, READABLE
from onnxslim_yolo.training.apply_plan import read_plan


def plan_for(model: Path, teacher: Model, given: Path | None) -> Mapping[str, Any] | None:
    """The plan's content; None where none is given and none beside the model was made from the teacher.

    Raises:
        InputError: the given one is no plan, or was made from another file.
    """
    if given is None:
        beside = sorted(model.parent.glob("*.plan.json")) if model.parent.is_dir() else []
        return next((plan for plan in map(_readable, beside) if plan is not None and _is_of(plan, teacher)), None)
    plan = read_plan(given)
    if not isinstance(plan, Mapping) or plan.get("format") != FORMAT or plan.get("version") not in READABLE:
        raise InputError("is no plan of this package's", file=given, hint="give a NAME.plan.json")
    origin = plan.get("source")
    file = str(origin.get("file", "")) if isinstance(origin, Mapping) else ""
    if Path(file).suffix == Path(teacher.source.file).suffix and not _is_of(plan, teacher):
        raise InputError(
            f"was made from another file of this kind, {file}", file=given, hint="give that one as --teacher"
        )
    return plan


def _readable(path: Path) -> Mapping[str, Any] | None:
    try:
        plan = read_plan(path)
    except OnnxSlimError:
        return None  # not asked for
    known = isinstance(plan, Mapping) and plan.get("format") == FORMAT and plan.get("version") in READABLE
    return plan if known else None


def _is_of(plan: Mapping[str, Any], teacher: Model) -> bool:
    origin = plan.get("source")
    return isinstance(origin, Mapping) and origin.get("sha256") == teacher.source.sha256
