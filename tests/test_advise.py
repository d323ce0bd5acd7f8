"""`advise`: which levers can meet a latency, which answer is given, that work goes on, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner

from onnxslim_yolo.errors import BudgetError, InputError, OnnxSlimError, UsageError
from onnxslim_yolo.latency import LatencyTable
from onnxslim_yolo.load import LoadOptions
from onnxslim_yolo.report.advice import Advice, ranked, render_advice
from onnxslim_yolo.sweep import advise as module
from onnxslim_yolo.sweep.advise import AdviseOptions, advise, require_answer
from onnxslim_yolo.sweep.levers import INT8, INT8_ALL, Lever, levers, nearer, usable_sizes
from tests.test_input_size import Made

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models/digits-dense.onnx"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pictures of printed digits, which the bundled network detects."""
    folder, rng = tmp_path_factory.mktemp("digits"), np.random.default_rng(0)
    for index in range(16):
        picture = Image.fromarray(rng.integers(40, 90, (6, 6, 3), np.uint8)).resize((192, 192))
        draw = ImageDraw.Draw(picture)
        for x in (20, 110):
            for y in (20, 110):
                font = ImageFont.load_default(size=int(rng.integers(36, 72)))
                draw.text((x, y), str(rng.integers(10)), fill=(230, 230, 200), font=font)
        picture.save(folder / f"{index:02}.png")
    return folder


def made(full: int = 320) -> Made:
    return Made(Path("m.onnx"), LoadOptions((full, full)), LatencyTable.analytic("ncnn", "avx2"))


@pytest.mark.parametrize(
    ("share", "int8", "names"),
    [
        (0.7, 0.8, ["input 256x256", "pruned", "input 288x288, int8", "pruned, int8", "input 288x288, pruned"]),
        (0.7, 0.9, ["input 256x256", "pruned", "input 288x288, pruned, int8", "pruned, int8", "input 288x288, pruned"]),
        (0.7, 0.6, ["input 256x256", "pruned", "input 288x288, pruned"]),
        (0.7, None, ["input 256x256", "pruned", "input 288x288, pruned"]),
        (0.7, 1.1, ["input 256x256", "pruned", "input 288x288, pruned"]),
        (0.2, 0.5, ["pruned", "input 192x192, int8", "pruned, int8", "input 160x160, pruned"]),
    ],
)
def test_only_what_can_meet_the_target_is_tried(share: float, int8: float | None, names: list[str]) -> None:
    sizes = made()
    ways = {} if int8 is None else {INT8: int8}
    found = levers(sizes, usable_sizes(sizes)[0], share * sizes.us((320, 320)), ways)
    assert [lever.name for lever in found] == names
    for lever in found:
        size = lever.options.get("imgsz", [320, 320])
        left = sizes.us((size[0], size[1])) * ((int8 or 1) if "quantize" in lever.options else 1)
        if "target_latency" in lever.options:
            pruned = 1000 * float(lever.options["target_latency"].removesuffix("ms"))
            left = pruned * ((int8 or 1) if "quantize" in lever.options else 1)
        assert left <= share * 10240 * 1.001


def test_int8_throughout_takes_a_larger_input() -> None:
    sizes = made()
    smaller = usable_sizes(sizes, [(480, 640), (480, 640), (640, 480)])[0]
    assert smaller[0] == (288, 320) and (320, 288) not in smaller
    found = levers(sizes, smaller, 0.7 * sizes.us((320, 320)), {INT8: 0.85, INT8_ALL: 0.75})
    named = {lever.name: lever.options for lever in found}
    assert named["input 256x320, int8"] == {"imgsz": [256, 320], "quantize": "int8"}
    assert named["input 288x320, int8 throughout"] == {"imgsz": [288, 320], "quantize": "all"}


