"""A graph as a trainable module and back: same outputs, same names, same graph again."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")

import onnxslim_yolo as oy  # noqa: E402
from onnxslim_yolo.emit.torch import load_module, module_to_onnx, save_module, to_torch  # noqa: E402
from onnxslim_yolo.emit.torch.describe import describe  # noqa: E402
from onnxslim_yolo.errors import InputError, UnsupportedError, VerificationError  # noqa: E402
from onnxslim_yolo.ir.graph import initializers  # noqa: E402
from onnxslim_yolo.ir.model import Model  # noqa: E402
from onnxslim_yolo.load.graph_ops import OPS  # noqa: E402
from onnxslim_yolo.load.saved_module import TRACED_ROWS, is_saved_module  # noqa: E402
from onnxslim_yolo.load.trace import trace  # noqa: E402
from onnxslim_yolo.manager import PassManager  # noqa: E402
from onnxslim_yolo.models.zoo.architectures import build, randomise  # noqa: E402
from onnxslim_yolo.passes import (  # noqa: E402
    Canonicalise,
    FoldBatchNorm,
    PadToPool,
    PruneChannels,
    ReparamBranches,
    ShuffleToGather,
    SliceChannels,
)
from tests.kinds import TRUNK, text_of, trunk, written  # noqa: E402

SIZE = 64
ARCHITECTURES = ("yolov5n", "yolov8n", "yolo11n", "v5lite-g", "mobilenetv3")


def prepared(proto: Any, *steps: Any) -> Model:
    model = Model.from_onnx(proto)
    PassManager([Canonicalise(), ShuffleToGather(), Canonicalise(), *steps]).run(model)
    return model


def source(name: str) -> tuple[Any, Any]:
    module = randomise(build(name, nc=2, width=0.25), size=SIZE)
    return module, trace(module, torch.zeros(1, 3, SIZE, SIZE))


def run_onnx(model: Model, x: Any) -> list[Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.to_onnx().SerializeToString(), options)
    return list(session.run(None, {session.get_inputs()[0].name: x.numpy()}))


def run_module(module: Any, x: Any) -> list[Any]:
    with torch.no_grad():
        y = module(x)
    return [part.numpy() for part in (y if isinstance(y, tuple) else (y,))]


def worst(first: list[Any], second: list[Any]) -> float:
    return max(float(np.abs(a - b).max() / a.std()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_pruned_graph_as_a_module(name: str) -> None:
    original, proto = source(name)
    model = prepared(proto, PruneChannels(ratio=0.4), SliceChannels())
    module = to_torch(model)
    x = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    want = run_onnx(model, x[:1])
    assert worst(want, run_module(module, x[:1])) < 5e-5
    assert (
        worst(want, [part[:1] for part in run_module(module, x)]) < 5e-5
    )  # a batch, though the graph is for one image
    assert set(module.state_dict()) <= set(original.state_dict())
    plain = sum(node.op == "Conv" for node in model.graph.nodes)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in module.modules()) == plain  # users look for modules
    norms = {k for k, m in original.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert {k for k, m in module.named_modules() if isinstance(m, torch.nn.BatchNorm2d)} == norms
    assert max(effect_of_spoiling(module, x[:1], want)) > 3e-4  # the control


def effect_of_spoiling(module: Any, x: Any, want: list[Any]) -> list[float]:
    """What 1 % on one weight does, for some weights from the first layer to the last."""
    weights = [p for key, p in module.named_parameters() if key.endswith("weight") and p.dim() > 1 and p.requires_grad]
    effects = []
    for weight in weights[:: max(len(weights) // 4, 1)]:
        before = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(1.01)
            effects.append(worst(want, run_module(module, x)))
            weight.copy_(before)
    return effects


def darknet(folder: Path) -> Any:
    """A YOLOv4-tiny straight from Darknet's files, whose Reshapes copy the batch."""
    from onnxslim_yolo.load.darknet import load_darknet
    from tests.load import darknet_files

    rng = np.random.default_rng(0)
    weights = darknet_files.random_weights(darknet_files.TINY_YOLOV4_CONVOLUTIONS, rng)
    return load_darknet(darknet_files.write_network(folder, darknet_files.TINY_YOLOV4, weights), imgsz=(SIZE, SIZE))


