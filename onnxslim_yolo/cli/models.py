"""The commands that read one model and say or write something about it: trace, inspect, eval, profile, apply-plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from onnxslim_yolo.cli.help import Command, choice, examples
from onnxslim_yolo.cli.options import asked_for
from onnxslim_yolo.cli.progress import bar, spinner
from onnxslim_yolo.cli.shared import (
    AsJson,
    Debug,
    ImageSize,
    LimitMemory,
    LimitWork,
    Pixels,
    Quiet,
    RunOn,
    Trust,
    Weights,
    app,
    form_of,
    out,
    print_json,
    settle,
)
from onnxslim_yolo.errors import UnsupportedError, UsageError
from onnxslim_yolo.options import parse_size

if TYPE_CHECKING:
    from onnxslim_yolo.latency.packing import Runtime


@app.command(cls=Command, epilog=examples("trace"))
def trace(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="A .pt checkpoint or a Darknet .cfg.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--out", help="File to write (default: CKPT's name.onnx).")
    ] = None,
    imgsz: ImageSize = None,
    weights: Weights = None,
    head: Annotated[str, choice("decoded|raw", "Boxes, or the maps before decoding.")] = "decoded",
    trust: Trust = False,
    limit_memory: LimitMemory = None,
    limit_work: LimitWork = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Turn a checkpoint into ONNX, with every BatchNorm kept and the result checked."""
    settle(debug, quiet)
    from onnxslim_yolo.files.atomic import require_other, require_place
    from onnxslim_yolo.load import LoadOptions, read_model

    if head not in ("decoded", "raw"):
        raise UsageError(f"--head takes decoded or raw, not '{head}'")
    target = output or Path(f"{checkpoint.stem}.onnx")
    require_other([target], checkpoint, weights, hint="say with -o where to write")
    require_place(target)
    asked = asked_for(limit_memory, limit_work)
    options = LoadOptions(parse_size(imgsz), weights, trust=trust, asked=asked)
    with spinner("tracing", quiet):
        model, _ = read_model(checkpoint, options)
        if head == "raw":
            # Cut from the decoded graph, so that the file says how its maps are decoded.
            from onnxslim_yolo.passes import Canonicalise, Head

            before = len(model.notes)
            Canonicalise().run(model)
            if not Head("raw").run(model):
                raise UnsupportedError("; ".join(model.notes[before:]) or "its head is not recognised", file=checkpoint)
        model.save(target)
    if not quiet:
        norms = sum(node.op == "BatchNormalization" for node in model.graph.nodes)
        out.print(f"{target}: {len(model.graph.nodes)} nodes, {norms} BatchNormalizations", highlight=False)
        for note in model.notes:
            out.print(f"note: {note}", style="yellow", highlight=False, markup=False)


@app.command(cls=Command, epilog=examples("inspect"))
def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX, checkpoint, Darknet cfg, NCNN or run folder.")],
    imgsz: ImageSize = None,
    html: Annotated[Path | None, typer.Option(help="Also write the histograms as an HTML file.")] = None,
    trust: Trust = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show a model's size, its groups of coupled channels, and how sparse its γ are."""
    settle(debug)
    if (model / "weights").is_dir():  # a training's run folder
        from onnxslim_yolo.training.sparsifying import run_checkpoint

        model = run_checkpoint(model)
    if model.is_dir() or model.suffix == ".param":
        return _inspect_ncnn(model, as_json)
    from onnxslim_yolo.analysis.channels import analyse_channels
    from onnxslim_yolo.analysis.cost import cost_of
    from onnxslim_yolo.analysis.sparsity import sparsity_of
    from onnxslim_yolo.files.atomic import require_place
    from onnxslim_yolo.load import load

    if html is not None:
        require_place(html, "--html")
    with spinner("reading", as_json):
        loaded = load(model, imgsz=parse_size(imgsz), trust=trust)
        cost, sparsity = cost_of(loaded.graph), sparsity_of(analyse_channels(loaded.graph))
    if html is not None:
        from onnxslim_yolo.report.sparsity import write_sparsity_html

        write_sparsity_html(model.name, sparsity, html)
    if as_json:
        facts = {"file": model.name, "macs": cost.macs, "parameters": cost.parameters, "nodes": cost.nodes}
        return print_json(
            {
                **facts,
                "opset": loaded.opset,
                "metadata": loaded.metadata,
                "sparsity": sparsity.as_json(),
                "notes": loaded.notes,
            }
        )
    from onnxslim_yolo.report.sparsity import show_sparsity

    show_sparsity(model.name, cost, sparsity, out)
    for note in loaded.notes:
        out.print(f"note: {note}", style="yellow", highlight=False, markup=False)
    return None


def _inspect_ncnn(path: Path, as_json: bool) -> None:
    from collections import Counter

    from onnxslim_yolo.runtime.ncnn_reader import read_ncnn
    from onnxslim_yolo.runtime.ncnn_run import ncnn_files

    param, weights = ncnn_files(path)
    net = read_ncnn(param, weights)
    kinds = Counter(layer.type for layer in net.layers)
    if as_json:
        facts = {"file": path.name, "layers": len(net.layers), "blobs": net.blob_count, "bytes": weights.stat().st_size}
        return print_json({**facts, "inputs": net.inputs, "outputs": net.outputs, "types": dict(kinds)})
    table = Table("layer", "count", box=None)
    for kind, count in kinds.most_common():
        table.add_row(kind, str(count))
    out.print(f"{path}: {len(net.layers)} layers, {weights.stat().st_size / 1e6:.2f} MB", highlight=False)
    return out.print(f"inputs {', '.join(net.inputs)}; outputs {', '.join(net.outputs)}", table, highlight=False)


