"""Input size as a lever: which sizes there are, which is chosen, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from PIL import Image

import onnxslim_yolo as oy
from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.heads.finish import Detections
from onnxslim_yolo.latency import LatencyTable
from onnxslim_yolo.load import LoadOptions
from onnxslim_yolo.measure import smaller_input as module
from onnxslim_yolo.measure.smaller_input import Sizes, choose_size, smaller_sizes
from onnxslim_yolo.sweep.levers import INT8, levers, usable_sizes
from onnxslim_yolo.sweep.run import Grid, SweepOptions, plan_trials
from onnxslim_yolo.verify.agreement import Agreement, agreement, average_precision
from tests.numeric import build
from tests.passes.cutting import onnx_text

MATERIAL = Path(__file__).resolve().parents[2] / "shared/material"


@pytest.mark.parametrize(
    ("full", "sizes"),
    [
        ((320, 320), [(288, 288), (256, 256), (224, 224), (192, 192), (160, 160)]),
        ((96, 160), [(64, 128), (64, 96)]),
        ((100, 64), [(96, 64), (64, 32)]),
        ((32, 32), []),
    ],
)
def test_sizes_are_multiples_of_32_down_to_half(full: tuple[int, int], sizes: list[tuple[int, int]]) -> None:
    assert smaller_sizes(full) == sizes


@pytest.mark.parametrize(
    ("full", "shapes", "first"),
    [
        ((320, 320), [(64, 64)], [(288, 288), (256, 256), (224, 224), (192, 192), (160, 160)]),
        ((320, 320), [(720, 1280)], [(192, 320), (192, 288), (160, 288)]),
        ((320, 320), [(1280, 720)], [(320, 192), (288, 192), (288, 160)]),
        ((320, 320), [(480, 640)] * 2 + [(640, 480)], [(288, 320), (256, 320), (256, 288)]),
        ((384, 640), [(720, 1280)], [(352, 640), (352, 608), (352, 576)]),
    ],
)
def test_sizes_are_of_the_shape_of_images(
    full: tuple[int, int], shapes: list[tuple[int, int]], first: list[tuple[int, int]]
) -> None:
    """None of them has another of its area or less beside it that shows the images as large."""
    found = smaller_sizes(full, shapes)
    assert found[: len(first)] == first
    assert [h * w for h, w in found] == sorted((h * w for h, w in found), reverse=True)


class Made(Sizes):
    """A network of 320 px whose latency goes with its area, and which keeps so much at every size."""

    shares: dict[int, float] = {}  # noqa: RUF012

    @property
    def full(self) -> tuple[int, int]:
        return (320, 320)

    def us(self, size: tuple[int, int]) -> float:
        return size[0] * size[1] / 10

    def agreement(self, size: tuple[int, int]) -> Agreement | None:
        share = self.shares.get(size[0])
        return None if share is None else Agreement(8, 100, round(100 * share), 0)


@pytest.mark.parametrize(
    ("target", "shares", "size", "rest"),
    [
        ("0.7x", {}, 256, None),
        ("0.64x", {}, 256, None),
        ("0.63x", {}, 224, None),
        ("9ms", {}, 288, None),
        ("11ms", {}, 320, None),
        ("0.2x", {}, 160, "2.048ms"),
        ("0.3x", {288: 0.9, 256: 0.8, 224: 0.4, 192: 0.3, 160: 0.2}, 256, "3.072ms"),
        ("0.7x", {288: 0.3, 256: 0.2}, 320, "7.168ms"),
    ],
)
def test_the_largest_size_that_meets_the_target(
    target: str, shares: dict[int, float], size: int, rest: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Sizes", type("Now", (Made,), {"shares": shares}))
    found = choose_size(Path("m.onnx"), LoadOptions(), LatencyTable.analytic("ncnn", "avx2"), target)
    assert (found.size, found.rest) == ((size, size), rest)
    assert "\n" not in found.note() and ("as it is" in found.note()) == (size == 320)


def test_int8_is_counted_where_the_table_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What int8 saves need not be saved by the input; a table without int8 times says nothing of that."""

    class Now(Made):
        def model(self, size: tuple[int, int] | None) -> Any:
            return None

    monkeypatch.setattr(module, "Sizes", Now)
    table = LatencyTable.analytic("ncnn", "avx2")
    assert module.int8_left(Any, table) is None  # type: ignore[arg-type]
    chosen = {}
    for known, left in ((True, 0.8), (False, None)):
        monkeypatch.setattr(module, "int8_left", lambda model, table, left=left: left)
        chosen[known] = choose_size(Path("m.onnx"), LoadOptions(), table, "0.7x", int8=True)
    assert chosen[True].size == (288, 288) and chosen[False].size == (256, 256)
    assert "0.65 in int8" in chosen[True].note() and "int8" not in chosen[False].note()
    assert chosen[True].as_json()["int8_left"] == 0.8
    monkeypatch.setattr(module, "int8_left", lambda model, table: 0.6)
    assert choose_size(Path("m.onnx"), LoadOptions(), table, "0.7x", int8=True).size == (320, 320)
    assert choose_size(Path("m.onnx"), LoadOptions(), table, "0.7x").size == (256, 256)  # the control


