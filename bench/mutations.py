"""What the check notices: every architecture of the zoo spoiled in one place after the other, in onnxruntime and ncnn.

    python bench/mutations.py [NAME …] [--weights N] [--write]

Per architecture: every output column zeroed, and swapped with its neighbour; every last layer's bias dropped; N
weight tensors (default 24, evenly picked; 0 for all) 1 % off, up or down at random. The comparison is the one that
`verify` and `compile` make, on the inputs they make, with their tolerance. For ncnn the spoiled graph is converted and
run. A mistake is noticed, or its column is named as blind (its tensor by its weights), or it is missed: those are
listed with what they show. `--write` keeps the rows of models that are not among the names.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.emit.ncnn.write import write_pair
from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.ncnn_run import run_ncnn
from onnxslim_yolo.verify.columns import Feeds
from onnxslim_yolo.verify.ncnn_compare import ROUNDING
from tests.mutations import Outcome, Subject, all_outcomes, biases_dropped, columns_spoiled, outcome, weights_spoiled
from tests.zoo import NAMES, model_path

RESULTS = Path(__file__).parent / "results"


def in_ncnn(subject: Subject, most: int, scratch: Path) -> Iterator[Outcome]:
    """The same mistakes in the pair."""
    judge = subject.judge.with_floor(ROUNDING)
    plain = _run(subject, subject.model, scratch)
    yield from columns_spoiled(judge, plain)
    for mutation, place, model in (*biases_dropped(subject.model), *weights_spoiled(subject.model, most)):
        yield outcome(mutation, place, judge.compare(_run(subject, model, scratch)), None)


def _run(subject: Subject, model: Model, scratch: Path) -> list[Feeds]:
    pair = emit_ncnn(model, weights="fp32", cut=False)
    scratch.mkdir(parents=True, exist_ok=True)
    param, weights = write_pair(pair, scratch)
    inputs = [
        {blob: feed[port.onnx].reshape(port.dims) for blob, port in pair.inputs.items()} for feed in subject.feeds
    ]
    names = {blob: port.onnx for blob, port in pair.outputs.items()}
    runs = run_ncnn(param, weights, inputs, outputs=list(names), exact=True)
    return [
        {names[blob]: _like(value, expected[names[blob]]) for blob, value in run.items()}
        for run, expected in zip(runs, subject.judge.expected, strict=True)
    ]


def _like(value: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return value.reshape(expected.shape) if value.size == expected.size else value


def main() -> None:
    """Measure, print and, if asked, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NAMES))
    parser.add_argument("--weights", type=int, default=24)
    parser.add_argument("--ncnn-weights", type=int, default=6)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    before = RESULTS / "mutations.json"
    kept = json.loads(before.read_text()) if options.write and before.is_file() else []
    rows: list[dict[str, object]] = [row for row in kept if row["model"] not in options.names]
    for name in options.names:
        subject = Subject(Path(name) if name.endswith(".onnx") else model_path(name))
        rows.append(_row(name, "onnxruntime", list(all_outcomes(subject, options.weights))))
        try:
            found = list(in_ncnn(subject, options.ncnn_weights, Path("/tmp") / "onnxslim-mutations"))
            rows.append(_row(name, "ncnn", found))
        except OnnxSlimError as error:
            rows.append({"model": name, "runtime": "ncnn", "skipped": error.message})
        for row in rows[-2:]:
            print(json.dumps(row), flush=True)
        if options.write:
            (RESULTS / "mutations.json").write_text(json.dumps(rows, indent=1) + "\n")
            (RESULTS / "mutations.md").write_text(table(rows))
    print(table(rows))


def _row(name: str, runtime: str, found: list[Outcome]) -> dict[str, object]:
    counts: dict[str, dict[str, int]] = {}
    for mutation in dict.fromkeys(each.mutation for each in found):
        counts[mutation] = dict(Counter(each.outcome for each in found if each.mutation == mutation))
    missed = [
        {"what": m.mutation, "place": m.place, "worst": float(f"{m.worst:.2e}")} for m in found if m.outcome == "missed"
    ]
    return {"model": name, "runtime": runtime, "counts": counts, "missed": missed}


MUTATIONS = ("zero a column", "swap two columns", "drop a last layer's bias", "spoil a weight tensor by 1 %")


def table(rows: list[dict[str, object]]) -> str:
    """Markdown: per model and runtime noticed + named blind, of how many."""
    lines = ["| model | runtime | " + " | ".join(MUTATIONS) + " | missed |", "|---|---|" + "--:|" * 4 + "---|"]
    total: Counter[str] = Counter()
    for row in rows:
        if "skipped" in row:
            lines.append(f"| {row['model']} | {row['runtime']} | – | – | – | – | {row['skipped']} |")
            continue
        cells = []
        for mutation in MUTATIONS:
            counts = row["counts"].get(mutation, {})  # type: ignore[attr-defined]
            total.update(counts)
            words = (("named blind", "blind"), ("named", "named"))
            blind = "".join(f" + {counts[key]} {word}" for key, word in words if key in counts)
            cells.append(f"{counts.get('noticed', 0)}{blind} of {sum(counts.values())}")
        lost = "; ".join(f"{m['place']} ({m['worst']:.1e})" for m in row["missed"])  # type: ignore[attr-defined]
        lines.append(f"| {row['model']} | {row['runtime']} | " + " | ".join(cells) + f" | {lost} |")
    whole = sum(total.values())
    share = f"{100 * (1 - total['missed'] / whole):.2f} %" if whole else "–"
    noticed, missed, named = total["noticed"], total["missed"], total["named blind"] + total["named"]
    said = f"{whole} mistakes: {noticed} noticed, {named} named, {missed} missed ({share} noticed or named)."
    return "\n".join([said, "", *lines, ""])


if __name__ == "__main__":
    main()
