"""The commands `sparsify` and `finetune`: the installed Ultralytics, with this package's callbacks or trainer.

This is the user's own trainer in the user's own process: it opens the checkpoint as Ultralytics does, which runs what
the file says. Everything else of this package reads checkpoints without that.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxslim_yolo.errors import BudgetError, InputError, OnnxSlimError, UsageError
from onnxslim_yolo.files.atomic import require_file
from onnxslim_yolo.files.yaml import read_yaml
from onnxslim_yolo.training.slim_checkpoint import require_ultralytics
from onnxslim_yolo.training.slim_trainer import TRIED, SlimTrainer, check_classes, check_teacher
from onnxslim_yolo.training.sparsifying import NOTE, run_checkpoint, sparsify


def train_settings(words: Sequence[str]) -> dict[str, Any]:
    """Ultralytics' arguments as its own command line spells them: `imgsz=320 lr0=0.001 device=0,1`.

    Raises:
        UsageError: a word is no `NAME=VALUE`, or one that the commands set themselves.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.isidentifier():
            raise UsageError(f"'{word}' is no NAME=VALUE", hint="Ultralytics' arguments stand last: imgsz=320 batch=8")
        if name in ("data", "epochs", "model", "resume", "trainer", "distill_model", "pretrained"):
            raise UsageError(f"'{word}': the command sets {name} itself", hint="see --help for its option")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    named = {"true": True, "false": False, "none": None}
    if text.lower() in named:
        return named[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def run_sparsify(
    checkpoint: Path, data: str | None, epochs: int, target: float, settings: Mapping[str, Any], *, resume: bool = False
) -> Path:
    """Train for sparsity. Returns the run's folder.

    Args:
        checkpoint: what is trained; with `resume` the run's folder, or a checkpoint in it.
        data: a data.yaml, or whatever Ultralytics takes.

    Raises:
        UsageError: no Ultralytics, or an argument it does not know. InputError: it stops for the model or the data,
            or because it has diverged. BudgetError: next to nothing is zero, or the accuracy went with it; what was
            trained is there.
    """
    yolo = _opened(checkpoint, resume=resume)
    asked = _asked_before(checkpoint) if resume else {}
    if not resume:
        require_its_classes(yolo, data)
    sparsifier = sparsify(yolo, **({"target": target} | asked))
    more = {"resume": True} if resume else {"data": _required(data), "epochs": epochs, **settings}
    folder = _train(yolo, checkpoint, more)
    if sparsifier.complaint is not None:
        raise BudgetError(sparsifier.complaint, file=checkpoint, hint=f"the run is in {folder}")
    return folder


def run_finetune(
    checkpoint: Path,
    data: str | None,
    epochs: int,
    teacher: Path | None,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
) -> Path:
    """Train a pruned network at its widths. Returns the run's folder. Arguments and errors as `run_sparsify`.

    Args:
        teacher: a network whose features it learns to repeat besides its labels; by Ultralytics' own distillation.

    Raises:
        InputError: the network is not pruned, or the teacher of another task.
    """
    yolo = _opened(checkpoint, resume=resume)
    require_pruned(yolo, checkpoint)
    more: dict[str, Any] = {"resume": True} if resume else {"data": _required(data), "epochs": epochs, **settings}
    if teacher is not None and not resume:
        _require_there(teacher)
        check_teacher(str(yolo.task), teacher)
        more["distill_model"] = str(teacher)
    return _train(yolo, checkpoint, {**more, "trainer": SlimTrainer})


def require_pruned(yolo: Any, checkpoint: Path) -> None:
    """Raises InputError for a network that nothing was pruned from, such as `sparse.pt`, whose zeros still run."""
    if not getattr(getattr(yolo, "model", None), "pruned_from", None):
        raise InputError(
            "is not pruned: trained on it would stay as wide and as slow as it is",
            file=checkpoint,
            hint="compile it with --emit ultralytics and fine-tune the NAME-slim.pt; `yolo train` trains a whole one",
        )


def require_its_classes(yolo: Any, data: str | None) -> None:
    """Raises InputError where a data.yaml at hand has other classes: Ultralytics would begin a new head for them."""
    file = Path(data or "")
    names = read_yaml(file, "data.yaml", "a mapping").get("names") if data and file.is_file() else None
    if isinstance(names, (list, dict)):
        check_classes(getattr(yolo, "model", None), {"names": names, "nc": len(names)})


def _required(data: str | None) -> str:
    if data is None:
        raise UsageError("training needs data", hint="give it with --data data.yaml, or go on with --resume")
    return data


def _require_there(path: Path) -> None:
    """Ultralytics asks the network for a file that it does not find."""
    require_file(path)
    if not path.is_file():
        raise InputError("no such file", file=path)


def _opened(checkpoint: Path, *, resume: bool) -> Any:
    """An `ultralytics.YOLO` of the checkpoint."""
    require_ultralytics()
    path = checkpoint
    if resume and checkpoint.is_dir():
        path = checkpoint / "weights" / "last.pt"
    elif checkpoint.is_dir():
        path = run_checkpoint(checkpoint)
    _require_there(path)
    if path.suffix.lower() not in (".pt", ".pth"):
        raise InputError("is no checkpoint, and nothing else can be trained", file=path, hint="give best.pt")
    try:
        from ultralytics import YOLO
    except Exception as error:  # an old one beside a new setuptools, numpy or torch raises anything
        raise UsageError(f"Ultralytics cannot be imported: {_first_line(error)}", hint=TRIED) from error
    try:
        return YOLO(str(path))
    except Exception as error:  # whatever unpickling meets
        raise InputError(f"Ultralytics does not open it: {_first_line(error)}", file=path) from error


def _asked_before(checkpoint: Path) -> dict[str, Any]:
    """What the run that goes on was asked for."""
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent.parent
    try:
        held = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return {name: float(held[name]) for name in ("target", "settle", "bias_mult")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"holds no {NOTE}: no sparsity training was begun there", file=folder) from error


def _train(yolo: Any, checkpoint: Path, settings: Mapping[str, Any]) -> Path:
    refuse_processes_on_a_cpu(settings)
    try:
        yolo.train(**settings)
    except OnnxSlimError:
        raise
    except SyntaxError as error:  # how Ultralytics says that it does not know an argument
        if "distill_model" in str(error):
            raise UsageError("the installed Ultralytics trains without a teacher only", hint=TRIED) from error
        raise UsageError(f"Ultralytics refuses the arguments: {_first_line(error)}") from error
    except Exception as error:  # anything, from a missing data set to a full disk
        raise InputError(f"Ultralytics stops: {type(error).__name__}: {_first_line(error)}", file=checkpoint) from error
    return Path(yolo.trainer.save_dir)


def refuse_processes_on_a_cpu(settings: Mapping[str, Any]) -> None:
    """Ultralytics' trainer joins several processes over CUDA devices only.

    On a CPU each of those that a launcher has started would train alone, all into one folder.

    Raises:
        UsageError: several were asked for or started, and no CUDA device is there for them.
    """
    device = settings.get("device")
    listed = [str(each).strip() for each in (device if isinstance(device, (list, tuple)) else str(device).split(","))]
    started = int(os.environ.get("WORLD_SIZE", "1") or 1)
    if len(listed) > 1 and "cpu" in listed:
        raise UsageError(f"device={device}: a CPU trains in one process", hint=_ONE_PROCESS)
    if started > 1 and (listed == ["cpu"] or not _has_cuda()):
        raise UsageError(f"{started} processes were started, and they have no CUDA devices", hint=_ONE_PROCESS)


_ONE_PROCESS = "device=cpu, without a launcher; it uses all cores. Several processes need device=0,1 …, CUDA devices"


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _first_line(error: BaseException) -> str:
    text = re.sub(r"\x1b\[[\d;]*m", "", str(error))  # it writes in colours
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
