"""NAME-slim.pt: a pruned network as a checkpoint of Ultralytics, which opens, trains and exports there.

The network is built by the Ultralytics that is installed, from the checkpoint's yaml, in a process of its own, and
narrowed to the tensors that the plan leaves (see `slim_child`, `module_widths`). Its source's pickle is read by our own
reader and never run; nothing of Ultralytics is needed for anything else, or copied.

What it computes is compared before it is handed out: with the compiled graph, or, where there is only a plan, with the
full-width network masked. A copy with one layer 1 % off has to be told apart from it.

Its yaml would rebuild the full-width network, and Ultralytics' own trainer does that without a word. So the yaml in the
file is one of which nothing can be built: whoever tries is shown `GUARD`, which names the trainer that keeps widths.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxslim_yolo import errors
from onnxslim_yolo.errors import InputError, UnsupportedError, UsageError
from onnxslim_yolo.files.atomic import require_file, write_atomically
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.runtime.children import Child
from onnxslim_yolo.runtime.onnx_run import image_like
from onnxslim_yolo.training.apply_plan import apply_plan, read_plan
from onnxslim_yolo.training.repo_checkpoint import is_repository, repo_checkpoint
from onnxslim_yolo.training.slim_compare import Outputs, require_equal, sorted_out

if TYPE_CHECKING:
    from onnxslim_yolo.load.raw_module import RawModule

CHILD = Path(__file__).with_name("slim_child.py")

GUARD = (
    "this network is pruned, and its yaml would build it at full width, untrained; "
    "train it with YOLO(FILE).train(trainer=onnxslim_yolo.training.SlimTrainer, …) or `onnxslim-yolo finetune FILE`"
)
"""Stands where the yaml's first layer would; Ultralytics' parser raises it as the name that it does not know."""

INSTALL = "install ultralytics beside onnxslim-yolo: pip install ultralytics"

TWIN = "one2one_"
"""In the names of towers that have an equal copy without it; of the two one is only trained (YOLOv10, YOLO26)."""


@dataclass(frozen=True)
class SlimCheckpoint:
    """What was built.

    Attributes:
        data: the file's content.
        trainer: what trains it on: the Ultralytics that built it, with its version, or a repository.
        parameters: how many it has.
        worst: the largest difference from what it was compared with, of a column's movement.
    """

    data: bytes
    trainer: str
    parameters: int
    worst: float


def slim_checkpoint(
    source: Path,
    plan: Mapping[str, Any],
    images: Sequence[Array],
    *,
    weights: Mapping[str, Array] | None = None,
    expected: Outputs | None = None,
    sorts: bool = False,
) -> SlimCheckpoint:
    """Build the pruned network as Ultralytics' own module.

    Args:
        source: the checkpoint that the plan was made from.
        plan: the content of NAME.plan.json.
        images: what both networks are run on, each (1, c, h, w).
        weights: tensors by their names that replace the checkpoint's, as compensation has changed them.
        expected: what it has to compute of the images; None: what the source computes with removed channels masked.
        sorts: outputs are sorted by value, so that rounding may exchange rows.

    Raises:
        InputError, UnsupportedError: the checkpoint or the plan are none that can be built so. UsageError: there is no
            Ultralytics. VerificationError: it computes something else.
    """
    from onnxslim_yolo.load.raw_module import read_raw_module

    require_torch()
    raw = read_raw_module(source)
    whole = with_twins(plan, raw.tensors)
    narrow = _overlaid(apply_plan(whole, raw.tensors, file=source), weights or {})
    if is_repository(raw.name):
        removed, cuts = list(whole.get("removed", ())), cuts_of(whole, raw.tensors)
        data, count, worst = repo_checkpoint(
            source, narrow, removed, origin_of(whole, raw), images, cuts=cuts, expected=expected
        )
        return SlimCheckpoint(data, f"{raw.name.rpartition('.')[0]} and its train.py", count, worst)
    require_trainer(raw.name, source)
    request = request_of(raw, whole, mask=expected is None)
    reply, found, data = _built(source, request, raw.tensors, narrow, images)
    wanted = expected if expected is not None else found["masked"]
    worst = require_equal(source, wanted, found, sorts=sorts)
    return SlimCheckpoint(data, f"Ultralytics {reply['version']}", int(reply["parameters"]), worst)


def write_slim_checkpoint(plan: Path, source: Path, out: Path) -> Path:
    """What `onnxslim-yolo apply-plan PLAN CKPT --as ultralytics -o OUT` does. Raises as `slim_from_plan`."""
    return write_atomically(out, slim_from_plan(read_plan(plan), source).data)


def slim_from_plan(plan: Mapping[str, Any], source: Path) -> SlimCheckpoint:
    """A checkpoint of a plan alone: compared with the source, masked.

    Raises:
        InputError: as `slim_checkpoint`, or the plan was made from another file.
    """
    require_its_trainer(source)
    origin = plan.get("source", {}) if isinstance(plan, Mapping) else {}
    require_file(source)
    if not source.is_file():
        raise InputError("no such file", file=source)
    digest = sha256(source.read_bytes()).hexdigest()
    if Path(str(origin.get("file", ""))).suffix == source.suffix and origin.get("sha256") not in (digest, ""):
        raise InputError(
            f"the plan was made from another file of this kind, {origin.get('file')}",
            file=source,
            hint="give that one, or compile this one",
        )
    rng = np.random.default_rng(0)
    images = [image_like((1, 3, SIZE, SIZE), rng) for _ in range(2)]
    return slim_checkpoint(source, plan, images, sorts=any(TWIN in name for name in plan.get("keep", {})))


SIZE = 160
"""Pixels of the images that a network is compared on where nothing is known about its own."""


def require_torch() -> None:
    """Raises UsageError where torch is not installed. It is not imported."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError("torch is not installed", hint=INSTALL)


