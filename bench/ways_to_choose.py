"""Ways to choose and to fit what is pruned at a latency, one change at a time: none keeps clearly more.

    python bench/ways_to_choose.py [--network yolov5n-coco-v6.pt] [--limits 0.9x 0.8x] [--only NAME ...]     --table

Networks on COCO at 320 px (FastestDet at 352), limited to a share of the latency that ncnn's AVX2 table predicts,
widths alone, fitted on 28 of the 32 images of calib.txt, evaluated on the 96 of val.txt (2 points are noise on so few).
"Error" is `pruning.head_error` against the source on 48 of the same: it tells smaller differences, but not always
mAP50's. Statistics and gradients are taken once for all rows that do not change them. Rows that are there are kept.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from accuracy import COCO, MATERIAL, _score

from onnxslim_yolo.analysis.cost import cost_of
from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.load import LoadOptions, read_model
from onnxslim_yolo.manager import PassManager
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.passes import reconstruct
from onnxslim_yolo.pipeline import preparation, remainder
from onnxslim_yolo.pruning import coherence, importance_variance, ranking, second_order
from onnxslim_yolo.pruning.calibration_images import CalibrationImages
from onnxslim_yolo.pruning.head_error import HeadError
from onnxslim_yolo.pruning.problem import WidthProblem

RESULT = Path(__file__).resolve().parent / "results" / "ways_to_choose.json"
DEVICE, SIZES, JUDGED = "x86-avx2", {"FastestDet.onnx": (352, 352)}, 48
Changes = Sequence[tuple[Any, str, Any]]


def _plainly(cls: type[WidthProblem], *args: Any, **options: Any) -> WidthProblem:
    return _OF(cls, *args, **{**options, "saturating": False})


_OF: Callable[..., WidthProblem] = WidthProblem.of.__func__  # type: ignore[attr-defined]
WAYS: dict[str, Changes] = {
    "as it is": (),
    "the second order alone": ((importance_variance, "VARIANCE_WEIGHT", 0.0),),
    "variance counts half": ((importance_variance, "VARIANCE_WEIGHT", 0.5),),
    "the share of variance alone": ((importance_variance, "VARIANCE_WEIGHT", 1.0),),
    "one channel a step of the greedy": ((second_order, "STEPS", 4000),),
    "a ridge of 0.1 in the importance": ((coherence, "RIDGE", 0.1),),
    "what a width loses as a plain sum": ((WidthProblem, "of", classmethod(_plainly)),),
    "errors at positions independent": ((coherence, "POWER", 0.0),),
    "errors at positions as measured, whole": ((coherence, "POWER", 1.0),),
    "all views differentiated": ((ranking, "CURVATURE_INPUTS", 10**6),),
    "no moments matched": ((reconstruct, "corrections", lambda *_: []),),
}


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="yolov5n-coco-v6.pt")
    parser.add_argument("--limits", nargs="+", default=["0.9x", "0.8x"])
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--table", action="store_true", help="run nothing")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = json.loads(RESULT.read_text()) if RESULT.exists() else []
    done = {(row["network"], row["limit"], row["way"]) for row in rows}
    todo = [(limit, way) for limit in given.limits for way in given.only if (given.network, limit, way) not in done]
    for row in [] if given.table or not todo else measured(given.network, todo):
        rows.append(row)
        print(json.dumps(row), flush=True)
        write_atomically(RESULT, json.dumps(rows, indent=1) + "\n")
    write_atomically(RESULT.with_suffix(".md"), table(rows))


def measured(network: str, todo: Sequence[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """A row for each limit and way."""
    size = SIZES.get(network, (320, 320))
    source, _ = read_model(MATERIAL / "weights" / network, LoadOptions(size, None, trust=False))
    PassManager(preparation(CompileOptions())).run(source)
    head = HeadError.of(source, CalibrationImages(COCO.parent / "val.txt", source, JUDGED))
    times, whole = table_for("ncnn", DEVICE), cost_of(source.graph).macs
    with tempfile.TemporaryDirectory() as folder, measured_once():
        for limit, way in todo:
            model = source.copy()
            with changed(WAYS[way]):
                options = CompileOptions(
                    target_latency=limit, device=DEVICE, depth="none", compensate="reconstruct", calib=COCO
                )
                PassManager(remainder(options, model)).run(model)
            left = times.predict_graph(model.graph) / times.predict_graph(source.graph)
            facts = {"left": round(left, 3), "macs": round(cost_of(model.graph).macs / whole, 3)}
            error = {"error": round(head.error(model), 3)}
            yield {"network": network, "limit": limit, "way": way} | facts | error | _score(model, Path(folder), COCO)


@contextmanager
def changed(changes: Changes) -> Iterator[None]:
    """While this is open, something is another thing."""
    with ExitStack() as stack:
        for place, name, value in changes:
            stack.enter_context(patch.object(place, name, value))
        yield


@contextmanager
def measured_once() -> Iterator[None]:
    """While this is open, what a ranking measures of a network on images is measured the first time only."""
    known: dict[Any, Any] = {}

    def once(measure: Callable[..., Any], key: Callable[..., Any]) -> Callable[..., Any]:
        def found(model: Model, *args: Any, **options: Any) -> Any:
            name = (measure, key(*args))
            if name not in known:
                known[name] = measure(model, *args, **options)
            return known[name]

        return found

    def places(places: Any, *_: Any) -> tuple[Any, ...]:
        return tuple((place.node.name, place.index) for place in places)

    def names(names: Any, *_: Any) -> tuple[Any, ...]:
        return (*names, coherence.RIDGE, ranking.CURVATURE_INPUTS)

    with (
        patch.object(ranking, "collect", once(ranking.collect, places)),
        patch.object(second_order, "curvatures", once(second_order.curvatures, names)),
    ):
        yield


def table(rows: Sequence[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "# Ways to choose and to fit what is pruned at a latency",
        "",
        "| network | limit | what is otherwise | mAP50 | mAP | error | latency left, predicted | MACs left |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["network"], -float(row["limit"][:-1]), list(WAYS).index(row["way"]))):
        scores = [f"{100 * row[key]:.1f}" for key in ("map50", "map")]
        cells = [row["network"], row["limit"], row["way"], *scores, row["error"], row["left"], row["macs"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
