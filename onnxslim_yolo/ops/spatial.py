"""Windows over a map, as convolutions and pools have them."""

from __future__ import annotations

from onnxslim_yolo.ir.attributes import attribute
from onnxslim_yolo.ir.graph import Node


def may_pad(node: Node) -> bool:
    """Whether a convolution or a pooling may pad."""
    auto = attribute(node, "auto_pad")
    return auto not in ("NOTSET", "VALID", None) or (auto != "VALID" and any(node.attrs.get("pads") or ()))
