"""A model: a graph, and what its file holds besides: metadata, opsets, where it came from, and the plan for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.ir.attributes import spell_out
from onnxslim_yolo.ir.carried import Carried
from onnxslim_yolo.ir.graph import (
    Array,
    Node,
    consumers,
    copy_graph,
    detach,
    initializers,
    is_graph_output,
    replace_input,
)
from onnxslim_yolo.ir.origins import Leaf, set_origin

if TYPE_CHECKING:
    from onnxslim_yolo.pruning.plan import Plan
    from onnxslim_yolo.quantisation.plan import Quantisation


@dataclass(frozen=True)
class Source:
    """The file a model came from. `sha256` is of the file's bytes, `size` in bytes."""

    file: str = "<memory>"
    sha256: str = ""
    size: int = 0


@dataclass
class Model:
    """A graph, the metadata of its file, and the plan of which channels to keep.

    Attributes:
        graph: the onnx-graphsurgeon graph. Passes edit it in place.
        metadata: the file's `metadata_props` (Ultralytics keeps stride, names and task there).
        node_metadata: per node name, the node's own `metadata_props`.
        plan: what is planned and not carried out; None where nothing waits.
        carried: what has been carried out.
        source: where the model was read from.
        notes: what passes want people to know: remarks and refusals, in order of appearance.
        quantised: what is int8 where the model is written; the graph itself stays float.
        ranges: what is known of tensors' ends, by name: from a file that was int8.
        whole_heads: whether plans take an attention's heads whole (see `analysis.rules_product`).
        equal_parts: whether plans have to suit the code that the graph was traced from (see `analysis.module_parts`).
        towers: which of two sets of towers was asked for; "file": none was.
        told_widths: modules of that code whose attentions keep how wide their values are.
    """

    graph: gs.Graph
    metadata: dict[str, str] = field(default_factory=dict)
    node_metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    plan: Plan | None = None
    carried: Carried = field(default_factory=Carried)
    source: Source = field(default_factory=Source)
    notes: list[str] = field(default_factory=list)
    model_version: int = 0
    domain: str = ""
    equal_parts: bool = False
    told_widths: frozenset[str] = frozenset()
    whole_heads: bool = False
    towers: str = "file"
    quantised: Quantisation | None = None
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def from_onnx(cls, proto: onnx.ModelProto, source: Source | None = None) -> Model:
        """Wrap a ModelProto. `Constant` nodes become constants; unnamed or doubly named nodes get unique names.

        The proto's weights are referenced, not copied, until something reads them.
        """
        names = _unique_node_names(proto.graph)
        node_metadata = {
            name: {p.key: p.value for p in node.metadata_props}
            for name, node in zip(names, proto.graph.node, strict=True)
            if node.metadata_props
        }
        # onnx-graphsurgeon warns on stderr about constants of types numpy lacks; here only passes speak.
        graph = gs.import_onnx(proto)
        for node, name in zip(graph.nodes, names, strict=True):
            node.name = name
        _name_origins(graph, {tensor.name for tensor in proto.graph.initializer})
        _inline_constant_nodes(graph)
        spell_out(graph)
        return cls(
            graph=graph,
            metadata={p.key: p.value for p in proto.metadata_props},
            node_metadata=node_metadata,
            source=source or Source(),
            model_version=proto.model_version,
            domain=proto.domain,
        )

    def to_onnx(self) -> onnx.ModelProto:
        """The graph as a ModelProto, with the source's metadata, opsets and IR version."""
        proto = gs.export_onnx(self.graph, do_type_check=False)
        proto.model_version = self.model_version
        proto.domain = self.domain
        onnx.helper.set_model_props(proto, self.metadata)
        for node in proto.graph.node:
            for key, value in self.node_metadata.get(node.name, {}).items():
                node.metadata_props.add(key=key, value=value)
        return proto

    def save(self, path: str | Path) -> Path:
        """Write the graph as ONNX, completely or not at all. Returns the path.

        Raises:
            InputError: the file cannot be written, or the model exceeds protobuf's 2 GiB.
        """
        try:
            data = self.to_onnx().SerializeToString(deterministic=True)
        except Exception as error:  # protobuf's limit of 2 GiB has another type in every version of it
            raise InputError(f"the model does not fit into one ONNX file: {error}", file=Path(path)) from error
        return write_atomically(Path(path), data)

    def copy(self) -> Model:
        """An independent copy: nodes, edges and constants are new objects, weights' bytes are shared."""
        return Model(
            graph=copy_graph(self.graph),
            metadata=dict(self.metadata),
            node_metadata={name: dict(props) for name, props in self.node_metadata.items()},
            plan=self.plan,
            carried=self.carried,
            source=self.source,
            notes=list(self.notes),
            model_version=self.model_version,
            domain=self.domain,
            equal_parts=self.equal_parts,
            told_widths=self.told_widths,
            whole_heads=self.whole_heads,
            towers=self.towers,
            quantised=self.quantised,
            ranges=dict(self.ranges),
        )

    def note(self, text: str) -> None:
        """Record a remark for the report, once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def last_plan(self) -> Plan | None:
        """The plan that waits, else the one that was carried out last."""
        return self.carried.plan if self.plan is None else self.plan

    @property
    def lossless(self) -> bool:
        """Whether nothing went or is to go that contributes anything."""
        return self.carried.lossless and (self.plan is None or self.plan.lossless)

    @property
    def opset(self) -> int:
        """The version of the default ONNX opset."""
        return int(self.graph.opset)


def _unique_node_names(graph: onnx.GraphProto) -> list[str]:
    taken = {node.name for node in graph.node if node.name}
    seen: set[str] = set()
    names: list[str] = []
    for index, node in enumerate(graph.node):
        name = node.name or f"{node.op_type}_{index}"
        stem, count = name, 0
        while name in seen or (name != node.name and name in taken):
            count += 1
            name = f"{stem}_{count}"
        seen.add(name)
        names.append(name)
    return names


def _name_origins(graph: gs.Graph, names: set[str]) -> None:
    """Every initializer is made from itself."""
    for constant in initializers(graph):
        if constant.name in names:
            set_origin(constant, Leaf(constant.name, tuple(int(d) for d in constant.shape)))


def _inline_constant_nodes(graph: gs.Graph) -> None:
    kept: list[Node] = []
    for node in graph.nodes:
        values = _constant_node_value(node)
        if values is None:
            kept.append(node)
            continue
        output = node.outputs[0]
        constant = gs.Constant(output.name, values)
        why = "it is the value of a Constant node, no initializer"
        set_origin(constant, Leaf(output.name, values.shape, why))
        if is_graph_output(graph, output):
            kept.append(node)  # a graph must not return an initializer under an output's name
            continue
        detach(node)
        for reader in consumers(output):
            replace_input(reader, output, constant)
    graph.nodes = kept


def _constant_node_value(node: Node) -> Array | None:
    if node.op != "Constant" or node.domain not in (None, "", "ai.onnx"):
        return None
    value = node.attrs.get("value")
    if isinstance(value, gs.Constant):
        return np.asarray(value.values)
    if value is not None:
        return np.asarray(value)
    for key, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if key in node.attrs:
            return np.asarray(node.attrs[key], dtype=dtype)
    return None
