import pytest

from onnxslim_yolo.report.layers import blocks_of, layers_of
from tests.report.sample import sample


def test_layers_join_before_after_and_groups():
    first, second, third, gone = layers_of(sample())
    assert (first.width, first.kept, first.share()) == (16, 16, 1.0)
    assert (second.width, second.wanted, second.kept, second.groups) == (192, 60, 80, (1, 2))
    assert second.share() == 0.25
    assert third.frozen == ("reaches the output 'output0'",)
    assert third.short == "cv2.0.1"
    assert gone.after == {} and gone.share() == 0.0 and gone.width == 0


def test_new_layers_come_last():
    report = sample()
    report["after"]["layers"].insert(0, {"name": "fused", "op": "Conv", "macs": 5, "parameters": 1})
    last = layers_of(report)[-1]
    assert (last.name, last.before, last.after["macs"]) == ("fused", {}, 5)


@pytest.mark.parametrize(
    ("name", "block", "short"),
    [
        ("/model.2/m.0/cv1/conv/Conv", "model.2", "m.0.cv1.conv"),
        ("/model.22/cv2.0/cv2.0.1/Conv", "model.22", "cv2.0.1"),
        ("/model.0/Conv", "model.0", "Conv"),
        ("/backbone/stage2/stage2.0/conv/Conv", "backbone.stage2", "0.conv"),
        ("/backbone/stem/Conv", "backbone", "stem"),
        ("model.2.cv1.conv", "model.2", "cv1.conv"),
        ("Conv_138", "", "Conv_138"),
        ("", "", ""),
        ("/", "", ""),
    ],
)
def test_blocks_are_named_by_the_first_number(name, block, short):
    report = sample()
    report["before"]["layers"] = [{"name": name, "op": "Conv", "macs": 1, "parameters": 1}]
    report["after"]["layers"] = []
    (found,) = blocks_of(layers_of(report))
    assert (found.name, found.layers[0].short) == (block, short)


def test_blocks_add_up():
    blocks = blocks_of(layers_of(sample()))
    assert [(b.name, b.total("before"), b.total("after")) for b in blocks] == [
        ("model.0", 1000, 1000),
        ("model.1", 2000, 500),
        ("model.9", 1000, 100),
    ]
