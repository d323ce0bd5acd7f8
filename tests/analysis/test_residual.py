"""Shortcuts: the channels that they tie, and those that their branches make."""

from __future__ import annotations

import pytest

from onnxslim_yolo.analysis.channels import NO_CHANNEL
from onnxslim_yolo.analysis.residual import residual_channels
from tests.analysis.graphs import Labelled, onnx_text

WEIGHTS = """float[4, 3, 1, 1] stem, float[6, 4, 1, 1] up, float[4, 6, 1, 1] down, float[2, 4, 1, 1] last,
    float[4, 4, 1, 1] side, float[1, 4, 1, 1] plain"""


def marked(body: str, *names: str) -> list[bool]:
    """Whether all channels of each tensor are a shortcut's; a tensor is marked whole or not at all."""
    found = Labelled(onnx_text("float[1, 3, 6, 6] x", "float[a, b, c, d] y", WEIGHTS, f"s = Conv (x, stem) {body}"))
    channels = residual_channels(found.model.graph, found.channels)
    told = [{bool(channels[cls]) for cls in found[name] if cls != NO_CHANNEL} for name in names]
    assert all(len(one) == 1 for one in told)
    return [True in one for one in told]


@pytest.mark.parametrize("op", ["Add", "Sum"])
@pytest.mark.parametrize("order", ["s, b", "b, s"])
def test_a_residual_and_its_branch(op: str, order: str) -> None:
    body = f"a = Conv (s, up) b = Conv (a, down) r = {op} ({order}) y = Conv (r, last)"
    assert marked(body, "s", "a", "b", "r", "y") == [True, True, True, True, False]


@pytest.mark.parametrize(
    "end", ["b = Conv (a, down) y = Conv (b, last)", "b = Conv (a, down) r = Add (b, plain) y = Conv (r, last)",
            "b = Conv (a, down) r = Mul (b, s) y = Conv (r, last)"]
)  # fmt: skip
def test_no_shortcut(end: str) -> None:
    assert marked(f"a = Conv (s, up) {end}", "s", "a", "b") == [False, False, False]


def test_what_is_before_a_shortcut_is_not_its_branch() -> None:
    body = """a = Conv (s, up) b = Conv (a, down) t = Relu (b) c = Conv (t, side) r = Add (t, c) y = Conv (r, last)"""
    assert marked(body, "s", "a", "b", "c") == [False, False, True, True]


def test_two_branches_without_a_shortcut_are_both() -> None:
    body = "a = Conv (s, up) b = Conv (a, down) c = Conv (s, side) r = Add (b, c) y = Conv (r, last)"
    assert marked(body, "s", "a", "b", "c") == [False, True, True, True]


def test_a_sum_with_what_has_no_channels() -> None:
    body = "m = ReduceMean <axes = [1]> (s) a = Conv (s, side) r = Add (a, m) y = Conv (r, last)"
    assert marked(body, "s", "a") == [False, False]
