"""What `onnxslim-yolo profile` does, and what a report says about latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_graphsurgeon as gs

from onnxslim_yolo.analysis.limits import Asked, limits_for
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.files.atomic import require_place
from onnxslim_yolo.latency.int8 import knows_int8
from onnxslim_yolo.latency.packing import Runtime
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.latency.table import NOISY, LatencyTable
from onnxslim_yolo.latency.table_format import write_table
from onnxslim_yolo.quantisation.latency import plan_prediction
from onnxslim_yolo.quantisation.plan import Quantisation

if TYPE_CHECKING:
    from onnxslim_yolo.measure.profile import Progress


@dataclass(frozen=True)
class ProfileResult:
    """A table that was measured: where it is, and what it holds."""

    path: Path
    table: LatencyTable
    families: int
    layers: int

    @property
    def doubt(self) -> str | None:
        """That the machine was too busy for it, in words; None where it was not, or nothing tells."""
        noise = self.table.noise
        if noise is None or noise <= NOISY:
            return None
        return (
            f"the machine was busy: layers measured once more are {100 * noise:.0f} % off (median), after all were "
            "measured again; profile again while nothing else runs"
        )


def profile_command(
    models: Sequence[Path],
    *,
    target: Runtime = "ncnn",
    threads: int = 1,
    imgsz: tuple[int, int] | None = None,
    out: Path | None = None,
    asked: Asked | None = None,
    run_on: str | None = None,
    int8: bool = False,
    progress: Progress | None = None,
) -> ProfileResult:
    """Measure the layers of these models on this machine and write a table.

    Args:
        models: any files that `compile` reads. Their largest widths bound what is measured.
        target: the runtime. threads: its threads.
        imgsz: (height, width) in pixels where a file leaves it open.
        out: the table's file; by default `TARGET-ISA-THREADS.json` in the working directory.
        asked: what running a model may take, judged before; None: not judged.
        run_on: a command that starts the Python to measure in (see `runtime.launchers`); None: this machine.
        int8: measure layers' int8 forms as well.
        progress: called with (layers measured, layers to measure as far as is known).

    Raises:
        InputError, UnsupportedError: a model cannot be read.
        UsageError: no models, an unknown target, too many threads, or nothing in the models can be measured.
        VerificationError: the measuring process crashes all the time.
    """
    if not models:
        raise UsageError("profile needs at least one model", hint="its layers are what is measured")
    require_place(out or Path(f"{target}-ISA-{threads}.json"))  # before minutes of measuring
    graphs = [_prepared(path, imgsz, asked) for path in models]
    from onnxslim_yolo.measure.profile import profile  # reports predict, and need nothing of it

    table = profile(graphs, target=target, threads=threads, run_on=run_on, int8=int8, progress=progress)
    if not table.families:
        raise UsageError("nothing in these models can be measured", hint="are their input sizes known? --imgsz")
    path = out or Path(f"{target}-{table.isa}-{threads}.json")
    write_table(table, path)
    return ProfileResult(path, table, len(table.families), sum(len(grid.us) for grid in table.families.values()))


def _prepared(path: Path, imgsz: tuple[int, int] | None, asked: Asked | None) -> gs.Graph:
    """The graph in the form in which widths are chosen."""
    from onnxslim_yolo.load import load
    from onnxslim_yolo.passes import FocusToConv, SppToSppf

    model = load(path, imgsz=imgsz)
    if asked is not None:
        limits_for(model, asked.memory, asked.work).require(model)
    FocusToConv().run(model)
    SppToSppf().run(model)
    return model.graph


def predicted_latency(
    graph: gs.Graph,
    runtime: Runtime,
    isa: str = "host",
    table: Path | None = None,
    quantised: Quantisation | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """What a report says of a graph: `latency_us`, predicted, and the `table` it was predicted by.

    Args:
        quantised: what of it is int8; counted where the table has int8 times, else the floats' time is told.

    Raises:
        InputError, UsageError: the table cannot be used.
    """
    chosen = table_for(runtime, isa, table, threads)
    if quantised is not None and knows_int8(chosen):
        return {"latency_us": round(plan_prediction(graph, chosen, quantised).int8_us, 1), "table": chosen.name}
    return {"latency_us": round(chosen.predict_graph(graph), 1), "table": chosen.name}
