"""Distillation without labels: a student gets nearer to its teacher on images nobody trained on, or stays as it is."""

from __future__ import annotations

import importlib.util
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from onnxslim_yolo.cli.distil import distil_command  # noqa: E402
from onnxslim_yolo.emit.torch import save_module, to_torch  # noqa: E402
from onnxslim_yolo.errors import InputError, NotAliveError, UsageError  # noqa: E402
from onnxslim_yolo.heads.spec import HeadSpec  # noqa: E402
from onnxslim_yolo.ir.model import Model  # noqa: E402
from onnxslim_yolo.load.trace import trace  # noqa: E402
from onnxslim_yolo.manager import PassManager  # noqa: E402
from onnxslim_yolo.passes import Canonicalise, FoldBatchNorm, PruneChannels, SliceChannels  # noqa: E402
from onnxslim_yolo.pruning.plan import plan_as_json  # noqa: E402
from onnxslim_yolo.training.distil import Distilled, DistilOptions, distil, share_of_rate  # noqa: E402
from onnxslim_yolo.training.distil_loss import map_loss, relative_error, table_loss  # noqa: E402
from onnxslim_yolo.training.image_batches import PLAIN, Variation, lit, moved  # noqa: E402
from onnxslim_yolo.training.norm_statistics import re_estimated  # noqa: E402
from onnxslim_yolo.training.teacher_maps import MapPair, map_pairs  # noqa: E402

SIZE = 32


