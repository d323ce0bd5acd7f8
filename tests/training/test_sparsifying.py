"""Sparsity training to a share: the controller reaches it whatever the learning rate, and what is kept is sparse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402, TID253

from onnxslim_yolo.errors import BudgetError, InputError, UsageError  # noqa: E402
from onnxslim_yolo.training import run_ultralytics, sparsifying  # noqa: E402
from onnxslim_yolo.training.run_ultralytics import run_finetune, run_sparsify, train_settings  # noqa: E402
from onnxslim_yolo.training.slim_trainer import SlimTrainer, check_classes  # noqa: E402
from onnxslim_yolo.training.sparsifying import COLUMN, NOTE, run_checkpoint, sparsify, step_for  # noqa: E402


class Net(nn.Module):
    """Two layers with a shortcut: their γ go together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.na = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.b, self.nb = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.last = nn.Conv2d(16, 1, 1)

    def forward(self, x: Any) -> Any:
        x = self.na(self.a(x)).relu()
        return self.last((x + self.nb(self.b(x))).relu())


class Yolo:
    """As much of `ultralytics.YOLO` as `sparsify` uses, with a trainer that calls back as Ultralytics' does."""

    def __init__(self, folder: Path, lr: float, fitness: tuple[float, ...]) -> None:
        torch.manual_seed(0)
        self.events: dict[str, Any] = {}
        net = Net()
        (folder / "weights").mkdir(parents=True)
        self.trainer = SimpleNamespace(
            model=net,
            optimizer=torch.optim.SGD(net.parameters(), lr),
            epochs=len(fitness),
            epoch=0,
            accumulate=1,
            train_loader=range(6),
            ema=SimpleNamespace(ema=Net()),
            data={"channels": 3},
            lr={"lr/pg0": lr},
            fitness=None,
            save_dir=folder,
            last=folder / "weights/last.pt",
        )
        self.fitness, self.rows = fitness, []

    def add_callback(self, event: str, function: Any) -> None:
        self.events[event] = function

    def train(self, first: int = 0) -> None:
        trainer = self.trainer
        self.events["on_train_start"](trainer)
        for epoch in range(first, trainer.epochs):
            trainer.epoch = epoch
            self.events["on_train_epoch_start"](trainer)
            for step in trainer.train_loader:
                x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
                trainer.optimizer.zero_grad()
                (trainer.model(x) - x.mean(1, keepdim=True)).square().mean().backward()
                trainer.optimizer.step()
                self.events["on_train_batch_end"](trainer)
            trainer.lr = {"lr/pg0": 0.0}
            self.events["on_train_epoch_end"](trainer)
            self.rows.append(trainer.lr)
            trainer.fitness = self.fitness[trainer.epoch]
            trainer.last.write_text(str(trainer.epoch))
            self.events["on_model_save"](trainer)


@pytest.mark.parametrize("lr", [1e-4, 1e-2])
@pytest.mark.parametrize("target", [0.3, 0.6])
def test_the_share_is_reached_whatever_the_learning_rate(lr: float, target: float, tmp_path: Path) -> None:
    yolo = Yolo(tmp_path, lr, (0.1,) * 10)
    found = sparsify(yolo, target=target)
    yolo.train()
    assert target - 0.15 < found.shares[9] <= target
    assert found.shares[0] == 0 and found.shares[9] == found.shares[7]  # nothing is pushed while it settles
    assert [row[COLUMN] for row in yolo.rows] == list(found.shares.values())
    gammas = [norm.weight == 0 for norm in (yolo.trainer.model.na, yolo.trainer.model.nb)]
    assert (gammas[0] == gammas[1]).all()  # the shortcut's go together, as a trace tells
    ema = yolo.trainer.ema.ema
    assert (ema.na.weight[gammas[0]] == 0).all()
    assert json.loads((tmp_path / NOTE).read_text())["target"] == target


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_few_epochs_push_too(epochs: int, tmp_path: Path) -> None:
    yolo = Yolo(tmp_path, 1e-3, (0.1,) * epochs)
    yolo.trainer.train_loader = range(24)
    found = sparsify(yolo, target=0.5)
    yolo.train()
    assert 0.35 < found.shares[epochs - 1] <= 0.5 and found.complaint is None
    assert epochs == 1 or found.shares[epochs - 2] == found.shares[epochs - 1]  # the last one settles


