"""What changed between two compilations, as plain values and as Markdown for a pull request's comment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from onnxslim_yolo.report.markdown import markdown_diff, markdown_summary
from onnxslim_yolo.report.read import read_report
from onnxslim_yolo.report.wording import equality_word, headline, size_of_result, verdicts

__all__ = ["diff_reports", "markdown_diff", "markdown_summary", "read_report"]

FORMAT, VERSION = "onnxslim-yolo/report-diff", 1

Report = Mapping[str, Any]


def diff_reports(old: Report, new: Report) -> dict[str, Any]:
    """Compare two reports, ready for json.dumps.

    Returns:
        `old`, `new`: source and tool of each. `same_source`: whether the input's SHA-256 is the same.
        `figures`: name → {old, new}: parameters, macs, nodes, bytes (of the result), removed channels,
        difference_from_source, and latency (predicted, measured) and mAP50 where a report has them; null where one
        lacks it.
        `files`: name → {old, new} in bytes. `options`: name → {old, new} for those that differ.
        `verdict`: {old, new}, each headline's word, text and level.
        `verification`: {old, new}, each with verdict and worst required difference.
        `blocks`: name → {old, new} for those whose cost in the result differs: layers, macs, parameters and predicted
        latency_us; null where it is gone. None of a report that does not tell them.
        `widths`: groups whose kept width differs, with members. `notes`: {new, gone}.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "old": _identity(old),
        "new": _identity(new),
        "same_source": old["source"]["sha256"] == new["source"]["sha256"],
        "figures": _pairs(_figures(old), _figures(new)),
        "files": _pairs(old["files"], new["files"]),
        "options": {k: v for k, v in _pairs(old["options"], new["options"]).items() if v["old"] != v["new"]},
        "verification": {"old": _verification(old), "new": _verification(new)},
        "verdict": {"old": _headline(old), "new": _headline(new)},
        "blocks": _blocks(old, new),
        "widths": _widths(old, new),
        "notes": {
            "new": list((Counter(new["notes"]) - Counter(old["notes"])).elements()),
            "gone": list((Counter(old["notes"]) - Counter(new["notes"])).elements()),
        },
    }


def _identity(report: Report) -> dict[str, Any]:
    source = report["source"]
    return {"file": source["file"], "sha256": source["sha256"], "bytes": source["bytes"], "tool": report["tool"]}


def _figures(report: Report) -> dict[str, float | None]:
    after, pruning = report["after"], report["pruning"]
    loss = (report["verification"] or {}).get("difference_from_source")
    figures: dict[str, float | None] = {
        "parameters": after["parameters"],
        "macs": after["macs"],
        "nodes": after["nodes"],
        "bytes": size_of_result(report),
        "removed": None if pruning is None else pruning["removed"],
        "gone": None if pruning is None else len(pruning.get("gone") or ()),
        "difference_from_source": None if loss is None else loss["worst"],
    }
    if after.get("latency_us") is not None:
        figures["latency_us"] = after["latency_us"]
    if report.get("speed") is not None:
        figures |= {"latency_ms": report["speed"]["result_ms"], "latency_ratio": report["speed"]["ratio"]}
    if report.get("accuracy") is not None:
        accuracy = report["accuracy"]
        figures["map50"] = accuracy["models"]["source"]["map50"] - accuracy["map50_drop"]
    return figures


def _blocks(old: Report, new: Report) -> dict[str, Any]:
    sides = [{block["name"]: block["after"] for block in report.get("blocks") or ()} for report in (old, new)]
    return {name: pair for name, pair in _pairs(*sides).items() if pair["old"] != pair["new"]} if all(sides) else {}


def _headline(report: Report) -> dict[str, str]:
    found = headline(report)
    return {"word": found.word, "text": found.text, "level": found.level}


def _verification(report: Report) -> dict[str, Any]:
    required = [v.worst for v in verdicts(report) if v.tolerance is not None]
    return {"verdict": equality_word(report), "worst": max(required, default=None)}


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    names = [*old, *(name for name in new if name not in old)]
    return {name: {"old": old.get(name), "new": new.get(name)} for name in names}


def _widths(old: Report, new: Report) -> list[dict[str, Any]]:
    before, after = _groups(old), _groups(new)
    keys = [*before, *(key for key in after if key not in before)]
    rows = []
    for key in keys:
        one, two = before.get(key), after.get(key)
        if one is None or two is None or (one["width"], one["kept"]) != (two["width"], two["kept"]):
            rows.append({"members": list(key[0]), "old": _width(one), "new": _width(two)})
    return rows


def _groups(report: Report) -> dict[tuple[tuple[str, ...], int], Mapping[str, Any]]:
    """Groups by their members and, as several may have the same members, by their turn among these."""
    seen: Counter[tuple[str, ...]] = Counter()
    found: dict[tuple[tuple[str, ...], int], Mapping[str, Any]] = {}
    for group in report["groups"]:
        members = tuple(group["members"])
        found[members, seen[members]] = group
        seen[members] += 1
    return found


def _width(group: Mapping[str, Any] | None) -> dict[str, int] | None:
    return None if group is None else {"width": group["width"], "kept": group["kept"]}
