"""Table C: fusion alone (`--prune 0`), against other optimisers, and what each of our rewrites is worth.

    python bench/table_c.py --peers PEERS_VENV/bin/python [--pnnx PNNX] [--ncnnoptimize NCNNOPTIMIZE]
                            [--models v5n,…] [--threads 1 2]

Every tool gets the same file: the network as traced, BatchNorms and train-time branches in it. onnxruntime optimises
whatever it loads, so "source" there is already its own optimiser at work; "onnxruntime extended" and "all" are what it
writes to `optimized_model_filepath`, loaded again. For ncnn, ONNX from others goes through our emitter without any pass
of ours; ncnnoptimize gets the source converted in this way; pnnx converts the source itself.

"ours / it" is what should be at most 1.00: the median over the rounds of our time over the tool's. The rows below it
are ablations: ours with one rewrite switched off, and so its time over ours says what the rewrite is worth; the nodes
(onnxruntime) or layers (ncnn) that differ are named. "raw head" has other outputs: the decode is left to the caller.

Tools that are not given, and weights that are not there, are left out. Writes bench/results/table_c.json and .md.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from interleaved import Entry, Facts, arguments, attempt, block, keep, protocol, table, written
from interleaved import through_our_emitter as emitted
from models_for_bench import onnx_of
from ncnn_vs_pnnx import convert_pnnx

from onnxslim_yolo.emit.ncnn import patterns as ncnn_patterns
from onnxslim_yolo.emit.ncnn import rewrites as ncnn_rewrites
from onnxslim_yolo.emit.ncnn import tidy as ncnn_tidy
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load import LoadOptions, load, read_model
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.pipeline import remainder

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE.parents[1] / "shared" / "material" / "weights"
MODELS = {
    "v5.0": ("yolov5n-focus", 320, "YOLOv5 5.0: Focus, SPP"),
    "v5n": ("yolov5n", 320, "YOLOv5n"),
    "v8n": ("yolov8n", 320, "YOLOv8n"),
    "11n": ("yolo11n", 320, "YOLO11n"),
    "v6n": ("yolov6n", 320, "YOLOv6n as trained (RepVGG branches)"),
    "mobileone": ("mobileone", 224, "MobileOne as trained (backbone)"),
    "v5lite-s": ("v5lite-s-coco.pt", 320, "YOLOv5-Lite-s, published weights"),
    "v3-tiny": ("yolov3-tiny", 320, "YOLOv3-tiny"),
}
"""Name → (this package's own definition, or a file of published weights; image side; what it is)."""


@dataclass(frozen=True)
class Rewrite:
    """One kind of rewrite: the passes that do it, and what of the ncnn emitter does."""

    name: str
    passes: tuple[str, ...] = ()
    emitter: tuple[tuple[object, str, object], ...] = ()


@dataclass(frozen=True)
class Layer:
    """A node or layer, with its inputs and attributes as text."""

    op: str
    name: str
    rest: str


def _nothing(*_: object) -> int:
    return 0


def _unchanged(layers: list[object], *_: object) -> list[object]:
    return layers


REWRITES = (
    Rewrite("SPP→SPPF", ("spp-to-sppf",)),
    Rewrite("Focus→conv", ("focus-to-conv",), ((ncnn_rewrites, "_focus", _nothing),)),
    Rewrite("merged branches", ("reparam",)),
    Rewrite("folded BatchNorm", ("fold-bn",)),
    Rewrite("folded affine", ("fold-affine",)),
    Rewrite("convolution before Resize", ("conv-before-resize",)),
    Rewrite("Swish and other activations", ("silu",), ((ncnn_patterns, "MATCHERS", ()),)),
    Rewrite("padded pooling", ("pad-pool",)),
    Rewrite("padding restored for ncnn", (), ((ncnn_rewrites, "restore_pads", _nothing),)),
    Rewrite("pads in the layer behind", (), ((ncnn_tidy, "_fold_pads", _unchanged),)),
    Rewrite("stem's phases", (), ((ncnn_rewrites, "split_stems", _nothing),)),
    Rewrite("channel shuffles", (), ((ncnn_rewrites, "_shuffles", _nothing),)),
    Rewrite("transposes around softmax", (), ((ncnn_rewrites, "_sandwiches", _nothing),)),
    Rewrite("activation in the convolution", (), ((ncnn_tidy, "_fuse_activations", _unchanged),)),
)


ORDER = ("ours", "source", "rival", "head", "ablation")
"""Kinds of rows, as they follow each other."""


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--peers", type=Path, help="the interpreter of an environment with OnnxSlim and onnxsim")
    parser.add_argument("--pnnx", help="the executable of the PyPI package pnnx")
    parser.add_argument("--ncnnoptimize", help="ncnn's tool, which has to be built from its sources")
    parser.add_argument("--copies", type=int, default=5, help="how often each file is loaded, see `interleaved.block`")
    parser.add_argument("--models", default=",".join(MODELS))
    options = parser.parse_args()
    blocks = []
    for name in options.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            blocks += blocks_of(name, Path(folder), options)
    keep({"blocks": blocks}, markdown(blocks), options.out, "table_c")


def blocks_of(name: str, folder: Path, options: argparse.Namespace) -> list[Facts]:
    """One network in every runtime and number of threads."""
    what, size, title = MODELS[name]
    source = source_of(what, size, folder)
    if source is None:
        print(f"{title}: no weights in {WEIGHTS}, left out")
        return []
    known = simplified(source, folder, options)
    blocks = []
    for runtime in options.runtimes.split(","):
        place = folder / runtime
        place.mkdir()
        entries = rivals(source, place, runtime, known, options)
        entries[1:1] = ours(source, place, runtime)
        for threads in options.threads:
            facts = {"model": name, "title": title, "size": size, "runtime": runtime}
            found = block(entries, rounds=options.rounds, threads=threads, copies=options.copies, **facts)
            add_ratios_to_ours(found)
            blocks.append(found)
    return blocks


def source_of(what: str, size: int, folder: Path) -> Path | None:
    """The file that everybody gets, BatchNorms kept; None where weights are missing."""
    if not what.endswith(".pt"):
        return onnx_of(what, size, "decoded")
    if not (WEIGHTS / what).is_file():
        return None
    _, proto = read_model(WEIGHTS / what, LoadOptions(imgsz=(size, size)))
    path = folder / "source.onnx"
    onnx.save(proto, path)
    return path


def simplified(source: Path, folder: Path, options: argparse.Namespace) -> dict[str, float | str]:
    """The files of OnnxSlim and onnxsim in the folder: CPU seconds by tool, or why there is none."""
    if options.peers is None:
        return {}
    line = [str(options.peers), str(HERE / "peers_simplify.py"), str(source), str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float | str] = json.loads(done.stdout)
    return found


def rivals(
    source: Path, place: Path, runtime: str, known: dict[str, float | str], options: argparse.Namespace
) -> list[Entry]:
    """The source as it is, and what others make of it."""
    convert = emitted if runtime == "ncnn" else lambda file, stem: file
    entries = [attempt("source", lambda: convert(source, place / "source"), kind="source")]
    for tool, seconds in known.items():
        if isinstance(seconds, str):
            entries.append(Entry(tool, failed=seconds, facts={"kind": "rival"}))
            continue
        file = place.parent / f"{tool}.onnx"
        entries.append(attempt(tool, partial(convert, file, place / tool), kind="rival", seconds=seconds))
    if runtime == "onnxruntime":
        for level in ("extended", "all"):
            action = partial(optimised, source, place / f"{level}.onnx", level)
            entries.append(attempt(f"onnxruntime {level}", action, kind="rival"))
        return entries
    if options.ncnnoptimize and entries[0].file is not None:
        action = partial(ncnnoptimised, options.ncnnoptimize, entries[0].file, place)
        entries.append(attempt("ncnnoptimize", action, kind="rival"))
    if options.pnnx:
        entries.append(attempt("pnnx", partial(pnnx, options.pnnx, source, place), kind="rival"))
    return entries


def optimised(source: Path, target: Path, level: str) -> Path:
    """What onnxruntime writes as the graph it would run."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = {
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }[level]
    options.optimized_model_filepath = str(target)
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return target


def ncnnoptimised(tool: str, folder: Path, place: Path) -> Path:
    """ncnn's own optimiser over our conversion of the source, fp16 weights."""
    pair = [str(folder / f"model.ncnn.{kind}") for kind in ("param", "bin")]
    param, weights = place / "optimised.param", place / "optimised.bin"
    done = subprocess.run([tool, *pair, str(param), str(weights), "1"], capture_output=True, text=True, timeout=300)
    if done.returncode or not param.is_file():
        raise RuntimeError(f"ended with {done.returncode}: {done.stderr[-120:]}")
    return param


def pnnx(tool: str, source: Path, place: Path) -> Path:
    """pnnx's pair."""
    folder = place / "pnnx"
    folder.mkdir()
    value = onnx.load(source, load_external_data=False).graph.input[0]
    shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    executable = Path(shutil.which(tool) or tool).absolute()
    param, _ = convert_pnnx(str(executable), source, shape, folder)
    # pnnx may give several layers one name, which ncnn does not mind but `verify.ncnn_reader` does.
    magic, counts, *lines = param.read_text().splitlines()
    named = [re.sub(r"^(\S+\s+)\S+", rf"\g<1>layer{index}", line) for index, line in enumerate(lines)]
    param.write_text("\n".join([magic, counts, *named]) + "\n")
    return param


def ours(source: Path, place: Path, runtime: str) -> list[Entry]:
    """Ours, ours with a raw head, and ours without each rewrite that makes a difference to this network."""
    model, applied = compiled(source)
    entries = [Entry("onnxslim-yolo", written(model, place / "ours", runtime), facts={"kind": "ours"})]
    whole = layers_in(entries[0].file)
    raw, _ = compiled(source, head="raw")
    if len(raw.graph.nodes) < len(model.graph.nodes):
        entries.append(attempt("raw head", lambda: written(raw, place / "raw", runtime), kind="head"))
    for index, rewrite in enumerate(REWRITES):
        skip = [name for name in rewrite.passes if name in applied]
        if not skip and not (runtime == "ncnn" and rewrite.emitter):
            continue
        less = compiled(source, without=rewrite.passes)[0] if skip else model
        with switched_off(rewrite):
            entry = attempt(f"without {rewrite.name}", partial(written, less, place / f"less{index}", runtime))
        entry.facts = {"kind": "ablation", "differs": differences(whole, layers_in(entry.file))}
        if entry.failed or entry.facts["differs"]:
            entries.append(entry)
    return entries


def compiled(source: Path, *, head: str = "keep", without: tuple[str, ...] = ()) -> tuple[Model, set[str]]:
    """`compile --prune 0` without some passes, and the names of the passes that rewrote something."""
    model, applied = load(source), set()
    for step in remainder(CompileOptions(prune=0.0, head=head), model):
        if step.name not in without and step.run(model):
            applied.add(step.name)
    return model, applied


@contextmanager
def switched_off(rewrite: Rewrite) -> Iterator[None]:
    """The ncnn emitter without its part of a rewrite."""
    with ExitStack() as stack:
        for module, name, stand_in in rewrite.emitter:
            stack.enter_context(mock.patch.object(module, name, stand_in))
        yield


def layers_in(file: Path | None) -> list[Layer]:
    """Every node or layer of a file."""
    if file is None:
        return []
    if file.suffix == ".onnx":
        nodes = onnx.load(file, load_external_data=False).graph.node
        return [Layer(n.op_type, n.name, str(sorted(map(str, n.attribute))) + str(list(n.input))) for n in nodes]
    param = file if file.suffix == ".param" else file / "model.ncnn.param"
    lines = [line.split() for line in param.read_text().splitlines()[2:] if line.strip()]
    return [Layer(line[0], line[1], " ".join(line[2:])) for line in lines if line[0] != "Split"]


def differences(ours: list[Layer], other: list[Layer]) -> str:
    """What the rewrite did: counts of operators that changed (or which ones changed otherwise), and the first names."""
    if not other:
        return ""
    have, had = (Counter(layer.op for layer in side) for side in (ours, other))
    counts = [f"{had[op]}→{have[op]} {op}" for op in sorted({*have, *had}) if have[op] != had[op]]
    known = set(ours)
    gone = [layer for layer in other if layer not in known]
    if not counts and gone:
        counts = [f"{count} {op} changed" for op, count in Counter(layer.op for layer in gone).items()]
    mine = {(layer.op, layer.name) for layer in ours}
    # Named are the nodes that went; where none did, those that changed.
    names = [layer.name for layer in gone if (layer.op, layer.name) not in mine] or [layer.name for layer in gone]
    return f"{', '.join(counts)} ({', '.join(names[:2])}{', …' if len(names) > 2 else ''})" if names else ""


def add_ratios_to_ours(found: Facts) -> None:
    """To every row: our time over its, the median over the rounds with quartiles."""
    mine = np.array(found["seconds"]["onnxslim-yolo"])
    for row in found["rows"]:
        if row["name"] in found["seconds"]:
            low, middle, high = np.percentile(mine / np.array(found["seconds"][row["name"]]), [25, 50, 75])
            row["ours_over_it"], row["ours_over_it_quartiles"] = float(middle), [float(low), float(high)]


def markdown(blocks: list[Facts]) -> str:
    lines = [
        "# Table C: fusion alone",
        "",
        "*ours / it*: our latency over the tool's, median over the rounds; at most 1.00 is wanted; what is above by "
        "more than the measurement's resolution is bold. `without …`: ours without one rewrite, and what that rewrite "
        "does (counts of operators without → with it). `raw head` has other outputs.",
        "",
    ]
    for found in blocks:
        title = f"## {found['title']}, {found['runtime']}, {found['size']} px, {found['threads']} thread(s)"
        ordered = sorted(found["rows"], key=lambda row: ORDER.index(row["kind"]))
        rows = [[row["name"], *_cells(row, found["resolution"])] for row in ordered]
        lines += [title, "", protocol(found), "", *table(("", "ms", "ours / it", "quartiles", "remark"), rows)]
    return "\n".join(lines)


def _cells(row: Facts, resolution: float) -> list[str]:
    if "ratio" not in row:
        return ["–", "–", "–", f"fails: {row['failed']}".replace("|", "/")]
    ratio, (low, high) = row["ours_over_it"], row["ours_over_it_quartiles"]
    slower = row["kind"] in ("source", "rival") and ratio > 1 + resolution
    text = f"**{ratio:.3f}**" if slower else f"{ratio:.3f}"
    return [f"{row['ms']:.2f}", text, f"{low:.3f} to {high:.3f}", row.get("differs", "")]


if __name__ == "__main__":
    main()
