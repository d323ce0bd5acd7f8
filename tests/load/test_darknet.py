"""Darknet files against darknet's own loops, written out in numpy, and against OpenCV's reader (opt-in)."""

from __future__ import annotations

import struct

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from darknet_files import (
    HEADER_V1,
    HEADER_V2,
    TINY_YOLOV4,
    TINY_YOLOV4_CONVOLUTIONS,
    random_weights,
    write_network,
)

from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.load.darknet import load_darknet
from onnxslim_yolo.load.darknet_layers import LAYERS

NET = "[net]\nwidth=7\nheight=10\nchannels=8\n"


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": x})


def images(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, channels, height, width)).astype(np.float32)


def tiny(tmp_path, cfg: str = TINY_YOLOV4, header: bytes = HEADER_V2):
    return write_network(tmp_path, cfg, random_weights(TINY_YOLOV4_CONVOLUTIONS, np.random.default_rng(0), header))


def maxpool_loop(x, size, stride, padding):
    """forward_maxpool_layer: windows start at −(padding // 2), what lies outside counts as −∞."""
    c, h, w = x.shape
    out_h, out_w = (h + padding - size) // stride + 1, (w + padding - size) // stride + 1
    out = np.full((c, out_h, out_w), -np.inf, np.float32)
    for i in range(out_h):
        for j in range(out_w):
            for n in range(size):
                for m in range(size):
                    y, z = -(padding // 2) + i * stride + n, -(padding // 2) + j * stride + m
                    if 0 <= y < h and 0 <= z < w:
                        out[:, i, j] = np.maximum(out[:, i, j], x[:, y, z])
    return out


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, 2, None), (2, 1, None), (3, 2, None), (5, 1, None), (3, 2, 0), (2, 2, 0)]
)
def test_maxpool_pads_like_darknet(tmp_path, size, stride, padding):
    option = "" if padding is None else f"padding={padding}\n"
    cfg = write_network(tmp_path, f"{NET}[maxpool]\nsize={size}\nstride={stride}\n{option}", HEADER_V2)
    x = images(10, 7, 8)
    expected = maxpool_loop(x[0], size, stride, size - 1 if padding is None else padding)
    np.testing.assert_array_equal(run(load_darknet(cfg), x)[0][0], expected)


