"""Questions are answered by the operator's name; what they are asked for stands in few files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from onnxslim_yolo.ir.attributes import since
from onnxslim_yolo.ops.arithmetic import AFFINE, ARITHMETIC, apply, is_sum, line
from onnxslim_yolo.ops.linear import is_conv, multiplies_matrices
from onnxslim_yolo.ops.movement import tells_sizes
from onnxslim_yolo.ops.norms import is_batch_norm, is_norm_by_channel

ROOT = Path(__file__).resolve().parents[2]
FILES = 45
"""At most so many decide by a name: the tables, and what recognises spellings."""


def node(op: str) -> gs.Node:
    return gs.Node(op, "n")


def test_a_question_is_of_its_operators_and_of_nothing_else() -> None:
    assert is_sum(node("Add")) and is_sum(node("Sum")) and not is_sum(node("Sub"))
    assert is_conv(node("Conv")) and not is_conv(node("ConvTranspose"))
    assert multiplies_matrices(node("Gemm")) and multiplies_matrices(node("MatMul"))
    assert tells_sizes(node("Shape")) and not tells_sizes(node("Reshape"))
    assert is_norm_by_channel(node("InstanceNormalization")) and not is_norm_by_channel(node("LayerNormalization"))
    assert not is_batch_norm(None)


@pytest.mark.parametrize("op", ARITHMETIC)
@pytest.mark.parametrize("place", [0, 1])
def test_an_operator_beside_a_constant_is_the_line_that_it_says(op: str, place: int) -> None:
    rng = np.random.default_rng(3)
    x, value = rng.uniform(0.5, 2, (2, 16))
    operands = (x, value) if place == 0 else (value, x)
    found = line(op, value, place)
    if found is None:
        assert op not in AFFINE or (op, place) == ("Div", 1)
        return
    assert np.allclose(found[0] * x + found[1], apply(op, {}, *operands))
    assert not np.allclose(found[0] * x + found[1] + 0.01, apply(op, {}, *operands))


def test_nothing_is_divided_by_zero() -> None:
    assert line("Div", np.array([1.0, 0.0]), 0) is None


def test_an_operator_is_known_since_its_schema_is() -> None:
    told = {op: since(op) for op in ("HardSwish", "HardSigmoid", "Gelu", "Mish", "LeakyRelu", "Relu", "Clip")}
    assert told == {"HardSwish": 14, "HardSigmoid": 6, "Gelu": 20, "Mish": 18, "LeakyRelu": 6, "Relu": 6, "Clip": 6}


def test_few_files_decide_by_an_operator_s_name() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "operator_names.py")], capture_output=True, text=True, check=True
    )
    inner = int(run.stdout.splitlines()[1].split()[0])
    assert inner <= FILES, f"{inner} files decide by an operator's name: ask a question of ops/ instead"
