"""Compare any two models on the same image-like inputs: ONNX files, NCNN folders, checkpoints, Darknet networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.input_format import InputFormat
from onnxslim_yolo.verify.chain import Check
from onnxslim_yolo.verify.compare import TOLERANCE, Difference, compare
from onnxslim_yolo.verify.detector import Network, open_network
from onnxslim_yolo.verify.onnx_run import image_like


def compare_models(
    first: Path,
    second: Path,
    *,
    size: tuple[int, int] | None = None,
    tolerance: float = TOLERANCE,
    count: int = 2,
    form: InputFormat | None = None,
) -> Check:
    """Run both on the same inputs and compare their outputs in order.

    `form` is what both are fed for a pixel; None for what the first file shows.

    Raises:
        InputError: a file is broken, or the models differ in input size or number of outputs.
    """
    a, b = open_network(first, size=size, form=form), open_network(second, size=size, form=form)
    if a.size != b.size:
        raise InputError(
            f"takes {b.size[0]}x{b.size[1]} pixels, {first.name} takes {a.size[0]}x{a.size[1]}", file=second
        )
    rng = np.random.default_rng(0)
    images = [a.form.feed(image_like((1, 3, *a.size), rng)) for _ in range(count)]
    expected, got = _outputs(a, images), _outputs(b, images)
    if len(expected[0]) != len(got[0]):
        raise InputError(f"has {len(got[0])} outputs, {first.name} has {len(expected[0])}", file=second)
    differences = compare(expected, [_like(g, e) for g, e in zip(got, expected, strict=True)])
    return Check(f"{first.name} = {second.name}", "as installed", differences, tolerance)


def _outputs(network: Network, images: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [{f"output{k}": np.asarray(o) for k, o in enumerate(network.run(image))} for image in images]


def _like(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ncnn knows no batch and drops extents of 1: the same elements count as the same shape."""
    return {k: v.reshape(expected[k].shape) if v.size == expected[k].size else v for k, v in got.items()}


def worst(check: Check) -> Difference:
    """The output that differs most."""
    return max(check.differences, key=lambda d: d.worst)
