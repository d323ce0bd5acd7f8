"""Was a network ever trained to detect? Scores on images against those on the same images in disorder.

A detector is trained to score what has a shape. Nothing in a network that was not trained does: its scores follow from
an image's colours, contrasts and spectrum alone, whatever its biases and gains. So images are shown twice more,

* *shuffled*: with their pixels in random order, which keeps colours and contrast;
* *dephased*: with random phases, the same for all colours, which keeps the spectrum, too, but no edge.

How far scores rise above both, in logits, is `noise + 2·phase`: some detectors are silenced by the one, some by the
other, and networks with large gains answer a little to the spectrum. Taken of the highest hundredth of the scores, and
of the best one, where objects are few. One that fires nearly everywhere was not trained, whatever rises. Thresholds
and what they rest on: bench/untrained.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.runtime.onnx_run import Feeds
from onnxslim_yolo.verify.ruler import FIRES

HUNDREDTH, BEST = 2.4, 6.0
"""Logits: a trained one's scores rise by so much, in the highest hundredth or at the best place."""

HALF = 0.5
"""One that fires in more of its cells than this detects nothing: trained ones do in up to 7 %."""

SHOWN = 4
"""Images that are shown in disorder, too."""

LEAST, MOST = 1e-9, 1 - 1e-6


def disordered(feeds: Sequence[Feeds], seed: int = 0) -> tuple[list[Feeds], list[Feeds]]:
    """The first images, shuffled, and dephased."""
    rng = np.random.default_rng(seed)

    def shown(make: Callable[[Array, np.random.Generator], Array]) -> list[Feeds]:
        return [{k: make(v, rng) if v.ndim == 4 else v for k, v in feed.items()} for feed in feeds[:SHOWN]]

    return shown(_shuffled), shown(_dephased)


def rises(scores: Array, shuffled: Array, dephased: Array) -> tuple[float, float]:
    """By how much scores on images rise above those on their disorder: the highest hundredth, and the best."""
    found = [[float(_logit(np.quantile(part, q))) for part in (scores, shuffled, dephased)] for q in (0.99, 1.0)]
    hundredth, best = ((own - noise) + 2 * (own - phase) for own, noise, phase in found)
    return hundredth, best


def looks_trained(scores: Array, shuffled: Array, dephased: Array, *, every: bool = True) -> bool:
    """Whether scores rise above disorder as in a detector that was trained.

    Args:
        every: they are those of every cell, and not of the best ones, as an end-to-end head gives them.
    """
    if every and (scores > FIRES).mean() > HALF:
        return False
    hundredth, best = rises(scores, shuffled, dephased)
    return hundredth >= HUNDREDTH or best >= BEST


def _logit(p: float) -> float:
    p = min(max(float(p), LEAST), MOST)
    return float(np.log(p) - np.log1p(-p))


def _shuffled(image: Array, rng: np.random.Generator) -> Array:
    """Pixels in another order, their colours kept together."""
    flat = image.reshape(*image.shape[:2], -1)
    return np.ascontiguousarray(flat[:, :, rng.permutation(flat.shape[2])].reshape(image.shape))


def _dephased(image: Array, rng: np.random.Generator) -> Array:
    """Random phases, with the mean and the contrast of every colour, cut to the range that there was."""
    wide = image.astype(np.float64)
    turn = np.exp(1j * np.angle(np.fft.fft2(rng.normal(size=image.shape[2:]))))
    drawn = np.fft.ifft2(np.fft.fft2(wide) * turn).real
    mean, spread = wide.mean((2, 3), keepdims=True), wide.std((2, 3), keepdims=True)
    drawn -= drawn.mean((2, 3), keepdims=True)
    drawn *= spread / np.maximum(drawn.std((2, 3), keepdims=True), 1e-12)
    kept = np.clip(drawn + mean, wide.min(), wide.max())
    return np.ascontiguousarray(kept if image.dtype.kind == "f" else np.rint(kept), dtype=image.dtype)