def require_ultralytics() -> None:
    """Raises UsageError where Ultralytics or torch is not installed. Neither is imported."""
    require_torch()
    if importlib.util.find_spec("ultralytics") is None:
        raise UsageError("ultralytics is not installed", hint=INSTALL)


def require_its_trainer(source: Path) -> None:
    """As `require_trainer`, of the model in a checkpoint; of one that cannot be read, that there is Ultralytics."""
    require_torch()
    from onnxslim_yolo.load.checkpoint import module_record
    from onnxslim_yolo.load.torch_archive import open_archive

    try:
        record = module_record(open_archive(source).root)
    except InputError:  # whoever reads it says so
        record = None
    if record is None:
        require_ultralytics()
    else:
        require_trainer(record.name, source)


def require_trainer(name: str, source: Path) -> None:
    """Raises UnsupportedError for a class of models that no trainer known here trains; UsageError without Ultralytics.

    Args:
        name: the whole model's class, dotted.
    """
    if is_repository(name):
        return
    if not name.startswith("ultralytics."):
        raise UnsupportedError(
            f"a {name} is no model of Ultralytics', YOLOv5 or YOLOv7",
            file=source,
            hint="apply-plan writes the cut tensors for its own trainer; --emit torch writes a module for any",
        )
    require_ultralytics()


