"""The architectures: published sizes, output layouts, the ecosystem's key names, weights that matter everywhere."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from onnxslim_yolo.errors import UsageError  # noqa: E402
from onnxslim_yolo.models.zoo.architectures import ARCHITECTURES, build, randomise  # noqa: E402
from tests.zoo import DETECTORS, NAMES, images, module  # noqa: E402

PUBLISHED = {
    "yolov3-tiny": 8_852_366,
    "yolov5n": 1_872_157,
    "yolov8n": 3_157_200,
    "yolov8n-seg": 3_409_968,
    "yolov9t": 2_128_720,
    "yolov10n": 2_775_520,
    "yolo11n": 2_624_080,
    "yolo12n": 2_602_288,
    "yolo26n": 2_572_280,
}
"""Parameters as the projects print them for COCO's 80 classes, heads that only training uses included."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_is_the_published_one(name):
    assert sum(p.numel() for p in build(name).parameters()) == PUBLISHED[name]


def test_pose_has_the_published_size_for_one_class():
    assert sum(p.numel() for p in build("yolov8n-pose", nc=1).parameters()) == 3_295_470


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("yolov3-tiny", (1, 3 * (40**2 + 20**2), 85)),
        ("yolov5n", (1, 25200, 85)),
        ("yolov6n", (1, 8400, 85)),
        ("yolov7-tiny", (1, 25200, 85)),
        ("yolov8n", (1, 84, 8400)),
        ("yolov10n", (1, 300, 6)),
        ("yolo26n", (1, 300, 6)),
    ],
)
def test_decoded_layout_at_640(name, shape):
    with torch.no_grad():
        assert tuple(build(name, width=0.5)(torch.zeros(1, 3, 640, 640)).shape) == shape


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("yolov8n-seg", [(2, 4 + 3 + 32, 84), (2, 32, 16, 16)]),
        ("yolov5n-seg", [(2, 252, 5 + 3 + 32), (2, 32, 16, 16)]),
        ("yolov8n-pose", [(2, 4 + 3 + 51, 84)]),
        ("yolov8n-obb", [(2, 4 + 3 + 1, 84)]),
        ("yolov8n-cls", [(2, 3)]),
    ],
)
def test_task_layouts(name, shapes):
    with torch.no_grad():
        y = build(name, nc=3, width=0.5)(images(2))
    assert [tuple(t.shape) for t in (y if isinstance(y, tuple) else (y,))] == shapes


@pytest.mark.parametrize("name", [n for n in DETECTORS if n != "rtdetr"])
def test_raw_head_returns_one_map_per_level(name):
    with torch.no_grad():
        y = build(name, nc=3, width=0.5, head="raw")(images())
    assert {t.shape[-1] for t in y if t.dim() == 4} <= {16, 8, 4, 2, 1}
    assert sum(t.dim() == 4 for t in y) >= 2


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        (
            "yolov5n",
            ["model.2.m.0.cv1.conv.weight", "model.9.cv2.bn.running_var", "model.24.m.2.bias", "model.24.anchors"],
        ),
        ("yolov7-tiny", ["model.77.ia.0.implicit", "model.77.im.2.implicit"]),
        ("yolov7-rep", ["model.102.rbr_dense.0.weight", "model.102.rbr_1x1.1.running_mean"]),
        (
            "yolov6n",
            ["backbone.ERBlock_3.1.block.0.rbr_identity.running_var", "neck.upsample0.upsample_transpose.weight"],
        ),
        ("yolov8n", ["model.22.dfl.conv.weight", "model.22.cv3.1.2.bias", "model.4.m.1.cv2.bn.weight"]),
        ("yolov9t", ["model.4.cv2.0.m.2.cv1.conv2.bn.bias", "model.3.cv1.conv.weight"]),
        (
            "yolov10n",
            [
                "model.23.one2one_cv3.0.0.0.conv.weight",
                "model.10.attn.pe.bn.weight",
                "model.22.m.0.cv1.2.conv1.conv.weight",
            ],
        ),
        ("yolo11n", ["model.10.m.0.attn.qkv.conv.weight", "model.6.m.0.m.1.cv2.bn.weight"]),
        ("yolo12n", ["model.6.m.1.0.attn.proj.bn.bias", "model.6.m.0.1.mlp.0.conv.weight"]),
        ("yolo26n", ["model.22.m.0.1.ffn.1.conv.weight", "model.22.m.0.0.cv1.conv.weight"]),
    ],
)
def test_state_dict_has_the_ecosystems_keys(name, keys):
    assert not set(keys) - set(build(name, width=0.5).state_dict())


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    a, b = module("yolov8n", seed=5), module("yolov8n", seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(a.model[0].conv.weight, module("yolov8n", seed=6).model[0].conv.weight)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match="yolov8n"):
        build("yolov99")


@pytest.mark.parametrize("name", NAMES)
def test_every_convolution_shows_in_the_output(name):
    """Spoiling any one of five convolutions spread over the network by 1 % moves an output by 1e-4."""
    raw = {} if name.endswith("-cls") or name == "rtdetr" else {"head": "raw"}
    net, x = module(name, **raw), images(1)
    with torch.no_grad():
        ran = []
        hooks = [
            m.register_forward_hook(lambda m, *_: ran.append(m))
            for m in net.modules()
            if isinstance(m, torch.nn.Conv2d) and m.weight.requires_grad
        ]
        clean = _flat(net(x))
        for hook in hooks:
            hook.remove()
        for conv in ran[:: max(len(ran) // 5, 1)]:
            kept = conv.weight.clone()
            conv.weight *= 1.01
            moved = _flat(net(x))
            conv.weight.copy_(kept)
            assert max(float((a - b).abs().max() / a.std()) for a, b in zip(clean, moved, strict=True)) > 1e-4, conv


def _flat(y):
    return [t for part in y for t in _flat(part)] if isinstance(y, (tuple, list)) else [y]


def test_freshly_initialised_weights_would_be_blind():
    """The control: without `randomise`, the same spoiling cannot be seen."""
    net, x = build("yolov8n", nc=4, width=0.5), images(1)
    with torch.no_grad():
        clean = net(x)
        net.model[0].conv.weight *= 2
        assert float((net(x) - clean).abs().max() / clean.std()) < 1e-4


def test_dead_channels_have_no_gamma_and_no_beta():
    net = randomise(build("yolov5n", nc=4, width=0.5), dead=0.4)
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    dead = torch.cat([(m.weight == 0) & (m.bias == 0) for m in norms]).float().mean()
    assert 0.35 < float(dead) < 0.45
    assert all(float(m.running_var.min()) > 0 for m in norms)


def test_all_families_are_there():
    assert len(ARCHITECTURES) >= 35


def test_weights_do_not_depend_on_the_number_of_threads(monkeypatch):
    """A cached network made under another OMP_NUM_THREADS was another network, in the last digits."""
    from contextlib import nullcontext

    from onnxslim_yolo.models.zoo import architectures

    def weights(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            state = architectures.randomise(architectures.build("yolov8n", nc=4, width=0.5, seed=0), 0).state_dict()
            return torch.cat([value.double().reshape(-1) for value in state.values()])
        finally:
            torch.set_num_threads(before)

    assert torch.equal(weights(1), weights(4))
    monkeypatch.setattr(architectures, "one_thread", nullcontext)  # the control
    assert not torch.equal(weights(1), weights(4))
