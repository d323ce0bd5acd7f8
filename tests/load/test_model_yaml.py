"""State dictionaries become modules by a yaml's wiring and their own widths."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("yaml")

from onnxslim_yolo.errors import InputError  # noqa: E402
from onnxslim_yolo.load.checkpoint import read_checkpoint  # noqa: E402
from onnxslim_yolo.models.zoo.architectures import build, randomise  # noqa: E402

YOLOV5 = """
nc: 80  # the state_dict knows better
depth_multiple: 0.33
width_multiple: 0.25
anchors: 3
backbone:
  - [-1, 1, Conv, [64, 6, 2, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 3, C3, [128]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 6, C3, [256]]
  - [-1, 1, Conv, [512, 3, 2]]
  - [-1, 9, C3, [512]]
  - [-1, 1, Conv, [1024, 3, 2]]
  - [-1, 3, C3, [1024]]
  - [-1, 1, SPPF, [1024, 5]]
head:
  - [-1, 1, Conv, [512, 1, 1]]
  - [-1, 1, nn.Upsample, [None, 2, 'nearest']]
  - [[-1, 6], 1, Concat, [1]]
  - [-1, 3, C3, [512, False]]
  - [-1, 1, Conv, [256, 1, 1]]
  - [-1, 1, nn.Upsample, [None, 2, 'nearest']]
  - [[-1, 4], 1, Concat, [1]]
  - [-1, 3, C3, [256, False]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [[-1, 14], 1, Concat, [1]]
  - [-1, 3, C3, [512, False]]
  - [-1, 1, Conv, [512, 3, 2]]
  - [[-1, 10], 1, Concat, [1]]
  - [-1, 3, C3, [1024, False]]
  - [[17, 20, 23], 1, Detect, [nc, anchors]]
"""

TINY8 = """
nc: 80
scales:
  n: [0.33, 0.25, 1024]
  x: [1.00, 1.25, 512]
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 3, C2f, [128, True]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 2, Bottleneck, [128]]
  - [-1, 1, SPPF, [128, 5]]
head:
  - [[2, 4], 1, Detect, [nc]]
"""


def image() -> torch.Tensor:
    return torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def files(tmp_path):
    """Writes weights and yaml, returns what `read_checkpoint` makes of them."""

    def read(state, text: str, name: str = "yolov5n.yaml"):
        torch.save(state, tmp_path / "weights.pt")
        (tmp_path / name).write_text(text)
        return read_checkpoint(tmp_path / "weights.pt", model_yaml=tmp_path / name)

    return read


def run(module) -> torch.Tensor:
    with torch.no_grad():
        return module(image())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_yolov5_by_its_yaml(files, prefix):
    model = randomise(build("yolov5n", nc=3))
    checkpoint = files({prefix + key: value for key, value in model.state_dict().items()}, YOLOV5)
    assert torch.equal(run(checkpoint.module), run(model))
    assert list(checkpoint.state_dict) == list(model.state_dict())
    assert (checkpoint.task, checkpoint.stride) == ("detect", 32)


def test_widths_come_from_the_weights(files):
    """The same yaml serves a wider model, and one whose stages were pruned unequally."""
    model = randomise(build("yolov5n", nc=3, width=2.0))
    keep = torch.tensor([0, 3, 5, 7, 8])
    stage = model.model[2].m[0]
    stage.cv1.conv.weight.data = stage.cv1.conv.weight.data[keep]
    stage.cv2.conv.weight.data = stage.cv2.conv.weight.data[:, keep]
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(stage.cv1.bn, name).data = getattr(stage.cv1.bn, name).data[keep]
    module = files(model.state_dict(), YOLOV5).module
    assert module.model[2].m[0].cv1.conv.out_channels == 5
    assert torch.equal(run(module), run(model))


def test_another_activation(files):
    model = randomise(build("yolov5n", nc=3))
    state = model.state_dict()
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.SiLU):
                setattr(module, name, torch.nn.LeakyReLU(0.2))
    module = files(state, YOLOV5 + "activation: nn.LeakyReLU(0.2, inplace=True)\n").module
    assert torch.equal(run(module), run(model))


def test_scales_repeats_and_an_anchor_free_head(files):
    from onnxslim_yolo.models.blocks_c2f import C2f
    from onnxslim_yolo.models.blocks_common import SPPF, Bottleneck, Conv
    from onnxslim_yolo.models.container import LayeredModel
    from onnxslim_yolo.models.heads_dfl import Detect

    layers = [Conv(3, 16, 3, 2), C2f(16, 32, 1, shortcut=True), Conv(32, 32, 3, 2), Bottleneck(32, 32), SPPF(32, 32)]
    for layer in [*layers, head := Detect((32, 32), 5, (4.0, 4.0))]:
        layer.f = -1
    head.f = [2, 4]
    model = randomise(LayeredModel([*layers, head]))
    module = files(model.state_dict(), TINY8, "tiny8n.yaml").module
    assert torch.equal(run(module), run(model))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[-1, 3, C3, [128]]", "[-1, 3, C9, [128]]", "C9"),
        ("[-1, 3, C3, [128]]", "[-1, 3, C3]", "no list of"),
        ("[-1, 3, C3, [128]]", "[-99, 3, C3, [128]]", "takes its input from -99"),
        ("[-1, 3, C3, [128]]", "[-1, 3, C3, [x]]", "cannot be built"),
        ("[-1, 3, C3, [128]]", "[-1, 3, SPPF, [128]]", "entries that a SPPF has not: cv3"),
        ("  - [-1, 3, C3, [128]]\n", "", "entries that a Conv has not|lacks"),
        ("[[-1, 6], 1, Concat, [1]]", "[[-1, 2], 1, Concat, [1]]", "do not fit each other"),
        ("backbone:", "body:", "'backbone' is no list"),
        ("[64, 6, 2, 2]", "[64, 3, 2]", r"kernel should be \(3, 3\)"),
        ("nc: 80", "activation: nn.Unheard(0.1)", "'activation: Unheard' is not supported"),
        ("nc: 80", "activation: nn.LeakyReLU(0.1.2)", "is not supported"),
        ("nc: 80", f"activation: 'nn.LeakyReLU(0.1{' ' * 3000}'", "is not supported"),
        ("width_multiple: 0.25", "width_multiple: 0.2x", "multiplied by '0.2x'"),
        ("width_multiple: 0.25", "width_multiple: .nan", "multiplied by 'nan'"),
        ("depth_multiple: 0.33", "depth_multiple: 1000", "multiplied by '1000'"),
        ("nc: 80", "ch: many", "the image has 'many' channels"),
        ("nc: 80", "day: 2001-13-45", "cannot be read as yaml"),
        ("nc: 80", "activation: __import__('os').system('true')", "is not supported"),
        ("nc: 80", "nc: [", "cannot be read as yaml"),
        ("nc: 80", "nc: !!python/object/apply:os.system ['true']", "cannot be read as yaml"),
    ],
)
def test_yamls_that_do_not_fit(files, old, new, words):
    assert old in YOLOV5
    state = build("yolov5n", nc=3).state_dict()
    with pytest.raises(InputError, match=words) as caught:
        files(state, YOLOV5.replace(old, new, 1))
    assert "yolov5n.yaml" in str(caught.value)


def test_a_scale_that_is_none(files):
    with pytest.raises(InputError, match="the largest width is 'wide'"):
        files({"0.conv.weight": torch.ones(1)}, TINY8.replace("1024]", "wide]"), "yolov8n.yaml")


def test_numbers_that_no_float_holds(files):
    state = {"0.conv.weight": torch.ones(1)}
    with pytest.raises(InputError):
        files(state, TINY8.replace("1024]", f"1{'0' * 400}]"), "yolov8n.yaml")
    with pytest.raises(InputError):
        files(state, TINY8.replace("1024]", ".nan]"), "yolov8n.yaml")


@pytest.mark.parametrize("kind", ["Conv", "C3", "Bottleneck", "nn.Upsample"])
@pytest.mark.parametrize("number", [300, 1000])
def test_repeats_that_the_weights_have_not_are_refused_unbuilt(files, monkeypatch, kind, number):
    """30,000 convolutions in a kilobyte: counted against the state_dict, not built first."""
    from onnxslim_yolo.load import model_yaml

    built = []
    row = model_yaml.ROWS[kind]
    monkeypatch.setitem(model_yaml.ROWS, kind, lambda given: built.append(1) or row(given))
    arguments = "[None, 2, 'nearest']" if kind == "nn.Upsample" else "[64]"
    rows = ", ".join([f"[-1, {number}, {kind}, {arguments}]"] * 100)
    with pytest.raises(InputError, match=f"{kind} is to be there {number} times, but the state_dict has . entries"):
        files({"0.conv.weight": torch.ones(1)}, f"nc: 3\nbackbone: [{rows}]\nhead: []\n")
    assert built == []


def test_a_missing_tensor_is_named(files):
    state = build("yolov5n", nc=3).state_dict()
    del state["model.4.cv1.bn.running_var"]
    with pytest.raises(InputError, match=r"lacks 'model\.4\.cv1\.bn\.running_var'"):
        files(state, YOLOV5)
