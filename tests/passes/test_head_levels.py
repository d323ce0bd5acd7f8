"""Heads whose levels differ in a constant of their decode are cut to raw maps, and decode to the same boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.errors import InputError, UnsupportedError
from onnxslim_yolo.heads.decode import candidates
from onnxslim_yolo.heads.spec import HEAD_KEY, HeadSpec
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load.darknet import load_darknet
from onnxslim_yolo.passes import Canonicalise, Head
from tests.load.darknet_files import TINY_YOLOV4, TINY_YOLOV4_CONVOLUTIONS, random_weights, write_network
from tests.numeric import run_onnx

NET = "[net]\nwidth=64\nheight=96\nchannels=3\n"
CONV = "[convolutional]\nfilters={f}\nsize={k}\nstride={s}\npad=1\nactivation={a}\n"
ANCHORS = "10,14, 23,27, 37,58, 81,82"


def network(*levels: dict[str, object]) -> tuple[str, list[tuple[int, int, int, bool]]]:
    """A cfg of one detection layer each, every one at twice the stride of the one before."""
    cfg, convolutions, width = NET, [], 3
    for index, level in enumerate(levels):
        mask = str(level.get("mask", "0,1"))
        filters = 7 * len(mask.split(","))
        head = "logistic" if level.get("new_coords") else "linear"
        if index:
            cfg += "[route]\nlayers=-3\n"
        cfg += CONV.format(f=8, k=3, s=2, a="leaky") + CONV.format(f=filters, k=1, s=1, a=head)
        cfg += f"[yolo]\nmask={mask}\nanchors={ANCHORS}\nnum=4\nclasses=2\n"
        cfg += "".join(f"{key}={value}\n" for key, value in level.items() if key != "mask")
        convolutions += [(8, width, 3, False), (filters, 8, 1, False)]
        width = 8
    return cfg, convolutions


VARIANTS = {
    "v4: a scale a level": network({"scale_x_y": 1.1}, {"scale_x_y": 1.2}),
    "one level alone has a scale": network({"mask": "0,1,2"}, {"scale_x_y": 1.05, "mask": "1,2,3"}),
    "v3: none": network({}, {}, {}),
    "scaled: new_coords everywhere": network(
        {"scale_x_y": 2.0, "new_coords": 1}, {"scale_x_y": 2.0, "new_coords": 1}, {"scale_x_y": 2.0, "new_coords": 1}
    ),
    "four levels": network(*({"scale_x_y": s} for s in (1.2, 1.1, 1.05, 1.0))),
    "as many anchors as it has": network({"mask": "0,1,2"}, {"mask": "3"}),
    "everything at once": (TINY_YOLOV4, list(TINY_YOLOV4_CONVOLUTIONS)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_levels_that_differ_are_cut_and_decode_to_the_same(name: str, tmp_path: Path) -> None:
    cfg, convolutions = VARIANTS[name]
    path = write_network(tmp_path, cfg, random_weights(convolutions, np.random.default_rng(1)))
    source = load_darknet(path)
    model = Model.from_onnx(source)
    Canonicalise().run(model)
    assert Head(strict=True).run(model) == 1
    spec = HeadSpec.from_json(model.metadata[HEAD_KEY])
    maps = model.to_onnx()
    assert all(len(output.type.tensor_type.shape.dim) == 4 for output in maps.graph.output)
    feeds = {source.graph.input[0].name: np.random.default_rng(2).random((1, 3, 96, 64), np.float32)}
    table, raw = run_onnx(source, feeds)["output0"], list(run_onnx(maps, feeds).values())
    same(candidates([table], HeadSpec("v5", 2), 0, 0.0, multi_label=True), candidates(raw, spec, 0, 0.0, True))
    Head(to="decoded").run(model)
    written = run_onnx(model, feeds)["boxes"]
    np.testing.assert_allclose(written, table, rtol=2e-5, atol=2e-3)


def same(ours: object, theirs: object) -> None:
    for key in ("boxes", "scores", "classes"):
        np.testing.assert_allclose(getattr(ours, key), getattr(theirs, key), rtol=2e-5, atol=2e-3)


def test_one_scale_for_all_levels_is_one_too_few(tmp_path: Path) -> None:
    """The control: with the first level's constant everywhere, the boxes are others."""
    cfg, convolutions = VARIANTS["v4: a scale a level"]
    path = write_network(tmp_path, cfg, random_weights(convolutions, np.random.default_rng(1)))
    model = Model.from_onnx(load_darknet(path))
    Canonicalise().run(model)
    feeds = {model.graph.inputs[0].name: np.random.default_rng(2).random((1, 3, 96, 64), np.float32)}
    Head().run(model)
    spec = HeadSpec.from_json(model.metadata[HEAD_KEY])
    assert spec.scale_xy == (1.1, 1.2) and spec.sizes == "exp"
    raw = list(run_onnx(model, feeds).values())
    right, wrong = (candidates(raw, s, 0, 0.0, True) for s in (spec, HeadSpec(**{**vars(spec), "scale_xy": 1.1})))
    with pytest.raises(AssertionError):
        same(right, wrong)


@pytest.mark.parametrize(
    ("old", "new"), [("[1.1, 1.2]", "[1.1]"), ('"sizes": "exp"', '"sizes": "cube"'), ("[1.1, 1.2]", '["a", 1]')]
)
def test_a_damaged_description_is_refused(old: str, new: str, tmp_path: Path) -> None:
    spec = HeadSpec("v5-raw", 1, (8, 16), (((1, 2),), ((3, 4),)), scale_xy=(1.1, 1.2), sizes="exp")
    text = spec.to_json()
    assert old in text and HeadSpec.from_json(text) == spec
    with pytest.raises(InputError, match="metadata"):
        HeadSpec.from_json(text.replace(old, new))


def test_raw_maps_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    """A softmax over the classes is no head that is known: asked for maps, nothing decoded is written instead."""
    cfg = NET + CONV.format(f=14, k=3, s=2, a="linear")
    cfg += "[region]\nanchors=1.5,2, 3,0.5\nnum=2\nclasses=2\nsoftmax=1\n"
    path = write_network(tmp_path, cfg, random_weights([(14, 3, 3, False)], np.random.default_rng(1)))
    proto: onnx.ModelProto = load_darknet(path)
    for strict in (False, True):
        model = Model.from_onnx(proto)
        Canonicalise().run(model)
        if strict:
            with pytest.raises(UnsupportedError, match="not recognised"):
                Head(strict=True).run(model)
        else:
            assert Head().run(model) == 0 and "left as it is" in model.notes[0]


def test_maps_that_are_no_logits_are_refused_in_a_sentence(tmp_path):
    """Darknet's new_coords expects a logistic map; behind a linear one a box is 0 wide at 0, and no anchor shows."""
    cfg = (
        "[net]\nwidth=64\nheight=64\nchannels=3\n[convolutional]\nsize=3\nstride=8\npad=1\nfilters=14\n"
        "activation=linear\n[yolo]\nmask=0,1\nanchors=5,7, 10,14\nclasses=2\nnum=2\nscale_x_y=1.1\nnew_coords=1\n"
    )
    path = write_network(tmp_path, cfg, random_weights([(14, 3, 3, False)], np.random.default_rng(0)))
    with pytest.raises(UnsupportedError, match="raw maps") as caught:
        oy.compile(path, out=tmp_path / "out", emit="onnx", head="raw")
    assert caught.value.exit_status == 2
    assert oy.compile(path, out=tmp_path / "out", emit="onnx").onnx is not None