@pytest.mark.parametrize(
    ("options", "reached", "name"),
    [
        ({"imgsz": [224, 320], "quantize": "all"}, 0.85, "input 256x320, int8 throughout"),
        ({"imgsz": [224, 320], "quantize": "all"}, 0.9, None),
        ({"imgsz": [224, 320], "quantize": "all"}, 1.1, "input 192x320, int8 throughout"),
        ({"target_latency": "0.5x"}, 1.02, None),
        ({"target_latency": "0.5x"}, 1.25, "pruned to 4.096ms"),
        ({"target_latency": "6ms"}, 0.8, "pruned to 7.5ms"),
        ({"quantize": "int8"}, 0.5, None),
        ({"quantize": "int8"}, 1.02, None),
        ({"quantize": "int8"}, 1.1, "input 288x320, int8"),  # it was predicted to meet the target by itself
        ({"quantize": "all"}, 1.3, "input 224x320, int8 throughout"),
        ({"quantize": "int8"}, 2.5, None),  # no size does
    ],
)
def test_what_was_timed_comes_nearer(options: dict[str, Any], reached: float, name: str | None) -> None:
    sizes, smaller = made(), [(288, 320), (256, 320), (224, 320), (192, 320)]
    int8 = {"int8": "int8", "all": "int8 throughout"}.get(options.get("quantize", ""), "pruned")
    plain = f"input 224x320, {int8}" if "imgsz" in options else int8
    found = nearer(Lever(plain, options), reached, sizes, smaller)
    assert (found and found.name) == name
    if found is not None:
        assert found.options.keys() - {"imgsz"} == options.keys() - {"imgsz"} and found.options.get(
            "quantize"
        ) == options.get("quantize")


def options_for(images: Path, out: Path, target: str = "0.7x", **given: Any) -> AdviseOptions:
    compiling = {"device": "x86-avx2", "target": "onnxruntime", **given.pop("compile", {})}
    return AdviseOptions(given.pop("model", MODEL), images, target, out, compile=compiling, **given)


class Trials:
    """Stands in for compiling: what each lever would come to."""

    def __init__(self, figures: dict[str, tuple[float, float]]) -> None:
        self.figures, self.ran = figures, list[str]()

    def __call__(self, work: Any, lever: Lever, key: str) -> dict[str, Any]:
        self.ran.append(lever.name)
        if lever.name not in self.figures:
            raise UsageError("cannot come down to it")
        left, gain = self.figures[lever.name]
        (work.options.out / key).write_text("x")
        kept = {"kept": round(100 * gain), "objects": 100, "false_alarms": 3}
        us = {"left": left, "predicted_us": left * work.whole}
        judged = {"gain": gain, "precision": gain, "kept": kept}
        return us | judged | {"file": key, "bytes": 5_000_000, "int8": True, "notes": []}


FIGURES = {"source": (1.0, 1.0), "int8": (0.9, 0.97), "pruned": (0.7, 0.8)}


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    found = Trials(dict(FIGURES))
    monkeypatch.setattr(module._Work, "_tried", lambda work, lever, key: found(work, lever, key))
    monkeypatch.setattr(module, "usable_sizes", lambda *_: ([], "the input's size stays"))  # three levers are enough
    return found


