"""Figures of other tools in the documentation, made from bench/results/*.json.

    python docs/gen_tables.py          # after a benchmark was run again: the pages get its figures

A page says where with `<!-- table: NAME -->` and `<!-- /table -->`; NAME is a key of TABLES. As an mkdocs hook it does
the same at every build, and a test compares the pages with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "bench/results"
PAGES = HERE / "pages"
Row = dict[str, Any]
SNAPPED = "widths by default"
"""A variant of `bench/accuracy.py`: widths as a compilation gives them."""

_PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(\n<!-- /table -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with its tables made anew.

    Raises:
        KeyError: it asks for a table that there is not.
    """
    return _PLACE.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]().strip()}\n{found[3]}", page)


def read(name: str) -> Any:
    """A file of `bench/results`, by its stem."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def widths() -> str:
    """Table A: what each grid of widths makes of the published case."""
    blocks = _blocks(read("table-a"), size=640, threads=1)
    names = [row["name"] for row in blocks[0]["rows"] if row["name"] == "0.7" or row["name"].startswith("0.7 ")]
    titles = {"0.7": "as ranked", "0.7 pow2": "powers of two", "0.7 auto": "`--snap auto`"}
    rows = []
    for name in names:
        found = [_named(block, name) for block in blocks]
        kept = [f"{found[0]['importance']:.2f}", f"{found[0]['macs'] / _named(blocks[0], 'base')['macs']:.2f}"]
        ratios = [f"{row['ratio']:.2f}" for row in found]
        rows.append([titles.get(name) or name.replace("0.7 x", "multiples of "), *kept, *ratios])
    return table(["widths", "γ kept", "MACs", *(block["runtime"] for block in blocks)], rows)


def pruners() -> str:
    """Table B: latency at equal parameters, and the MACs that go with it."""
    blocks = read("table_b")["blocks"]
    names = [row["name"] for row in blocks[0]["rows"] if row["name"] != "unpruned"]
    rows = [[name, *(_latency(block, name) for block in blocks)] for name in names]
    rows.append(["*nothing below this difference means anything*", *(f"{block['resolution']:.3f}" for block in blocks)])
    return table(["", *map(_title, blocks)], rows)


def fusion() -> str:
    """Table C: our latency over that of each tool, for the network as it is."""
    parts = []
    blocks = read("table_c")["blocks"]
    for runtime in dict.fromkeys(block["runtime"] for block in blocks):
        mine = [block for block in blocks if block["runtime"] == runtime]
        rivals = [row for block in mine for row in block["rows"] if row["kind"] in ("source", "rival")]
        names = list(dict.fromkeys(row["name"] for row in rivals))
        rows = [[_title(block), *(_ours_over(block, name) for name in names)] for block in mine]
        parts.append(table(["", *names], rows))
    return "\n\n".join(parts)


def half() -> str:
    """What is left when half of the channels are asked for."""
    rows = []
    for row in read("peers_compile"):
        remark = row["remark"].removeprefix(f"{row['model']}: ")
        left, narrower = (f"{row[key]:.0%}" if row[key] is not None else "–" for key in ("left", "prunable"))
        rows.append([row["model"], row["name"], left, narrower, remark])
    return table(["network", "tool", "parameters left", "channels in layers it can narrow", "remark"], rows)


def accuracy() -> str:
    """mAP50 without training, ours and others', wherever others were run."""
    rows = read("accuracy")
    parts = []
    for subject in dict.fromkeys((row["model"], row["size"]) for row in rows if "peer" in row):
        all_mine = [row for row in rows if (row["model"], row["size"]) == subject]
        mine = [row for row in all_mine if not row.get("variant")]
        targets = sorted({row["target"] for row in mine if "peer" in row}, reverse=True)
        tools: dict[str, list[Row]] = {}
        for name, allocate in (("", "global"), (" --allocate curves", "curves")):
            method = ("output", "reconstruct", allocate)
            ours = [row for row in mine if (row["importance"], row.get("compensate"), row.get("allocate")) == method]
            if ours:
                tools[f"onnxslim-yolo, `--importance output --compensate reconstruct{name}`"] = ours
        snapped = [row for row in all_mine if row.get("variant") == SNAPPED]
        if snapped:
            tools["the same, widths by default (latency left, predicted)"] = snapped
        for row in mine:
            if "peer" in row:
                tools.setdefault(row["peer"], []).append(row)
        lines = [[name, *(_map50(found, target) for target in targets)] for name, found in tools.items()]
        dense = next(row["map50"] for row in mine if row["importance"] == "source")
        head = f"{subject[0]}, {subject[1]} px: mAP50 {100 * dense:.1f}"
        parts.append(table([head, *(f"{1 - target:.0%} of the MACs removed" for target in targets)], lines))
    return "\n\n".join(parts)


