"""A PyTorch module → an ONNX graph that still has its BatchNorms, under the names of the module's state_dict.

Exporters fold BatchNorm into convolutions and merge equal tensors, which destroys what pruning needs: γ, β and the
names to report them by. `trace` talks the TorchScript exporter out of both, falls back on the dynamo exporter, and
then checks that it worked: every BatchNorm that ran is a node with the module's own five numbers, and onnxruntime
computes what the module computes.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.files.atomic import private_folder, write_atomically
from onnxslim_yolo.ir.graph import MODULE_KEY, Array
from onnxslim_yolo.load.trace_check import check_norms, check_outputs, flatten_outputs
from onnxslim_yolo.load.trace_names import all_nodes, module_path, name_transposed

if TYPE_CHECKING:
    from torch import Tensor, nn

DYNAMO_OPSET = 18
_INTERNAL_METADATA = "pkg."


def trace(
    module: nn.Module,
    example: Tensor,
    path: str | Path | None = None,
    *,
    opset: int = 17,
    dynamic: bool = False,
    exporter: str = "auto",
) -> onnx.ModelProto:
    """Trace a module on an example and check the result.

    Args:
        module: takes one tensor, returns a tensor or a (nested) sequence of tensors. Traced in eval mode; its
            training flags and weights are as before afterwards.
        example: (b, c, h, w), of the sizes the graph is made for.
        path: where to write the model as well; nothing is written if a check fails.
        opset: ONNX operator set; the dynamo exporter uses at least 18.
        dynamic: keep batch, height and width symbolic. Otherwise they are the example's.
        exporter: "torchscript", "dynamo", or "auto": the first, and if it fails the second.

    Returns:
        A model with one input `images` and outputs `output0`, `output1`, …; initializers are named like the
        state_dict's keys (a Linear's transposed weight `KEY.T`), nodes carry their module's path in the metadata
        `onnxslim_yolo.module`. The same module and example give the same bytes.

    Raises:
        UnsupportedError: neither exporter can express the module.
        VerificationError: the graph is not what the module computes.
    """
    traced = run_exporter(module, example, opset=opset, dynamic=dynamic, exporter=exporter)
    traced.check()
    if path is not None:
        _write(traced.proto, Path(path))
    return traced.proto


@dataclass(frozen=True)
class Traced:
    """A graph whose norms are the module's, and what the module makes of other images than it was traced with.

    A trace freezes the way that its example took, so the images are noise: where they take another, it shows.
    """

    proto: onnx.ModelProto
    images: Array
    outputs: list[Array]

    def check(self) -> None:
        """Raises VerificationError unless onnxruntime computes the same."""
        check_outputs(self.proto, self.images, self.outputs)


def run_exporter(
    module: nn.Module, example: Tensor, *, opset: int = 17, dynamic: bool = False, exporter: str = "auto"
) -> Traced:
    """As `trace`, without running the graph. Raises as that does, but no VerificationError about outputs."""
    import torch

    steps = {"torchscript": [_torchscript], "dynamo": [_dynamo], "auto": [_torchscript, _dynamo]}
    if exporter not in steps:
        raise InputError(f"no exporter is named '{exporter}'", hint=f"one of: {', '.join(steps)}")
    noise = torch.rand(example.shape, generator=torch.Generator().manual_seed(1)).to(example.dtype)
    with _tracing_state(module, dynamic):
        norms, expected = _run(module, noise)
        proto = _first_success(steps[exporter], module, example, expected, opset, dynamic)
        _tidy(proto, module)
        check_norms(proto, module, norms)
    return Traced(proto, noise.numpy(), [tensor.numpy() for tensor in expected])


@contextmanager
def _tracing_state(module: nn.Module, dynamic: bool) -> Iterator[None]:
    """Eval mode, no gradients, heads told about `dynamic`; everything put back afterwards."""
    import torch

    training = [part for part in module.modules() if part.training]
    heads = [(part, part.dynamic) for part in module.modules() if isinstance(getattr(part, "dynamic", None), bool)]
    module.eval()
    for part in module.modules():
        if callable(settle := getattr(part, "settle", None)):
            settle()
    for head, _ in heads:
        head.dynamic = dynamic  # type: ignore[assignment]
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True
        for head, was in heads:
            head.dynamic = was


def _run(module: nn.Module, example: Tensor) -> tuple[list[str], list[Tensor]]:
    """Names of the BatchNorms in the order they ran (twice if they ran twice), and the outputs."""
    from torch import nn

    ran: list[str] = []
    hooks = []
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            hooks.append(part.register_forward_hook(lambda *_, name=name: ran.append(name)))
    try:
        outputs = flatten_outputs(module(example))
    finally:
        for hook in hooks:
            hook.remove()
    return ran, outputs


def _first_success(
    steps: Sequence[Any], module: nn.Module, example: Tensor, outputs: list[Tensor], opset: int, dynamic: bool
) -> onnx.ModelProto:
    failures: list[Exception] = []
    for step in steps:
        try:
            with _quiet():
                proto: onnx.ModelProto = step(
                    module, example, [f"output{i}" for i in range(len(outputs))], opset, dynamic
                )
            return proto
        except Exception as error:  # exporters raise anything from SystemError to their own kinds
            failures.append(error)
    reasons = "; ".join(f"{type(error).__name__}: {_first_line(error)}" for error in failures)
    raise UnsupportedError(
        f"the module could not be traced: {reasons}", hint="export it to ONNX with its own code and compile that file"
    ) from failures[0]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters print and warn about their own deprecation; none of it is for our users."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _torchscript(module: nn.Module, example: Tensor, outputs: list[str], opset: int, dynamic: bool) -> onnx.ModelProto:
    """PRESERVE keeps the BatchNorms; initializers as inputs keep equal tensors apart (the inputs go in `_tidy`)."""
    import torch

    axes = {"images": {0: "batch", 2: "height", 3: "width"}} if dynamic else None
    with private_folder("onnxslim-trace-") as folder:  # in memory, the bytes would be there twice
        file = folder / "traced.onnx"
        torch.onnx.export(
            module,
            (example,),
            str(file),
            dynamo=False,
            opset_version=opset,
            training=torch.onnx.TrainingMode.PRESERVE,
            keep_initializers_as_inputs=True,
            input_names=["images"],
            output_names=outputs,
            dynamic_axes=axes,
        )
        return onnx.load(str(file))


def _dynamo(module: nn.Module, example: Tensor, outputs: list[str], opset: int, dynamic: bool) -> onnx.ModelProto:
    """Unoptimised, since the optimiser folds BatchNorms; then only what cannot touch them is cleaned up."""
    import onnxscript.optimizer
    import torch

    shapes: Any = None
    if dynamic:
        auto = torch.export.Dim.DYNAMIC
        shapes = ({0: auto, 2: auto, 3: auto},)
        if example.shape[0] == 1:  # torch.export specialises sizes of 1
            example = example.expand(2, *example.shape[1:])
    program = torch.onnx.export(
        module,
        (example,),
        None,
        dynamo=True,
        optimize=False,
        opset_version=max(opset, DYNAMO_OPSET),
        verbose=False,
        input_names=["images"],
        output_names=outputs,
        dynamic_shapes=shapes,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = program.model
    onnxscript.optimizer.fold_constants(model)
    onnxscript.optimizer.remove_unused_nodes(model)
    return program.model_proto


def _tidy(proto: onnx.ModelProto, module: nn.Module) -> None:
    """Strip what is not the network: inputs for initializers, traces of the exporting machine. Note module paths."""
    graph = proto.graph
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    del graph.input[:]
    graph.input.extend(inputs)
    name_transposed(graph, module)
    used = {name for node in all_nodes(graph) for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    paths = {name for name, _ in module.named_modules()}
    for node in all_nodes(graph):
        path = module_path(node, paths)
        node.doc_string = ""
        del node.metadata_props[:]
        if path:
            node.metadata_props.add(key=MODULE_KEY, value=path)
    for holder in (*graph.value_info, *graph.input, *graph.output, *graph.initializer):
        holder.doc_string = ""
        del holder.metadata_props[:]
    graph.doc_string = proto.doc_string = ""
    graph.name = "main_graph"
    for prop in [p for p in graph.metadata_props if p.key.startswith(_INTERNAL_METADATA)]:
        graph.metadata_props.remove(prop)


def _write(proto: onnx.ModelProto, path: Path) -> None:
    """Complete or not at all."""
    write_atomically(path, proto.SerializeToString(deterministic=True))
