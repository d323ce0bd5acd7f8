"""A pruned network as a trainable PyTorch module: the class, and how a saved one is read.

The module walks a *description*: plain lists and numbers that say which operator runs on what. Its parameters live in a
tree of modules built from their names, so `model.0.conv.weight` is a parameter of `nn.Conv2d` at `model.0.conv`, and
the state_dict's keys are those of the source. `emit.torch` makes and saves them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch  # noqa: TID253 (the file is only imported by those who want torch)
from torch import Tensor, nn  # noqa: TID253

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.ir.attributes import attributes, window_numbers
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.load.dry_run import check_sizes
from onnxslim_yolo.load.graph_ops import OPS, same_padding
from onnxslim_yolo.load.saved_module import FORMAT, VERSION, Description
from onnxslim_yolo.load.tensors import TensorReader
from onnxslim_yolo.load.torch_archive import open_archive
from onnxslim_yolo.load.trace import trace

_REFUSALS = (RuntimeError, ValueError, TypeError, LookupError)
"""What torch raises on what it does not take: sizes, types, windows, modes of padding."""
_WITHOUT = "leave torch out of --emit, or apply the plan to your own module with apply-plan"


class GraphModule(nn.Module):
    """The network that a description spells: takes the graph's inputs, returns its outputs (one alone, several as a
    tuple).

    In training mode BatchNorms use and update statistics of the batch; the batch may have any size.
    """

    def __init__(self, description: Description, weights: Mapping[str, Tensor]) -> None:
        """Build the tree of modules, filled with `weights` (names as in the description)."""
        super().__init__()
        self._description = description
        for number, node in enumerate(description["nodes"]):
            _plant(self, node, weights, number)
        for key in description["loose"]:
            _set_parameter(self, key, weights[key], trainable=key not in description["fixed"])
        for key in description["constants"]:
            self.register_buffer(buffer_name(key), weights[key].clone(), persistent=False)

    @property
    def description(self) -> Description:
        """What the module computes, as plain data."""
        return self._description

    @property
    def metadata(self) -> dict[str, str]:
        """The file's metadata that the graph came with (names, stride, image size)."""
        return dict(self._description["metadata"])

    def example(self, batch: int = 1) -> Tensor:
        """Zeros of the shape that the graph was made for: (batch, c, h, w)."""
        return torch.zeros(batch, *self._description["inputs"][0]["shape"][1:])

    def forward(self, *inputs: Tensor) -> Any:
        """The graph's outputs for its inputs."""
        outputs = self.values(self._description["outputs"], *inputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def values(self, names: Sequence[str], *inputs: Tensor) -> tuple[Tensor, ...]:
        """Any of the graph's tensors for its inputs, by their names."""
        given = self._description["inputs"]
        found: dict[str, Any] = {port["name"]: x for port, x in zip(given, inputs, strict=True)}
        for node in self._description["nodes"]:
            self._run(node, found)
        return tuple(found[name] for name in names)

    def _run(self, node: Mapping[str, Any], values: dict[str, Any]) -> None:
        try:
            if node["module"]:
                result = self.get_submodule(node["module"])(values[node["inputs"][0]["value"]])
            else:
                arguments = [self._argument(source, values) for source in node["inputs"]]
                result = OPS[node["op"]](arguments, attributes(node["op"], node["attributes"]))
        except UnsupportedError as error:
            raise UnsupportedError(error.message, node=node["name"], hint=error.hint or _WITHOUT) from error
        except torch.OutOfMemoryError:
            raise
        except _REFUSALS as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            message = f"torch does not run this {node['op']}: {said}"
            raise UnsupportedError(message, node=node["name"], hint=_WITHOUT) from error
        results = result if isinstance(result, tuple) else (result,)
        for name, value in zip(node["outputs"], results, strict=False):
            values[name] = value

    def _argument(self, source: Mapping[str, Any] | None, values: Mapping[str, Any]) -> Any:
        if source is None:
            return None
        if "value" in source:
            return values[source["value"]]
        if "static" in source:
            return np.asarray(source["static"], dtype=source["dtype"])
        if "constant" in source:
            return self.get_buffer(buffer_name(source["constant"]))
        tensor = _lookup(self, source["parameter"])
        return tensor.t() if source.get("transposed") else tensor


def load_module(path: str | Path) -> GraphModule:
    """Read what `save_module` wrote, in eval mode. Nothing in the file is executed.

    Raises:
        InputError: the file is missing, broken, or of another kind.
    """
    path = Path(path)
    hint = "give a file written by --emit torch or save_module"
    if not path.is_file():
        raise InputError("no such file", file=path)
    archive = open_archive(path)
    data, read = archive.root, TensorReader(archive)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InputError("is no saved module of this package", file=path, hint=hint)
    if data.get("version") != VERSION:
        raise InputError(
            f"has version {data.get('version')}, expected {VERSION}", file=path, hint="update onnxslim-yolo"
        )
    try:
        description: Description = json.loads(data["graph"])
        state = {name: read(record) for name, record in data["state_dict"].items()}
        constants = {name: read(record) for name, record in data["constants"].items()}
        module = GraphModule(description, {**state, **constants})
        module.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"is damaged: {error}", file=path, hint=hint) from error
    return module.eval()


