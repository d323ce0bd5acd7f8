"""int8 for other machines, where this one's kernels overflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnxslim_yolo.passes.quantise import Quantise
from onnxslim_yolo.quantisation.qdq import quantised_graph
from onnxslim_yolo.runtime import onnx_run
from tests.quantisation.test_quantise import built, images

__all__ = ["images"]


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("narrow", [True, False])
def test_a_plan_for_other_machines_is_judged_in_float_where_kernels_overflow(
    narrow: bool, here: bool, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Widths, ranges and verdicts of int8 for a board went by what overflowing kernels of this machine made of it."""
    model = built("relu")
    Quantise(("all",), images, narrow=narrow).run(model)
    assert model.quantised is not None
    monkeypatch.setattr(onnx_run, "adds_in_16_bits", lambda: here)
    options = onnx_run.session(quantised_graph(model, model.quantised), optimise=True).get_session_options()
    in_float = here and not narrow
    assert in_float == (_entry(options, "session.disable_quant_qdq") == "1")


def _entry(options: Any, key: str) -> str:
    try:
        return str(options.get_session_config_entry(key))
    except RuntimeError:  # it was never set
        return ""
