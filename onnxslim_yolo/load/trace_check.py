"""Is a traced graph the module it was traced from? BatchNorm by BatchNorm, and output by output in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnxslim_yolo.errors import VerificationError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.load.trace_names import all_nodes
from onnxslim_yolo.runtime.onnx_run import run_onnx

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 1e-4
"""Largest difference between onnxruntime and torch, as a share of an output channel's spread (max − min)."""


def flatten_outputs(value: Any) -> list[Tensor]:
    """The tensors of a nested output, in the order the exporters list them."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [tensor for item in value for tensor in flatten_outputs(item)]
    return []


def check_norms(proto: onnx.ModelProto, module: nn.Module, ran: list[str]) -> None:
    """As many BatchNormalization nodes as BatchNorms that ran, with their γ, β, mean, variance and ε."""
    nodes = [node for node in all_nodes(proto.graph) if node.op_type == "BatchNormalization"]
    if len(nodes) != len(ran):
        raise VerificationError(
            f"{len(ran)} BatchNorms ran, but {len(nodes)} are in the traced graph", hint="please report this model"
        )
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    written = {name for node in all_nodes(proto.graph) if node.op_type == "Constant" for name in node.output}
    state = module.state_dict()
    found: list[str] = []
    for node in nodes:
        owner = node.input[3].removesuffix(".running_mean")
        found.append(owner)
        for name, key in zip(node.input[1:], ("weight", "bias", "running_mean", "running_var"), strict=True):
            wanted = state.get(f"{owner}.{key}")
            tensor = constants.get(name)
            if wanted is None and key in ("weight", "bias") and (tensor is not None or name in written):
                continue  # affine=False: the exporter writes ones and zeros
            if wanted is None or tensor is None or name != f"{owner}.{key}":
                raise VerificationError(f"expected the initializer '{owner}.{key}', found '{name}'", node=node.name)
            if not np.array_equal(onnx.numpy_helper.to_array(tensor), wanted.cpu().numpy()):
                raise VerificationError(f"the initializer '{name}' differs from the module's tensor", node=node.name)
        eps = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        if not np.isclose(eps, float(getattr(module.get_submodule(owner), "eps", 0.0)), rtol=1e-5, atol=0.0):
            raise VerificationError(f"ε of '{owner}' became {eps}", node=node.name)
    if sorted(found) != sorted(ran):
        missing = sorted(set(ran) - set(found))
        raise VerificationError(f"BatchNorms that ran are not in the traced graph: {', '.join(missing[:5])}")


def check_outputs(proto: onnx.ModelProto, images: Array, expected: Sequence[Array]) -> None:
    """onnxruntime against what torch computed of these images, worst element per output relative to its spread."""
    # onnxruntime up to 1.31 fuses Pad(0) into MaxPool, whose padding is −∞: wrong on YOLOv3-tiny. Run what is written.
    found = run_onnx(proto, [{"images": images}], threads=1)[0].values()
    ranked = any(node.op_type == "TopK" for node in all_nodes(proto.graph))
    for i, (got, want) in enumerate(zip(found, expected, strict=True)):
        _compare(f"output{i}", got, want, ranked=ranked)


def _compare(name: str, got: Array, want: Array, *, ranked: bool) -> None:
    """Worst element relative to its channel's spread, a channel being an index of the shortest axis after the batch.

    Per channel, since boxes in pixels would hide errors of scores in the same tensor. A channel's spread counts as
    at least a thousandth of the whole tensor's, for rounding grows with what went into it.
    """
    if got.shape != want.shape:
        raise VerificationError(f"shape {got.shape} in onnxruntime, {want.shape} in torch", node=name)
    if not want.size:
        return
    channel = 1 + int(np.argmin(want.shape[1:])) if want.ndim > 2 else None
    axes = tuple(axis for axis in range(want.ndim) if axis != channel)
    spread = np.maximum(np.ptp(want, axis=axes, keepdims=True), max(1e-3 * float(np.ptp(want)), 1e-6))
    worst = float((np.abs(got - want) / spread).max())
    if worst > TOLERANCE and ranked and want.ndim == 3 and channel == 2:
        worst = max(_worst_row(a / spread[0], b / spread[0]) for a, b in zip(got, want, strict=True))
    if not worst <= TOLERANCE:
        raise VerificationError(
            f"onnxruntime and torch differ by {worst:.2e} of the output's spread, more than {TOLERANCE:.0e}",
            node=name,
        )


def _worst_row(got: Array, want: Array) -> float:
    """Worst distance of a row of (k, c) to its nearest row of the other, either way.

    Ties within rounding are ranked differently by two runtimes, so rows may have changed places, and one in a
    hundred (at least one) may have been crowded out at the end of the ranking.
    """
    distances = np.abs(got[:, None, :] - want[None, :, :]).max(axis=2)
    spare = max(len(want) // 100, 1)
    nearest = [np.sort(distances.min(axis=axis)) for axis in (0, 1)]
    return float(max(row[max(len(row) - 1 - spare, 0)] for row in nearest))
