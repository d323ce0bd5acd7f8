"""Elements of the maps that each layer of ncnn's benchmark networks reads and writes, and bytes of its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_WEIGHTS = {"Convolution": 6, "ConvolutionDepthWise": 6, "Deconvolution": 6, "InnerProduct": 2}
"""Where a layer's number of weights stands."""
_INT8 = 8
_FREE = ("Input", "Split")


class ParamLayer(NamedTuple):
    """A line of a `.param`; `made` is its first output."""

    type: str
    blobs: list[str]
    values: dict[str, str]
    made: str


def layers_of_param(param: Path) -> Iterator[ParamLayer]:
    for line in param.read_text().splitlines()[2:]:
        words = line.split()
        if len(words) < 4:
            continue
        first = 4 + int(words[2])
        end = first + int(words[3])
        yield ParamLayer(words[0], words[4:end], dict(w.split("=", 1) for w in words[end:] if "=" in w), words[first])


def weight_bytes(param: Path, each: int) -> int:
    """Bytes of a network's weights as they lie in memory: `each` a number, int8 ones 1."""
    total = 0
    for layer in layers_of_param(param):
        if layer.type in _WEIGHTS:
            int8 = int(layer.values.get(str(_INT8), "0")) > 0
            total += (1 if int8 else each) * int(layer.values.get(str(_WEIGHTS[layer.type]), "0"))
        elif layer.type == "MultiHeadAttention":
            total += 4 * each * int(layer.values.get("2", "0"))
    return total


def maps(param: Path, shape: list[int], cache: Path) -> list[int]:
    """A number a layer; run here, with weights of 0. Remembered in a file."""
    known: dict[str, list[int]] = json.loads(cache.read_text()) if cache.is_file() else {}
    if param.stem not in known:
        known[param.stem] = _maps(param, shape)
        cache.write_text(json.dumps(known))
    return known[param.stem]


def _maps(param: Path, shape: list[int]) -> list[int]:
    import ncnn
    import numpy as np

    net = ncnn.Net()
    net.opt.lightmode, net.opt.num_threads = False, 1
    if net.load_param(str(param)) or net.load_model(ncnn.DataReaderFromEmpty()):
        raise ValueError(f"{param}: ncnn does not load it")
    extractor = net.create_extractor()
    extractor.set_light_mode(False)
    image = np.full(shape, 0.01, np.float32)  # a Mat does not keep what it is made of
    extractor.input(net.input_names()[0], ncnn.Mat(image).clone())

    def elements(blob: str) -> int:
        code, mat = extractor.extract(blob)
        return 0 if code else int(mat.w * mat.h * mat.d * mat.c)

    found = [layer for layer in layers_of_param(param) if layer.type not in _FREE]
    sizes = {blob: elements(blob) for blob in dict.fromkeys(blob for layer in found for blob in layer.blobs)}
    return [sum(sizes[blob] for blob in layer.blobs) for layer in found]