def reorg_loop(x, stride):
    """reorg_cpu as YOLOv2 was trained with it: indices over the map's flat memory."""
    c, h, w = x.shape
    out, flat = np.empty(x.size, np.float32), x.ravel()
    out_c = c // (stride * stride)
    for k in range(c):
        for j in range(h):
            for i in range(w):
                c2, offset = k % out_c, k // out_c
                w2, h2 = i * stride + offset % stride, j * stride + offset // stride
                out[i + w * (j + h * k)] = flat[w2 + w * stride * (h2 + h * stride * c2)]
    return out.reshape(c * stride * stride, h // stride, w // stride)


def test_reorg_is_the_original_one_and_reorg3d_is_space_to_depth(tmp_path):
    net = "[net]\nwidth=6\nheight=4\nchannels=8\n"
    x = images(4, 6, 8)
    old = run(load_darknet(write_network(tmp_path, net + "[reorg]\nstride=2\n", HEADER_V2)), x)[0][0]
    np.testing.assert_array_equal(old, reorg_loop(x[0], 2))
    new = run(load_darknet(write_network(tmp_path, net + "[reorg3d]\nstride=2\n", HEADER_V2)), x)[0][0]
    for offset in range(4):
        np.testing.assert_array_equal(new[8 * offset : 8 * offset + 8], x[0][:, offset // 2 :: 2, offset % 2 :: 2])
    assert not np.array_equal(old, new)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("[route]\nlayers=0\ngroups=4\ngroup_id=2\n", lambda a, b: a[4:6]),
        ("[route]\nlayers=-1,0\ngroups=2\ngroup_id=1\n", lambda a, b: np.concatenate([b[4:], a[4:]])),
        ("[shortcut]\nfrom=0\nactivation=leaky\n", lambda a, b: np.where(a + b > 0, a + b, 0.1 * (a + b))),
        ("[shortcut]\nfrom=0,-2\n", lambda a, b: a + b + a),
        ("[sam]\nfrom=0\nactivation=linear\n", lambda a, b: a * b),
        ("[avgpool]\n[scale_channels]\nfrom=0\n", lambda a, b: a * b.mean((1, 2), keepdims=True)),
        ("[upsample]\nstride=3\nscale=2\n", lambda a, b: 2 * b.repeat(3, 1).repeat(3, 2)),
        ("[dropout]\n", lambda a, b: b),
    ],
)
def test_layers_that_move_and_combine_maps(tmp_path, layers, expected):
    two = "[maxpool]\nsize=1\n[maxpool]\nsize=3\nstride=1\n"
    x = images(10, 7, 8)
    model = load_darknet(write_network(tmp_path, NET + two + layers, HEADER_V2))
    reference = expected(x[0], maxpool_loop(x[0], 3, 1, 2))
    np.testing.assert_allclose(run(model, x)[0][0], reference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("linear", lambda x: x),
        ("leaky", lambda x: np.where(x > 0, x, 0.1 * x)),
        ("relu", lambda x: np.maximum(x, 0)),
        ("relu6", lambda x: np.clip(x, 0, 6)),
        ("logistic", lambda x: 1 / (1 + np.exp(-x))),
        ("swish", lambda x: x / (1 + np.exp(-x))),
        ("mish", lambda x: x * np.tanh(np.log1p(np.exp(x)))),
        ("tanh", np.tanh),
        ("elu", lambda x: np.where(x > 0, x, np.expm1(x))),
    ],
)
def test_convolution_with_batchnorm_groups_dilation_and_activation(tmp_path, activation, function):
    weights = random_weights([(4, 4, 3, True)], np.random.default_rng(2))
    cfg = (
        f"{NET}[convolutional]\nbatch_normalize=1\nfilters=4\ngroups=2\nsize=3\nstride=2\npad=1\ndilation=2\n"
        f"activation={activation}\n"
    )
    model = load_darknet(write_network(tmp_path, cfg, weights))
    bias, scale, mean, variance = np.frombuffer(weights, "<f4", 16, len(HEADER_V2)).reshape(4, 4, 1, 1)
    kernel = np.frombuffer(weights, "<f4", offset=len(HEADER_V2) + 64).reshape(4, 4, 3, 3)
    x = images(10, 7, 8)
    padded = np.pad(x[0], ((0, 0), (2, 2), (2, 2)))
    convolved = np.zeros((4, 5, 4), np.float32)
    for filter_ in range(4):
        group = padded[4 * (filter_ // 2) : 4 * (filter_ // 2) + 4]
        for i in range(5):
            for j in range(4):
                window = group[:, 2 * i : 2 * i + 5 : 2, 2 * j : 2 * j + 5 : 2]
                convolved[filter_, i, j] = (window * kernel[filter_]).sum()
    expected = function(scale * (convolved - mean) / np.sqrt(variance + 1e-5) + bias)
    np.testing.assert_allclose(run(model, x)[0][0], expected, rtol=1e-5, atol=1e-5)
    names = {tensor.name for tensor in model.graph.initializer}
    assert {"layers.0.conv.weight", "layers.0.bn.running_var"} <= names
    assert [node.op_type for node in model.graph.node][:2] == ["Conv", "BatchNormalization"]


def decode_loop(raw, anchors, classes, scale, imgsz, new_coords=False):
    """get_yolo_box for every cell of a map of logits, in pixels."""
    height, width = raw.shape[1:]
    rows = []
    for index, (anchor_w, anchor_h) in enumerate(anchors):
        for j in range(height):
            for i in range(width):
                logits = raw[index * (5 + classes) : (index + 1) * (5 + classes), j, i].astype(np.float64)
                p = 1 / (1 + np.exp(-logits))
                x, y = scale * p[:2] - 0.5 * (scale - 1)
                w, h = 4 * p[2:4] ** 2 if new_coords else np.exp(logits[2:4])
                box = [(i + x) * imgsz[1] / width, (j + y) * imgsz[0] / height, w * anchor_w, h * anchor_h]
                rows.append([*box, *p[4:]])
    return np.array(rows)


def test_decoded_heads_follow_the_formulas(tmp_path):
    path, x = tiny(tmp_path), images(96, 64)
    decoded = run(load_darknet(path), x)[0]
    first, second = run(load_darknet(path, head="raw"), x)
    anchors = [(10, 14), (23, 27), (37, 58), (81, 82)]
    expected = np.concatenate(
        [
            decode_loop(first[0], anchors[1:], 2, 1.05, (96, 64)),
            decode_loop(second[0], anchors[:2], 2, 2.0, (96, 64), new_coords=True),
        ]
    )
    assert decoded.shape == (1, *expected.shape)
    np.testing.assert_allclose(decoded[0], expected, rtol=2e-5, atol=2e-5)


def test_one_wrong_weight_is_seen(tmp_path):
    path, x = tiny(tmp_path), images(96, 64)
    before = run(load_darknet(path), x)[0]
    data = bytearray(path.with_suffix(".weights").read_bytes())
    at = len(HEADER_V2) + 4 * (4 * 16 + 5)
    struct.pack_into("<f", data, at, 1.01 * struct.unpack_from("<f", data, at)[0])
    path.with_suffix(".weights").write_bytes(data)
    after = run(load_darknet(path), x)[0]
    assert not np.allclose(after, before, rtol=2e-5, atol=2e-5)


def test_region_layer_of_yolov2(tmp_path):
    cfg = (
        "[net]\nwidth=64\nheight=32\nchannels=14\n[region]\nanchors=1.5,2, 3,0.5\nnum=2\nclasses=2\nsoftmax=1\n"
        "[convolutional]\nfilters=1\n"
    )
    cfg = cfg.replace("[region]", "[maxpool]\nsize=16\nstride=16\npadding=0\n[region]").rsplit("[conv", 1)[0]
    x = images(32, 64, 14)
    decoded = run(load_darknet(write_network(tmp_path, cfg, HEADER_V2)), x)[0][0]
    raw = maxpool_loop(x[0], 16, 16, 0)
    expected = decode_loop(raw, [(24, 32), (48, 8)], 2, 1.0, (32, 64))
    logits = raw.reshape(2, 7, -1).transpose(0, 2, 1).reshape(-1, 7)[:, 5:]
    expected[:, 5:] = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(decoded, expected, rtol=2e-5, atol=2e-5)


def test_both_header_versions_hold_the_same_weights(tmp_path):
    x = images(96, 64)
    new = run(load_darknet(tiny(tmp_path)), x)[0]
    old = run(load_darknet(tiny(tmp_path, header=HEADER_V1)), x)[0]
    np.testing.assert_array_equal(new, old)


def test_another_input_size_and_metadata(tmp_path):
    path = tiny(tmp_path)
    path.with_suffix(".names").write_text("red\nwhite\n")
    model = load_darknet(path, imgsz=(128, 160))
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 128, 160]
    assert run(model, images(128, 160))[0].shape == (1, 16 * 20 * 3 + 32 * 40 * 2, 7)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["names"] == "{0: 'red', 1: 'white'}"
    assert (metadata["imgsz"], metadata["stride"], metadata["task"]) == ("[128, 160]", "8", "detect")


def test_duplicate_keys_comments_and_blanks(tmp_path):
    cfg = TINY_YOLOV4.replace("filters=16", " filters = 1 6 ; sixteen\nfilters=99", 1)
    x = images(96, 64)
    np.testing.assert_array_equal(run(load_darknet(tiny(tmp_path, cfg)), x)[0], run(load_darknet(tiny(tmp_path)), x)[0])


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ("activation=mish", "activation=plse", UnsupportedError, "plse"),
        ("[shortcut]", "[lstm]", UnsupportedError, "lstm"),
        ("layers=8,0", "layers=8,99", InputError, "layer 99"),
        ("layers=8,0", "layers=8,1000000000000", InputError, "refers to layer"),
        ("layers=8,0", "layers=7,0", InputError, "differ in size"),
        ("layers=7", "layers=11", InputError, "a detection layer"),
        ("filters=21", "filters=22", InputError, "need 21 channels"),
        ("filters=21", "filters=x", InputError, "'filters=x'"),
        ("filters=21", "filters=-3", InputError, "whole number from 1"),
        ("groups=8", "groups=3", InputError, "do not divide"),
        ("num=4", "num=40", InputError, "anchors"),
        ("mask=0,1", "mask=0,9", InputError, "anchors"),
        ("width=64", "width=0", InputError, "'width' is 0"),
        ("width=64", "width=1e9", InputError, "whole number"),
        ("scale_x_y=1.05", "scale_x_y=nan", InputError, "out of range"),
        ("[net]", "[convolutional]", InputError, "has to start with"),
        ("width=64", "garbage", InputError, "line 3"),
        ("from=-2", "from=0", InputError, "equal size"),
        ("from=-2", "", InputError, "'from' is missing"),
        ("[shortcut]        # 3\nfrom=-2", "[scale_channels]", InputError, "'from' is missing"),
        ("[shortcut]        # 3\nfrom=-2", "[sam]", InputError, "'from' is missing"),
        ("stride=2\n[route]", "stride=64\n[route]", InputError, "differ in size"),
    ],
)
def test_broken_configurations(tmp_path, old, new, error, words):
    assert old in TINY_YOLOV4
    path = tiny(tmp_path, TINY_YOLOV4.replace(old, new, 1))
    with pytest.raises(error, match=words) as caught:
        load_darknet(path)
    assert "net.cfg" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-4], "weights end here"),
        (lambda data: data + b"\0\0\0\0", "1 of .* floats are left over"),
        (lambda data: data[:-3], "whole float32"),
        (lambda data: data[:10], "too few"),
        (lambda data: b"PK\x03\x04" + data[4:], "no Darknet weights"),
        (lambda data: data[:-8] + b"\xff\xff\xff\x7f\0\0\0\0", "not finite"),
    ],
)
def test_broken_weights(tmp_path, change, words):
    path = tiny(tmp_path)
    weights = path.with_suffix(".weights")
    weights.write_bytes(change(weights.read_bytes()))
    with pytest.raises(InputError, match=words):
        load_darknet(path)


