"""ONNX's own node tests between two layers, a few of each operator; `bench/node_tests.py` runs them all."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from tests.node_tests import ROUNDING, Outcome, check, every_case, worst, wrapped
from tests.numeric import random_feeds, run_onnx, spoiled

OF_EACH = 2
"""Tests of one operator that are run."""


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    found: list[Outcome] = []
    done: Counter[str] = Counter()
    for name, proto, inputs in every_case():
        op = proto.graph.node[0].op_type if len(proto.graph.node) == 1 else "written out"
        if done[op] < OF_EACH:
            found.append(check(name, proto, inputs))
            done[op] += found[-1].state != "skipped"
    return found


def test_what_is_pruned_around_every_operator_is_right(outcomes: list[Outcome]) -> None:
    assert not {outcome.name: outcome.error for outcome in outcomes if outcome.error > ROUNDING}


def test_the_operators_of_networks_are_among_them(outcomes: list[Outcome]) -> None:
    states = defaultdict(set)
    for outcome in outcomes:
        states[outcome.op].add(outcome.state)
    pruned = {op for op, seen in states.items() if "pruned" in seen}
    assert pruned >= {"Relu", "Sigmoid", "MaxPool", "AveragePool", "Concat", "Split", "Gather", "Softplus"}
    assert all(outcome.reason for outcome in outcomes if outcome.state != "pruned")


def test_a_wrong_weight_is_noticed() -> None:
    name, proto, inputs = next(case for case in every_case() if case[0] == "test_relu")
    source = wrapped(name, proto, inputs)
    assert not isinstance(source, str)
    feeds = random_feeds(source)
    assert worst(run_onnx(source, feeds), run_onnx(spoiled(source, "behind_w0", whole=True), feeds)) > ROUNDING