def test_what_is_kept_is_the_best_of_the_sparse(tmp_path: Path) -> None:
    yolo = Yolo(tmp_path, 1e-3, (0.9, 0.8, 0.7, 0.2, 0.4, 0.3))
    found = sparsify(yolo, target=0.5, settle=0.5)
    yolo.train()
    assert (tmp_path / "weights/sparse.pt").read_text() == "2" and found.kept == 0.7  # dense ones were better
    assert run_checkpoint(tmp_path).name == "sparse.pt"


def test_a_stopped_training_goes_on(tmp_path: Path) -> None:
    yolo = Yolo(tmp_path, 1e-3, (0.1,) * 10)
    found = sparsify(yolo, target=0.5)
    yolo.train(first=5)
    assert 0.3 < found.shares[9] <= 0.5


def test_too_few_epochs_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(sparsifying, "say", said.append)
    yolo = Yolo(tmp_path, 1e-3, (0.1, 0.1))
    yolo.trainer.train_loader = range(1)
    sparsify(yolo, target=0.9)
    yolo.train()
    assert said and "train for more epochs" in said[0]


@pytest.mark.parametrize(("fitness", "wrong"), [((0.9, 0.9, 0.1, 0.1, 0.1), True), ((0.9, 0.9, 0.5, 0.5, 0.5), False)])
def test_accuracy_that_went_is_said(fitness: tuple[float, ...], wrong: bool, tmp_path: Path) -> None:
    yolo = Yolo(tmp_path, 1e-3, fitness)
    found = sparsify(yolo, target=0.5, settle=0.4)
    assert found.complaint is None
    yolo.train()
    assert found.shares[4] > 0.3
    assert (found.complaint is not None) == wrong
    assert not wrong or "fitness 0.100, and 0.900" in str(found.complaint)


def test_a_training_that_diverges_is_stopped(tmp_path: Path) -> None:
    yolo = Yolo(tmp_path, 1e30, (0.1,) * 4)
    sparsify(yolo, target=0.5)
    with pytest.raises(InputError, match="no numbers after 1 epochs"):
        yolo.train()


@pytest.mark.parametrize(("names", "fits"), [("{0: a, 1: b}", True), ("[a, b, c]", False), ("{0: a}", False)])
def test_data_of_other_classes_begin_no_new_head(
    names: str, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yolo = SimpleNamespace(add_callback=lambda *_: None, model=SimpleNamespace(names={0: "a", 1: "b"}))
    monkeypatch.setattr(run_ultralytics, "_opened", lambda *_, **__: yolo)
    monkeypatch.setattr(run_ultralytics, "_train", lambda *_: tmp_path)
    (tmp_path / "data.yaml").write_text(f"path: .\ntrain: images\nval: images\nnames: {names}\n")
    if fits:
        assert run_sparsify(tmp_path, str(tmp_path / "data.yaml"), 1, 0.5, {}) == tmp_path
        return
    with pytest.raises(InputError, match=r"the data has \d classes .*, the network 2"):
        run_sparsify(tmp_path, str(tmp_path / "data.yaml"), 1, 0.5, {})


def test_what_came_to_nothing_has_a_status_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_ultralytics, "_opened", lambda *_, **__: SimpleNamespace(add_callback=lambda *_: None))
    monkeypatch.setattr(run_ultralytics, "_train", lambda *_: tmp_path)
    assert run_sparsify(tmp_path, "x.yaml", 1, 0.5, {}) == tmp_path  # in processes of their own: nothing is known
    monkeypatch.setattr(run_ultralytics, "sparsify", lambda *_, **__: SimpleNamespace(complaint="1% of the γ are zero"))
    with pytest.raises(BudgetError, match="1% of the γ"):
        run_sparsify(tmp_path, "x.yaml", 1, 0.5, {})


def test_the_step_divides_what_is_left() -> None:
    sizes = torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0])
    assert step_for(sizes, 0.6, 10) == pytest.approx(0.5 / 8)
    assert step_for(torch.zeros(4), 0.6, 10) == 0