def test_a_route_that_doubles_forever_is_refused(tmp_path):
    cfg = NET + "[maxpool]\nsize=1\n" + "[route]\nlayers=-1,-1\n" * 60
    with pytest.raises(InputError, match="more than"):
        load_darknet(write_network(tmp_path, cfg, HEADER_V2))


def test_missing_files(tmp_path):
    path = tiny(tmp_path)
    path.with_suffix(".weights").rename(tmp_path / "other.weights")
    with pytest.raises(InputError, match="--weights"):
        load_darknet(path)
    load_darknet(path, tmp_path / "other.weights")
    with pytest.raises(InputError, match="cannot be read"):
        load_darknet(tmp_path / "none.cfg", tmp_path / "other.weights")


def test_every_layer_of_the_table_is_tested():
    tested = {"convolutional", "maxpool", "avgpool", "route", "shortcut", "scale_channels", "sam", "upsample"}
    tested |= {"reorg", "reorg3d", "dropout"}
    aliases = {"conv", "max", "avg", "cost"}
    assert set(LAYERS) == tested | aliases


@pytest.mark.material
def test_yolo_fastest_keeps_its_batchnorms(material):
    model = load_darknet(material / "weights" / "yolo-fastest-1.1.cfg")
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == 82
    assert run(model, np.zeros((1, 3, 320, 320), np.float32))[0].shape == (1, 1500, 85)


@pytest.mark.peer
def test_opencv_computes_the_same(tmp_path, monkeypatch):
    """OpenCV 4 (pip install 'opencv-python-headless<5'); its ε is 1e-6, and it sorts rows by cell before anchor."""
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr("onnxslim_yolo.load.darknet_layers._BN_EPSILON", 1e-6)
    path, x = tiny(tmp_path), images(96, 64)
    decoded = run(load_darknet(path), x)[0][0]
    net = cv2.dnn.readNetFromDarknet(str(path), str(path.with_suffix(".weights")))
    net.setInput(x)
    tables, start = [], 0
    for anchors, height, width in ((3, 12, 8), (2, 24, 16)):
        rows = decoded[start : start + anchors * height * width].reshape(anchors, height * width, 7)
        tables.append(rows.transpose(1, 0, 2).reshape(-1, 7))
        start += anchors * height * width
    for ours, theirs in zip(tables, net.forward(net.getUnconnectedOutLayersNames()), strict=True):
        np.testing.assert_allclose(ours[:, :4], theirs[:, :4] * [64, 96, 64, 96], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(ours[:, 4], theirs[:, 4], atol=1e-6)
