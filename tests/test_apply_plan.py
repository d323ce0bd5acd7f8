"""A channel plan on a state_dict: the same tensors as in the sliced graph; nonsense is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.pruning.removed import as_modules
from onnxslim_yolo.training.apply_plan import apply_plan, apply_plan_file
from tests.command import command

HEAD = {"format": "onnxslim-yolo/plan", "version": 1}


def plan(keep: object) -> dict[str, object]:
    return {**HEAD, "keep": keep}


def state() -> dict[str, Array]:
    return {
        "a.weight": np.arange(4 * 3, dtype=np.float32).reshape(4, 3, 1, 1),
        "a.bias": np.arange(4, dtype=np.float32),
        "steps": np.array(7),
    }


def test_axes_are_cut_and_the_rest_is_the_same_object() -> None:
    before = state()
    after = apply_plan(plan({"a.weight": {"0": [0, 2], "1": [1, 2]}, "a.bias": {"0": [0, 2]}}), before)
    assert after["a.weight"].reshape(2, 2).tolist() == [[1, 2], [7, 8]]
    assert after["a.bias"].tolist() == [0, 2]
    assert after["steps"] is before["steps"]
    assert list(after) == list(before)
    assert before["a.weight"].shape == (4, 3, 1, 1)


def test_layers_that_went_whole_are_left_out() -> None:
    content = {**HEAD, "version": 2, "keep": {}, "removed": ["b.cv1.conv", "b.cv1.bn"]}
    names = ["a.weight", "b.cv1.conv.weight", "b.cv1.bn.weight", "b.cv1.bn.running_mean", "b.cv10.conv.weight"]
    assert list(apply_plan(content, {name: np.ones(2) for name in names})) == ["a.weight", "b.cv10.conv.weight"]


def test_what_was_folded_or_nameless_in_the_export_is_left_out_with_its_layer() -> None:
    removed = ["/b/m.0/cv1/conv/Conv", "b.cv2.conv", "onnx::Mul_55", "Conv_7"]
    content = {**HEAD, "version": 2, "keep": {}, "removed": removed}
    layers = ["b.m.0.cv1.conv.weight", "b.cv2.conv.weight", "b.cv3.conv.weight"]
    norms = [f"b.{layer}.bn.{leaf}" for layer in ("m.0.cv1", "cv2", "cv3") for leaf in ("weight", "running_var")]
    left = apply_plan(content, {name: np.ones(2) for name in [*layers, *norms]})
    assert list(left) == ["b.cv3.conv.weight", "b.cv3.bn.weight", "b.cv3.bn.running_var"]


def test_modules_are_named_where_all_of_them_went() -> None:
    layers = ["model.2.cv1.conv", "model.2.cv1.bn", "model.2.m.0.cv1.conv", "model.2.cv2.conv", "model.2.cv2.bn", "a.b"]
    removed = ["model.2.cv1.conv", "model.2.cv1.bn", "model.2.cv2.bn", "a.b"]
    assert as_modules(removed, layers) == ["model.2.cv1", "model.2.cv2.bn", "a.b"]


@pytest.mark.parametrize("removed", [["b.cv1"], "a", [1]])
def test_what_cannot_be_left_out_is_refused(removed: object) -> None:
    with pytest.raises(InputError, match=r"the plan removes|no list of layers"):
        apply_plan({**HEAD, "version": 2, "keep": {}, "removed": removed}, state())


def test_groups_keep_channels_of_their_own() -> None:
    weight = np.arange(4 * 3, dtype=np.float32).reshape(4, 3)
    after = apply_plan(plan({"g.weight": {"1": [[0, 1], [1, 2]]}}), {"g.weight": weight})
    assert after["g.weight"].tolist() == [[0, 1], [3, 4], [7, 8], [10, 11]]


def test_groups_are_cut_after_their_rows() -> None:
    weight = np.arange(6 * 2, dtype=np.float32).reshape(6, 2)
    after = apply_plan(plan({"g.weight": {"0": [0, 1, 3, 4], "1": [[0], [1]]}}), {"g.weight": weight})
    assert after["g.weight"].tolist() == [[0], [2], [7], [9]]


def test_a_transposed_weight_is_cut_along_its_own_axes() -> None:
    after = apply_plan(plan({"l.weight.T": {"0": [1], "1": [0, 2]}}), {"l.weight": np.arange(6.0).reshape(3, 2)})
    assert after["l.weight"].tolist() == [[1], [5]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"keep": {}}, "none of this package's"),
        ({**HEAD, "version": 9, "keep": {}}, "version 9"),
        ({**HEAD}, "damaged"),
        (plan({"a.weight": {"x": [0]}}), "damaged"),
        (plan({"b.weight": {"0": [0]}}), r"lacks b\.weight"),
        (plan({"a.bias": {"1": [0]}}), "has 1 axes"),
        (plan({"a.bias": {"0": [0, 4]}}), "has 4 channels"),
        (plan({"a.bias": {"0": [2, 1]}}), "ascending"),
        (plan({"a.bias": {"0": [-1]}}), "has 4 channels"),
        (plan({"a.bias": {"0": []}}), "no list of numbers"),
        (plan({"a.bias": {"0": [True]}}), "no list of numbers"),
        (plan({"a.weight": {"1": [[0], [1], [2]]}}), "do not share evenly"),
        (plan({"a.weight": {"1": [[0], [1, 2]]}}), "do not share evenly"),
    ],
)
def test_what_does_not_fit_is_refused(content: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        apply_plan(content, state())


def test_the_cut_state_is_the_sliced_graphs_initializers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from onnxslim_yolo.ir.graph import initializers
    from onnxslim_yolo.ir.model import Model
    from onnxslim_yolo.load.trace import trace
    from onnxslim_yolo.manager import PassManager
    from onnxslim_yolo.models.zoo.architectures import build, randomise
    from onnxslim_yolo.passes import Canonicalise, PruneChannels, ShuffleToGather, SliceChannels
    from onnxslim_yolo.pruning.plan import plan_as_json

    module = randomise(build("v5lite-s", nc=2, width=0.5), size=64)
    model = Model.from_onnx(trace(module, torch.zeros(1, 3, 64, 64)))
    steps = [Canonicalise(), ShuffleToGather(), Canonicalise(), PruneChannels(ratio=0.4), SliceChannels()]
    PassManager(steps).run(model)
    (tmp_path / "p.json").write_text(json.dumps(plan_as_json(model)))
    torch.save(module.state_dict(), tmp_path / "full.pt")
    apply_plan_file(tmp_path / "p.json", tmp_path / "full.pt", tmp_path / "cut.pt")
    cut = torch.load(tmp_path / "cut.pt", weights_only=True)
    compared = 0
    for constant in initializers(model.graph):
        if constant.name in cut:
            np.testing.assert_array_equal(cut[constant.name].numpy(), constant.values)
            compared += 1
    assert compared > 100
    assert sum(v.numel() for v in cut.values()) < 0.8 * sum(v.numel() for v in module.state_dict().values())


def test_files_that_are_no_plan_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "p.json"
    broken.write_text("{")
    with pytest.raises(InputError, match="JSON"):
        apply_plan_file(broken, tmp_path / "c.pt", tmp_path / "o.pt")
    with pytest.raises(InputError, match="no such file"):
        apply_plan_file(tmp_path / "none.json", tmp_path / "c.pt", tmp_path / "o.pt")


def test_a_batch_norms_other_tensors_follow_its_weight() -> None:
    before = {f"bn.{leaf}": np.arange(4.0) for leaf in ("weight", "bias", "running_mean", "running_var")}
    before["bn.num_batches_tracked"] = np.array(3)
    after = apply_plan(plan({"bn.weight": {"0": [1, 3]}}), before)
    assert all(after[name].tolist() == [1, 3] for name in before if not name.endswith("tracked"))
    known = plan({"bn.weight": {"0": [1, 3]}}) | {"version": 2, "shapes": {"bn.bias": [[4], [4]]}}
    assert apply_plan(known, before)["bn.bias"].tolist() == [0, 1, 2, 3]  # the graph knows it, and did not cut it


@pytest.mark.parametrize("kept", [2, 3])
def test_version_1_is_checked_by_its_groups(kept: int) -> None:
    group = {"id": 0, "width": 4, "wanted": 2, "kept": kept, "members": ["a"], "frozen": None}
    content = {**plan({"a.weight": {"0": [0, 2]}, "a.bias": {"0": [0, 2]}}), "groups": [group]}
    if kept == 2:
        assert apply_plan(content, state())["a.weight"].shape == (2, 3, 1, 1)
        return
    with pytest.raises(InputError, match=r"leaves 'a\.weight' with 2 of 4 channels, but its groups keep 3"):
        apply_plan(content, state())


def test_a_plan_that_does_not_fit_is_exit_2(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    content = {**plan({"a.weight": {"0": [0, 2]}}), "version": 2, "shapes": {"a.weight": [[4, 3, 1, 1], [3, 3, 1, 1]]}}
    (tmp_path / "p.json").write_text(json.dumps(content))
    torch.save({name: torch.from_numpy(value) for name, value in state().items()}, tmp_path / "full.pt")
    arguments = ["apply-plan", str(tmp_path / "p.json"), str(tmp_path / "full.pt"), "-o", str(tmp_path / "cut.pt")]
    done = command(*arguments)
    assert done.returncode == 2 and not (tmp_path / "cut.pt").exists()
    assert "the pruned graph has (3, 3, 1, 1)" in " ".join((done.stdout + done.stderr).split())
