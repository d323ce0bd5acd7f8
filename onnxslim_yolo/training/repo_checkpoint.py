"""NAME-slim.pt for the `train.py` of YOLOv5 or YOLOv7: the checkpoint once more, pruned.

It is the source's own tree of modules, their classes by name and their attributes, with the tensors that the plan
leaves and the widths that follow from them. So it opens wherever the source did. `train.py --weights` builds its
network from the yaml in there; the rows of what was cut build it at its widths (see `repo_rows`), which needs this
package installed beside the repository.

Nothing of the repository is imported or run, neither to read the source nor to write the result. What was written is
read again and compared with the compiled graph, or, where there is only a plan, with the full-width network masked.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.files.atomic import private_folder
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.load.checkpoint import module_record, read_checkpoint
from onnxslim_yolo.load.rebuild_module import plain_value
from onnxslim_yolo.load.record_checks import is_module
from onnxslim_yolo.load.records import Record, TensorRecord
from onnxslim_yolo.load.tensors import TensorReader
from onnxslim_yolo.load.torch_archive import open_archive
from onnxslim_yolo.training.module_widths import narrow
from onnxslim_yolo.training.repo_rows import row, shape_of
from onnxslim_yolo.training.slim_compare import Outputs, require_equal

if TYPE_CHECKING:
    from torch import nn

HOME = "models.yolo."
"""Where the whole models' classes of both repositories stand."""

_MAX_DEPTH = 64
_OWN = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_HELD = ("names", "date", "license", "version")


def is_repository(name: str) -> bool:
    """Whether a model's class, by its dotted name, is one of YOLOv5's or YOLOv7's."""
    return name.startswith(HOME)


def repo_checkpoint(
    source: Path,
    cut: Mapping[str, Any],
    removed: Sequence[str],
    origin: Mapping[str, Any],
    images: Sequence[Array],
    *,
    cuts: Mapping[str, Mapping[str, list[int]]],
    expected: Outputs | None = None,
) -> tuple[bytes, int, float]:
    """Write the pruned network as the source's repository would.

    Args:
        source: the checkpoint. cut: the tensors that stay, by their state_dict keys. removed: layers that went whole.
        origin: of which file and hash it was pruned. images: what both networks are run on, each (1, c, h, w).
        cuts: see `slim_checkpoint.cuts_of`.
        expected: what it has to compute of the images; None: what the source computes with removed channels masked.

    Returns:
        The file's content, how many parameters there are, and the largest difference.

    Raises:
        InputError, UnsupportedError: it cannot be built so. VerificationError: it computes something else.
    """
    import torch

    from onnxslim_yolo.training.slim_child import pass_on

    archive = open_archive(source)
    record = module_record(archive.root)
    if record is None:
        raise InputError("holds no model", file=source)
    tree = _Tree(TensorReader(archive))
    model = tree.build(record, 0)
    tensors = {key: torch.from_numpy(np.asarray(value).copy()) for key, value in cut.items()}
    full = model.state_dict()
    before = _identities(model)
    pass_on(model, full.keys() - tensors.keys(), removed)
    gone = sorted(_identities(model) - before)
    narrow(model, tensors)
    model.yaml = narrowed_yaml(record, full, tensors, gone)  # type: ignore[assignment]
    root = archive.root if isinstance(archive.root, dict) else {}
    content = {
        "epoch": -1,
        "best_fitness": None,
        "model": model,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "opt": _plain(root.get("opt")),
        "onnxslim_yolo": dict(origin),
        **{key: root[key] for key in _HELD if isinstance(root.get(key), (str, list))},
    }
    data = saved(content, tree.classes)
    worst = _compared(source, data, images, cuts, expected)
    return data, sum(parameter.numel() for parameter in model.parameters()), worst


def _identities(model: nn.Module) -> set[str]:
    from torch import nn

    return {name for name, part in model.named_modules() if type(part) is nn.Identity}


class _Tree:
    """Makes modules that are nothing but their class's name, attributes and tensors: enough to be cut and pickled."""

    def __init__(self, read: TensorReader) -> None:
        self._read = read
        self._made: dict[int, nn.Module] = {}
        self._classes: dict[str, type[nn.Module]] = {}

    @property
    def classes(self) -> list[type]:
        """Those that are not torch's own."""
        return [kind for kind in self._classes.values() if not kind.__module__.startswith("torch.")]

    def build(self, record: Record, depth: int) -> nn.Module:
        """The record's module. Raises InputError where the tree is too deep."""
        from torch import nn

        if depth > _MAX_DEPTH:
            raise InputError("the model is built to exhaust memory")
        if id(record) in self._made:
            return self._made[id(record)]
        kind = self._class(record.name)
        module = kind.__new__(kind)
        nn.Module.__init__(module)
        self._made[id(record)] = module
        for name, value in record.attributes.items():
            if name in _OWN or not isinstance(name, str):
                continue
            kept, plain = self._value(value, 0)
            if kept:
                module.__dict__[name] = plain
        held = record.attributes
        for name, value in (held.get("_parameters") or {}).items():
            tensor = self._read(value) if isinstance(value, TensorRecord) else None
            module._parameters[name] = None if tensor is None else nn.Parameter(tensor)
        for name, value in (held.get("_buffers") or {}).items():
            module._buffers[name] = self._read(value) if isinstance(value, TensorRecord) else None
        module._non_persistent_buffers_set = set(held.get("_non_persistent_buffers_set") or ())
        for name, child in (held.get("_modules") or {}).items():
            module._modules[name] = self.build(child, depth + 1) if is_module(child) else None
        return module

    def _class(self, name: str) -> type[nn.Module]:
        """torch.nn's own class, or one that is only called so."""
        from torch import nn

        if name not in self._classes:
            home, _, short = name.rpartition(".")
            own = getattr(nn, short, None) if home.startswith("torch.nn.") else None
            if not (isinstance(own, type) and issubclass(own, nn.Module)):
                own = type(short, (nn.Module,), {"__module__": home})
            self._classes[name] = own
        return self._classes[name]

    def _value(self, value: Any, depth: int) -> tuple[bool, Any]:
        """(whether it is something to keep, what it is): numbers, texts, tensors, and containers of such."""
        if isinstance(value, TensorRecord):
            return True, self._read(value)
        if isinstance(value, (list, tuple)) and depth < 4:
            each = [self._value(item, depth + 1) for item in value]
            return all(kept for kept, _ in each), type(value)(item for _, item in each)
        try:
            return True, plain_value(value)
        except InputError:
            return False, None  # an object of the trainer's