@pytest.mark.parametrize("options", [{"target": 0.0}, {"target": 1.0}, {"target": 0.5, "settle": 1.0}])
def test_shares_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"not in \(0, 1\)"):
        sparsify(SimpleNamespace(), **options)


def test_settings_as_ultralytics_spells_them() -> None:
    words = ["imgsz=320", "lr0=0.001", "device=0,1", "amp=False", "name=x", "scale=none"]
    expected = {"imgsz": 320, "lr0": 0.001, "device": (0, 1), "amp": False, "name": "x", "scale": None}
    assert train_settings(words) == expected
    for word in ("imgsz", "=3", "data=x.yaml", "resume=True"):
        with pytest.raises(UsageError):
            train_settings([word])


class Refusing:
    """An Ultralytics that meets something."""

    task = "detect"

    def __init__(self, error: Exception) -> None:
        self.error, self.model = error, SimpleNamespace(pruned_from={"file": "best.pt"})

    def add_callback(self, event: str, function: Any) -> None:
        pass

    def train(self, **settings: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (SyntaxError("'imagesize' is not a valid YOLO argument\nmore"), UsageError, "imagesize"),
        (RuntimeError("Dataset 'x.yaml' error"), InputError, "Dataset"),
        (InputError("the data has 2 classes"), InputError, "2 classes"),
    ],
)
def test_what_ultralytics_says_is_one_message(
    error: Exception, kind: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run_ultralytics, "_opened", lambda *_, **__: Refusing(error))
    for run in (
        lambda: run_finetune(tmp_path, "x.yaml", 1, None, {}),
        lambda: run_sparsify(tmp_path, "x.yaml", 1, 0.5, {}),
    ):
        with pytest.raises(kind, match=text):
            run()


def test_what_is_missing_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_ultralytics, "require_ultralytics", lambda: None)
    with pytest.raises(InputError, match="no such file"):
        run_finetune(tmp_path / "none.pt", "x.yaml", 1, None, {})
    with pytest.raises(InputError, match=r"holds no weights/sparse.pt"):
        run_finetune(tmp_path, "x.yaml", 1, None, {})
    monkeypatch.setattr(run_ultralytics, "_opened", lambda *_, **__: Refusing(RuntimeError()))
    with pytest.raises(InputError, match="no sparsity training was begun there"):
        run_sparsify(tmp_path, None, 1, 0.5, {}, resume=True)
    with pytest.raises(UsageError, match="needs data"):
        run_finetune(tmp_path, None, 1, None, {})


def test_towers_that_are_only_trained_go_with_their_twins() -> None:
    found = sparsifying.with_twins({"head.one2one_cv2.0.bn": [1, 2], "neck.bn": [3]})
    assert found == {"head.one2one_cv2.0.bn": [1, 2], "head.cv2.0.bn": [1, 2], "neck.bn": [3]}


def test_a_trace_knows_one_set_of_towers() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cv2, self.one2one_cv2, self.export = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1), False

    head = Head()
    copied = sparsifying.exportable(head)
    assert copied.cv2 is None and copied.end2end and copied.export and head.cv2 is not None


@pytest.mark.parametrize(
    ("settings", "started", "cuda", "message"),
    [
        ({"device": "cpu,cpu"}, "1", False, "a CPU trains in one process"),
        ({"device": ["cpu", "cpu"]}, "1", True, "a CPU trains in one process"),
        ({"device": "cpu"}, "2", True, "2 processes were started"),
        ({}, "2", False, "2 processes were started"),
        ({"device": "0,1"}, "2", True, None),
        ({"device": "cpu"}, "1", False, None),
        ({}, "", False, None),
    ],
)
def test_several_processes_on_a_cpu_are_refused(
    settings: dict[str, Any], started: str, cuda: bool, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", started)
    monkeypatch.setattr(run_ultralytics, "_has_cuda", lambda: cuda)
    if message is None:
        run_ultralytics.refuse_processes_on_a_cpu(settings)
        return
    with pytest.raises(UsageError, match=message) as caught:
        run_ultralytics.refuse_processes_on_a_cpu(settings)
    assert caught.value.exit_status == 2 and caught.value.hint


def test_an_ultralytics_that_cannot_be_imported_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "best.pt").write_bytes(b"PK")
    monkeypatch.setattr(run_ultralytics, "require_ultralytics", lambda: None)
    monkeypatch.setitem(sys.modules, "ultralytics", None)
    with pytest.raises(UsageError, match="Ultralytics cannot be imported") as caught:
        run_finetune(tmp_path / "best.pt", "data.yaml", 1, None, {})
    assert caught.value.exit_status == 2 and "pip install" in str(caught.value.hint)