class Net(torch.nn.Module):
    """Three convolutions with BatchNorms, and a map for an output."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 16, 16)
        pairs = list(pairwise(widths))
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(a, b, 3, 2, 1, bias=False) for a, b in pairs)
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(b) for _, b in pairs)
        self.last = torch.nn.Conv2d(16, 5, 1)

    def forward(self, x: Any) -> Any:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x)).relu()
        return self.last(x)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """teacher.onnx, images, and in `cut` the module, the fused graph and the plan of a third of the channels less."""
    folder = tmp_path_factory.mktemp("distil")
    torch.manual_seed(0)
    net = Net()
    for _ in range(4):
        net.train()(torch.rand(8, 3, SIZE, SIZE))
    onnx.save(trace(net.eval(), torch.zeros(1, 3, SIZE, SIZE)), folder / "teacher.onnx")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(16):
        pixels = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((4, 4, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{i:02}.png")
    cut(folder, folder / "teacher.onnx", 0.3)
    return folder


def read(path: Path) -> Model:
    from onnxslim_yolo.load import load

    return load(path)


def cut(folder: Path, source: Path, ratio: float) -> None:
    (folder / "cut").mkdir()
    model = read(source)
    PassManager([PruneChannels(ratio=ratio, importance="weight"), SliceChannels()]).run(model)
    save_module(to_torch(model), folder / "cut/student.pt")
    plan = plan_as_json(model)
    (folder / "cut/student.plan.json").write_text(json.dumps(plan))
    PassManager([FoldBatchNorm(), Canonicalise()]).run(model)
    model.save(folder / "cut/student.onnx")


FEW = DistilOptions(epochs=6, batch=7, lr=1e-3)


@pytest.mark.parametrize("student", ["student.pt", "student.onnx"])
def test_the_student_gets_nearer(place: Path, student: str) -> None:
    done = distil(place / "cut" / student, place / "teacher.onnx", place / "images", FEW)
    facts = done.facts
    assert facts["maps"] == 4 and facts["images"] == 14 and facts["held_out"] == 2
    assert facts["epoch"] > 0 and facts["after"] < 0.8 * facts["before"]
    assert facts["after"] == min(facts["epochs"]) == facts["epochs"][facts["epoch"] - 1]
    assert "2 images held out" in str(done)


def test_without_a_plan_the_outputs_teach(place: Path, tmp_path: Path) -> None:
    (tmp_path / "student.pt").write_bytes((place / "cut/student.pt").read_bytes())
    done = distil(tmp_path / "student.pt", place / "teacher.onnx", place / "images", FEW)
    assert done.facts["maps"] == 0 and done.facts["after"] < done.facts["before"]


def test_a_rate_of_nothing_trains_nothing(place: Path) -> None:
    """The control: what it gains then is what statistics alone do."""
    options = DistilOptions(epochs=2, lr=0.0)
    done = distil(place / "cut/student.onnx", place / "teacher.onnx", place / "images", options)
    assert done.facts["epoch"] == 0 and done.facts["after"] == done.facts["before"]
    assert done.facts["norms"] == "as they were"  # it has none


def test_what_lost_nothing_is_left_alone(place: Path) -> None:
    done = distil(place / "teacher.onnx", place / "teacher.onnx", place / "images", FEW)
    assert done.facts["epoch"] == 0 and "no epoch did better" in str(done)
    before = to_torch(read(place / "teacher.onnx")).state_dict()
    assert all(torch.equal(before[key], value) for key, value in done.module.state_dict().items())


def test_the_rate_grows_first_and_falls_then() -> None:
    shares = [share_of_rate(step, 100) for step in range(100)]
    assert shares[:10] == sorted(shares[:10]) and shares[0] < 0.1
    assert shares[10:] == sorted(shares[10:], reverse=True) and shares[10] == 1
    assert 0.05 <= shares[-1] < 0.06 and share_of_rate(0, 1) > 0


def test_the_same_bytes_again(place: Path) -> None:
    one, two = (distil(place / "cut/student.pt", place / "teacher.onnx", place / "images", FEW) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.module.parameters(), two.module.parameters(), strict=True))


def test_maps_are_the_kept_channels(place: Path) -> None:
    teacher, student = read(place / "teacher.onnx"), read(place / "cut/student.pt")
    plan = json.loads((place / "cut/student.plan.json").read_text())
    pairs = map_pairs(teacher, student, plan)
    x = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a = to_torch(teacher).values([pair.teacher for pair in pairs], x)
        b = to_torch(student).values([pair.student for pair in pairs], x)
    first = next(i for i, pair in enumerate(pairs) if pair.kept is not None)
    kept, whole, left = pairs[first].kept or (), a[first], b[first]
    assert len(kept) == left.shape[1] < whole.shape[1]
    assert torch.allclose(whole[:, list(kept)], left, atol=1e-5)  # nothing before it has changed
    shifted = [(i + 1) % whole.shape[1] for i in kept]
    assert not torch.allclose(whole[:, shifted], left, atol=1e-2)  # the control
    assert float(map_loss([left], [whole], pairs[first : first + 1])) < 1e-6
    assert pairs[-1].kept is None


def test_merged_branches_have_no_counterpart(place: Path) -> None:
    """A convolution into which others were merged gives their sum: it is read by other operators than its source."""
    teacher, student = read(place / "teacher.onnx"), read(place / "cut/student.onnx")
    plan = json.loads((place / "cut/student.plan.json").read_text())
    whole = map_pairs(teacher, student, plan)
    norm = next(node for node in teacher.graph.nodes if node.op == "Relu")
    norm.op = "Add"
    norm.inputs.append(norm.inputs[0])
    assert len(map_pairs(teacher, student, plan)) == len(whole) - 1


def test_statistics_are_those_of_the_images() -> None:
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(2)).eval()
    images = torch.randn(4, 2, 8, 8) * 3 + 1
    found = re_estimated(net, lambda: [images])
    assert found is not None and torch.allclose(found[0].running_mean, images.mean((0, 2, 3)), atol=1e-5)
    assert not found.training and float(net[0].running_mean.abs().max()) == 0
    assert re_estimated(torch.nn.Conv2d(1, 1, 1), list) is None


def table(kind: str, scores: float) -> Any:
    rows = torch.tensor([[10.0, 10, 8, 8, 0.9, 0.9], [20, 20, 8, 8, 0.001, scores]])
    rows = rows if kind == "v5" else torch.cat((rows[:, :4], rows[:, 4:]), 1).T
    return rows[None]


@pytest.mark.parametrize("kind", ["v5", "v8"])
def test_tables_by_their_scores(kind: Any) -> None:
    head = HeadSpec(kind, 1 if kind == "v5" else 2)
    wanted, same = table(kind, 0.001), table(kind, 0.001)
    assert abs(float(table_loss(same, wanted, head))) < 1e-5
    moved_sure, moved_empty = same.clone(), same.clone()
    moved_sure[0, 0, 0] += 4
    moved_empty[(0, 1, 0) if kind == "v5" else (0, 0, 1)] += 4
    assert float(table_loss(moved_sure, wanted, head)) > 50 * float(table_loss(moved_empty, wanted, head))


def test_relative_error_is_of_what_moves() -> None:
    x = torch.rand(2, 3, 4, 4)
    assert float(relative_error(x + 5, x)) == pytest.approx(float(relative_error((x + 5) * 10, x * 10)), rel=1e-4)
    assert float(map_loss([], [], [])) == 0
    assert float(map_loss([x[:, :1]], [x], [MapPair("a", "b", (0,))])) == 0


def test_variation() -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(3, 3, 16, 16, generator=random)
    assert torch.allclose(moved(x, PLAIN, random), x, atol=1e-5)
    assert torch.allclose(lit(x, PLAIN, random), x, atol=1e-5)
    mirrored = moved(x, Variation(flip=1.0, scale=0, shift=0, light=0), random)
    assert torch.allclose(mirrored, x.flip(-1), atol=1e-5)
    varied = lit(moved(x, Variation(), random), Variation(), random)
    assert varied.min() >= 0 and varied.max() <= 1 and not torch.allclose(varied, x, atol=0.05)


def images(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (SIZE, SIZE), (i, 2 * i, 90)).save(folder / f"{i}.png")
    return folder


def test_bad_input(place: Path, tmp_path: Path) -> None:
    student, teacher, photos = place / "cut/student.pt", place / "teacher.onnx", place / "images"
    with pytest.raises(InputError, match="7 images are too few"):
        distil(student, teacher, images(tmp_path / "few", 7), FEW)
    other = tmp_path / "other.onnx"
    torch.manual_seed(1)
    onnx.save(trace(Net().eval(), torch.zeros(1, 3, SIZE, SIZE)), other)
    with pytest.raises(InputError, match=r"made from another file of this kind, teacher\.onnx"):
        distil(student, other, photos, FEW, plan=place / "cut/student.plan.json")
    onnx.save(trace(Net().eval(), torch.zeros(1, 3, 2 * SIZE, SIZE)), other)
    with pytest.raises(InputError, match="takes images of 32x32, its teacher of 64x32"):
        distil(student, other, photos, FEW)
    wide = Net()
    wide.last = torch.nn.Conv2d(16, 6, 1)
    onnx.save(trace(wide.eval(), torch.zeros(1, 3, SIZE, SIZE)), other)
    with pytest.raises(InputError, match="gives outputs of 1x5x4x4, its teacher of 1x6x4x4"):
        distil(student, other, photos, FEW)
    (tmp_path / "x.plan.json").write_text("{}")
    with pytest.raises(InputError, match="is no plan"):
        distil(student, teacher, photos, FEW, plan=tmp_path / "x.plan.json")
    with pytest.raises(InputError, match="no such file"):
        distil(tmp_path / "none.pt", teacher, photos, FEW)
    for wrong in ({"epochs": 0}, {"lr": -1.0}, {"lr": 1.0}, {"maps": -1.0}, {"batch": 0}):
        with pytest.raises(UsageError):
            DistilOptions(**wrong)  # type: ignore[arg-type]


def test_without_torch_it_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else found(name))
    with pytest.raises(UsageError, match="distilling needs torch") as caught:
        distil_command(tmp_path / "none.pt", tmp_path / "none.onnx", tmp_path)
    assert caught.value.exit_status == 2


def test_the_command(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    given: dict[str, Any] = {"teacher": place / "teacher.onnx", "images": place / "images", "output": out}
    distil_command(place / "cut/student.pt", **given, epochs=2, lr=1e-3, as_json=True, emit="onnx")
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((out / "student.report.json").read_text())
    assert report["distillation"]["maps"] == 4 and report["verdict"]["equal"]["state"] == "equal"
    assert any(note.startswith("distilled on 14 images") for note in report["notes"])
    assert not {node.op_type for node in onnx.load(out / "student.onnx").graph.node} & {"BatchNormalization"}
    with pytest.raises(UsageError, match="Ultralytics"):
        distil_command(place / "cut/student.pt", **given, emit="ultralytics")


def test_it_is_judged_against_its_teacher(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A student that ignores the image is no better for computing what its own module computes."""
    from onnxslim_yolo.training import distil as room

    def blind(*_: Any, **__: Any) -> Distilled:
        module = to_torch(read(place / "cut/student.pt"))
        with torch.no_grad():
            for norm in (part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)):
                norm.weight.mul_(1e-3)
        return Distilled(module, read(place / "teacher.onnx"), {**facts})

    facts = dict.fromkeys(("before", "after"), 1.0) | {"epochs": [], "epoch": 0, "maps": 0, "images": 1, "held_out": 1}
    facts |= {"norms": "as they were", "error": "error"}
    monkeypatch.setattr(room, "distil", blind)
    with pytest.raises(NotAliveError):
        distil_command(
            place / "cut/student.pt", place / "teacher.onnx", place / "images", output=tmp_path / "o", quiet=True
        )
    assert (tmp_path / "o/student.onnx").is_file()
    report = json.loads((tmp_path / "o/student.report.json").read_text())
    assert report["verdict"]["alive"]["state"] == "needs training" and report["exit"] == 5
