"""What can be said of latency where nothing was measured: from a table's predictions, and only where they are plain."""

from __future__ import annotations

from typing import Any

PREDICTION_ERROR = 0.1
"""Relative. Nine of ten ratios of predicted latencies are off by less, over random widths of YOLOv5n
(bench/predicted_vs_measured.py)."""


def predicted_verdict(before: dict[str, Any], after: dict[str, Any], runtime: str) -> str | None:
    """A plain sentence if the result is predicted to be slower than its source beyond what predictions are off.

    Args:
        before, after: what `predicted_latency` says of the source and of the result.
        runtime: the runtime that they are for.
    """
    if before["latency_us"] <= 0 or after["latency_us"] <= (1 + PREDICTION_ERROR) * before["latency_us"]:
        return None
    return (
        f"the result is predicted to be SLOWER than its source in {runtime}: "
        f"{after['latency_us'] / before['latency_us']:.2f} of its latency ({after['table']}); --measure times it"
    )
