"""Why not just train a smaller model? mAP against measured latency, every network for the same number of epochs.

    python bench/smaller_models.py --data ../shared/material/data/bccd/data.yaml --work /tmp/smaller \
        --out bench/results/smaller_models.json --picture docs/pages/smaller-models.svg

Runs in an environment with `ultralytics` and this package. Three ways to a faster YOLOv8n, from scratch each:

1. narrower: Ultralytics' own yaml with a smaller `width_multiple`, trained for all the epochs;
2. a smaller input: full width, trained and run at fewer pixels, for all the epochs;
3. the loop: full width for the first epochs, sparsity training for the next, then cut to a latency and fine-tuned with
   the dense one as teacher for the rest. All points share the first two stages.

Settings of the training are the same everywhere. mAP is `onnxslim-yolo eval`'s on the validation images, with the NCNN
pair; latency is `onnxslim-yolo bench`'s, all pairs in turn. What has been trained is kept in the work folder and not
trained again; `--only NAME …` makes just these networks and measures nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from ultralytics_loop import compiled, tool, train_dense

SERIES = {"narrower": "#4477aa", "smaller input": "#228833", "sparsify, prune, fine-tune": "#ee6677"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 60, 20, 46, 50


def main() -> None:
    arguments = parse()
    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    networks = plan(arguments, work)
    for name, make in networks.items():
        if not arguments.only or name in arguments.only:
            make()
            print(f"{name}: made", flush=True)
    if arguments.only:
        return
    result = measured(arguments, work, list(networks))
    print(table(result))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        arguments.out.with_suffix(".md").write_text(table(result), encoding="utf-8")
    if arguments.picture:
        arguments.picture.write_text(picture(result), encoding="utf-8")


def plan(arguments: argparse.Namespace, work: Path) -> dict[str, Callable[[], object]]:
    """How every network is made, by name, in order; the first is the one that the others are compared with."""
    data = work / "data.yaml"  # Ultralytics looks for `path: .` elsewhere
    data.write_text(arguments.data.read_text().replace("path: .", f"path: {arguments.data.resolve().parent}"))
    size, epochs = arguments.imgsz, arguments.epochs
    common = ["workers=0", "plots=False", "amp=False", "exist_ok=True", *arguments.set, f"project={work / 'runs'}"]

    def trained(name: str, width: float, size: int, epochs: int) -> Path:
        file = work / f"runs/{name}/weights/best.pt"
        settings = [f"imgsz={size}", f"name={name}", *common]
        once(work, name, lambda: train_dense(width_yaml(arguments.model, width, work), data, epochs, settings))
        return file

    def plain(name: str, width: float, size: int) -> None:
        file = trained(name, width, size, epochs)
        once(work, f"{name}, compiled", lambda: to_pair(file, work / name, size))

    def looped(name: str, latency: str) -> None:
        first, second, third = arguments.stages
        later = [f"imgsz={size}", *common, *arguments.set_later]
        dense = trained("dense", arguments.widths[0], size, first)
        push = ("sparsify", dense, "--data", data, "--epochs", second, "--target", arguments.target)
        once(work, "sparse", lambda: tool(*push, *later, "name=sparse"))
        sparse, slim = work / "runs/sparse/weights/sparse.pt", work / f"{name}/cut/sparse-slim.pt"
        cut = ("--imgsz", size, "--target-latency", latency, "-q")
        once(work, f"{name}, cut", lambda: compiled(sparse, slim.parent, "onnx,ultralytics", *cut))
        tune = ("finetune", slim, "--data", data, "--epochs", third, "--teacher", dense)
        once(work, f"{name}, tuned", lambda: tool(*tune, *later, f"name={name}"))
        once(
            work, f"{name}, compiled", lambda: to_pair(work / f"runs/{name}/weights/best.pt", work / name, size, "dead")
        )

    made: dict[str, Callable[[], object]] = {}
    for width in arguments.widths:
        made[f"width-{width}"] = lambda w=width: plain(f"width-{w}", w, size)
    for pixels in arguments.sizes:
        made[f"size-{pixels}"] = lambda p=pixels: plain(f"size-{p}", arguments.widths[0], p)
    for latency in arguments.latencies:
        made[f"loop-{latency}"] = lambda x=latency: looped(f"loop-{x}", x)
    return made


def once(work: Path, name: str, function: Callable[[], object]) -> None:
    """Do what has not been done: a mark in the work folder says so, and a training that was stopped leaves none."""
    mark = work / f"{name}.done"
    if not mark.exists():
        function()
        mark.touch()


def width_yaml(model: str, width: float, work: Path) -> str:
    """A file with Ultralytics' own architecture, but for its width."""
    from ultralytics.nn.tasks import yaml_model_load

    content = yaml_model_load(f"{model}.yaml")
    depth = content.pop("scales")[content.pop("scale")][0]
    content |= {"depth_multiple": depth, "width_multiple": width}
    file = work / f"width-{width}.yaml"
    file.write_text(json.dumps(content))  # JSON is YAML
    return str(file.with_suffix(""))


def to_pair(source: Path, out: Path, size: int, prune: str = "0") -> None:
    compiled(source, out, "onnx,ncnn", "--imgsz", size, "--prune", prune, "--name", "net", "-q")


