"""What `advise` answers: a table in the terminal, and a picture in an HTML file that opens offline."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.report.sweep import policy

Row = dict[str, Any]
"""A trial: its lever, options and command; latency `left` (predicted) and `measured`; what it keeps; or its error."""


@dataclass(frozen=True)
class Advice:
    """The answer.

    Attributes:
        model, target: what was asked about. rows: the trials, the best first, the source among them.
        facts: what it rests on.
    """

    model: str
    target: str
    rows: list[Row]
    facts: dict[str, Any]

    @property
    def best(self) -> Row | None:
        """The best that meets the target; None where none does."""
        return next((row for row in self.rows if row["meets"]), None)

    @property
    def gain(self) -> str:
        """What is compared: mAP50 where there are labels, else precision by what the source sees at a larger size."""
        height, width = self.facts["reference"]
        return "mAP50" if self.facts["data"] else f"AP by the source at {height}x{width}"

    def to_beat(self) -> str | None:
        """What training needs to beat."""
        best = self.best
        if best is None:
            return None
        what = f"mAP50 {100 * best['map50']:.1f}" if self.facts["data"] else _kept(best)
        return f"training at {self.target} has to beat {what} ({best['lever']}): {self.facts['training']}"

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        best = self.best
        return {
            "model": self.model,
            "target": self.target,
            "facts": self.facts,
            "best": None if best is None else best["command"],
            "to_beat": self.to_beat(),
            "rows": self.rows,
        }


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Those that meet the target first, of those the ones that keep most; failures last."""
    return sorted(rows, key=lambda row: (bool(row.get("error")), not row.get("meets"), -row.get("gain", 0.0)))


def show_advice(advice: Advice, folder: Path, console: Console) -> None:
    """Print the table, the commands, and what training would need to beat."""
    table = Table("lever", "latency left", advice.gain, "detections kept", "false alarms", "MB", "", box=None)
    for row in advice.rows:
        if not row.get("error"):
            style = "bold green" if row is advice.best else "" if row["meets"] else "dim"
            said = "" if row["lever"] == "source" else "meets it" if row["meets"] else "misses it"
            table.add_row(escape(row["lever"]), *_cells(row), said, style=style)
    console.print(table)
    plain: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
    for row in advice.rows:
        if row.get("error"):
            console.print(f"not to be had: {row['lever']}: {row['error']}", **plain)
    for note in advice.facts["notes"]:
        console.print(f"note: {note}", style="yellow", **plain)
    for row in advice.rows:
        if row["meets"]:
            console.print(row["command"], **plain)
    if (line := advice.to_beat()) is not None:
        console.print(line, **plain)
    console.print(f"{folder / 'advise.json'}, {folder / 'advise.html'}", **plain)


def _cells(row: Row) -> tuple[str, str, str, str, str]:
    kept = row["kept"]
    counted = f"{kept['kept']} of {kept['objects']}"
    return _left(row), f"{100 * row['gain']:.1f}", counted, str(kept["false_alarms"]), f"{row['bytes'] / 1e6:.2f}"


def _left(row: Row) -> str:
    if row.get("measured") is not None:
        return f"{row['measured']:.2f} ({row['measured_ms']:.2f} ms)"
    return f"{row['left']:.2f} predicted"


def _kept(row: Row) -> str:
    return f"{row['kept']['kept']} of {row['kept']['objects']} detections"


def write_advice_html(advice: Advice, path: Path) -> Path:
    """Write the picture. Raises InputError where the file cannot be written."""
    return write_atomically(path, render_advice(advice))


def render_advice(advice: Advice) -> str:
    """The page's text."""
    import jinja2
    from markupsafe import Markup

    package = resources.files("onnxslim_yolo.report")
    library = gzip.decompress(package.joinpath("vendor/plotly-basic.min.js.gz").read_bytes()).decode("utf-8")
    library = library.replace("\r\n", "\n")
    script = package.joinpath("sweep.js").read_text(encoding="utf-8")
    data = json.dumps(_plot(advice)).replace("<", "\\u003c")  # no name can end the script element that holds it
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(package.joinpath("advice.html.j2").read_text(encoding="utf-8")).render(
        advice=advice,
        rows=[(row["lever"], *_cells(row), row["meets"]) for row in _good(advice)],
        failed=[(row["lever"], row["error"]) for row in advice.rows if row.get("error")],
        commands=[row["command"] for row in advice.rows if row["meets"]],
        policy=policy(library, script),
        data=Markup(data),
        library=Markup(library),
        script=Markup(script),
    )


def _good(advice: Advice) -> list[Row]:
    return [row for row in advice.rows if not row.get("error")]


def _plot(advice: Advice) -> dict[str, Any]:
    kinds = {
        "unpruned": [row for row in _good(advice) if row["lever"] == "source"],
        "trials": [row for row in _good(advice) if row["lever"] != "source"],
    }
    front: list[Row] = []
    for row in sorted(_good(advice), key=lambda row: (left_of(row), -row["gain"])):
        if not front or row["gain"] > front[-1]["gain"]:
            front.append(row)
    titles = {"cost": f"latency left ({advice.facts['runtime']})", "gain": advice.gain}
    points = {kind: _points(rows) for kind, rows in kinds.items() if rows}
    return {"points": points, "front": _points(front), "titles": titles, "down": False}


def left_of(row: Row) -> float:
    """Of the source's latency: as measured, else as predicted."""
    return float(row["left"] if row.get("measured") is None else row["measured"])


def _points(rows: Sequence[Row]) -> dict[str, list[Any]]:
    text = [f"{row['lever']}, {row['bytes'] / 1e6:.2f} MB" for row in rows]
    return {"x": [left_of(row) for row in rows], "y": [row["gain"] for row in rows], "text": text}
