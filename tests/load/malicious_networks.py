"""Checkpoints that are read, and whose network does harm or fails when it runs."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

from checkpoint_bytes import PROTO2, STOP, Cases, Writer, module, name, raw, text, zipped
from malicious_pickles import Call


def chain(*layers) -> Writer:
    """A checkpoint of these modules one after the other, as a trainer pickles them."""

    def write(path: Path, _: Path) -> None:
        import torch

        torch.save({"model": torch.nn.Sequential(*(layer() for layer in layers))}, path)

    return write


def leaf(kind: str, *arguments, **attributes) -> Callable[[], object]:
    """A `torch.nn` module whose attributes are then what no constructor would allow."""

    def make() -> object:
        import torch

        module = getattr(torch.nn, kind)(*arguments)
        vars(module).update(attributes)
        return module

    return make


def layer_from(source: int) -> Writer:
    """A container whose only layer takes its input from layer `source`."""
    empty = b"".join(text(key) + b"}" for key in ("_parameters", "_buffers"))
    plain = b"J" + struct.pack("<i", source)
    inner = module(empty + text("_modules") + b"}" + text("f") + plain, name("torch.nn.modules.linear", "Identity"))
    sequence = module(empty + text("_modules") + b"}" + text("0") + inner + b"s")
    outer = module(
        empty + text("_modules") + b"}" + text("model") + sequence + b"s", name("models.yolo", "DetectionModel")
    )
    return raw(PROTO2 + b"}" + text("model") + outer + b"s" + STOP)


def disguised(path: Path, sentinel: Path) -> None:
    """Looks like this package's own saved module, and calls something."""
    data = {"format": "onnxslim-yolo/module", "x": Call(os.system, f"touch {sentinel}")}
    zipped(path, pickle.dumps(data, 2))


def saved_module(**changes) -> Writer:
    """This package's own format, with nonsense in it."""

    def write(path: Path, _: Path) -> None:
        import torch

        graph = {"nodes": [], "loose": [], "constants": [], "fixed": [], "metadata": {}}
        graph |= {"inputs": [{"name": "x", "shape": [1, 3, 64, 64]}], "outputs": ["x"], **changes.pop("graph", {})}
        data = {"format": "onnxslim-yolo/module", "version": 1, "graph": json.dumps(graph)}
        torch.save({**data, "state_dict": {}, "constants": {}, **changes}, path)

    return write


RUN: Cases = {
    "images of terabytes": (chain(*[leaf("Upsample", None, 16.0)] * 6), "more memory"),
    "padding of terabytes": (chain(*[leaf("ZeroPad2d", 1000)] * 20), "more memory|more than the limit"),
    "a transposed convolution of terabytes": (
        chain(leaf("ConvTranspose2d", 3, 3, 1, stride=(60000, 60000))),
        "more memory",
    ),
    "a shuffle of terabytes": (chain(leaf("AdaptiveAvgPool2d", 1000), leaf("Upsample", None, 16.0)), "more memory"),
    "layers that do not fit": (chain(leaf("Conv2d", 4, 4, 1)), "does not run"),
    "a layer of the future": (layer_from(50), "does not run"),
    "no groups": (chain(leaf("GroupNorm", 2, 4, num_groups=0)), "cannot be rebuilt"),
    "no groups in a convolution": (chain(leaf("Conv2d", 4, 4, 1, groups=0)), "cannot be rebuilt|does not run"),
    "stride 0": (chain(leaf("Conv2d", 3, 4, 1, stride=(0, 0))), "stride = 0"),
    "infinite groups": (chain(leaf("GroupNorm", 2, 4, num_groups=float("inf"))), "too large"),
    "a disguised call": (disguised, "posix.system|os.system|nt.system"),
    "a saved module of terabytes": (
        saved_module(graph={"inputs": [{"name": "x", "shape": [1, 3, 1 << 20, 1 << 20]}]}),
        "expected \\(b, c, h, w\\)",
    ),
    "a saved module of nothing": (saved_module(graph={"inputs": []}), "damaged|no image|expected"),
    "a saved module without its weights": (saved_module(state_dict=None), "damaged"),
    "a saved module whose weights are text": (saved_module(state_dict={"a": "b"}), "damaged"),
}
"""Files that are read, and would do harm or fail when the network in them runs."""
