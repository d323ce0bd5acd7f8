"""A pair that computes in fp32 wherever it runs: ncnn's feature mask, parameter 31, on every layer.

On every layer or on none: in 1.0.20261020 on ARM, one layer without fp16 storage (`31=2`, `31=3`) among others that
have it reads and writes beyond its blobs. Under emulation that gave NaN, wrong values, and crashes when the next
network was loaded. Without fp16 *arithmetic* alone (`31=1`) single layers are right, but their values are stored in
fp16 still, and products have slow kernels only.
"""

from __future__ import annotations

from dataclasses import replace

from onnxslim_yolo.emit.ncnn.emitter import NcnnModel
from onnxslim_yolo.emit.ncnn.format import FEATURE_MASK, NO_HALF_ARITHMETIC, NO_HALF_STORAGE

FULL = NO_HALF_ARITHMETIC | NO_HALF_STORAGE
"""In fp32, stored and computed."""


def in_full(pair: NcnnModel) -> NcnnModel:
    """The pair, computed in fp32 wherever it runs."""
    head, count, *lines = pair.param.splitlines()
    return replace(pair, param="\n".join([head, count, *map(_masked, lines)]) + "\n")


def _masked(line: str) -> str:
    words = [word for word in line.split() if word.startswith(f"{FEATURE_MASK}=")]
    plain = line.replace(f" {words[0]}", "") if words else line
    return f"{plain} {FEATURE_MASK}={FULL}"