def with_twins(plan: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The plan, with towers that are only trained cut as the equal ones that run."""
    keep, shapes = dict(plan.get("keep", {})), dict(plan.get("shapes", {}))
    for name in list(keep):
        for twin in _twins_of(name):
            if twin in tensors and twin not in keep and tensors[twin].shape == tensors[name].shape:
                keep[twin] = keep[name]
                if name in shapes:
                    shapes[twin] = shapes[name]
    return {**plan, "keep": keep, "shapes": shapes}


def _twins_of(name: str) -> list[str]:
    """What a tensor's twin may be called."""
    if TWIN in name:
        return [name.replace(TWIN, "")]
    parts = name.split(".")
    return [".".join([*parts[:k], f"{TWIN}{part}", *parts[k + 1 :]]) for k, part in enumerate(parts)]


def _overlaid(state: dict[str, Any], weights: Mapping[str, Array]) -> dict[str, Array]:
    """The cut tensors, with what the graph has made of them; biases that the graph has added are added."""
    arrays = {name: np.asarray(tensor) for name, tensor in state.items()}
    for name, values in weights.items():
        new_bias = name not in arrays and name.endswith(".bias") and f"{name[:-4]}weight" in arrays
        if new_bias or (name in arrays and arrays[name].shape == values.shape):
            arrays[name] = np.asarray(values, arrays[name].dtype if name in arrays else np.float32)
    return arrays


def cuts_of(plan: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, dict[str, list[int]]]:
    """Per layer whose weight is cut, the channels that stay along each axis; of a grouped one's groups, one by one."""
    cuts: dict[str, dict[str, list[int]]] = {}
    for name, axes in plan["keep"].items():
        if not name.endswith(".weight") or name not in tensors:
            continue
        per = int(tensors[name].shape[1]) if len(tensors[name].shape) > 1 else 0
        cuts[name.removesuffix(".weight")] = {
            axis: kept
            if not isinstance(kept[0], list)
            else [group * per + index for group, part in enumerate(kept) for index in part]
            for axis, kept in axes.items()
        }
    return cuts


def request_of(raw: RawModule, plan: Mapping[str, Any], *, mask: bool) -> dict[str, Any]:
    """What the child is asked for. `mask`: also to run the full-width network, masked."""
    names = raw.attributes.get("names")
    return {
        "class": raw.name.rpartition(".")[2],
        "yaml": raw.yaml,
        "guard": GUARD,
        "cuts": cuts_of(plan, raw.tensors),
        "removed": list(plan.get("removed", ())),
        "bridged": list(plan.get("bridged", ())),
        "mask": mask,
        "task": raw.attributes.get("task") or task_of_class(raw.name),
        "names": sorted(names.items()) if isinstance(names, dict) else None,
        "head": raw.head | _set_to(plan),
        "heads": raw.heads,
        "settings": raw.settings,
        "written_by": raw.facts.get("version"),
        "facts": {key: raw.facts[key] for key in ("license", "docs", "date") if key in raw.facts},
        "pruned_from": origin_of(plan, raw),
    }


def _set_to(plan: Mapping[str, Any]) -> dict[str, bool]:
    """What the head is told where `--towers` chose one of its two sets."""
    towers = plan.get("towers", "file")
    return {} if towers == "file" else {"_end2end": towers == "one-to-one"}


def origin_of(plan: Mapping[str, Any], raw: RawModule) -> dict[str, Any]:
    """Of which file it was pruned, and of which that one."""
    origin, earlier = plan.get("source", {}), raw.attributes.get("pruned_from")
    found = {key: origin.get(key, "") for key in ("file", "sha256")}
    return found | ({"before that": earlier} if isinstance(earlier, dict) else {})


def task_of_class(name: str) -> str:
    """What Ultralytics calls the task of a class of its models, dotted."""
    return _TASKS.get(name.rpartition(".")[2], "detect")


_TASKS = {
    "SegmentationModel": "segment",
    "PoseModel": "pose",
    "OBBModel": "obb",
    "ClassificationModel": "classify",
}


def _built(
    source: Path,
    request: Mapping[str, Any],
    wide: Mapping[str, Any],
    narrow: Mapping[str, Array],
    images: Sequence[Array],
) -> tuple[dict[str, Any], dict[str, Outputs], bytes]:
    """The child's answer, what the networks returned, and the file."""
    environment = {"OMP_NUM_THREADS": "1", "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0"}
    child = Child(CHILD, environment=environment, stderr=subprocess.DEVNULL)
    try:
        files: dict[str, Mapping[str, Any]] = {
            "wide.npz": wide,
            "tensors.npz": narrow,
            "images.npz": {str(i): image for i, image in enumerate(images)},
        }
        for name, arrays in files.items():
            kept: dict[str, Any] = {key: np.asarray(array) for key, array in arrays.items()}
            np.savez(child.folder / name, **kept)
        reply = _ask(child, request, source)
        with np.load(child.folder / "outputs.npz") as held:
            outputs = sorted_out({name: held[name] for name in held.files})
        return reply, outputs, (child.folder / "slim.pt").read_bytes()
    finally:
        child.close()


def _ask(child: Child, request: Mapping[str, Any], source: Path) -> dict[str, Any]:
    line = child.ask(request)
    if not line:
        code = child.process.wait()
        raise InputError(f"the process that builds it with Ultralytics ended without an answer ({code})", file=source)
    reply: dict[str, Any] = json.loads(line)
    if "error" in reply:
        parts = reply["error"]
        kind: type[errors.OnnxSlimError] = getattr(errors, parts["kind"], InputError)
        message = parts["message"] if hasattr(errors, parts["kind"]) else f"Ultralytics fails: {parts['message']}"
        error = kind(message, file=source, node=parts["node"], hint=parts["hint"])
        raise error from RuntimeError(reply["traceback"])
    return reply
