"""Tracing keeps BatchNorms, names and numbers, and says so when it cannot."""

from __future__ import annotations

import re
import warnings

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from onnxslim_yolo.errors import InputError, UnsupportedError, VerificationError  # noqa: E402
from onnxslim_yolo.ir.graph import MODULE_KEY  # noqa: E402
from onnxslim_yolo.load import trace_check  # noqa: E402
from onnxslim_yolo.load.trace import trace  # noqa: E402
from tests.zoo import NAMES, images, module, onnx_bytes  # noqa: E402

nn = torch.nn
NOT_IN_THE_GRAPH = re.compile(r"num_batches_tracked$|\.anchors$")
UNUSED = {
    "yolov10n": r"model\.23\.cv[23]\.",
    "yolo26n": r"model\.23\.cv[23]\.",
    "yolo26n-seg": r"model\.23\.(cv[234]|proto\.semseg)\.",
    "yolo26n-pose": r"model\.23\.(cv[234]|cv4_kpts|cv4_sigma|one2one_cv4_sigma|flow_model)\.",
    "yolo26n-obb": r"model\.23\.cv[234]\.",
}
"""The one-to-many heads, which do not run, and what only training uses."""


def _tiny():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    net[1].running_mean.uniform_()
    net[1].running_var.uniform_(0.5, 1.5)
    return net


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_there_under_its_own_name(name):
    proto = onnx.load_from_string(onnx_bytes(name))
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for key, tensor in module(name).state_dict().items():
        if NOT_IN_THE_GRAPH.search(key) or re.match(UNUSED.get(name, "$"), key):
            continue
        value = found[key] if key in found else found[f"{key}.T"].T
        assert np.array_equal(value, tensor.numpy()), key
    onnx.checker.check_model(proto, full_check=True)
    assert [value.name for value in proto.graph.input] == ["images"]


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "v5lite-s", "resnet"])
def test_nodes_know_their_module(name):
    net = module(name)
    paths = dict(net.named_modules())
    for node in onnx.load_from_string(onnx_bytes(name)).graph.node:
        owner = next((p.value for p in node.metadata_props if p.key == MODULE_KEY), "")
        assert owner in paths
        if node.op_type in ("Conv", "BatchNormalization"):
            assert node.input[1] == f"{owner}.weight"


@pytest.mark.parametrize("name", ["yolov8n", "shufflenetv1"])
def test_dynamo_agrees_with_torchscript(name):
    proto = onnx.load_from_string(onnx_bytes(name, exporter="dynamo"))
    other = onnx.load_from_string(onnx_bytes(name))
    keys = {key for key in module(name).state_dict() if not NOT_IN_THE_GRAPH.search(key)}
    assert keys <= {t.name for t in proto.graph.initializer}
    norms = [sum(n.op_type == "BatchNormalization" for n in p.graph.node) for p in (proto, other)]
    assert norms[0] == norms[1]
    text = str(proto.graph.node[0]) + "".join(n.doc_string for n in proto.graph.node)
    assert "stack_trace" not in text
    assert ".py" not in text


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n", "yolov10n", "v5lite-s"])
def test_a_dynamic_trace_runs_at_other_sizes(name):
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_bytes(name, dynamic=True), providers=["CPUExecutionProvider"])
    x = torch.rand(3, 3, 96, 128, generator=torch.Generator().manual_seed(2))
    if name == "yolov10n":  # its top-k is as large as the traced image allowed
        x = x[:, :, :64, :64]
    with torch.no_grad():
        want = module(name)(x).numpy()
    got = session.run(None, {"images": x.numpy()})[0]
    assert got.shape == want.shape
    trace_check._compare("output0", got, want, ranked=name == "yolov10n")


def test_the_same_module_gives_the_same_bytes(tmp_path):
    trace(module("yolov8n"), images(), tmp_path / "a.onnx")
    trace(module("yolov8n"), images(), tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_nothing_is_printed_warned_or_changed(capfd):
    net = _tiny().train()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace(net, images())
    assert capfd.readouterr() == ("", "")
    assert net.training
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())


def test_equal_tensors_keep_their_names():
    """Two fresh BatchNorms are equal in every number; the exporter would merge them."""
    net = nn.Sequential(*(nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)) for _ in range(2)))
    names = {tensor.name for tensor in trace(net, images()).graph.initializer}
    assert {"0.1.weight", "1.1.weight", "0.1.running_mean", "1.1.running_mean"} <= names


@pytest.mark.parametrize("key", ["weight", "bias", "running_mean", "running_var"])
def test_a_norm_that_differs_is_refused(key):
    """The control: a tracer that changes any of a BatchNorm's tensors by 1 % does not pass."""
    net = _tiny().eval()
    nn.init.uniform_(net[1].bias)
    proto = trace(net, images())
    for tensor in proto.graph.initializer:
        if tensor.name == f"1.{key}":
            spoilt = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
            tensor.CopyFrom(onnx.numpy_helper.from_array(spoilt, tensor.name))
    with pytest.raises(VerificationError, match=f"1.{key}"):
        trace_check.check_norms(proto, net, ["1"])


def test_a_folded_norm_is_refused():
    net = _tiny().eval()
    with pytest.raises(VerificationError, match="2 BatchNorms ran"):
        trace_check.check_norms(trace(net, images()), net, ["1", "1"])


def test_a_spoilt_convolution_is_refused():
    """The control: 1 % on one convolution's weight is more than the check lets through."""
    net = _tiny().eval()
    proto = trace(net, images())
    tensor = next(t for t in proto.graph.initializer if t.name == "3.weight")
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    with torch.no_grad(), pytest.raises(VerificationError, match="differ by"):
        trace_check.check_outputs(proto, images().numpy(), [net(images()).numpy()])


def test_rows_of_a_ranking_may_change_places_but_not_their_numbers():
    rows = np.random.default_rng(0).random((1, 50, 6), dtype=np.float32)
    swapped = rows.copy()
    swapped[0, [3, 4]] = rows[0, [4, 3]]
    trace_check._compare("output0", swapped, rows, ranked=True)
    with pytest.raises(VerificationError):
        trace_check._compare("output0", swapped, rows, ranked=False)
    with pytest.raises(VerificationError):
        trace_check._compare("output0", swapped * np.float32(1.01), rows, ranked=True)


def test_scores_are_not_hidden_by_boxes():
    """The control: 1 % on scores in [0, 1], next to boxes of 600 px in the same tensor, is seen."""
    random = np.random.default_rng(0)
    want = np.concatenate((600 * random.random((1, 4, 99)), random.random((1, 3, 99))), 1)
    spoilt = want.copy()
    spoilt[:, 4:] *= 1.01
    with pytest.raises(VerificationError):
        trace_check._compare("output0", spoilt, want, ranked=False)


def test_a_data_dependent_branch_is_caught():
    """A trace freezes the branch the example took; noise takes the other one."""

    class Branch(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() == 0 else x * 3

    with pytest.raises(VerificationError, match="differ by"):
        trace(Branch(), torch.zeros(1, 3, 8, 8), exporter="torchscript")


def test_what_cannot_be_traced_says_why(tmp_path):
    class Broken(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x[0, 0]).unsqueeze(0)

    with pytest.raises(UnsupportedError, match="could not be traced"):
        trace(Broken(), images(1, 8), tmp_path / "never.onnx")
    assert not list(tmp_path.iterdir())


def test_an_unknown_exporter_is_refused():
    with pytest.raises(InputError, match="torchscript"):
        trace(_tiny(), images(), exporter="magic")