def pnnx() -> str:
    """ncnn files of ours and of pnnx, in words."""
    rows = [row for row in read("ncnn_vs_pnnx-1") if "failed" not in row]
    both = {row["model"]: row["ours/pnnx"][1] for row in rows if "ours/pnnx" in row}
    low, middle, high = quantiles(both.values(), n=4)
    fastest, slowest = min(both, key=lambda name: both[name]), max(both, key=lambda name: both[name])
    seconds = [median(row[key] for row in rows) for key in ("ours_s", "pnnx_s")]
    unable = [row["model"] for row in rows if "pnnx_failed" in row]
    refused = [row["model"] for row in read("ncnn_vs_pnnx-1") if "failed" in row]
    return (
        f"Of {len(rows)} networks {len(both)} run in ncnn from both. Our latency over pnnx's, one thread: median "
        f"{middle:.2f}, half of the networks within {low:.2f} to {high:.2f}, the extremes {both[fastest]:.2f} "
        f"({fastest}) and {both[slowest]:.2f} ({slowest}). Converting takes {seconds[1]:.1f} s there, "
        f"{seconds[0]:.2f} s here (median). Files that ncnn cannot load, written with exit status 0: "
        f"{', '.join(unable) or 'none'}. Refused here: {', '.join(refused) or 'none'}."
    )


def fine_tuning() -> str:
    """What `bench/finetune_demo.py` measured."""
    stages = ("before pruning", "after pruning", "after fine-tuning", "fine-tuned, compiled")
    rows = []
    for path in sorted(RESULTS.glob("finetune-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        name = f"{found['source']}, pruned by {found['prune']}, {found['epochs']} epochs"
        left = f"{found['parameters'][1] / found['parameters'][0]:.2f}"
        costs = [f"{found[key]:.2f}" for key in ("macs", "latency")]
        rows.append(
            [
                name,
                left,
                *costs,
                *(f"{found[stage]['map50']:.3f}" for stage in ("dense", *stages)),
                f"{found['seconds']} s",
            ]
        )
    return table(
        ["", "parameters left", "MACs left", "latency left, predicted", "dense network", *stages, "training"], rows
    )


def distilled() -> str:
    """What `bench/distil.py` measured."""
    rows = []
    for path in sorted(RESULTS.glob("distil-*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        what = f"{found['source']}, {found['imgsz']} px"
        rows.append([f"{what}, unpruned", f"{found['dense']['map50']:.3f}", f"{found['dense']['map']:.3f}", "", ""])
        for row in found["rows"]:
            for name, result in row.items():
                if not isinstance(result, dict):
                    continue
                errors = [f"{result[key]:.2f}" if key in result else "" for key in ("before", "after")]
                label = f"{row['macs']:g} of its MACs, {name}"
                rows.append([label, f"{result['map50']:.3f}", f"{result['map']:.3f}", *errors])
    return table(["", "mAP50", "mAP50-95", "error on images held out, before", "after"], rows)


def _own_table(stem: str) -> Callable[[], str]:
    """The table that a script wrote, below its title."""
    return lambda: (RESULTS / f"{stem}.md").read_text(encoding="utf-8").partition("\n\n")[2]


TABLES: dict[str, Callable[[], str]] = {
    "widths": widths,
    "pruners": pruners,
    "fusion": fusion,
    "half": half,
    "accuracy": accuracy,
    "pnnx": pnnx,
    "fine-tuning": fine_tuning,
    "distil": distilled,
    "advise": _own_table("advise"),
    "bargain": _own_table("bargain"),
    "int8": _own_table("int8"),
    "install-size": _own_table("install_size"),
}


def _blocks(found: Row, **wanted: Any) -> list[Row]:
    return [block for block in found["blocks"] if all(block[key] == value for key, value in wanted.items())]


def _named(block: Row, name: str) -> Row:
    row: Row = next((row for row in block["rows"] if row["name"] == name), {})
    return row


def _title(block: Row) -> str:
    threads = "" if block["threads"] == 1 else f", {block['threads']} threads"
    return f"{block.get('title', block['model'])}, {block['runtime']}, {block['size']} px{threads}"


def _latency(block: Row, name: str) -> str:
    row = _named(block, name)
    if "ratio" not in row:
        return "fails" if row.get("failed") else "–"
    return f"{row['ratio']:.2f} ({row['macs'] / _named(block, 'unpruned')['macs']:.2f})"


def _ours_over(block: Row, name: str) -> str:
    row = _named(block, name)
    if "ours_over_it" not in row:
        return "fails" if row.get("failed") else "–"
    text = f"{row['ours_over_it']:.2f}"
    return f"**{text}**" if row["ours_over_it"] > 1 + block["resolution"] else text


def _map50(rows: Sequence[Row], target: float) -> str:
    row = next((row for row in rows if row.get("target") == target and "map50" in row), None)
    if row is None:
        return "–"
    return f"{100 * row['map50']:.1f}" + (f" ({row['latency']:.2f})" if "latency" in row else "")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs: the figures of today."""
    return filled(markdown)


if __name__ == "__main__":
    for file in sorted(PAGES.rglob("*.md")):
        before = file.read_text(encoding="utf-8")
        if (after := filled(before)) != before:
            file.write_text(after, encoding="utf-8")
            print(f"{file.relative_to(HERE.parent)}: new figures")