def measured(arguments: argparse.Namespace, work: Path, names: list[str]) -> dict[str, Any]:
    """Accuracy and latency of every pair."""
    keys = ("model", "imgsz", "epochs", "stages", "target", "set", "set_later")
    result: dict[str, Any] = {key: getattr(arguments, key) for key in keys}
    pairs = [work / name / "net_ncnn_model" for name in names]
    bench = json.loads(tool("bench", *pairs, "--json"))
    result["networks"] = {}
    for name, pair, timed in zip(names, pairs, bench["models"], strict=True):
        found = json.loads(tool("eval", pair, "--data", arguments.data, "--json"))
        cost = json.loads((work / name / "net.report.json").read_text())["after"]
        result["networks"][name] = {
            "way": {"width": "narrower", "size": "smaller input"}.get(name.split("-")[0], "sparsify, prune, fine-tune"),
            "map50": round(found["map50"], 4),
            "map": round(found["map"], 4),
            "macs": cost["macs"],
            "parameters": cost["parameters"],
            "ms": round(timed["ms"], 3),
            "ratio": round(timed["ratio"], 3),
        }
    return result | {"bench": bench}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    first, second, third = result["stages"]
    lines = [
        "# Why not just train a smaller model?",
        "",
        f"{result['model']} on BCCD at {result['imgsz']} px, from scratch, {result['epochs']} epochs each; the loop's "
        f"are {first} dense, {second} of sparsity training (target {result['target']}), {third} of fine-tuning. One "
        f"seed; {' '.join(result['set'])}, after the dense ones {' '.join(result['set_later']) or 'the same'}. mAP of "
        "the NCNN pair on the 72 validation images; latency in ncnn, one thread, interleaved, as a ratio to the full "
        f"width's ({result['bench']['machine']['cpu']}; A/A control {result['bench']['control']:.3f}).",
        "",
        "| network | way | parameters | MACs | latency | mAP50 | mAP50-95 |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {row['way']} | {row['parameters'] / 1e6:.2f} M | {row['macs'] / 1e9:.3f} G "
        f"| {row['ratio']:.2f} ({row['ms']:.2f} ms) | {100 * row['map50']:.1f} | {100 * row['map']:.1f} |"
        for name, row in result["networks"].items()
    ]
    return "\n".join(lines) + "\n"


def picture(result: dict[str, Any]) -> str:
    """mAP50-95 against latency as SVG: a line for each way, all from the full width's point."""
    rows = result["networks"]
    full = next(iter(rows.values()))
    highest = max(row["ratio"] for row in rows.values())
    scores = [100 * row["map"] for row in rows.values()]
    low, high = 5 * (min(scores) // 5), 5 * (max(scores) // 5 + 1)

    def place(row: dict[str, Any]) -> tuple[float, float]:
        return _x(row["ratio"] / max(highest, 1.0)), _y((100 * row["map"] - low) / (high - low))

    title = f"{result['model']} on BCCD, {result['imgsz']} px, {result['epochs']} epochs each"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}: mAP50-95 against latency in ncnn</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *_axes(low, high, max(highest, 1.0)),
    ]
    for order, (way, colour) in enumerate(SERIES.items()):
        own = {name: row for name, row in rows.items() if row["way"] == way or row is full}
        points = [place(row) for row in sorted(own.values(), key=lambda row: -float(row["ratio"]))]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for name, row in own.items():
            x, y = place(row)
            label = f"{name}: mAP50-95 {100 * row['map']:.1f}, mAP50 {100 * row['map50']:.1f}, {row['ms']:.2f} ms"
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"><title>{escape(label)}</title></circle>'
            )
        parts.append(f'<text x="{LEFT + order * 190}" y="38" fill="{colour}" font-weight="bold">{escape(way)}</text>')
    parts.append(f'<text x="{LEFT}" y="18" fill="#222222">{escape(title)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _axes(low: float, high: float, highest: float) -> list[str]:
    parts = []
    for i in range(6):
        x, y, score = _x(i / 5), _y(i / 5), low + i / 5 * (high - low)
        parts.append(f'<line x1="{x:.1f}" y1="{_y(0)}" x2="{x:.1f}" y2="{_y(1)}" stroke="#dddddd"/>')
        parts.append(f'<line x1="{_x(0)}" y1="{y:.1f}" x2="{_x(1)}" y2="{y:.1f}" stroke="#dddddd"/>')
        latency = f"{highest * i / 5:.1f}"
        parts.append(f'<text x="{x:.1f}" y="{_y(0) + 16}" text-anchor="middle" fill="#222222">{latency}</text>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#222222">{score:.0f}</text>')
    middle = _x(0.5)
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 12}" text-anchor="middle" fill="#222222">'
        "latency in ncnn, of the full width's (lower is faster)</text>"
    )
    parts.append(
        f'<text x="16" y="{_y(0.5)}" text-anchor="middle" fill="#222222" transform="rotate(-90 16 {_y(0.5)})">'
        "mAP50-95</text>"
    )
    return parts


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="yolov8n")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=36)
    parser.add_argument("--stages", type=int, nargs=3, default=[14, 11, 11], help="the same epochs, in the loop")
    parser.add_argument("--widths", type=float, nargs="*", default=[0.25, 0.1875, 0.125], help="the full one first")
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 96])
    parser.add_argument("--latencies", nargs="*", default=["0.7x", "0.5x", "0.35x"])
    parser.add_argument("--target", type=float, default=0.6)
    settings = ["batch=8", "nbs=8", "optimizer=AdamW", "lr0=0.002", "warmup_epochs=1", "cache=True"]
    parser.add_argument("--set", nargs="*", default=settings, help="more of Ultralytics' train arguments")
    parser.add_argument("--set-later", nargs="*", default=["lr0=0.001"], help="those that differ in later stages")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
