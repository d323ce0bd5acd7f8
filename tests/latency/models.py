"""Small graphs, and tables made up by a formula, so that nothing here depends on a clock."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import onnx

from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.ir.shapes import reinfer
from onnxslim_yolo.latency import LayerKey
from onnxslim_yolo.latency.packing import Runtime, pack_of

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1, 3, 32, 32] x) => (float[1, 8, 8, 8] y)
<float[16, 3, 3, 3] w0, float[24, 16, 3, 3] w1, float[24, 1, 3, 3] wd, float[8, 40, 1, 1] w2, float[16] g,
 int64[2] parts = {10, 14}, float[4] scales = {1.0, 1.0, 0.5, 0.5}>
{
  a = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x, w0)
  n = BatchNormalization (a, g, g, g, g)
  s = Sigmoid (n)
  b = Mul (n, s)
  c = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (b, w1)
  r = Relu (c)
  d = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 24> (r, wd)
  p, q = Split <axis = 1> (d, parts)
  m = MaxPool <kernel_shape = [5, 5], pads = [2, 2, 2, 2]> (q)
  b2 = Resize <mode = "nearest"> (b, , scales)
  e = Concat <axis = 1> (p, m, b2)
  y = Conv <kernel_shape = [1, 1]> (e, w2)
}
"""


@cache
def _loaded(name: str, options: tuple[tuple[str, object], ...]) -> Model:
    from onnxslim_yolo.load import load
    from tests.zoo import model_path

    return load(model_path(name, **dict(options)))


def zoo(name: str, **options: object) -> Model:
    """A fresh copy of a network of the zoo; read once."""
    return _loaded(name, tuple(sorted(options.items()))).copy()


def small() -> Model:
    """One of everything."""
    model = onnx.parser.parse_model(TEXT)
    random = np.random.default_rng(0)
    for info in list(model.graph.value_info):  # what the text only declares
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        values = random.uniform(0.1, 1.0, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, info.name))
    del model.graph.value_info[:]
    wrapped = Model.from_onnx(onnx.shape_inference.infer_shapes(model))
    reinfer(wrapped.graph)
    return wrapped


def formula(runtime: Runtime, lanes: int = 16):
    """A measure that computes µs: work over the register's fill, the same for the same layer."""

    def measure(keys: Sequence[LayerKey]) -> list[float | None]:
        return [cost(key, runtime, lanes) for key in keys]

    return measure


def cost(key: LayerKey, runtime: Runtime = "ncnn", lanes: int = 16) -> float:
    """Bilinear in the widths within a class of packs: what interpolation must reproduce exactly."""
    family = key.family
    penalty = sum(1.0 + 4.0 / pack_of(runtime, lanes, width) for width in (*key.ins, *key.outs))
    if family.kind in ("conv", "group-conv"):
        taps = family.kernel[0] * family.kernel[1]
        return penalty * (2.0 + 1e-4 * family.area * (taps * key.ins[0] * key.outs[0] + key.ins[0] + key.outs[0]))
    return penalty * (1.0 + 1e-3 * family.area * sum(key.outs))
