"""The table of `accuracy.py`, from its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onnxslim_yolo.files.atomic import write_atomically

Row = dict[str, Any]

WITHOUT_QUARTER = "calibrated without quarter "
"""Variants that start like this repeat the best method with fewer images."""

IN_NCNN = "in ncnn"
"""The variant that is not run in onnxruntime but as an NCNN pair."""

SNAPPED = "widths by default"
"""The variant whose widths are those that a compilation gives where nothing is said: fast ones, by the table."""

SHOWN = (None, IN_NCNN, SNAPPED)
"""Variants that are rows of the table."""

HEAD = """\
# Accuracy without training

mAP50 / mAP50-95 in per cent of the ONNX file as written, in onnxruntime, on the `val` images (96 of COCO, 72 of
BCCD, 120 of digits); calibrated on 28 of the 32 images of calib.txt (COCO) or 56 of the first 64 training images
(BCCD, digits), without labels. The columns are MACs removed. `bench/accuracy.py`; – means not run, × that it could
not be done, ° that an older tree was run: before `conv-before-resize`, which removes 2 % of the MACs at no loss, or,
with importance `output` and with curves, before errors at neighbouring positions were added up
(`pruning/coherence.py`). @ is the share of the latency that is left, predicted by the table for ncnn on x86 with
AVX-512, one thread: it was not measured. Rows are of exact widths, which few devices are fast at, but for those that
say "widths by default": these are what a compilation gives.

What chose what: importance `output`, its gradients, the weights of confidence, classes and boxes in its error (1,
10, 60; a dozen triples and powers were tried), the views of images, the mean of measured and predicted error in
`curves`, and the mean with the share of variance in both were chosen on calib.txt alone: fitted on one half of its
images and scored on the other, both ways, at 320 px, the last one at 640 px too and with its weight (a third) also
on training images of BCCD. YOLOv5n at 640 px was seen on val.txt on the way, at 10, 20 and 30 %: `global` 46.8,
38.5 and 33.5; 48.2, 39.2 and 34.2; 46.2, 38.7 and 35.4; with half a weight for the variance 47.8, 42.1 and 34.0.
`curves` 47.8, 42.8 and 35.2; 48.0, 42.6 and 35.2; with half a weight 49.1, 42.1 and 35.8. Importance `variance`
with measured curves alone gave 50.2, 43.8 and 29.8, which is why a mean with variance was tried. Where it says so,
the best method was calibrated again without a quarter of the images. About 2 points are noise on 96 images.
"""


def write_table(rows: list[Row], path: Path) -> None:
    """Write all rows as Markdown, completely or not at all."""
    lines = [HEAD]
    for model, size in dict.fromkeys((row["model"], row["size"]) for row in rows):
        mine = [row for row in rows if (row["model"], row["size"]) == (model, size)]
        targets = sorted({row["target"] for row in mine if "target" in row}, reverse=True)
        dense = next((row for row in mine if row["importance"] == "source"), None)
        lines.append(f"## {model}, {size} px" + ("" if dense is None else f" (dense: {_cell(dense)})") + "\n")
        lines.append("| importance | compensation | allocation | " + " | ".join(f"{1 - t:.0%}" for t in targets) + " |")
        lines.append("|---|---|---|" + "---|" * len(targets))
        for name, cells in _by_method(mine).items():
            lines.append(f"| {name} | " + " | ".join(_cell(cells.get(t)) for t in targets) + " |")
        lines.append("")
        lines += _ablation([row for row in mine if not _is_repeat(row)], targets)
        lines += _repeats([row for row in mine if _is_repeat(row)], targets)
    write_atomically(path, "\n".join(lines))


def _by_method(rows: list[Row]) -> dict[str, dict[float, Row]]:
    found: dict[str, dict[float, Row]] = {}
    for row in sorted(rows, key=_rank):
        if "target" in row and row.get("variant") in SHOWN:
            name = row.get("peer")
            title = f"{name} | | " if name else " | ".join((row["importance"], row["compensate"], row["allocate"]))
            found.setdefault(title + (f", {row['variant']}" if row.get("variant") else ""), {})[row["target"]] = row
    return found


def _rank(row: Row) -> tuple[Any, ...]:
    """Peers last; the calibrated methods first."""
    ours = [key == wanted for key, wanted in zip(_method(row), ("output", "reconstruct", "global"), strict=True)]
    return ("peer" in row, not ours[0], not ours[1], *map(str, _method(row)), "variant" in row)


def _ablation(rows: list[Row], targets: list[float]) -> list[str]:
    """The best method, and each part of it switched off alone, with seconds (of the first row: with the ranking)."""
    off = [row for row in rows if row.get("variant") not in SHOWN]
    if not off:
        return []
    method = _method(off[0])
    plain = [row for row in rows if "target" in row and not row.get("variant") and _method(row) == method]
    whole = [{**row, "variant": "all parts"} for row in plain]
    shown = [t for t in targets if any(row["target"] == t for row in off)]
    lines = [f"Parts of {'/'.join(map(str, method))}, each switched off alone:\n"]
    lines.append("| | " + " | ".join(f"{1 - t:.0%}" for t in shown) + " | seconds, with the ranking |")
    lines.append("|---|" + "---|" * (len(shown) + 1))
    for variant in dict.fromkeys(row["variant"] for row in (*whole, *off)):
        mine = {row["target"]: row for row in (*whole, *off) if row["variant"] == variant}
        seconds = max((row.get("seconds", 0.0) for row in mine.values()), default=0.0)
        lines.append(f"| {variant} | " + " | ".join(_cell(mine.get(t)) for t in shown) + f" | {seconds:.0f} |")
    return [*lines, ""]


def _is_repeat(row: Row) -> bool:
    return str(row.get("variant", "")).startswith(WITHOUT_QUARTER)


def _repeats(rows: list[Row], targets: list[float]) -> list[str]:
    """How much the choice of calibration images matters: mAP50 without each quarter of them."""
    if not rows:
        return []
    lines = ["mAP50 of the best method, calibrated without one quarter of the images after the other:\n"]
    shown = [t for t in targets if any(row["target"] == t for row in rows)]
    lines.append("| | " + " | ".join(f"{1 - t:.0%}" for t in shown) + " |")
    lines.append("|---|" + "---|" * len(shown))
    found = [[100 * row["map50"] for row in rows if row["target"] == t] for t in shown]
    lines.append("| mean | " + " | ".join(f"{sum(v) / len(v):.1f}" for v in found) + " |")
    lines.append("| lowest to highest | " + " | ".join(f"{min(v):.1f} to {max(v):.1f}" for v in found) + " |")
    return [*lines, ""]


def _method(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(k) for k in ("importance", "compensate", "allocate"))


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    older = ("°" if row.get("older") else "") + (f" @ {row['latency']:.2f}" if "latency" in row else "")
    return "×" if "failed" in row else f"{100 * row['map50']:.1f} / {100 * row['map']:.1f}{older}"