def boxes(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(int), np.zeros((len(table), 0), np.float32))


def test_agreement_counts_what_is_kept_and_what_is_new() -> None:
    source = [boxes((0, 0, 10, 10, 0.9, 1), (50, 50, 90, 90, 0.8, 2)), boxes()]
    other = [boxes((1, 0, 11, 10, 0.3, 1), (50, 50, 90, 90, 0.8, 3)), boxes((5, 5, 9, 9, 0.5, 1))]
    found = agreement(source, other)
    assert found == Agreement(2, 2, 1, 2) and found.share == 0.5 and found.score == pytest.approx(2 / 5)
    assert agreement(source, source) == Agreement(2, 2, 2, 0)


def test_precision_by_a_reference() -> None:
    """A faint detection that is right is as good as a sure one; wrong ones cost what they outrank."""
    labels = [boxes((0, 0, 10, 10, 0.9, 1), (50, 50, 90, 90, 0.3, 2), (20, 20, 30, 30, 0.1, 1)), boxes()]
    right = [boxes((0, 0, 10, 10, 0.4, 1), (50, 50, 90, 90, 0.1, 2)), boxes()]
    assert average_precision(labels, right) == average_precision(labels, labels) == 1
    unsure = [boxes((0, 0, 10, 10, 0.4, 1), (20, 20, 30, 30, 0.3, 1), (50, 50, 90, 90, 0.1, 2)), boxes()]
    assert average_precision(labels, unsure) == 1  # what the reference is not sure of counts for nothing
    behind = [right[0], boxes((0, 0, 5, 5, 0.05, 1))]
    assert average_precision(labels, behind) == 1
    before = [right[0], boxes((0, 0, 5, 5, 0.9, 1))]
    assert average_precision(labels, before) == pytest.approx(2 / 3)
    twice = [boxes((0, 0, 10, 10, 0.4, 1), (0, 0, 10, 10, 0.3, 1), (50, 50, 90, 90, 0.1, 2)), boxes()]
    assert average_precision(labels, twice) == pytest.approx((1 + 2 / 3) / 2)
    missed = [boxes((0, 0, 10, 10, 0.4, 1), (50, 50, 90, 90, 0.9, 3)), boxes()]
    assert average_precision(labels, missed) == pytest.approx(1 / 4)
    assert average_precision(labels, [boxes(), boxes()]) == 0 and average_precision([boxes()], [boxes()]) == 1


SURE = [(10.0 * k, 0.0, 10.0 * k + 10, 10.0, 0.9, 1) for k in range(8)]


