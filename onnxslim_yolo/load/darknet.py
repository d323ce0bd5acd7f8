"""Darknet `.cfg` + `.weights` straight to ONNX, BatchNorm kept. Needs no torch.

Initializers are called `layers.<i>.conv.weight`, `layers.<i>.bn.running_mean` …, with darknet's own layer numbers, and
every node carries its layer's path.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from onnxslim_yolo.errors import InputError, UnsupportedError, UsageError
from onnxslim_yolo.load.darknet_cfg import Section, read_sections
from onnxslim_yolo.load.darknet_head import Head, read_head, write_head
from onnxslim_yolo.load.darknet_layers import LAYERS, Feature, Network
from onnxslim_yolo.load.darknet_weights import WeightReader
from onnxslim_yolo.load.onnx_writer import Writer

_INPUT = "images"
_DETECTION = ("yolo", "region")


def load_darknet(
    cfg: Path, weights: Path | None = None, *, imgsz: tuple[int, int] | None = None, head: str = "decoded"
) -> onnx.ModelProto:
    """Read a Darknet network.

    Args:
        cfg: the configuration.
        weights: its weights; None for the `.weights` beside it.
        imgsz: (height, width) in pixels of the images; None for what the `.cfg` says.
        head: "decoded" for one output `output0` (1, N, 5 + nc): centre x, y, width, height in pixels, objectness and
            class probabilities, YOLOv5's layout; "raw" for the maps before logistic and decoding, `output0` and on, in
            the order of the detection layers. A network without detection layers returns its last layer in both.

    Returns:
        A model whose input `images` (1, c, h, w) is RGB in [0, 1]. `metadata_props` has `task`, `imgsz`, `stride`,
        `names` and, a detection layer each, `heads`.

    Raises:
        InputError: a file is broken, or the two do not belong together.
        UnsupportedError: a layer, an option or an activation that cannot be expressed.
    """
    if head not in ("decoded", "raw"):
        raise UsageError(f"head is '{head}'; expected 'decoded' or 'raw'")
    options, *layers = read_sections(cfg)
    size = imgsz or (
        options.integer("height", 0, low=1, high=1 << 14),
        options.integer("width", 0, low=1, high=1 << 14),
    )
    channels = options.integer("channels", 3, low=1, high=1024)
    net = Network(Writer(), WeightReader(weights or _weights_beside(cfg)), Feature(_INPUT, (channels, *size)))
    heads = _build(net, layers, size)
    net.weights.finish()
    return net.writer.build(
        inputs=[(_INPUT, (1, channels, *size))],
        outputs=_write_outputs(net, heads, layers[-1], raw=head == "raw"),
        metadata={"channels": str(channels), **_metadata(cfg, size, [each for _, each in heads], raw=head == "raw")},
    )


def _build(net: Network, layers: list[Section], size: tuple[int, int]) -> list[tuple[Feature, Head]]:
    heads: list[tuple[Feature, Head]] = []
    for index, section in enumerate(layers):
        net.writer.scope = f"layers.{index}"
        if section.name in _DETECTION:
            before = net.before(section)
            heads.append((before, read_head(section, before.shape, size)))
            net.features.append(None)
        elif section.name in LAYERS:
            net.features.append(LAYERS[section.name](net, section))
        else:
            known = ", ".join(sorted([*LAYERS, *_DETECTION]))
            raise UnsupportedError(
                f"layer '{section.name}' is not supported; known are {known}",
                file=section.file,
                node=section.where,
            )
    return heads


def _write_outputs(
    net: Network, heads: list[tuple[Feature, Head]], last: Section, *, raw: bool
) -> list[tuple[str, tuple[int, ...]]]:
    if len({head.classes for _, head in heads}) > 1:
        last.fail("the detection layers differ in their number of classes")
    if not heads:
        feature = net.before(last)
        return [(net.writer.rename(feature.name, "output0"), (1, *feature.shape))]
    if raw:
        maps = {feature.logits or feature.name: feature.shape for feature, _ in heads}
        return [
            (net.writer.rename(name, f"output{index}"), (1, *shape)) for index, (name, shape) in enumerate(maps.items())
        ]
    tables: list[str] = []
    for index, (feature, head) in enumerate(heads):
        net.writer.scope = f"head.{index}"
        tables.append(write_head(net.writer, feature.name, head))
    net.writer.scope = "head"
    table = net.writer.node("Concat", tables, axis=1) if len(tables) > 1 else tables[0]
    rows = sum(len(head.anchors) * head.cells[0] * head.cells[1] for _, head in heads)
    return [(net.writer.rename(table, "output0"), (1, rows, 5 + heads[0][1].classes))]


def _metadata(cfg: Path, size: tuple[int, int], heads: list[Head], *, raw: bool) -> dict[str, str]:
    metadata = {"imgsz": str(list(size)), "batch": "1", "source_format": "darknet"}
    if not heads:
        return {**metadata, "task": "classify"}
    described = [
        {
            "anchors": head.anchors.round(4).tolist(),
            "stride": list(head.stride),
            "scale_x_y": head.scale_xy,
            "new_coords": head.activated,
        }
        for head in heads
    ]
    return {
        **metadata,
        "task": "detect",
        "head": "raw" if raw else "decoded",
        "stride": str(int(max(max(head.stride) for head in heads))),
        "names": str(dict(enumerate(_class_names(cfg, heads[0].classes)))),
        "heads": json.dumps(described),
    }


def _class_names(cfg: Path, count: int) -> list[str]:
    """The lines of the `.names` file beside the `.cfg` if it has as many, else class0, class1 …"""
    path = cfg.with_suffix(".names")
    if path.is_file() and path.stat().st_size < 1 << 20:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
        names = [line for line in lines if line]
        if len(names) == count:
            return names
    return [f"class{index}" for index in range(count)]


def _weights_beside(cfg: Path) -> Path:
    path = cfg.with_suffix(".weights")
    if not path.is_file():
        raise InputError(f"there is no '{path.name}' beside it", file=cfg, hint="name the weights with --weights FILE")
    return path