@pytest.mark.parametrize("name", ["yolov5n", "v5lite-g", "darknet"])
def test_a_fine_tuned_module_compiles_to_the_same_graph(name: str, tmp_path: Path) -> None:
    proto = darknet(tmp_path) if name == "darknet" else source(name)[1]
    model = prepared(proto, PruneChannels(ratio=0.4), SliceChannels())
    module = to_torch(model).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    for _ in range(2):
        optimizer.zero_grad()
        y = module(torch.rand(4, 3, SIZE, SIZE))
        (y[0] if isinstance(y, tuple) else y).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    changed = sum(not torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert changed > 0.9 * len(before)
    again = load_module(save_module(module.eval(), tmp_path / "slim.pt"))
    x = torch.rand(1, 3, SIZE, SIZE)
    np.testing.assert_array_equal(run_module(again, x)[0], run_module(module, x)[0])
    fused = [ReparamBranches(), FoldBatchNorm(), PadToPool(), Canonicalise()]
    first, second = prepared(module_to_onnx(again), *fused), model.copy()
    PassManager(fused).run(second)
    assert worst(run_onnx(first, x), run_module(module, x)) < 1e-4
    assert shape_of(first) == shape_of(second)


def shape_of(model: Model) -> tuple[Counter[str], Counter[tuple[str, Any]]]:
    """Operators, and the floating-point initializers' shapes and, for weights, names."""
    floats = (c for c in initializers(model.graph) if c.values.dtype == np.float32 and c.values.ndim > 1)
    named = ((c.name if c.name.endswith(".weight") else "", c.values.shape) for c in floats)
    return Counter(n.op for n in model.graph.nodes), Counter(named)


def test_a_saved_module_is_opened_as_a_checkpoint(tmp_path: Path) -> None:
    from onnxslim_yolo.load import load

    model = prepared(source("yolov5n")[1], PruneChannels(ratio=0.4), SliceChannels())
    model.metadata["names"] = "{0: 'a', 1: 'b'}"
    opened = load(save_module(to_torch(model), tmp_path / "slim.pt"))
    assert opened.metadata["names"] == "{0: 'a', 1: 'b'}"
    assert Counter(n.op for n in opened.graph.nodes) == Counter(n.op for n in model.graph.nodes)


def test_nothing_in_the_file_is_a_class(tmp_path: Path) -> None:
    path = save_module(to_torch(prepared(source("yolov5n")[1])), tmp_path / "m.pt")
    with zipfile.ZipFile(path) as archive:
        pickle = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    assert b"onnxslim_yolo." not in pickle
    assert is_saved_module(path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    assert not is_saved_module(tmp_path / "other.pt")
    with pytest.raises(InputError, match="no saved module"):
        load_module(tmp_path / "other.pt")
    (tmp_path / "torn.pt").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        load_module(tmp_path / "torn.pt")
    data = torch.load(path, weights_only=True)
    torch.save({**data, "graph": data["graph"][:-5]}, tmp_path / "cut.pt")
    with pytest.raises(InputError, match="damaged"):
        load_module(tmp_path / "cut.pt")
    with pytest.raises(InputError, match="no such file"):
        load_module(tmp_path / "none.pt")


def test_an_unknown_operator_is_named() -> None:
    model = prepared(source("yolov5n")[1])
    node = next(node for node in model.graph.nodes if node.op == "Sigmoid")
    node.op = "Unheard"
    with pytest.raises(UnsupportedError, match="Unheard"):
        to_torch(model)


def test_bins_are_not_trained() -> None:
    module = to_torch(prepared(source("yolov8n")[1]))
    assert [key for key, p in module.named_parameters() if not p.requires_grad] == ["model.22.dfl.conv.weight"]


def test_a_reshape_alone_knows_how_many_rows_were_traced() -> None:
    described, _ = describe(prepared(source("yolov8n")[1]))
    rows = {node["op"]: node["attributes"].get(TRACED_ROWS) for node in described["nodes"]}
    assert rows.pop("Reshape") == 1 and set(rows.values()) == {None}


BESIDE = {
    "Softmax from an axis on, before opset 13": ("", "t = Softmax<axis=1>(f) z = Mul(t, k)", 11),
    "Softmax over one axis": ("", "t = Softmax<axis=1>(f) z = Mul(t, k)", 13),
    "Upsample": ("float[4] up = {1,1,2,2}", 'z = Upsample<mode="nearest">(f, up)', 9),
    "GridSample": ("float[2,8,1,1] w2", "o = Conv(f, w2) g = Transpose<perm=[0,2,3,1]>(o) z = GridSample(f, g)", 16),
    "GridSample of opset 20": (
        "float[2,8,1,1] w2",
        "o = Conv(f, w2) g = Transpose<perm=[0,2,3,1]>(o) "
        'z = GridSample<mode="nearest", padding_mode="border", align_corners=1>(f, g)',
        20,
    ),
    "Resize of opset 10": ("float[4] up = {1,1,2,2}", "z = Resize(f, up)", 10),
    "Resize by the nearest middle": ("float[4] up = {1,1,3,2}", 'z = Resize(f, "", up)', 13),
    "Resize to half by the nearest middle": (
        "float[4] down = {1,1,0.5,0.5}",
        'z = Resize<nearest_mode="round_prefer_ceil">(f, "", down)',
        13,
    ),
    "Resize of two axes": ("float[2] up = {1.5,1.5}", 'z = Resize<axes=[2,3], mode="linear">(f, "", up)', 18),
    "cubic Resize": ("float[4] up = {1,1,1.5,2}", 'z = Resize<mode="cubic">(f, "", up)', 13),
    "dilated pool, padded by more than half its window": (
        "",
        "z = MaxPool<kernel_shape=[3,3], dilations=[2,2], pads=[2,2,2,2]>(f)",
        13,
    ),
    "as much padding as it takes": (
        "float[8,8,3,4] w2",
        'p = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(f, w2) '
        'z = MaxPool<kernel_shape=[2,2], strides=[3,1], auto_pad="SAME_UPPER">(p)',
        13,
    ),
    "padding of a side alone": ("int64[8] p = {0,0,0,2,0,0,0,1}", 'z = Pad<mode="reflect">(f, p)', 13),
    "padding that goes round": ("int64[8] p = {0,0,1,2,0,0,2,1}", 'z = Pad<mode="wrap">(f, p)', 19),
    "half precision inside": (
        "float16[8,8,1,1] w2, float16[8,1,1] s",
        "h = Cast<to=10>(f) c2 = Conv(h, w2) m = Mul(c2, s) z = Cast<to=1>(m)",
        13,
    ),
    "a weight that layers share, and a bias for each": (
        "float[8,8,1,1] w2, float[8] b1, float[8] b2, float[8] g, float[8] v = {1,2,3,4,5,6,7,8}",
        "c1 = Conv(f, w2, b1) n1 = BatchNormalization(c1, g, b1, b2, v) "
        "c2 = Conv(n1, w2, b2) n2 = BatchNormalization(c2, g, b2, b1, v) z = Conv(n2, w2)",
        13,
    ),
    "double precision inside": ("double[8,1,1] s", "h = Cast<to=11>(f) m = Mul(h, s) z = Cast<to=1>(m)", 13),
}


def beside(case: str, folder: Path) -> Path:
    return beside_trunk(*BESIDE[case], folder)


def beside_trunk(weights: str, nodes: str, opset: int, folder: Path) -> Path:
    body, values = trunk()
    held = f"{TRUNK}, float[4,8,1,1] w1, float[1] k = {{100}}, {weights}"
    text = text_of("float[1,3,8,8] x", "float[1,4,m,n] y", held, f"{body} {nodes} y = Conv(z, w1)", opset)
    return written(text, folder, values)


@pytest.mark.parametrize("case", BESIDE)
def test_the_written_module_is_run(case: str, tmp_path: Path) -> None:
    result = oy.compile(beside(case, tmp_path), out=tmp_path / "out", emit=("onnx", "torch"))
    (check,) = (c for c in result.report["verification"]["checks"] if c["runtime"] == "torch")
    assert check["label"] == f"cut graph = {result.torch and result.torch.name}"


BEYOND = {
    "antialias": (
        "float[4] down = {1,1,0.7,0.7}",
        'z = Resize<antialias=1, mode="linear">(f, "", down)',
        "a Resize with mode linear and coordinates half_pixel",
    ),
    "where single precision decides": (
        "int64[8] less = {0,0,0,0,0,0,0,-2}, int64[4] to = {1,8,8,16}",
        "d = Concat<axis=3>(f, f) q = Pad(d, less) "
        'z = Resize<coordinate_transformation_mode="asymmetric", nearest_mode="floor">(q, "", "", to)',
        "a Resize with mode nearest and coordinates asymmetric",
    ),
    "another pixel than torch's": (
        "float[4] down = {1,1,0.7,0.7}",
        'z = Resize<nearest_mode="ceil">(f, "", down)',
        "a Resize with mode nearest and coordinates half_pixel",
    ),
}


@pytest.mark.parametrize("case", BEYOND)
def test_what_torch_does_not_run_is_named(case: str, tmp_path: Path) -> None:
    weights, nodes, reason = BEYOND[case]
    file = beside_trunk(weights, nodes, 18, tmp_path)
    with pytest.raises(UnsupportedError, match=reason) as caught:
        oy.compile(file, out=tmp_path / "out", emit=("onnx", "torch"))
    assert caught.value.node and "leave torch out of --emit" in (caught.value.hint or "")
    assert not (tmp_path / "out").exists()


def test_what_torch_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, "Softmax", lambda inputs, attrs: torch.softmax(inputs[0], 9))
    with pytest.raises(UnsupportedError, match="torch does not run this Softmax: Dimension out of range") as caught:
        oy.compile(beside("Softmax over one axis", tmp_path), out=tmp_path / "out", emit=("onnx", "torch"))
    assert caught.value.node and not (tmp_path / "out").exists()


def test_a_module_that_computes_another_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, "Softmax", lambda inputs, attrs: torch.softmax(inputs[0], attrs["axis"]))
    file = beside("Softmax from an axis on, before opset 13", tmp_path)
    with pytest.raises(VerificationError, match="in torch"):
        oy.compile(file, out=tmp_path / "out", emit=("onnx", "torch"))
    assert not (tmp_path / "out").exists()
