"""The report as one HTML file that opens offline: template, style, script, data and plotting library in it.

Names in a report come from strangers' files. Three things keep them text: Jinja2 escapes everything it is given, the
scripts only ever set text, and the page's Content-Security-Policy runs the scripts whose hashes it lists and loads
nothing. The same report gives the same bytes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.latency.by_layer import kinds_of
from onnxslim_yolo.report import wording
from onnxslim_yolo.report.command import command_of
from onnxslim_yolo.report.layers import METRICS, MOVERS, Block, Layer, blocks_of, layers_of
from onnxslim_yolo.report.network_view import (
    Touched,
    journal_data,
    layer_tensors,
    network_data,
    passes_by_tensor,
    touched_text,
)

if TYPE_CHECKING:
    import jinja2

MOST = 1500
"""Layers and groups that are drawn; of more than that the largest, as a page of 10⁵ opens in no browser."""
LIBRARY = "vendor/plotly-basic.min.js.gz"
LAYOUT_LIBRARY = "vendor/dagre.min.js.gz"
_Item = TypeVar("_Item")
_TITLES = {"macs": "MACs", "parameters": "Parameters", "latency_us": "Latency, predicted"}


def write_html(report: dict[str, Any], path: Path) -> Path:
    """Write NAME.report.html.

    Raises:
        InputError: the file cannot be written.
    """
    return write_atomically(path, render_html(report))


def render_html(report: Mapping[str, Any]) -> str:
    """The page's text."""
    from markupsafe import Markup

    layers = layers_of(report)
    drawn = _largest(layers, lambda layer: layer.before.get("macs", 0))
    groups = _largest(report["groups"], lambda group: group["width"] - group["kept"])
    blocks, touched = blocks_of(drawn), passes_by_tensor(report)
    return _template().render(
        report=report,
        **_assets(),
        verdict=wording.headline(report),
        verdicts=wording.verdicts(report),
        control=None if report["verification"] is None else wording.control_text(report),
        unseen=wording.unseen_text(report),
        said=[("Loss", wording.loss_text(report)), *_measured(report)],
        pruning=wording.pruning_text(report),
        command=command_of(report),
        tiles=_tiles(report),
        blocks=blocks,
        moved=[layer for layer in drawn if layer.moved],
        tip=lambda layer: Markup("\n").join(layer_facts(layer, touched)),
        network=network_data(report, layers),
        journal=journal_data(report),
        metrics=_metrics(blocks),
        kinds=kinds_of(report),
        costs=_largest(report.get("blocks") or [], lambda block: block["before"]["macs"]),
        prediction=wording.prediction_text(report),
        compensation=_compensation(report),
        groups=groups,
        left_out={"layers": len(layers) - len(drawn), "groups": len(report["groups"]) - len(groups)},
        data=_plot_data(report, blocks, groups),
    )


@cache
def _template() -> jinja2.Template:
    """The page's template; names come out with control characters spelt."""
    import jinja2
    from markupsafe import Markup

    def spelt(value: object) -> object:
        return wording.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=spelt,
        optimized=False,  # one page is made with it: that gives nothing back
    )
    words = ("bytes_text", "count_text", "ratio_text", "percent_text", "small_text", "time_text", "members_text")
    environment.filters |= {name: getattr(wording, name) for name in words}
    return environment.from_string(_text("report.html.j2"))


@cache
def _assets() -> dict[str, str]:
    """What is the same in every page: style, scripts, libraries, and the policy that lets these scripts run."""
    from markupsafe import Markup

    packed = {"library": _resource(LIBRARY), "layout_library": _resource(LAYOUT_LIBRARY)}
    scripts = {"script": _text("report.js"), "network_script": _text("network.js")}
    unpacked = [gzip.decompress(each).decode("utf-8") for each in packed.values()]
    return {
        "style": Markup(_text("report.css") + _text("network.css")),
        "policy": _policy(*scripts.values(), *unpacked),
        **{name: Markup(text) for name, text in scripts.items()},
        **{name: Markup(base64.b64encode(each).decode("ascii")) for name, each in packed.items()},
    }


def _largest(items: Sequence[_Item], size: Callable[[_Item], float]) -> list[_Item]:
    """The MOST largest, in their old order."""
    order = sorted(range(len(items)), key=lambda index: -size(items[index]))
    return [items[index] for index in sorted(order[:MOST])]


