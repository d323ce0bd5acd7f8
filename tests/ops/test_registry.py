"""Every table against the registry, and the registry against onnx.defs: none is known here and forgotten there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from onnxslim_yolo.analysis.adjoint_rules import ADJOINTS
from onnxslim_yolo.analysis.moment_rules import RULES as MOMENTS
from onnxslim_yolo.analysis.movement import MOVERS
from onnxslim_yolo.analysis.rules import RULES
from onnxslim_yolo.emit.ncnn.emitter import OPS as NCNN
from onnxslim_yolo.latency.layers import RULES as LATENCY
from onnxslim_yolo.ops.arithmetic import ARITHMETIC, COMPARISONS, apply
from onnxslim_yolo.ops.reductions import REDUCTIONS
from onnxslim_yolo.ops.registry import KINDS, OUTSIDE
from onnxslim_yolo.rewrites.channel_counts import UPDATES
from tests.kinds import text_of

OWN = {"NCNN": {"Silu", "SoftmaxAxis"}}
"""Operators that only a private copy of a graph has."""

LACKING: dict[str, dict[str, str]] = {
    "labels": {
        **dict.fromkeys(
            ("Compress", "GatherND", "ReverseSequence", "Scatter", "ScatterElements", "ScatterND", "Trilu"),
            "opaque: where an element comes from is computed, or differs within a channel",
        ),
    },
    "moments": {
        **dict.fromkeys(("And", "Or", "Xor", "IsInf", "IsNaN"), "truth values: they make no channel constant"),
        **dict.fromkeys(("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"), "of whole numbers"),
        **dict.fromkeys(("DeformConv", "Attention", "LSTM", "GRU", "RNN"), "what it reads of a constant is computed"),
        **dict.fromkeys(
            ("GatherElements", "GatherND", "Compress", "Trilu", "ReverseSequence", "ScatterND", "ScatterElements",
             "Scatter"), "which elements it moves is computed, or differs within a channel",
        ),
        **dict.fromkeys(
            ("MeanVarianceNormalization", "LpNormalization", "Softmax", "LogSoftmax", "Hardmax"),
            "a channel's values depend on others'",
        ),
        **dict.fromkeys(("Shape", "Size"), "numbers of the shape, folded where they are known"),
        **dict.fromkeys(("ArgMax", "ArgMin", "CumProd"), "positions, or products that grow along an axis"),
    },
    "ncnn": {
        **dict.fromkeys(COMPARISONS, "ncnn has no truth values"),
        **dict.fromkeys(("And", "Or", "Xor", "Not", "IsInf", "IsNaN", "Where"), "ncnn has no truth values"),
        **dict.fromkeys(("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Mod"), "of whole numbers"),
        **dict.fromkeys(("Sinh", "Cosh", "Asinh", "Acosh", "Atanh"), "UnaryOp has no such function"),
        **dict.fromkeys(("Attention", "LSTM", "GRU", "RNN"), "of tokens: ncnn's has other inputs"),
        **dict.fromkeys(
            ("GatherElements", "GatherND", "Compress", "Trilu", "ReverseSequence", "ScatterND", "ScatterElements",
             "Scatter", "CenterCropPad"), "ncnn moves whole slices only",
        ),
        "Dropout": "left out before",
        **dict.fromkeys(
            ("RMSNormalization", "MeanVarianceNormalization", "LpNormalization", "LRN", "Hardmax"),
            "ncnn's layer has another formula, or only newer versions have one",
        ),
        **dict.fromkeys(("LpPool", "GlobalLpPool", "RoiAlign"), "ncnn has no such layer"),
        **dict.fromkeys(("Shape", "Size"), "sizes are constants by then"),
        **dict.fromkeys(("TopK", "ArgMax", "ArgMin", "CumSum", "CumProd"), "post-processing: cut off in front"),
    },
    "torch": {
        **dict.fromkeys(("IsInf", "IsNaN"), "of no map"),
        **dict.fromkeys(("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"), "of whole numbers"),
        **dict.fromkeys(("DeformConv", "RoiAlign"), "only torchvision has it, or it samples otherwise"),
        **dict.fromkeys(("Attention", "LSTM", "GRU", "RNN"), "a module of its own, with other weights"),
        **dict.fromkeys(
            ("Dropout", "GatherND", "Compress", "Trilu", "ReverseSequence", "ScatterND", "ScatterElements", "Scatter",
             "CenterCropPad"), "left out before, or no detector to be trained has it",
        ),
        **dict.fromkeys(("Hardmax", "LpPool"), "no detector to be trained has it"),
        **dict.fromkeys(("Shape", "Size"), "sizes are constants by then"),
        **dict.fromkeys(("ArgMax", "ArgMin", "CumSum", "CumProd"), "post-processing"),
    },
    "adjoints": {
        **dict.fromkeys(COMPARISONS, "a step function has no slope"),
        **dict.fromkeys(("And", "Or", "Xor", "Not", "IsInf", "IsNaN", "Mod"), "a step function has no slope"),
        **dict.fromkeys(("BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"), "of whole numbers"),
        **dict.fromkeys(("DeformConv", "Attention", "LSTM", "GRU", "RNN", "GridSample", "RoiAlign"), "not written out"),
        **dict.fromkeys(
            ("GatherND", "Compress", "Trilu", "ReverseSequence", "ScatterND", "ScatterElements", "Scatter",
             "CenterCropPad"), "not written out",
        ),
        **dict.fromkeys(("LRN", "Hardmax", "LpPool", "GlobalLpPool"), "not written out"),
        **dict.fromkeys(("ReduceLogSum", "ReduceLogSumExp", "ReduceProd"), "not written out"),
        **dict.fromkeys(("Shape", "Size", "TopK", "ArgMax", "ArgMin", "CumSum", "CumProd"), "no slope"),
    },
}  # fmt: skip
"""Question → operator → why its table has no row."""


def tables() -> dict[str, Mapping[str, Any]]:
    pytest.importorskip("torch")
    from onnxslim_yolo.load.graph_ops import OPS as TORCH

    return {"labels": RULES, "moments": MOMENTS, "ncnn": NCNN, "torch": TORCH, "adjoints": ADJOINTS}


def test_every_operator_of_onnx_is_of_a_kind_or_outside_for_a_reason() -> None:
    names = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain and not schema.deprecated}
    assert names - set(KINDS) - set(OUTSIDE) == set()
    assert set(KINDS) & set(OUTSIDE) == set() and all(OUTSIDE.values())
    older = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if not schema.domain}
    assert onnx.__version__ < "1.23" or (set(KINDS) | set(OUTSIDE)) <= older


def test_every_table_answers_for_every_operator_or_says_why_not() -> None:
    for question, table in tables().items():
        known = set(table) - {"Silu", "SoftmaxAxis"}
        assert known <= set(KINDS), f"{question}: {sorted(known - set(KINDS))} are of no kind"
        lacking = LACKING[question]
        absent = set(KINDS) - set(table)
        assert absent <= set(lacking), f"{question}: no row and no reason for {sorted(absent - set(lacking))}"
        assert set(lacking) <= absent, f"{question}: rows, and reasons why not: {sorted(set(lacking) - absent)}"
        assert all(lacking.values())


def test_other_tables_know_only_operators_of_a_kind() -> None:
    for table in (MOVERS, LATENCY, UPDATES):
        assert set(table) <= set(KINDS)


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions_are_onnx_s(op: str) -> None:
    x = np.random.default_rng(0).uniform(0.5, 1.5, (2, 3, 4)).astype(np.float32)
    proto = onnx.parser.parse_model(
        text_of("float[2,3,4] x", "float[a,b,c] y", "int64[2] axes = {0, 2}", f"y = {op}(x, axes)", 18)
    )
    (expected,) = ReferenceEvaluator(proto).run(None, {"x": x})
    row = REDUCTIONS[op]
    assert np.allclose(row.f(x.astype(np.float64), 1, (0, 2)), expected, rtol=1e-5)
    # Of what is constant along an axis, an element stands for all.
    wide = np.broadcast_to(x[:, :, :1], (2, 3, 4)).astype(np.float64)
    assert np.allclose(row.f(wide[:, :, :1], 4, (0, 2)), row.f(wide, 1, (0, 2)))
    assert row.steady is bool(np.allclose(row.f(np.full((1, 1, 1), 0.7), 4, (2,)), 0.7))
    times = 2 if op == "ReduceMean" else 1  # a mean is a sum over the source's number of channels
    some = [x] if op == "ReduceLogSum" else [x, -x]
    with_zeros = [row.f(np.append(each, 0 * each, 2), 1, (2,)) * times for each in some]
    adds = [np.allclose(more, row.f(each, 1, (2,))) for more, each in zip(with_zeros, some, strict=True)]
    assert row.adds_up is all(adds)
    if row.beside_zero is not None:
        beside = {"Max": np.maximum, "Min": np.minimum}[row.beside_zero]
        with_zero = row.f(np.append(x - 1, 0 * x, 2), 1, (2,))
        assert np.array_equal(with_zero, beside(row.f(x - 1, 1, (2,)), 0))
    if op == "ReduceLogSum":
        return
    negative = row.f(np.random.default_rng(1).normal(-1, 0.1, (1, 1, 3)), 1, (2,))
    assert row.floor is None or (negative >= row.floor).all()


@pytest.mark.parametrize("op", ARITHMETIC)
def test_arithmetic_is_onnx_s(op: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(0.5, 2, (2, 3)).astype(np.float32) for _ in range(2))
    text = text_of(
        "float[2,3] a, float[2,3] b",
        "float[2,3] y",
        "",
        f"y = {op}({'a, b, a' if ARITHMETIC[op].many else 'a, b'})",
        17,
    )
    (expected,) = ReferenceEvaluator(onnx.parser.parse_model(text)).run(None, {"a": a, "b": b})
    found = apply(op, {}, *((a, b, a) if ARITHMETIC[op].many else (a, b)))
    assert np.allclose(found, expected, rtol=1e-5)
    assert ARITHMETIC[op].keeps_sign is (op != "Sub")
