"""report.json: everything a compilation decided, measured and refused, as plain values.

Stable keys: `format`, `version`, `source`, `options`, `before`, `after`, `blocks`, `pruning`, `groups`, `frozen`,
`passes`, `journal`, `network`, `verification`, `files`, `notes`, `ncnn`. Terminal and HTML report show this and nothing
else. No wall-clock time is in it, so that the same input and options give the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxslim_yolo._version import __version__
from onnxslim_yolo.analysis.cost import Cost, cost_of
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.manager import PassRecord
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.pruning.plan import Plan
from onnxslim_yolo.pruning.removed import as_modules
from onnxslim_yolo.report.read import FORMAT, VERSION

if TYPE_CHECKING:
    from onnxslim_yolo.emit.ncnn.emitter import NcnnModel
    from onnxslim_yolo.result import Result
    from onnxslim_yolo.verify.files import Verification

BINS = 60


def build_report(
    result: Result,
    pair: NcnnModel | None,
    path: Path,
    options: CompileOptions,
    before: Cost,
    records: Sequence[PassRecord],
    verification: Verification | None,
) -> dict[str, Any]:
    """The report of one compilation, ready for json.dumps."""
    model = result.model
    plan = model.last_plan
    files = {} if result.onnx is None else {result.onnx.name: result.onnx.stat().st_size}
    if result.torch is not None:
        files[result.torch.name] = result.torch.stat().st_size
    if result.ultralytics is not None:
        files[result.ultralytics.name] = result.ultralytics.stat().st_size
    if result.ncnn is not None:
        files |= {f"{result.ncnn.name}/{f.name}": f.stat().st_size for f in sorted(result.ncnn.iterdir())}
    return {
        "format": FORMAT,
        "version": VERSION,
        "tool": {"name": "onnxslim-yolo", "version": __version__},
        "source": {"file": path.name, "sha256": model.source.sha256, "bytes": model.source.size},
        "options": options.as_json(),
        "before": _cost(before),
        "after": _cost(cost_of(model.graph)),
        "pruning": _pruning(model),
        "groups": [] if plan is None else [group.as_json() for group in plan.group_plans()],
        "frozen": _frozen(plan),
        "passes": [{"name": r.name, "spec": r.spec, "rewrites": r.rewrites, "nodes": r.nodes} for r in records],
        "journal": [{"pass": k} | change.as_json() for k, record in enumerate(records) for change in record.changes],
        "verification": None if verification is None else verification.as_json(),
        "int8": None if model.quantised is None else model.quantised.as_json(),
        "files": files,
        "ncnn": None if pair is None else _ncnn(pair),
        "notes": list(model.notes),
    }


def _ncnn(pair: NcnnModel) -> dict[str, Any]:
    return {
        "weights": pair.weights,
        "inputs": {blob: port.onnx for blob, port in pair.inputs.items()},
        "outputs": {blob: port.onnx for blob, port in pair.outputs.items()},
        "cut": list(pair.cut),
    }


def _cost(cost: Cost) -> dict[str, Any]:
    return {
        "macs": cost.macs,
        "parameters": cost.parameters,
        "nodes": cost.nodes,
        "layers": [{"name": c.name, "op": c.op, "macs": c.macs, "parameters": c.parameters} for c in cost.layers],
    }


def _pruning(model: Model) -> dict[str, Any] | None:
    plan, carried = model.last_plan, model.carried
    if plan is None:
        return None
    prunable = plan.channels.prunable
    shown = prunable & np.isfinite(plan.importance)  # weights may be NaN; a note says so
    values = plan.importance[shown]
    histogram: dict[str, Any] | None = None
    if values.size and values.any():
        counts, edges = np.histogram(values, bins=BINS)
        going, _ = np.histogram(values[~plan.wanted[shown]], bins=edges)
        histogram = {"counts": counts.tolist(), "going": going.tolist(), "edges": [float(e) for e in edges]}
    return {
        "channels": plan.channels.count,
        "prunable": int(prunable.sum()),
        "removed": plan.removed,
        "dead": int(plan.removable.sum()) if plan.dead_only else None,
        "importance": plan.importance_kind,
        "threshold": plan.threshold if plan.threshold is not None and np.isfinite(plan.threshold) else None,
        "lossless": model.lossless,
        "gone": as_modules(carried.removed_nodes, carried.layers),
        "blocks": len(carried.blocks),
        "histogram": histogram,
    }


def _frozen(plan: Plan | None) -> list[dict[str, Any]]:
    """How many channels each reason freezes, most first."""
    if plan is None:
        return []
    counts = Counter(reason for reason in plan.channels.frozen if reason is not None)
    return [{"reason": reason, "channels": count} for reason, count in counts.most_common()]
