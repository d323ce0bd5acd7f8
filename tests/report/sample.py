"""A report as compile() writes it, small enough to read, with every kind of entry."""

from __future__ import annotations

import copy
from typing import Any

HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">`|*_\x1b[31m\u202e"
)


def _check(label: str, runtime: str, worst: float, tolerance: float | None = 1e-3) -> dict[str, Any]:
    passed = tolerance is None or worst <= tolerance
    return {"label": label, "runtime": runtime, "tolerance": tolerance, "worst": worst, "passed": passed, "outputs": []}


def _layer(name: str, macs: int, parameters: int) -> dict[str, Any]:
    return {"name": name, "op": "Conv", "macs": macs, "parameters": parameters, "latency_us": macs / 4}


def _group(index: int, width: int, wanted: int, kept: int, *members: str, frozen: str | None = None) -> dict[str, Any]:
    return {"id": index, "width": width, "wanted": wanted, "kept": kept, "members": list(members), "frozen": frozen}


def _change(step: int, tensor: str, kind: str, before: str, after: str) -> dict[str, Any]:
    return {"pass": step, "tensor": tensor, "change": kind, "before": before, "after": after}


_REPORT: dict[str, Any] = {
    "format": "onnxslim-yolo/report",
    "version": 1,
    "tool": {"name": "onnxslim-yolo", "version": "0.1.0"},
    "source": {"file": "best.onnx", "sha256": "ab" * 32, "bytes": 4_000_000},
    "options": {"out": "my out", "prune": 0.5, "keep": ["model.0", "a b"], "emit": ["onnx"], "verify": False},
    "before": {
        "macs": 4000,
        "parameters": 400,
        "nodes": 40,
        "layers": [
            _layer("/model.0/conv/Conv", 1000, 100),
            _layer("/model.1/cv1/conv/Conv", 2000, 200),
            _layer("/model.9/cv2.0/cv2.0.1/Conv", 900, 90),
            _layer("/model.9/dw/Conv", 100, 10),
        ],
        "latency_us": 1300.0,
        "latency_kinds": [
            {"kind": "convolution 3×3", "layers": 3, "us": 975.0},
            {"kind": "activation or scale: silu", "layers": 4, "us": 300.0},
            {"kind": "depthwise convolution", "layers": 1, "us": 25.0},
        ],
        "table": "ncnn 1.0, a CPU (avx2), 1 thread(s)",
    },
    "after": {
        "macs": 1600,
        "parameters": 160,
        "nodes": 30,
        "layers": [
            _layer("/model.0/conv/Conv", 1000, 100),
            _layer("/model.1/cv1/conv/Conv", 500, 50),
            _layer("/model.9/cv2.0/cv2.0.1/Conv", 100, 10),
        ],
        "latency_us": 520.0,
        "latency_kinds": [
            {"kind": "convolution 3×3", "layers": 3, "us": 400.0},
            {"kind": "activation or scale: silu", "layers": 3, "us": 120.0},
        ],
        "table": "ncnn 1.0, a CPU (avx2), 1 thread(s)",
    },
    "pruning": {
        "channels": 210,
        "prunable": 200,
        "removed": 90,
        "dead": None,
        "importance": "gamma",
        "threshold": 0.25,
        "lossless": False,
        "histogram": {"counts": [4, 9, 2], "going": [4, 1, 0], "edges": [0.0, 0.2, 0.4, 0.6]},
    },
    "groups": [
        _group(0, 16, 16, 16, "model.0.conv"),
        _group(1, 64, 20, 32, "model.1.cv1.conv", "model.1.cv2.conv"),
        _group(2, 128, 40, 48, "model.1.cv1.conv"),
        _group(3, 10, 10, 10, "model.9.cv2.0.1", frozen="reaches the output 'output0'"),
    ],
    "frozen": [{"reason": "reaches the output 'output0'", "channels": 10}],
    "passes": [
        {"name": "prune", "spec": "prune{ratio=0.5}", "rewrites": 90, "nodes": 40},
        {"name": "reparam", "spec": "reparam", "rewrites": 0, "nodes": 40},
    ],
    "journal": [
        {
            "pass": 0,
            "tensor": "/model.1/cv1/conv/Conv_output_0",
            "change": "cut",
            "before": "1×192×8×8",
            "after": "1×80×8×8",
        },
        {"pass": 1, "tensor": "old", "change": "renamed", "before": "old", "after": "new"},
    ],
    "network": {
        "blocks": [
            {"name": "images", "kind": "input", "nodes": [], "ops": {}},
            {"name": "model.0", "kind": "block", "nodes": ["/model.0/conv/Conv"], "ops": {"Conv": 1}},
            {
                "name": "model.1",
                "kind": "block",
                "nodes": ["/model.1/cv1/conv/Conv", "r"],
                "ops": {"Conv": 1, "Relu": 1},
            },
            {
                "name": "model.9",
                "kind": "block",
                "nodes": ["/model.9/cv2.0/cv2.0.1/Conv", "/model.9/dw/Conv"],
                "ops": {"Conv": 2},
            },
            {"name": "output0", "kind": "output", "nodes": [], "ops": {}},
        ],
        "edges": [
            {"from": 0, "to": 1, "tensors": [{"name": "images", "before": 3, "after": 3, "gone": False}]},
            {"from": 1, "to": 2, "tensors": [{"name": "a", "before": 16, "after": 16, "gone": False}]},
            {
                "from": 2,
                "to": 3,
                "tensors": [
                    {"name": "/model.1/cv1/conv/Conv_output_0", "before": 192, "after": 80, "gone": False},
                    {"name": "b", "before": 8, "after": None, "gone": True},
                ],
            },
            {"from": 3, "to": 4, "tensors": [{"name": "output0", "before": None, "after": None, "gone": False}]},
        ],
    },
    "verification": {
        "checks": [
            _check("masked source = best.onnx", "onnxruntime", 2e-6),
            _check("fp32 weights = fp16 weights (the cost of rounding)", "onnxruntime", 4e-3, None),
        ],
        "control": {"layer": "/model.0/conv/Conv", "spoiled_by": 0.01, "worst": 2e-3, "noticed": True},
        "difference_from_source": _check("source = files", "onnxruntime", 0.7, None),
    },
    "compensation": [
        {
            "pass": "absorb",
            "without": 0.4,
            "compensated": 0.1,
            "measure": "difference",
            "images": 1,
            "kind": "synthetic",
        }
    ],
    "files": {"best.onnx": 1_000_000, "best_ncnn_model/model.ncnn.bin": 500_000},
    "ncnn": None,
    "speed": {
        "runtime": "ncnn",
        "source_ms": 12.0,
        "result_ms": 8.0,
        "ratio": 0.67,
        "quartiles": [0.66, 0.68],
        "control": 1.0,
        "resolution": 0.02,
        "threads": 1,
        "rounds": 21,
    },
    "accuracy": {
        "data": "coco.yaml",
        "images": 128,
        "models": {"source": {"map50": 0.45, "map": 0.28}, "best.onnx": {"map50": 0.43, "map": 0.26}},
        "map50_drop": 0.02,
    },
    "notes": ["ranked by weight norms instead of γ"],
}


def sample(**changes: Any) -> dict[str, Any]:
    """A fresh copy with some top-level fields replaced."""
    return copy.deepcopy(_REPORT) | changes


def hostile() -> dict[str, Any]:
    """The sample with every name that comes from a file replaced by one that tries to be code."""

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: spoil(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [spoil(item, key) for item in value]
        kept = key in ("format", "importance", "kind") or not isinstance(value, str)
        return value if kept else f"{value}{HOSTILE}"

    report: dict[str, Any] = spoil(sample())
    report["files"] = {f"{HOSTILE}.onnx": 1}
    report["accuracy"]["models"][HOSTILE] = report["accuracy"]["models"].pop("best.onnx")
    report["options"] = {"out": HOSTILE, "keep": [HOSTILE]}
    return report