@pytest.fixture
def one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose input cannot shrink."""
    why = "the input's size stays: it has weights for every position"
    monkeypatch.setattr("onnxslim_yolo.sweep.advise.usable_sizes", lambda sizes, shapes: ([], why))


@pytest.mark.usefixtures("one_size")
def test_the_best_that_meets_it_is_first_and_work_goes_on(images: Path, tmp_path: Path, trials: Trials) -> None:
    options = options_for(images, tmp_path / "out")
    found = advise(options)
    assert [row["lever"] for row in found.rows] == ["pruned", "source", "int8"]
    assert found.best is not None and "--compensate reconstruct" in found.best["command"]
    assert "--calib" in found.best["command"] and str(MODEL) in found.best["command"]
    assert "80 of 100 detections" in str(found.to_beat()) and "onnxslim-yolo slim" in str(found.to_beat())
    assert any("size stays" in note for note in found.facts["notes"])
    assert any("nothing was timed" in note for note in found.facts["notes"])
    require_answer(found, options.out)
    data = json.loads((options.out / "advise.json").read_text())
    assert data["best"] == found.best["command"] and len(data["trials"]) == 3
    page = (options.out / "advise.html").read_text()
    assert "pruned, 5.00 MB" in page and "Plotly" in page
    trials.ran.clear()
    assert advise(options).rows == found.rows and trials.ran == []
    trials.figures["pruned"] = (0.7, 0.5)
    for path in (tmp_path / "out").glob(found.best["key"]):
        path.unlink()  # its files are gone: it is made again
    assert advise(options).rows[0]["gain"] == 0.5 and trials.ran == ["pruned"]


@pytest.mark.usefixtures("one_size")
def test_other_pictures_under_the_same_names_are_other_work(images: Path, tmp_path: Path, trials: Trials) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for path in images.iterdir():
        Image.open(path).convert("RGB").resize((64, 64)).save(frames / f"{path.stem}.bmp")  # all of one number of bytes
    options = options_for(frames, tmp_path / "out")
    advise(options)
    first = sorted(frames.iterdir())[0]
    Image.open(first).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(first)
    trials.ran.clear()
    advise(options)
    assert trials.ran == ["source", "int8", "pruned"]


def test_what_another_machine_took_is_timed_again(
    images: Path, tmp_path: Path, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratio = {"python": 0.6, "ssh board python3 -": 0.95, None: 0.65}

    def benchmark(files: Sequence[Path], names: list[str], threads: int, run_on: str | None) -> SimpleNamespace:
        return SimpleNamespace(models=[SimpleNamespace(ratio=ratio[run_on], ms=7.0)] * len(files))

    monkeypatch.setattr("onnxslim_yolo.measure.benchmark.benchmark", benchmark)
    there, board = (options_for(images, tmp_path / "out", run_on=name) for name in ("python", "ssh board python3 -"))
    assert advise(there).best is not None
    trials.ran.clear()
    found = advise(board)
    assert "int8" not in trials.ran and found.best is None
    assert {row["measured"] for row in found.rows if row.get("measured")} == {0.95}
    with pytest.raises(BudgetError, match=r"the fastest leaves 0\.95x"):
        require_answer(found, tmp_path)
    predicted = advise(options_for(images, tmp_path / "out"))
    assert not any("measured" in row for row in predicted.rows)
    assert {row["lever"]: row["left"] for row in predicted.rows}["int8"] == pytest.approx(0.9)
    assert any("nothing was timed" in note for note in predicted.facts["notes"])


def test_none_meets_it(images: Path, tmp_path: Path, trials: Trials) -> None:
    del trials.figures["pruned"]
    found = advise(options_for(images, tmp_path / "out"))
    assert found.best is None and found.to_beat() is None
    assert found.rows[-1]["error"].startswith("cannot come down")
    with pytest.raises(BudgetError, match=r"no lever without training comes down to 0.7x: the fastest leaves 0.90x"):
        require_answer(found, tmp_path)


def black(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(folder / f"{index}.png")
    return folder


def test_bad_input_is_one_line(images: Path, tmp_path: Path, trials: Trials) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(images.iterdir())[:5]:
        (few / path.name).write_bytes(path.read_bytes())
    cases: Sequence[tuple[AdviseOptions, type[OnnxSlimError], str]] = [
        (options_for(few, tmp_path / "a"), InputError, "at least 8 images .* there are 5"),
        (options_for(black(tmp_path / "black", 12), tmp_path / "b"), InputError, "0 that show something .12 are blank"),
        (options_for(images, tmp_path / "c", "1.7x"), UsageError, "1/1.7 of it is 0.59x"),
        (options_for(images, tmp_path / "d", model=tmp_path / "no.onnx"), InputError, "no such file"),
        (options_for(tmp_path / "none", tmp_path / "e"), InputError, "none"),
    ]
    for options, kind, said in cases:
        with pytest.raises(kind, match=said) as raised:
            advise(options)
        assert "\n" not in raised.value.message
    noise = tmp_path / "noise"
    noise.mkdir()
    for index in range(8):
        grey = np.full((64, 64, 3), 120, np.uint8)
        grey[:8, :8] = 100 + index
        Image.fromarray(grey).save(noise / f"{index}.png")
    with pytest.raises(InputError, match="detects nothing in these 8 images"):
        advise(options_for(noise, tmp_path / "f"))
    (tmp_path / "g").mkdir()
    (tmp_path / "g/advise.json").write_text("[1]")
    with pytest.raises(InputError, match="is no work of `advise`"):
        advise(options_for(images, tmp_path / "g"))


def test_the_command(images: Path, tmp_path: Path, trials: Trials) -> None:
    from onnxslim_yolo.cli.main import app

    words = ["advise", str(MODEL), "--calib", str(images), "--target-latency", "0.7x", "--for", "x86-avx2"]
    shown = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "out")], env={"COLUMNS": "200"})
    assert shown.exit_code == 0 and "meets it" in shown.stdout and "onnxslim-yolo compile" in shown.stdout
    assert json.loads((tmp_path / "out/advise.json").read_text())["rows"][0]["lever"] == "pruned"
    missing = CliRunner().invoke(app, ["advise", str(MODEL)])
    assert isinstance(missing.exception, UsageError) and "--calib" in str(missing.exception)


def test_threads_choose_the_table_and_are_timed_with(
    images: Path, tmp_path: Path, trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (
        options_for(images, tmp_path / str(n), measure=n > 1, run_on="python", compile={"threads": n}) for n in (1, 2)
    )
    timed = []

    def benchmark(files: Sequence[Path], names: list[str], threads: int, run_on: str) -> SimpleNamespace:
        timed.append(threads)
        return SimpleNamespace(models=[SimpleNamespace(ratio=0.7, ms=7.0)] * len(files))

    monkeypatch.setattr("onnxslim_yolo.measure.benchmark.benchmark", benchmark)
    found = advise(two)
    assert set(timed) == {2} and "2 thread(s)" in found.facts["table"]
    assert found.best is not None and "--threads 2" in found.best["command"]
    plain = advise(one)
    assert "1 thread(s)" in plain.facts["table"]
    assert plain.best is not None and "--threads" not in plain.best["command"]
    assert plain.rows[0]["key"] != found.rows[0]["key"]


def test_threads_that_cannot_be_timed_are_refused_before_anything_is_tried(images: Path, tmp_path: Path) -> None:
    here = {"device": "host", "target": "onnxruntime", "threads": 300}
    with pytest.raises(UsageError, match=r"300 threads on .* would measure the scheduler"):
        advise(options_for(images, tmp_path / "out", compile=here))
    with pytest.raises(UsageError, match="--threads 0 is not in"):
        advise(options_for(images, tmp_path / "out", compile=here | {"threads": 0}))
    assert not (tmp_path / "out").exists()


def test_no_name_breaks_out_of_the_picture() -> None:
    evil = "</script><img src=x>"
    kept = {"kept": 1, "objects": 2, "false_alarms": 0}
    row = {"lever": evil, "left": 0.5, "gain": 0.5, "kept": kept, "bytes": 1, "command": evil, "meets": True}
    facts = {"data": None, "images": 1, "notes": [evil], "runtime": "ncnn", "training": evil, "reference": [64, 64]}
    page = render_advice(Advice(evil, "0.7x", ranked([row, {"lever": evil, "error": evil, "meets": False}]), facts))
    assert "<img src" not in page


def test_a_real_trial(images: Path, tmp_path: Path) -> None:
    """One lever compiled, judged on images that it was not fitted to; a ruined network is seen to keep less."""
    work = module._Work(options_for(images, tmp_path / "out"), lambda stage: None)
    same = work.row(Lever("same", {}), required=True)
    assert same["left"] == pytest.approx(1, abs=0.1) and same["kept"]["kept"] == same["kept"]["objects"] > 20
    assert same["kept"]["images"] == 8 and same["kept"]["false_alarms"] == 0
    ruined = work.row(Lever("cut", {"prune": 0.4}))  # by weights alone
    assert ruined["kept"]["kept"] < 0.8 * ruined["kept"]["objects"]
