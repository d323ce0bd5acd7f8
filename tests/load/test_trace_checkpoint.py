"""What a user is told when a checkpoint is traced, and which of its tensors are in the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import onnx  # noqa: E402

from onnxslim_yolo.errors import InputError  # noqa: E402
from onnxslim_yolo.ir.model import Model  # noqa: E402
from onnxslim_yolo.load import LoadOptions, read_model  # noqa: E402
from onnxslim_yolo.models.blocks_common import Conv  # noqa: E402
from onnxslim_yolo.models.heads_tasks import Pose26, Segment  # noqa: E402
from tests.zoo import module  # noqa: E402

from repositories import save_like_a_trainer  # noqa: E402  isort: skip

Reader = Callable[..., tuple[Model, onnx.ModelProto]]
SMALL = LoadOptions(imgsz=(64, 64))
STRIDES = (8.0, 16.0, 32.0)


def saved(folder: Path, name: str, **head: object) -> Path:
    model = module(name)
    for key, value in head.items():
        setattr(model.model[-1], key, value)
    save_like_a_trainer(folder / f"{name}.pt", model)
    return folder / f"{name}.pt"


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """What is read of a network's checkpoint: once for each. Not to be changed."""

    @cache
    def once(name: str, towers: str = "file", **head: object) -> tuple[Model, onnx.ModelProto]:
        return read_model(saved(tmp_path_factory.mktemp("read"), name, **head), replace(SMALL, towers=towers))

    return once


def test_the_head_that_does_not_run_is_noted(read: Reader) -> None:
    name, head = "yolov10n", "model.23"
    model, proto = read(name)
    (note,) = model.notes
    assert f"{head}.cv2, {head}.cv3 (" in note and "one-to-one" in note
    left = sum(key.startswith((f"{head}.cv2.", f"{head}.cv3.")) for key in module(name).state_dict())
    assert note.startswith(f"{left} tensors ")
    assert not any(tensor.name.startswith((f"{head}.cv2.", f"{head}.cv3.")) for tensor in proto.graph.initializer)


def test_a_head_set_to_one_to_many_is_noted(tmp_path: Path) -> None:
    path = saved(tmp_path, "yolo26n", _end2end=False)
    model, proto = read_model(path, SMALL)
    (note,) = model.notes
    assert "model.23.one2one_cv2, model.23.one2one_cv3 (" in note and "need NMS" in note
    assert "end2end" not in model.metadata
    assert not any("one2one" in tensor.name for tensor in proto.graph.initializer)


@pytest.mark.parametrize(("name", "towers"), [("yolov10n", "one-to-one"), ("yolo26n-seg", "one-to-many")])
def test_which_towers_run_can_be_chosen(name: str, towers: str, read: Reader) -> None:
    """Whatever the file is set to: the graph is that of a file that is set so."""
    other = towers == "one-to-many"
    _, expected = read(name, _end2end=False) if other else read(name)
    model, chosen = read(name, towers) if other else read(name, towers, _end2end=False)
    assert chosen == expected
    assert any("one2one" in tensor.name for tensor in chosen.graph.initializer) is not other
    assert (model.metadata.get("end2end") == "True") is not other


def test_towers_that_are_not_there_cannot_be_chosen(tmp_path: Path) -> None:
    asked = replace(SMALL, towers="one-to-one")
    with pytest.raises(InputError, match="no one-to-one towers"):
        read_model(saved(tmp_path, "yolov8n"), asked)
    with pytest.raises(InputError, match="one-to-one towers alone"):
        read_model(saved(tmp_path, "yolov10n", cv2=None, cv3=None), replace(SMALL, towers="one-to-many"))
    with pytest.raises(InputError, match="an exported file"):
        read_model(Path(__file__).parents[2] / "models/digits-rep.onnx", asked)


@pytest.mark.parametrize(("name", "ranked"), [("yolov10n", "True"), ("yolo26n-seg", "True"), ("yolov8n-seg", None)])
def test_ranked_rows_are_called_so(name: str, ranked: str | None, read: Reader) -> None:
    """Ultralytics tells a table of ranked rows with masks from one of cells by the file's metadata alone."""
    from onnxslim_yolo.passes import Head

    model, proto = read(name)
    assert {entry.key: entry.value for entry in proto.metadata_props}.get("end2end") == ranked
    assert model.metadata.get("end2end") == ranked
    model = model.copy()
    if Head("raw").run(model):  # maps are not ranked
        assert "end2end" not in model.metadata


@pytest.mark.parametrize("name", ["yolov8n-cls", "v5lite-g"])
def test_nothing_is_noted_where_everything_runs(name: str, tmp_path: Path) -> None:
    assert read_model(saved(tmp_path, name), SMALL)[0].notes == []


def test_the_note_reaches_the_terminal_and_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxslim_yolo
    from onnxslim_yolo.cli.main import app  # noqa: F401  the commands are defined while it is imported
    from onnxslim_yolo.cli import models as cli_models  # isort: skip

    path = saved(tmp_path, "yolov10n")
    cli_models.trace(path, tmp_path / "m.onnx", "64")
    assert "model.23.cv2, model.23.cv3" in capsys.readouterr().out.replace("\n", " ")
    result = onnxslim_yolo.compile(path, out=tmp_path / "slim", imgsz=64, emit=("onnx",), verify=False)
    assert any("model.23.cv2, model.23.cv3" in note for note in result.report["notes"])


def test_a_fused_checkpoint_is_noted(tmp_path: Path) -> None:
    net = module("yolov8n")
    for part in net.modules():
        if isinstance(part, Conv):
            part.bn = None
    save_like_a_trainer(tmp_path / "fused.pt", net)
    assert "fused" in read_model(tmp_path / "fused.pt", SMALL)[0].notes[0]


class Two(torch.nn.Module):
    """A convolution at three strides, and a head."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.downs = torch.nn.ModuleList([Conv(3, 16, 3, 8), Conv(16, 16, 3, 2), Conv(16, 16, 3, 2)])
        self.head = head

    def forward(self, x: torch.Tensor) -> object:
        levels = []
        for down in self.downs:
            x = down(x)
            levels.append(x)
        return self.head(levels)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("kind", [Segment, Pose26])
def test_end_to_end_rows_belong_to_their_boxes(kind: type, ends: bool) -> None:
    """Every row of the chosen ones is, extra numbers and all, a row of the whole table."""
    from onnxslim_yolo.models.zoo.architectures import randomise

    options = {"reg_max": 1, "light": True, "end2end": ends}
    options |= {"fused_levels": True, "npr": 16} if kind is Segment else {"kpt_shape": (5, 3)}
    net = randomise(Two(kind((16, 16, 16), 3, STRIDES, **options)).eval(), size=64)
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = net(x)
    table = y[0] if isinstance(y, tuple) else y
    extra = 32 if kind is Segment else 15
    assert table.shape == ((2, 84, 6 + extra) if ends else (2, 4 + 3 + extra, 84))
    if not ends:
        return
    whole = whole_table(net, x)
    for image, rows in zip(whole, table, strict=True):
        assert torch.all(rows[:-1, 4] >= rows[1:, 4])
        for row in rows:
            same = (image[:, :4] == row[:4]).all(1) & (image[:, 4 + int(row[5])] == row[4])
            assert (image[same][:, 7:] == row[6:]).all(1).any()


def whole_table(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """(b, n, 4 + nc + e): what the head chooses from."""
    seen: list[torch.Tensor] = []
    chosen = net.head.best
    net.head.best = lambda y: seen.append(y) or chosen(y)
    with torch.no_grad():
        net(x)
    del net.head.best
    return seen[0].transpose(1, 2)
