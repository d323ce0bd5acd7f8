"""The source with what a plan leaves out set to zero, by numpy alone: a reference that shares no code with slicing.

`plan.json` names the source's initializers and what is kept of them. Whatever is not kept is set to zero in the source
as it was exported, BatchNorms and all: where every reader of a removed channel weighs it (a convolution, a product) or
takes zero for nothing (sums, norms, products with other channels), the result is what the pruned network computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

Keep = Mapping[str, Mapping[str, Sequence[int] | Sequence[Sequence[int]]]]


def zeroed(proto: onnx.ModelProto, keep: Keep) -> onnx.ModelProto:
    """A copy in which everything is zero that the plan does not keep."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if tensor.name in keep and tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
            value = numpy_helper.to_array(tensor).copy()
            value[~_kept(value.shape, keep[tensor.name])] = 0
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return copy


def _kept(shape: tuple[int, ...], axes: Mapping[str, Sequence[int] | Sequence[Sequence[int]]]) -> np.ndarray:
    """Which elements stay."""
    mask = np.ones(shape, bool)
    rows = np.arange(shape[0])
    if "0" in axes:
        rows = np.asarray(axes["0"])
    for axis, indices in axes.items():
        if indices and isinstance(indices[0], Sequence):
            stays = np.zeros(shape[:2], bool)
            for part, mine in zip(np.array_split(rows, len(indices)), indices, strict=True):
                stays[np.ix_(part, np.asarray(mine, int))] = True
            mask &= stays.reshape(*stays.shape, *(1,) * (len(shape) - 2))
        else:
            along = np.zeros(shape[int(axis)], bool)
            along[np.asarray(indices, int)] = True
            mask &= along.reshape([-1 if k == int(axis) else 1 for k in range(len(shape))])
    return mask