@pytest.mark.parametrize(
    ("there", "size"),
    [
        ([*SURE, (0, 50, 9, 59, 0.9, 2)], (640, 640)),
        (SURE[:6], (640, 640)),  # three quarters
        (SURE[:5], (320, 320)),  # it was not trained for such images
        (None, (320, 320)),
    ],
)
def test_the_reference_is_the_source_at_twice_its_size_if_it_finds_its_own_there(
    there: list[tuple[float, ...]] | None, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(sizes: Sizes, size: tuple[int, int]) -> list[Detections]:
        if size == (640, 640) and there is None:
            raise InputError("its size is fixed")
        return [boxes(*(there or []) if size == (640, 640) else SURE)]

    monkeypatch.setattr(Sizes, "_run", run)
    found = Made(
        Path("m.onnx"), LoadOptions(), LatencyTable.analytic("ncnn", "avx2"), images=[Path("a.png")]
    ).reference()
    assert found[0] == size and len(found[1][0]) == len((there or []) if size == (640, 640) else SURE)


class OfStride64(Made):
    """One that has multiples of 64 alone, or only its own size."""

    asked: list[tuple[int, int]] = []  # noqa: RUF012
    fixed = False

    def us(self, size: tuple[int, int]) -> float:
        self.asked.append(size)
        if any(side % 64 for side in size) or (self.fixed and size != self.full):
            raise InputError(f"Concat of maps that do not fit at {size}")
        return super().us(size)


@pytest.mark.parametrize(
    ("target", "shares", "size", "refused"),
    [
        ("0.85x", {}, 256, {224}),
        ("0.4x", {}, 192, {224}),
        ("0.2x", {}, 192, {224, 160}),
        ("0.45x", {256: 0.9, 192: 0.3}, 256, {224}),
    ],
)
def test_sizes_that_a_network_cannot_have_are_left_out(
    target: str, shares: dict[int, float], size: int, refused: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Sizes", type("Now", (OfStride64,), {"shares": shares}))
    found = choose_size(Path("m.onnx"), LoadOptions(), LatencyTable.analytic("ncnn", "avx2"), target)
    assert found.size == (size, size)
    assert all(f"{side}x{side}" in found.note() for side in refused) and "do not fit" in found.note()


def test_one_that_has_no_other_size_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most divisible size tells for all: reading a network at each of them takes its time."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "Sizes", type("Fixed", (OfStride64,), {"fixed": True, "asked": asked}))
    with pytest.raises(InputError, match="its input size cannot be changed"):
        choose_size(Path("m.onnx"), LoadOptions(), LatencyTable.analytic("ncnn", "avx2"), "0.7x")
    assert set(asked) == {(320, 320), (224, 224), (256, 256)}


def test_advise_leaves_sizes_out() -> None:
    sizes = OfStride64(Path("m.onnx"), LoadOptions(), LatencyTable.analytic("ncnn", "avx2"))
    smaller, why = usable_sizes(sizes)
    assert why is None
    names = [lever.name for lever in levers(sizes, smaller, 0.55 * sizes.us((320, 320)), {INT8: 0.8})]
    assert names == [
        "input 192x192", "pruned", "input 256x256, int8", "pruned, int8", "input 256x256, pruned",
    ]  # fmt: skip
    assert "224x224" in (sizes.says_refused() or "")
    fixed = type("Fixed", (OfStride64,), {"fixed": True})
    assert usable_sizes(fixed(Path("m.onnx"), LoadOptions(), LatencyTable.analytic("ncnn", "avx2")))[0] == []


def test_a_network_of_stride_64(tmp_path: Path) -> None:
    """Its two levels fit at multiples of 64 only."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,h,w] x) => (float[1,8,i,j] y)
      <float[32,3,1,1] a, float[8,64,1,1] c, float[4] scales = {1.0, 1.0, 2.0, 2.0}> {
        m = Conv (x, a)  n = Relu (m)
        p = MaxPool<kernel_shape=[32,32], strides=[32,32]> (n)  q = MaxPool<kernel_shape=[64,64], strides=[64,64]> (n)
        r = Resize<mode="nearest"> (q, , scales)  s = Concat<axis=1> (p, r)  y = Conv (s, c) }"""
    options = {"imgsz": 256, "emit": "ncnn", "verify": False, "device": "x86-avx2"}
    source = written(text, tmp_path)
    result = oy.compile(source, size="auto", target_latency="0.8x", out=tmp_path / "out", **options)
    assert result.report["input_size"]["to"] == [192, 192]
    assert any("cannot have are left out: 224x224" in note for note in result.report["notes"])


def open_model(tmp_path: Path) -> Path:
    """Three convolutions, height and width open."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,h,w] x) => (float[1,8,i,j] y)
      <float[32,3,3,3] a, float[64,32,3,3] b, float[8,64,1,1] c> {
        p = Conv<pads=[1,1,1,1], strides=[2,2]> (x, a)  q = Relu (p)
        r = Conv<pads=[1,1,1,1], strides=[2,2]> (q, b)  s = Relu (r)  y = Conv (s, c) }"""
    return written(text, tmp_path)


def written(text: str, tmp_path: Path) -> Path:
    """A graph as text, its weights made up."""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(0)
    for info in list(proto.graph.value_info):
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        value = rng.standard_normal(shape).astype(np.float32) / 10
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, info.name))
    del proto.graph.value_info[:]
    onnx.save(proto, tmp_path / "best.onnx")
    return tmp_path / "best.onnx"