def test_a_teacher_for_an_ultralytics_without_distillation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "best.pt").write_bytes(b"PK")
    error = SyntaxError("'\x1b[31m\x1b[1mdistill_model\x1b[0m' is not a valid YOLO argument. ")
    monkeypatch.setattr(run_ultralytics, "_opened", lambda *_, **__: Refusing(error))
    with pytest.raises(UsageError, match="without a teacher only"):
        run_finetune(tmp_path / "best.pt", "data.yaml", 1, tmp_path / "best.pt", {})
    monkeypatch.setattr(
        run_ultralytics, "_opened", lambda *_, **__: Refusing(SyntaxError("'\x1b[31mlr\x1b[0m' is not"))
    )
    with pytest.raises(UsageError, match="arguments: 'lr' is not"):
        run_finetune(tmp_path / "best.pt", "data.yaml", 1, None, {})


def test_the_same_classes_in_another_order_are_refused() -> None:
    network = SimpleNamespace(names={0: "a", 1: "b"})
    check_classes(network, {"nc": 2, "names": ["a", "b"]})
    check_classes(network, {"nc": 2, "names": ["a", "c"]})  # renamed
    with pytest.raises(InputError, match="another order: 0 is b there, and a here"):
        check_classes(network, {"nc": 2, "names": {0: "b", 1: "a"}})


@pytest.mark.parametrize("resume", [False, True])
def test_a_network_that_is_not_pruned_is_not_fine_tuned(
    resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yolo = Refusing(RuntimeError("trained"))
    yolo.model = SimpleNamespace()
    monkeypatch.setattr(run_ultralytics, "_opened", lambda *_, **__: yolo)
    with pytest.raises(InputError, match="is not pruned") as caught:
        run_finetune(tmp_path / "sparse.pt", "data.yaml", 1, None, {}, resume=resume)
    assert caught.value.exit_status == 2 and "--emit ultralytics" in str(caught.value.hint)
    yolo.model.pruned_from = {"file": "best.pt"}
    with pytest.raises(InputError, match="trained"):
        run_finetune(tmp_path / "slim.pt", "data.yaml", 1, None, {}, resume=resume)


@pytest.mark.parametrize(
    ("kind", "refused"), [("SegmentationModel", True), ("ClassificationModel", True), ("DetectionModel", False)]
)
def test_a_teacher_of_another_task_is_refused(
    kind: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = ModuleType("ultralytics.nn.tasks")
    model = type(kind, (nn.Module,), {"__module__": theirs.__name__})
    setattr(theirs, kind, model)
    for name, module in (("ultralytics", ModuleType("ultralytics")), ("ultralytics.nn", ModuleType("ultralytics.nn"))):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, theirs.__name__, theirs)
    teacher = tmp_path / "teacher.pt"
    torch.save({"model": model()}, teacher)
    monkeypatch.setattr(run_ultralytics, "_opened", lambda *_, **__: Refusing(RuntimeError("trained")))
    with pytest.raises(InputError, match="the teacher is trained for" if refused else "trained") as caught:
        run_finetune(tmp_path / "slim.pt", "data.yaml", 1, teacher, {})
    assert caught.value.exit_status == 2 and ("'detect'" in str(caught.value)) == refused
    trainer = SimpleNamespace(args=SimpleNamespace(task="detect", distill_model=str(teacher)), data={"nc": 0})
    if refused:  # in Python, too
        with pytest.raises(InputError, match="the teacher is trained for"):
            SlimTrainer.get_model(trainer, weights=nn.Identity())
    else:
        assert isinstance(SlimTrainer.get_model(trainer, weights=nn.Identity()), nn.Identity)
