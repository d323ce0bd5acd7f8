"""fold-bn: BatchNorm folded into the linear layer beside it.

In inference BN(x) = s·x + t per channel, with s = γ/√(σ² + ε) and t = β - s·μ. Hence

1. behind Conv (grouped and depthwise too), ConvTranspose, Gemm, MatMul: s·(W∗x + b) + t = (s·W)∗x + (s·b + t), if the
   layer's output has no other reader and is no output of the graph;
2. before such layers: W∗(s·x + t) + b = (W·s)∗x + (b + Σ W·t), if *every* reader of the BN can take it. A shift cannot
   pass padding, which is zero and not t, nor a ConvTranspose, where fewer taps meet at the edges;
3. several in a row, also with constant Mul, Add, Sub, Div between them, become one.

A BN with nothing to fold into (behind a Concat and before a ReLU, as in DenseNet) stays one BN: onnxruntime and ncnn
run it as a single sweep over memory, where Mul and Add are two. `lone="affine"` writes those for runtimes without BN.

Computed in float64 and cast back to the layer's type; a float16 weight that would overflow or vanish is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.affine import batch_norm
from onnxslim_yolo.ir.graph import Array, Namer, Node, Tensor, detach, sweep
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ops.norms import is_batch_norm
from onnxslim_yolo.rewrites.absorber import cast
from onnxslim_yolo.rewrites.chain import fold_chains


@dataclass(frozen=True)
class FoldBatchNorm:
    """Fold every BatchNormalization into the layer before or behind it, where that is exact.

    Attributes:
        lone: what becomes of one with nothing to fold into: "keep" it, or write it as "affine" Mul and Add.
    """

    name: ClassVar[str] = "fold-bn"
    lone: Literal["keep", "affine"] = "keep"

    def run(self, model: Model) -> int:
        """Fold, and return how many BatchNorms (or chains around one) were rewritten."""
        graph, namer = model.graph, Namer(model.graph)
        rewrites = fold_chains(graph, namer, with_batch_norm=True)
        written = (
            sum(_write_as_affine(graph, node, namer) for node in list(graph.nodes)) if self.lone == "affine" else 0
        )
        if written:
            sweep(graph)
        return rewrites + written


def _write_as_affine(graph: gs.Graph, node: Node, namer: Namer) -> bool:
    if not is_batch_norm(node) or not node.inputs:
        return False
    affine, data = batch_norm(node), node.inputs[0]
    if affine is None or data.shape is None:
        return False
    output, dtype, ones = node.outputs[0], node.inputs[1].dtype, (1,) * (len(data.shape) - 2)
    scale, shift = (cast(values, dtype).reshape(-1, *ones) for values in (affine.scale, affine.shift))
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return False
    names = [tensor.name for tensor in node.inputs[1:3]]
    detach(node)
    scaled = gs.Variable(namer(f"{output.name}_scaled"), output.dtype, output.shape)
    graph.nodes += [
        _with_constant("Mul", data, scale, scaled, namer, names[0]),
        _with_constant("Add", scaled, shift, output, namer, names[1]),
    ]
    return True


def _with_constant(op: str, data: Tensor, values: Array, output: Tensor, namer: Namer, name: str) -> Node:
    constant = gs.Constant(namer(f"{name}_{op.lower()}"), np.ascontiguousarray(values))
    return gs.Node(op, namer(f"{output.name}_{op.lower()}"), inputs=[data, constant], outputs=[output])