def run_saved(path: Path, feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    """What a saved module answers to these inputs, by the graph's names. Raises as `load_module`."""
    module = load_module(path)
    ports, names = [port["name"] for port in module.description["inputs"]], module.description["outputs"]
    answers = []
    with torch.no_grad():
        for feed in feeds:
            values = module.values(names, *(torch.from_numpy(np.ascontiguousarray(feed[port])) for port in ports))
            answers.append({name: value.numpy() for name, value in zip(names, values, strict=True)})
    return answers


def module_to_onnx(module: GraphModule) -> onnx.ModelProto:
    """A module as ONNX again, BatchNorms kept, with the metadata that it came with: ready to compile.

    Raises:
        InputError: the description is of no image, or of one beyond reason.
        VerificationError: the trace does not compute what the module computes.
    """
    given = module.description["inputs"]
    shape: Any = given[0]["shape"] if given else []
    sides = shape if isinstance(shape, list) else []
    if len(sides) != 4 or not all(type(side) is int and 0 < side <= 1 << 14 for side in sides):
        raise InputError(f"the module takes an input of shape {str(shape)[:80]}; expected (b, c, h, w) in pixels")
    check_sizes(module, tuple(shape))
    example = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    proto = trace(module, example)
    onnx.helper.set_model_props(proto, module.metadata)
    return proto


def _plant(root: nn.Module, node: Mapping[str, Any], weights: Mapping[str, Tensor], number: int) -> None:
    """Create the nn.Conv2d or nn.BatchNorm2d that a node is, filled."""
    path = node["module"]
    if not path:
        return
    attrs = attributes(node["op"], node["attributes"])
    if node["op"] == "BatchNormalization":
        count = len(weights[f"{path}.weight"])
        momentum = 1 - attrs["momentum"]
        module: nn.Module = nn.BatchNorm2d(count, eps=attrs["epsilon"], momentum=momentum)
    else:
        weight = weights[f"{path}.weight"]
        group, padding = attrs["group"], same_padding(attrs, 2)[0]
        strides, dilations = (window_numbers(attrs, key, 2) for key in ("strides", "dilations"))
        module = nn.Conv2d(
            weight.shape[1] * group,
            weight.shape[0],
            (weight.shape[2], weight.shape[3]),
            (strides[0], strides[1]),
            (padding[0], padding[1]),
            (dilations[0], dilations[1]),
            group,
            f"{path}.bias" in weights,
        )
    with torch.no_grad():
        for name, tensor in module.state_dict(keep_vars=True).items():
            if f"{path}.{name}" in weights:
                tensor.copy_(weights[f"{path}.{name}"])
    if node.get("fixed"):
        module.requires_grad_(False)
    parent, _, last = path.rpartition(".")
    _branch(root, parent).add_module(last, module)


def _branch(root: nn.Module, path: str) -> nn.Module:
    """The module at a path; plain ones are made where there is none."""
    for part in filter(None, path.split(".")):
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    return root


def _set_parameter(root: nn.Module, key: str, value: Tensor, *, trainable: bool) -> None:
    path, _, name = key.rpartition(".")
    owner = _branch(root, path)
    if value.is_floating_point():
        owner.register_parameter(name, nn.Parameter(value.clone(), requires_grad=trainable))
    else:
        owner.register_buffer(name, value.clone())


def _lookup(root: nn.Module, key: str) -> Tensor:
    path, _, name = key.rpartition(".")
    found: Tensor = getattr(root.get_submodule(path), name)
    return found


def buffer_name(key: str) -> str:
    """The buffer that holds a constant."""
    return f"_constant_{key}"
