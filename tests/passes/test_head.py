"""Pass `head`: what it cuts decodes to what it cut, and what does not fit stays."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxslim_yolo.heads.decode import candidates
from onnxslim_yolo.heads.finish import identify_head, postprocess
from onnxslim_yolo.heads.spec import HEAD_KEY, HeadSpec
from onnxslim_yolo.ir.check import check_graph
from onnxslim_yolo.ir.graph import is_constant, tensors
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes.head import Head
from tests.zoo import DETECTORS, onnx_bytes

_TWO_TABLES = ("ssd", "efficientdet", "ppyoloe")
UNDECODED = ("nanodet", "rtdetr", "yolo26n-seg", "yolo26n-pose", "yolo26n-obb", *_TWO_TABLES)
"""A table of raw numbers without a decode, and a transformer's boxes: nothing that could be cut off. SSD, EfficientDet
and PP-YOLOE give boxes and scores apart, which no decode here describes. Of YOLO26's heads
for other tasks the ranking takes extras along, which is not offered; the model is left as it is, and says so."""
SIZE = 64


def run(model: Model, side: int = SIZE, height: int | None = None) -> list[np.ndarray]:
    session = ort.InferenceSession(model.to_onnx().SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((1, 3, height or side, side), np.float32)
    return session.run(None, {session.get_inputs()[0].name: image})


def load(name: str, **options) -> Model:
    return Model.from_onnx(onnx.load_from_string(onnx_bytes(name, **{"size": SIZE, **options})))


def worst(source: list[np.ndarray], cut: list[np.ndarray], spec: HeadSpec, size: tuple[int, int]) -> float:
    """Largest difference of boxes (as a share of the image) and scores between the model's own decode and ours."""
    metadata = {"names": str(dict.fromkeys(range(spec.nc), "x")), "task": "segment"} if spec.extra else {}
    if spec.end2end:
        return worst_ranked(source[0], cut, spec, size)
    table = identify_head([o.shape for o in source], size, metadata)
    ours, theirs = (candidates(o, s, 0, 0.0, True) for o, s in ((cut, spec), (source, table)))
    assert np.array_equal(ours.classes, theirs.classes)
    boxes = np.abs(ours.boxes - theirs.boxes).max() / max(size)
    return max(float(boxes), float(np.abs(ours.scores - theirs.scores).max()))


def worst_ranked(table: np.ndarray, cut: list[np.ndarray], spec: HeadSpec, size: tuple[int, int]) -> float:
    """The same for ranked boxes, of which those with nearly equal scores may change places."""
    ours = postprocess(cut, spec, conf=0, max_det=table.shape[1])[0]
    theirs = postprocess([table], HeadSpec("end2end", spec.nc), conf=0)[0]
    assert len(ours) == len(theirs)
    gaps = np.diff(theirs.scores, prepend=2, append=-1)
    clear = (-gaps[:-1] > 1e-5) & (-gaps[1:] > 1e-5)
    assert clear.sum() > 20
    boxes = np.abs(ours.boxes - theirs.boxes)[clear].max() / max(size)
    classes = float((ours.classes != theirs.classes)[clear].any())
    return max(float(boxes), classes, float(np.abs(ours.scores - theirs.scores).max()))


@pytest.mark.parametrize("name", [name for name in DETECTORS if name not in UNDECODED])
def test_round_trip(name: str) -> None:
    model = load(name)
    source = run(model)
    assert Head().run(model) == 1, model.notes
    check_graph(model.graph)
    spec = HeadSpec.from_json(model.metadata[HEAD_KEY])
    cut = run(model)
    assert worst(source, cut, spec, (SIZE, SIZE)) < 2e-5
    assert all(output.ndim == 4 for output in cut[: spec.outputs])
    assert [list(o.shape) for o in model.graph.outputs] == [list(o.shape) for o in cut]
    # Control: maps that are 1 % off decode to something else.
    assert worst(source, [output * np.float32(1.01) for output in cut], spec, (SIZE, SIZE)) > 1e-4
    nodes = len(model.graph.nodes)
    assert Head().run(model) == 0 and len(model.graph.nodes) == nodes and not model.notes


OTHER_EXPORTERS = [("yolov5n", {"fold": True}), ("yolo26n", {"fold": True}), ("yolov8n", {"exporter": "dynamo"})]


@pytest.mark.parametrize(("name", "options"), OTHER_EXPORTERS)
def test_files_of_other_exporters(name: str, options: dict[str, object]) -> None:
    model = load(name, **options)
    source = run(model)
    assert Head().run(model) == 1, model.notes
    assert worst(source, run(model), HeadSpec.from_json(model.metadata[HEAD_KEY]), (SIZE, SIZE)) < 2e-5


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n-seg", "yolov10n"])
def test_free_input_sizes(name: str) -> None:
    model = load(name, dynamic=True)
    source = run(model, 128, 64)
    assert Head().run(model) == 1, model.notes
    check_graph(model.graph)
    spec = HeadSpec.from_json(model.metadata[HEAD_KEY])
    assert worst(source, run(model, 128, 64), spec, (64, 128)) < 2e-5