def test_compile_makes_the_input_smaller(tmp_path: Path) -> None:
    source = open_model(tmp_path)
    options = {"imgsz": 128, "emit": "ncnn", "verify": False, "device": "x86-avx2"}
    result = oy.compile(source, size="auto", target_latency="0.8x", out=tmp_path / "out", **options)
    chosen = result.report["input_size"]
    assert chosen["from"] == [128, 128] and chosen["to"] == [96, 96] and chosen["rest"] is None
    assert any("96x96 instead of 128x128" in note for note in result.report["notes"])
    whole = result.report["before"]["latency_us"] / chosen["latency_left"]
    assert result.report["options"]["imgsz"] == [96, 96]
    less = oy.compile(source, size="auto", target_latency="0.2x", out=tmp_path / "less", **options)
    assert less.report["input_size"]["to"] == [64, 64] and less.report["input_size"]["rest"] is not None
    assert less.report["after"]["latency_us"] <= 0.2 * whole * 1.02


def test_what_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--size auto needs a latency"):
        oy.compile("best.onnx", size="auto")
    weights = "float[6,3,1,1] w, float[1,6,64,64] positions"
    body = "c = Conv(x, w) y = Add(c, positions)"
    learned = build(onnx_text("float[1,3,64,64] x", "float[1,6,64,64] y", weights, body)).save(
        tmp_path / "learned.onnx"
    )
    with pytest.raises(InputError, match="its input size cannot be changed") as caught:
        oy.compile(learned, size="auto", target_latency="0.7x", out=tmp_path / "out")
    assert "values for every position" in str(caught.value)
    images = tmp_path / "black"
    images.mkdir()
    for index in range(3):
        Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(images / f"{index}.png")
    monkeypatch.setattr(module, "Sizes", type("Blind", (Made,), {"seen": lambda self, size: [boxes()] * 3}))
    with pytest.raises(InputError, match="detects nothing in these 3 images"):
        choose_size(Path("m.onnx"), LoadOptions(), LatencyTable.analytic("ncnn", "avx2"), "0.7x", images)


def test_nothing_is_run_beyond_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_onnx", None)  # calling it would fail
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(images / "0.png")
    options = {"imgsz": 128, "size": "auto", "target_latency": "0.7x", "calib": images, "limit_work": "1k"}
    with pytest.raises(InputError, match="limit-work"):
        oy.compile(open_model(tmp_path), **options)


def test_a_sweep_has_it_as_an_axis(tmp_path: Path) -> None:
    model = open_model(tmp_path)
    options = SweepOptions(model, tmp_path / "out", Grid(prune=(0.3,), snap=("none",), imgsz=("auto",)))
    sizes = [trial.options.get("imgsz") for trial in plan_trials(options) if trial.options["prune"] == 0]
    assert sizes[0] is None and sizes[1:] == [list(size) for size in smaller_sizes((640, 640))]


@pytest.mark.material
def test_a_real_detector_keeps_most_at_the_size_chosen(tmp_path: Path) -> None:
    file, calib = MATERIAL / "weights/yolov5n-coco-v6.pt", MATERIAL / "data/coco-val128/calib.txt"
    if not file.exists():
        pytest.skip("no material")
    pytest.importorskip("torch")
    from onnxslim_yolo.latency import table_for

    found = choose_size(file, LoadOptions((320, 320)), table_for("ncnn", "x86-avx512"), "0.7x", calib)
    assert found.size == (224, 288) and found.rest is None
    assert found.found is not None and found.found.objects > 60 and 0.6 < found.found.share < 0.95