def layer_facts(layer: Layer, passes: Touched) -> list[str]:
    """What hovering over a layer tells, one fact a line. `passes`: which touched a tensor, by its name."""
    lines = [f"{wording.printable(layer.name)} ({wording.printable(layer.op)})"]
    if layer.width:
        lines.append(f"channels {layer.width} → {layer.kept}, wanted {layer.wanted}")
    elif layer.share() < 1:
        lines.append("no channels of its own: cut along with its input")
    for metric in METRICS:
        if metric in layer.before:
            form = wording.time_text if metric == "latency_us" else wording.count_text
            lines.append(f"{_TITLES[metric]} {form(layer.before[metric])} → {form(layer.after.get(metric, 0))}")
    if not layer.after:
        lines.append("gone from the result: removed or fused into another layer")
    if layer.moved:
        lines.append(f"computed in parts ({' or '.join(MOVERS)}): {', '.join(map(wording.printable, layer.moved))}")
    lines += [f"left whole: {wording.printable(reason)}" for reason in layer.frozen]
    text = touched_text(layer_tensors(layer), passes)
    return lines if text is None else [*lines, text]


def _measured(report: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    return [("Speed", wording.speed_text(report)), ("Accuracy", wording.accuracy_text(report))]


def _tiles(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures on top: title, ratio, before, after, share left in per cent."""
    shown, pruning = wording.figures(report), report["pruning"]
    if pruning is not None:
        kept = pruning["prunable"] - pruning["removed"]
        shown.append(wording.Figure("Prunable channels", pruning["prunable"], kept, wording.count_text))
    tiles = []
    for figure in shown:
        before, after, ratio = figure.texts()
        left = min(1.0, max(0.0, (figure.after or 0) / figure.before)) if figure.before else 1.0
        tiles.append(
            {"title": figure.title, "ratio": ratio, "before": before, "after": after, "left": round(100 * left, 1)}
        )
    return tiles


def _compensation(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per compensating pass: the sentence about it, and two distances from the source with their bars' lengths.

    A network that yields no numbers is infinitely far from its source, and has a full bar.
    """
    rows = []
    for row, text in zip(report["compensation"] or [], wording.compensation_texts(report), strict=True):
        sides = [math.inf if row[key] is None else abs(row[key]) for key in ("without", "compensated")]
        top = max((side for side in sides if math.isfinite(side)), default=0.0) or 1.0
        bars = [round(100 * min(1.0, side / top), 1) if side == side else 100.0 for side in sides]
        rows.append({"text": text, "sides": list(zip(("without", "with"), sides, bars, strict=True))})
    return rows


def _metrics(blocks: Sequence[Block]) -> list[tuple[str, str]]:
    known = {metric for block in blocks for layer in block.layers for metric in (*layer.before, *layer.after)}
    return [(metric, _TITLES[metric]) for metric in METRICS if metric in known]


def _plot_data(
    report: Mapping[str, Any], blocks: Sequence[Block], groups: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What the script draws; only finite numbers, and names spelt out."""
    pruning = report["pruning"] or {}
    threshold = pruning.get("threshold")
    return {
        "units": {"latency_us": "µs"},
        "histogram": pruning.get("histogram"),
        "threshold": threshold if threshold is not None and math.isfinite(threshold) else None,
        "importance": {"gamma": "|γ|", "weight": "weight norm"}.get(
            pruning.get("importance") or "", wording.printable(pruning.get("importance") or "importance")
        ),
        "groups": [
            {
                "name": wording.members_text(group["members"], 3),
                "width": group["width"],
                "wanted": group["wanted"],
                "kept": group["kept"],
                "frozen": None if group["frozen"] is None else wording.printable(group["frozen"]),
            }
            for group in groups
        ],
        "layers": [
            {
                "name": wording.printable(layer.name),
                "block": wording.printable(block.name),
                "before": dict(layer.before),
                "after": dict(layer.after),
            }
            for block in blocks
            for layer in block.layers
        ],
    }


def _policy(*scripts: str) -> str:
    """The Content-Security-Policy: these scripts and nothing else, from nowhere."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii") for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}; base-uri 'none'"


def _resource(name: str) -> bytes:
    return resources.files("onnxslim_yolo.report").joinpath(name).read_bytes()


def _text(name: str) -> str:
    """A file of this package with LF line ends, as an HTML parser sees it before it hashes a script."""
    return _resource(name).decode("utf-8").replace("\r\n", "\n")