@app.command("eval", cls=Command, epilog=examples("eval"))
def evaluate_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX, NCNN folder, checkpoint or Darknet cfg.")],
    data: Annotated[Path, typer.Option(help="A YOLO data.yaml with labels.")],
    imgsz: ImageSize = None,
    pixels: Pixels = None,
    split: Annotated[str, typer.Option(help="Which of the data's splits.")] = "val",
    threads: Annotated[int, typer.Option(help="Threads of the runtime; 0 for all cores (elsewhere: one).")] = 0,
    run_on: RunOn = None,
    limit_memory: LimitMemory = None,
    limit_work: LimitWork = None,
    as_json: AsJson = False,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Measure mAP on labelled images, letterboxed as Ultralytics does."""
    settle(debug, quiet)
    from onnxslim_yolo.measure.evaluate import evaluate
    from onnxslim_yolo.runtime.dataset import read_dataset
    from onnxslim_yolo.verify.detector import Detector, open_network

    dataset = read_dataset(data, (split,))
    asked = asked_for(limit_memory, limit_work)
    network = open_network(
        model, size=parse_size(imgsz), threads=threads, form=form_of(pixels), asked=asked, run_on=run_on
    )
    detector = Detector(network, nc=len(dataset.names))
    if not (as_json or quiet):
        for note in network.notes:
            out.print(f"note: {note}", style="yellow", highlight=False, markup=False)
    with bar("evaluating", quiet or as_json) as progress:
        result = evaluate(detector, dataset, progress=progress)
    if as_json:
        return print_json(result.to_dict())
    table = Table("class", "objects", "P", "R", "mAP50", "mAP50-95", box=None)
    numbers = (result.precision, result.recall, result.map50, result.map)
    table.add_row("all", str(result.objects), *(f"{v:.3f}" for v in numbers), style="bold")
    for c in () if quiet else result.classes:
        table.add_row(c.name, str(c.objects), *(f"{v:.3f}" for v in (c.precision, c.recall, c.ap50, c.ap)))
    return out.print(table, f"{result.images} images, {1000 * result.seconds / max(result.images, 1):.1f} ms each")


@app.command(cls=Command, epilog=examples("profile"))
def profile(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL…", help="Models whose layers are measured.")],
    target: Annotated[str, choice("ncnn|onnxruntime", "The runtime to measure.")] = "ncnn",
    threads: Annotated[int, typer.Option(help="Threads of the runtime.")] = 1,
    imgsz: ImageSize = None,
    output: Annotated[Path | None, typer.Option("-o", "--out", help="The table (default: TARGET-ISA-N.json).")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Measure int8 forms of the layers as well.")] = False,
    run_on: RunOn = None,
    limit_memory: LimitMemory = None,
    limit_work: LimitWork = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Measure layer latencies by width, on this machine or with --run-on, as a table for `compile --table`."""
    settle(debug, quiet)
    from onnxslim_yolo.measure.latency import profile_command

    if target not in ("ncnn", "onnxruntime"):
        raise UsageError(f"--target takes ncnn or onnxruntime, not '{target}'")
    runtime: Runtime = "ncnn" if target == "ncnn" else "onnxruntime"
    with bar("profiling", quiet) as progress:
        found = profile_command(
            models,
            target=runtime,
            threads=threads,
            imgsz=parse_size(imgsz),
            out=output,
            asked=asked_for(limit_memory, limit_work),
            run_on=run_on,
            int8=int8,
            progress=progress,
        )
    if not quiet:
        out.print(f"{found.path}: {found.layers} layers of {found.families} kinds", highlight=False)
        if found.doubt is not None:
            out.print(f"note: {found.doubt}", style="yellow", highlight=False)


@app.command("apply-plan", cls=Command, epilog=examples("apply-plan"))
def apply_plan_command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="NAME.plan.json of a compilation.")],
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="The checkpoint whose weights are cut.")],
    output: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    form: Annotated[
        str, typer.Option("--as", metavar="state|ultralytics", help="A state_dict, or a checkpoint for Ultralytics.")
    ] = "state",
    debug: Debug = False,
) -> None:
    """Cut a checkpoint's weights as a plan says, and write them as a state_dict or for Ultralytics."""
    settle(debug)
    from onnxslim_yolo.files.atomic import require_other, require_place
    from onnxslim_yolo.training.apply_plan import apply_plan_file
    from onnxslim_yolo.training.slim_checkpoint import write_slim_checkpoint

    if form not in ("state", "ultralytics"):
        raise UsageError(f"--as takes state or ultralytics, not '{form}'")
    require_other([output], checkpoint, plan)
    require_place(output)
    with spinner("reading"):
        (apply_plan_file if form == "state" else write_slim_checkpoint)(plan, checkpoint, output)
    out.print(f"{output} written", highlight=False)
