"""GroupNormalization over channels of which some belong to nobody: whole groups go together, others stay."""

from __future__ import annotations

import numpy as np
import pytest

from onnxslim_yolo.analysis.channels import NO_CHANNEL, analyse_channels
from tests.analysis.graphs import onnx_text
from tests.numeric import build


@pytest.mark.parametrize("opset, size", [(18, 3), (21, 6)])
def test_groups_of_channels_and_of_what_is_none(opset: int, size: int) -> None:
    """Four channels and two of a constant, in three groups: before opset 21 a scale is a group's."""
    weights = "float[3,3,1,1] a.weight, float[1,3,4,4] still, float[6] n.scale, float[6] n.bias"
    body = """a = Conv(x, a.weight) c = Concat<axis=1>(a, still)
        n = GroupNormalization<num_groups=3>(c, n.scale, n.bias) y = Conv(n, y.weight)"""
    text = onnx_text("float[1,3,4,4] x", "float[i,j,k,l] y", f"{weights}, float[2,6,1,1] y.weight", body, 21)
    graph = build(text).graph
    graph.opset = opset  # which onnx's checker knows as deprecated
    norm = next(node for node in graph.nodes if node.op == "GroupNormalization")
    for tensor in norm.inputs[1:]:
        tensor.values = tensor.values[:size]
    channels = analyse_channels(graph)
    tensors = {tensor.name: tensor for node in graph.nodes for tensor in node.outputs}
    made = channels.labels_of(tensors["a"]).reshape(-1)  # type: ignore[union-attr]
    found = channels.labels_of(tensors["n"]).reshape(-1)  # type: ignore[union-attr]
    assert made[0] == made[1] != NO_CHANNEL, "the first group goes together"
    assert found.tolist() == [made[0], made[0], NO_CHANNEL, NO_CHANNEL, NO_CHANNEL, NO_CHANNEL]
    assert channels.frozen[made[0]] is None and "no channel owns" in str(channels.frozen[made[2]])
    scales = {use.constant.name: use.labels.tolist() for use in channels.uses if use.constant.name.startswith("n.")}
    per_group = [made[0], NO_CHANNEL, NO_CHANNEL]
    wanted = per_group if size == 3 else np.repeat(per_group, 2).tolist()
    assert scales == {"n.scale": wanted, "n.bias": wanted}