def test_metadata_of_v5() -> None:
    model = load("yolov5n", nc=3)
    Head().run(model)
    spec = HeadSpec.from_json(model.metadata[HEAD_KEY])
    assert (spec.kind, spec.nc, spec.strides, spec.scale_xy) == ("v5-raw", 3, (8, 16, 32), 2)
    assert spec.anchors[0] == ((10, 13), (16, 30), (33, 23)) and spec.anchors[2][2] == (373, 326)


def test_prototypes_stay_behind_the_maps() -> None:
    model = load("yolov8n-seg")
    prototypes = model.graph.outputs[1]
    Head().run(model)
    spec = HeadSpec.from_json(model.metadata[HEAD_KEY])
    assert (spec.extra, spec.extra_channels, spec.outputs) == ("mask", 32, 6)
    assert len(model.graph.outputs) == 7 and model.graph.outputs[6] is prototypes


def spoil(model: Model, kind: str) -> None:
    """Change one constant of the decode."""
    heads = [t for t in tensors(model.graph) if is_constant(t) and t.values.dtype == np.float32]
    if kind == "bins":
        target = next(t for t in heads if np.array_equal(t.values.ravel(), np.arange(16)))
        target.values = target.values * np.float32(1.01)
        return
    # A grid or a table of strides that is not uniform: one cell's offset is moved.
    target = next(
        t
        for t in reversed(heads)
        if t.values.size >= 20
        and t.values.ndim >= 3
        and len(t.outputs[0].inputs) == 2
        and t.outputs[0].op in ("Add", "Sub")
    )
    values = target.values.copy()
    values.ravel()[3] += 0.25
    target.values = values


@pytest.mark.parametrize(("name", "kind"), [("yolov8n", "bins"), ("yolov5n", "grid"), ("yolov8n", "grid")])
def test_constants_that_do_not_fit_are_refused(name: str, kind: str) -> None:
    model = load(name, fold=True)
    spoil(model, kind)
    before = [output.name for output in model.graph.outputs]
    assert Head().run(model) == 0
    assert [output.name for output in model.graph.outputs] == before and HEAD_KEY not in model.metadata
    assert len(model.notes) == 1 and "left as it is" in model.notes[0]


@pytest.mark.parametrize("name", UNDECODED)
def test_other_tables_are_left_alone(name: str) -> None:
    model = load(name)
    assert Head().run(model) == 0
    assert "not recognised" in model.notes[0]


@pytest.mark.parametrize("name", ["resnet", "yolov8n-cls"])
def test_classifiers_are_left_alone(name: str) -> None:
    model = load(name)
    assert Head().run(model) == 0
    assert "no decode to cut off" in model.notes[0]


def test_keep_and_decoded_do_nothing_to_a_decoded_model() -> None:
    for to in ("keep", "decoded"):
        model = load("yolov8n")
        assert Head(to=to).run(model) == 0 and not model.notes


@pytest.mark.parametrize("name", ["yolov5n", "yolov5n-seg", "yolov8n", "yolov6n", "yolox", "yolov7-tiny"])
def test_decoded_writes_back_what_raw_cut(name: str) -> None:
    model = load(name)
    source = run(model)
    Head().run(model)
    spec = HeadSpec.from_json(model.metadata[HEAD_KEY])
    assert Head(to="decoded").run(model) == 1
    check_graph(model.graph)
    table, *rest = run(model)
    if name == "yolov6n":  # its own table has a column of ones for the objectness
        table = np.insert(table.transpose(0, 2, 1), 4, 1, axis=2)
    assert table.shape == source[0].shape and len(rest) == len(source) - 1
    spread = np.abs(source[0]).max()
    assert np.abs(table - source[0]).max() < 1e-6 * spread
    assert np.abs(table * 1.01 - source[0]).max() > 1e-3 * spread  # control
    assert Head(to="decoded").run(model) == 0
    assert Head().run(model) == 1  # and what was written is recognised
    assert HeadSpec.from_json(model.metadata[HEAD_KEY]) == spec


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n"])
def test_what_is_written_back_decodes_every_image_of_a_batch(name: str) -> None:
    model = load(name, batch=2)
    source = run_batch(model)
    Head().run(model)
    assert Head(to="decoded").run(model) == 1, model.notes
    table = run_batch(model)
    assert table.shape == source.shape and len(source) == 2
    spread = np.abs(source).max()
    assert np.abs(table - source).max() < 1e-6 * spread
    assert np.abs(source[0] - source[1]).max() > 1e-3 * spread  # control: the images differ


def run_batch(model: Model) -> np.ndarray:
    session = ort.InferenceSession(model.to_onnx().SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(3).random((2, 3, SIZE, SIZE), np.float32)
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def test_what_cannot_be_decoded_in_the_graph_is_refused() -> None:
    for name, options, reason in (
        ("yolo26n", {}, "not offered"),
        ("yolov8n", {"dynamic": True}, "fixed input size"),
        ("yolov8n", {"head": "raw"}, "do not describe"),
    ):
        model = load(name, **options)
        Head().run(model)
        model.notes.clear()
        assert Head(to="decoded").run(model) == 0
        assert reason in model.notes[0]
