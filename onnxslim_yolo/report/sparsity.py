"""How sparse a network is, for people: in the terminal, and as an HTML page."""

from __future__ import annotations

import html as escaping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from onnxslim_yolo.analysis.cost import Cost
from onnxslim_yolo.analysis.sparsity import Sparsity
from onnxslim_yolo.files.atomic import write_atomically

BAR = 40
_STYLE = (
    ":root{color-scheme:light dark}body{font:15px system-ui;margin:2rem;max-width:60rem}"
    "svg{width:100%;height:auto;fill:#3b82f6}"
    "table{border-collapse:collapse}td,th{padding:.2rem .6rem;text-align:left}"
)
NOT_SPARSE = (
    "this network was not trained for sparsity: pruning by γ will cost accuracy at any ratio. "
    "Train with sparsity first (docs: sparsity training), prune little, or compensate and fine-tune."
)


def show_sparsity(name: str, cost: Cost, sparsity: Sparsity, console: Console) -> None:
    """Print size, histogram, groups and the advice that follows."""
    console.print(
        f"[bold]{escaping_markup(name)}[/]: {cost.parameters / 1e6:.3f} M parameters, {cost.macs / 1e9:.3f} GMACs, "
        f"{cost.nodes} nodes",
        highlight=False,
    )
    console.print(
        f"{sparsity.channels} coupled channels in {len(sparsity.groups)} groups, {sparsity.prunable} prunable "
        f"({sparsity.prunable / max(sparsity.channels, 1):.1%})",
        highlight=False,
    )
    symbol = "|γ|" if sparsity.kind == "gamma" else "filter norm (few channels have a BatchNorm)"
    console.print(f"\n{symbol} of the prunable channels", highlight=False)
    top = max(sparsity.counts, default=1) or 1
    for count, low, high in zip(sparsity.counts, sparsity.edges, sparsity.edges[1:], strict=False):
        if count:
            console.print(f"  {low:8.4f} … {high:8.4f} {'█' * max(1, BAR * count // top)} {count}", highlight=False)
    unit = "" if sparsity.kind == "gamma" else " of the mean"
    console.print(
        f"below 0.01{unit}: {sparsity.below_001:.1%}   below 0.1{unit}: {sparsity.below_01:.1%}   "
        f"largest ratio that empties no layer: {sparsity.suggested:.2f}",
        highlight=False,
    )
    if not sparsity.sparse and sparsity.kind == "gamma":
        console.print(f"[yellow]warning[/]: {NOT_SPARSE}", highlight=False)
    console.print(_groups(sparsity))


def escaping_markup(text: str) -> str:
    """A stranger's name without rich markup in it."""
    from rich.markup import escape

    return escape(text)


def _groups(sparsity: Sparsity) -> Table:
    table = Table("group", "width", "least", "median", "largest", "< 0.01", "frozen", box=None)
    for group in sparsity.groups:
        members = ", ".join(group.members[:3]) + (f" +{len(group.members) - 3}" if len(group.members) > 3 else "")
        numbers = [f"{v:.3f}" for v in (group.least, group.median, group.largest)]
        frozen = escaping_markup(group.frozen or "")
        table.add_row(escaping_markup(members), str(group.width), *numbers, f"{group.below_001:.0%}", frozen)
    return table


def write_sparsity_html(name: str, sparsity: Sparsity, path: Path) -> Path:
    """The histogram as a self-contained page: bars as SVG, no script."""
    top = max(sparsity.counts, default=1) or 1
    width = 800 / max(len(sparsity.counts), 1)
    bars = "".join(
        f'<rect x="{i * width:.1f}" y="{200 - 200 * c / top:.1f}" width="{width - 1:.1f}" height="{200 * c / top:.1f}">'
        f"<title>{low:.4f} … {high:.4f}: {c}</title></rect>"
        for i, (c, low, high) in enumerate(zip(sparsity.counts, sparsity.edges, sparsity.edges[1:], strict=False))
    )
    rows = "".join(
        f"<tr><td>{escaping.escape(', '.join(g.members))}</td><td>{g.width}</td><td>{g.least:.4f}</td>"
        f"<td>{g.median:.4f}</td><td>{g.largest:.4f}</td><td>{escaping.escape(g.frozen or '')}</td></tr>"
        for g in sparsity.groups
    )
    title = escaping.escape(name)
    facts = (
        f"{sparsity.kind}; {sparsity.prunable} of {sparsity.channels} coupled channels prunable; below 0.01: "
        f"{sparsity.below_001:.1%}; below 0.1: {sparsity.below_01:.1%}; largest ratio that empties no layer: "
        f"{sparsity.suggested:.2f}"
    )
    text = (
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>{facts}</p>"
        f'<svg viewBox="0 0 800 210" role="img" aria-label="histogram">{bars}</svg>'
        f"<p>{sparsity.edges[0]:.4f} … {sparsity.edges[-1]:.4f}</p>"
        f"<table><tr><th>group<th>width<th>least<th>median<th>largest<th>frozen</tr>{rows}</table>\n"
    )
    return write_atomically(path, text)
