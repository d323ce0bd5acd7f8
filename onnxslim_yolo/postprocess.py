"""Outputs to boxes: the public name of `onnxslim_yolo.heads.finish`."""

from onnxslim_yolo.heads.finish import HEAD_KEY, Detections, HeadSpec, class_names, identify_head, nms, postprocess

__all__ = ["HEAD_KEY", "Detections", "HeadSpec", "class_names", "identify_head", "nms", "postprocess"]
