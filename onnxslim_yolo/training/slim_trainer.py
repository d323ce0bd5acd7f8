"""`SlimTrainer`: Ultralytics' own trainer of each task, for a network whose widths are no longer its yaml's.

    from ultralytics import YOLO
    from onnxslim_yolo.training import SlimTrainer

    YOLO("best-slim.pt").train(trainer=SlimTrainer, data="data.yaml", epochs=50)

Its trainer builds the network from its yaml and keeps what fits of the given weights, which of a pruned network
is little. This one trains the network that it is given. Everything else is Ultralytics': losses, augmentation, AMP,
EMA, validation, its run folder, `resume=True`, distillation (`distill_model="best.pt"`).

The class is made when it is first used, from the Ultralytics that is installed; nothing here imports it before.
"""

from __future__ import annotations

import copy
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim_yolo.errors import InputError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from torch import nn

TRAINERS = {
    "detect": "DetectionTrainer",
    "segment": "SegmentationTrainer",
    "pose": "PoseTrainer",
    "obb": "OBBTrainer",
    "classify": "ClassificationTrainer",
}
"""Task → class in `ultralytics.models.yolo.TASK`."""

TRIED = "tried with ultralytics 8.4.190: pip install 'ultralytics>=8.4,<8.5'"


class SlimTrainer:
    """Stands for the trainer of the task at hand: `SlimTrainer(overrides={"task": "segment", …})` is one of those."""

    def __new__(cls, cfg: Any = None, overrides: Any = None, **more: Any) -> Any:
        """An instance of the class for the overrides' task. Raises UsageError where there is no Ultralytics."""
        task = (overrides or {}).get("task") or (cfg.get("task") if isinstance(cfg, dict) else None) or "detect"
        return object.__new__(trainer_class(task) if cls is SlimTrainer else cls)

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> nn.Module:
        """The network that is to be trained: the given one.

        Raises:
            UsageError: there is none (`pretrained=False`). InputError: it has other classes than the data, or a
                teacher of another task.
        """
        if weights is None:
            raise UsageError(
                "a pruned network is trained on from its weights, and there are none",
                hint="start from the .pt that was written, without pretrained=False",
            )
        check_teacher(self.args.task, getattr(self.args, "distill_model", None))  # type: ignore[attr-defined]
        network: nn.Module = copy.deepcopy(getattr(weights, "student_model", weights)).float()
        check_classes(network, self.data)  # type: ignore[attr-defined]
        for parameter in network.parameters():
            parameter.requires_grad = True
        return network


def check_teacher(task: str, teacher: Any) -> None:
    """Raises InputError where a teacher's checkpoint is of another task: its features would be learnt all the same."""
    from onnxslim_yolo.load.checkpoint import module_record
    from onnxslim_yolo.load.torch_archive import open_archive
    from onnxslim_yolo.training.slim_checkpoint import task_of_class

    if not isinstance(teacher, (str, Path)) or not Path(teacher).is_file():
        return  # a network at hand, or one that Ultralytics finds by its name
    try:
        record = module_record(open_archive(Path(teacher)).root)
    except InputError:  # Ultralytics opens it, or says what is wrong
        return
    other = task if record is None else task_of_class(record.name)
    if other != task:
        raise InputError(
            f"the teacher is trained for '{other}', the network for '{task}'",
            file=teacher,
            hint="give the network that it was pruned from",
        )


def check_classes(network: Any, data: Any) -> None:
    """Raises InputError where a network's classes are not the data's."""
    names = getattr(network, "names", None) or {}
    wanted = data.get("names", {})
    wanted = dict(enumerate(wanted)) if isinstance(wanted, (list, tuple)) else wanted
    if len(names) != int(data["nc"]):
        raise InputError(
            f"the data has {data['nc']} classes ({', '.join(map(str, list(wanted.values())[:3]))} …), the network "
            f"{len(names)} ({', '.join(map(str, list(names.values())[:3]))} …)",
            hint="train the full-width network on this data first, then prune that",
        )
    own, theirs = list(map(str, names.values())), list(map(str, wanted.values()))
    if own != theirs and sorted(own) == sorted(theirs):
        at = next(i for i, (a, b) in enumerate(zip(own, theirs, strict=True)) if a != b)
        raise InputError(
            f"the data has the network's classes in another order: {at} is {theirs[at]} there, and {own[at]} here",
            hint="number them in the labels as the network does",
        )


@cache
def trainer_class(task: str) -> type:
    """The trainer of a task, from the installed Ultralytics.

    Raises:
        UsageError: there is no Ultralytics. UnsupportedError: the task has no trainer there, or one that builds its
            network in another way.
    """
    if task not in TRAINERS:
        raise UnsupportedError(f"there is no trainer for the task '{task}'", hint=f"known: {', '.join(TRAINERS)}")
    try:
        base = getattr(import_module(f"ultralytics.models.yolo.{task}"), TRAINERS[task])
    except ImportError as error:
        from onnxslim_yolo.training.slim_checkpoint import INSTALL

        raise UsageError(f"Ultralytics cannot be imported: {error}", hint=INSTALL) from error
    except AttributeError as error:
        raise UnsupportedError(f"the installed Ultralytics has no {TRAINERS[task]}", hint=TRIED) from error
    if not all(callable(getattr(base, name, None)) for name in ("get_model", "setup_model", "save_model")):
        raise UnsupportedError(
            f"{base.__name__} of the installed Ultralytics builds its network in another way", hint=TRIED
        )
    name = f"Slim{TRAINERS[task]}"
    return type(name, (SlimTrainer, base), {"__module__": __name__, "__doc__": f"{TRAINERS[task]}, widths kept."})


def __getattr__(name: str) -> Any:
    """`SlimDetectionTrainer` and its like: the processes of a training on several devices import them by name."""
    for task, base in TRAINERS.items():
        if name == f"Slim{base}":
            return trainer_class(task)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
