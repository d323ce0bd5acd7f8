"""The picture of a sweep: accuracy against cost, with the Pareto front, as one HTML file that opens offline."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnxslim_yolo.files.atomic import write_atomically

Row = Mapping[str, Any]
COSTS = {"latency_ratio": "latency, ratio to the unpruned model", "macs": "MACs"}
GAINS = {
    "map50": ("mAP50", 1),
    "kept": ("share of the source's detections kept", 1),
    "difference": ("worst difference from the source, in spreads", -1),
}
"""What is drawn: the first of each that every row that did not fail has; ±1: whether more is better."""


def axes(rows: Sequence[Row]) -> tuple[str, str]:
    """The columns for cost and gain: measured ones if every row has them, else MACs and the difference."""
    good = finished(rows)
    cost = next((name for name in COSTS if good and all(_number(row.get(name)) for row in good)), "macs")
    gain = next((name for name in GAINS if good and all(_number(row.get(name)) for row in good)), "difference")
    return cost, gain


def finished(rows: Sequence[Row]) -> list[Row]:
    """The rows without an error."""
    return [row for row in rows if not row.get("error")]


def pareto_front(rows: Sequence[Row], cost: str, gain: str) -> list[Row]:
    """The rows that no other beats, cheapest first: by costing no more and gaining no less, one of both strictly.

    Rows that lack one of the numbers are left out. Of equal rows all stay.
    """
    sign = GAINS[gain][1]
    known = [row for row in finished(rows) if _number(row.get(cost)) and _number(row.get(gain))]
    ordered = sorted(known, key=lambda row: (row[cost], -sign * row[gain]))
    front: list[Row] = []
    for row in ordered:
        best = front[-1] if front else None
        ties = best is not None and (row[cost], row[gain]) == (best[cost], best[gain])
        if best is None or ties or sign * row[gain] > sign * best[gain]:
            front.append(row)
    return front


def write_sweep_html(rows: Sequence[Row], model: str, path: Path) -> Path:
    """Write the picture.

    Raises:
        InputError: the file cannot be written.
    """
    return write_atomically(path, render_sweep(rows, model))


def render_sweep(rows: Sequence[Row], model: str) -> str:
    """The page's text."""
    import jinja2
    from markupsafe import Markup

    package = resources.files("onnxslim_yolo.report")
    library = gzip.decompress(package.joinpath("vendor/plotly-basic.min.js.gz").read_bytes()).decode("utf-8")
    library = library.replace("\r\n", "\n")
    script = package.joinpath("sweep.js").read_text(encoding="utf-8")
    cost, gain = axes(rows)
    front = pareto_front(rows, cost, gain)
    # `<` escaped: no name of a model can end the script element that holds the data.
    data = json.dumps(_plot(rows, front, cost, gain, model)).replace("<", "\\u003c")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(package.joinpath("sweep.html.j2").read_text(encoding="utf-8")).render(
        model=model,
        cost=COSTS[cost],
        gain=GAINS[gain][0],
        front=[_table_row(row, cost, gain) for row in front],
        failed=[(label(row), row["error"]) for row in rows if row.get("error")],
        count=len(rows),
        policy=policy(library, script),
        data=Markup(data),
        library=Markup(library),
        script=Markup(script),
    )


def show_sweep(rows: Sequence[Row], folder: Path, console: Console) -> None:
    """Print every trial, those on the front in bold, and where the files are."""
    cost, gain = axes(rows)
    front = {row["key"] for row in pareto_front(rows, cost, gain)}
    table = Table("trial", COSTS[cost], GAINS[gain][0], box=None)
    for row in finished(rows):
        numbers = (f"{row[name]:.4g}" if _number(row.get(name)) else "–" for name in (cost, gain))
        table.add_row(escape(label(row)), *numbers, style="bold" if row["key"] in front else "")
    console.print(table)
    for row in rows:
        if row.get("error"):
            console.print(f"failed: {label(row)}: {row['error']}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{folder / 'sweep.csv'}, {folder / 'sweep.html'}", markup=False, highlight=False, soft_wrap=True)


def label(row: Row) -> str:
    """A trial in a few words."""
    prune = str(row.get("prune"))
    words = [str(row["model"]), "unpruned" if prune in ("0", "0.0") else f"prune {prune}"]
    words += [f"{name} {row[name]}" for name in ("snap", "importance", "compensate") if row.get(name)]
    return ", ".join([*words, *([f"{row['imgsz']} px"] if row.get("imgsz") else [])])


def _plot(rows: Sequence[Row], front: Sequence[Row], cost: str, gain: str, model: str) -> dict[str, Any]:
    good = [row for row in finished(rows) if _number(row.get(cost)) and _number(row.get(gain))]
    kinds = {
        "unpruned": [row for row in good if str(row.get("prune")) in ("0", "0.0") and row["model"] == model],
        "other models": [row for row in good if row["model"] != model],
    }
    known = {id(row) for group in kinds.values() for row in group}
    kinds["trials"] = [row for row in good if id(row) not in known]
    points = {kind: _points(group, cost, gain) for kind, group in kinds.items() if group}
    titles = {"cost": COSTS[cost], "gain": GAINS[gain][0]}
    return {"points": points, "front": _points(front, cost, gain), "titles": titles, "down": GAINS[gain][1] < 0}


def _points(rows: Sequence[Row], cost: str, gain: str) -> dict[str, list[Any]]:
    return {
        "x": [row[cost] for row in rows],
        "y": [row[gain] for row in rows],
        "text": [label(row) for row in rows],
    }


def _table_row(row: Row, cost: str, gain: str) -> tuple[str, str, str, str]:
    return label(row), f"{row[cost]:.4g}", f"{row[gain]:.4g}", str(row.get("file") or "")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def policy(*scripts: str) -> str:
    """The page's security policy: these scripts, and nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii") for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}; base-uri 'none'"