def narrowed_yaml(
    record: Record, full: Mapping[str, Any], tensors: Mapping[str, Any], gone: Sequence[str]
) -> dict[str, Any]:
    """The yaml, with rows that build what was cut at its widths.

    Raises:
        InputError, UnsupportedError: its rows are not the model's layers.
    """
    held = record.attributes.get("yaml")
    yaml = plain_value(held) if isinstance(held, dict) else None
    layers = record.attributes["_modules"].get("model")
    below = list(layers.attributes["_modules"].values()) if is_module(layers) else []
    if not isinstance(yaml, dict) or not all(isinstance(yaml.get(part), list) for part in ("backbone", "head")):
        raise InputError("its model has no yaml of rows, so its own trainer cannot build it again", hint=_OTHERWISE)
    rows = [list(each) for each in (*yaml["backbone"], *yaml["head"])]
    if len(rows) != len(below) or not all(len(each) == 4 and isinstance(each[2], str) for each in rows):
        raise UnsupportedError(f"its yaml has {len(rows)} rows for {len(below)} layers", hint=_OTHERWISE)
    for index, (each, layer) in enumerate(zip(rows, below, strict=True)):
        prefix = f"model.{index}."
        shapes = _shapes(prefix, full, tensors)
        out = [name.removeprefix(prefix) for name in gone if name.startswith(prefix)]
        if f"model.{index}" in gone:
            raise UnsupportedError("a whole layer went, which its yaml's other rows count", node=f"model.{index}")
        if not shapes and not out:
            continue
        if isinstance(layer.attributes.get("npr"), int) and len(each[3]) > 3:
            each[3] = [*each[3][:3], layer.attributes["npr"], *each[3][4:]]  # which the parser scales for its own class
        each[2] = row(each[2], shapes, out, repeated=layer.short == "Sequential")
    return {**yaml, "backbone": rows[: len(yaml["backbone"])], "head": rows[len(yaml["backbone"]) :]}


_OTHERWISE = "apply-plan without --as writes the cut tensors alone; --emit torch writes a module"


def _shapes(prefix: str, full: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, list[int | None]]:
    """Of a layer's tensors that were cut, how; those left out that follow from another's."""
    found: dict[str, list[int | None]] = {}
    for key, tensor in tensors.items():
        if not key.startswith(prefix):
            continue
        name, now = key.removeprefix(prefix), list(map(int, tensor.shape))
        if key not in full:
            found[name] = list(now)
        elif shape_of(name, full[key], found) != now:
            was = list(map(int, full[key].shape))
            found[name] = [None if a == b else b for a, b in zip(was, now, strict=True)]
    return found


def saved(content: Mapping[str, Any], classes: Iterable[type]) -> bytes:
    """`torch.save` of instances of classes that only say where they live."""
    import torch

    stream = io.BytesIO()
    with _at_home(classes):
        torch.save(dict(content), stream)
    return stream.getvalue()


@contextmanager
def _at_home(classes: Iterable[type]) -> Iterator[None]:
    """Modules of the classes' names, which pickle looks classes up in, for as long as this is open."""
    homes: dict[str, ModuleType] = {}
    for kind in classes:
        path = kind.__module__.split(".")
        for end in range(1, len(path) + 1):
            homes.setdefault(".".join(path[:end]), ModuleType(".".join(path[:end])))
        setattr(homes[kind.__module__], kind.__name__, kind)
    before = {name: sys.modules.get(name) for name in homes}
    sys.modules.update(homes)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _plain(value: Any) -> dict[str, Any]:
    """The plain entries of the trainer's options."""
    found: dict[str, Any] = {}
    for key, each in value.items() if isinstance(value, dict) else ():
        if isinstance(key, str) and isinstance(each, (bool, int, float, str, list, type(None))):
            found[key] = plain_value(each)
    return found


def _compared(
    source: Path,
    data: bytes,
    images: Sequence[Array],
    cuts: Mapping[str, Mapping[str, list[int]]],
    expected: Outputs | None,
) -> float:
    """What was written, read again, against what it has to compute: the largest difference."""
    import copy

    import torch

    from onnxslim_yolo.training.slim_child import masked, outputs, spoiled

    with private_folder() as folder:
        file = folder / "slim.pt"
        file.write_bytes(data)
        module = read_checkpoint(file).module
    whole = read_checkpoint(source).module
    if module is None or whole is None:
        raise InputError("what was written cannot be read again", file=source)
    inputs = [torch.from_numpy(np.asarray(image)) for image in images]

    def run(network: nn.Module, double: bool = False) -> Outputs:
        given = [image.double() for image in inputs] if double else inputs
        return [[output.float().numpy() for output in outputs(network, image)] for image in given]

    found = {
        "slim": run(module),
        "spoiled": run(spoiled(module)),
        "double": run(copy.deepcopy(module).double(), double=True),
    }
    return require_equal(source, expected if expected is not None else run(masked(whole, cuts)), found, sorts=False)
