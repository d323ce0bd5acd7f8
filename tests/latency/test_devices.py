"""Machines by name, and what follows from a name."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import pytest

import onnxslim_yolo as oy
from onnxslim_yolo.errors import UsageError
from onnxslim_yolo.latency import devices
from onnxslim_yolo.latency.devices import DEVICES, NAMES, SHOWN, device_of, host_isa
from onnxslim_yolo.latency.layers import Family
from onnxslim_yolo.latency.methods import ANALYTIC, INSTRUCTIONS
from onnxslim_yolo.latency.packing import blocks_of
from onnxslim_yolo.latency.shipped import table_for
from onnxslim_yolo.latency.table_format import read_table, write_table
from onnxslim_yolo.options import options_from
from onnxslim_yolo.passes.snap import SnapWidths
from onnxslim_yolo.runtime.boards import board_of
from onnxslim_yolo.runtime.processor import arm_bits
from tests.command import command
from tests.numeric import build
from tests.passes.test_snap import kept, planned


def test_every_name_is_a_device_with_a_grid() -> None:
    assert set(NAMES) == {*DEVICES, "host"} and set(SHOWN.split("|")) <= set(NAMES)
    for name in NAMES:
        device = device_of(name)
        assert device.grid >= 4 and device.half == (device.isa == "neon-fp16")
        assert device.isa is not None or (device.note and device.source)
        assert table_for("ncnn", name).predict_layers([]) == 0
    with pytest.raises(UsageError, match="no device 'pi6'"):
        device_of("pi6")


@pytest.mark.parametrize(("name", "dearer"), [("pi5", True), ("pi4", False), ("pi4-bf16", False), ("pi5-bf16", False)])
def test_a_pi_is_judged_by_counted_instructions(name: str, dearer: bool, tmp_path: Path) -> None:
    table = table_for("ncnn", name)
    assert table.families and INSTRUCTIONS in table.name and ANALYTIC not in table.name
    assert read_table(write_table(table, tmp_path / "again.json")) == table
    conv = Family("conv", kernel=(3, 3), stride=(2, 2), size=(20, 20))
    # 4 channels beyond a multiple of 8 cost more than the next multiple where registers hold 8, less where they hold 4.
    assert (table.lookup(conv, (28,), (28,)) > table.lookup(conv, (32,), (32,))) is dearer
    assert ANALYTIC in table_for("onnxruntime", name).name  # nothing was counted there


BOARDS = json.loads((Path(__file__).parents[2] / "bench" / "results" / "arm_boards.json").read_text())


@pytest.mark.parametrize("name", [name for name, device in DEVICES.items() if device.like is not None])
def test_a_board_like_a_pi_is_judged_by_its_table_at_its_own_speed(name: str) -> None:
    like, found = DEVICES[name].like, BOARDS[name]
    assert like is not None and (like.of, like.factor) == (found["of"], pytest.approx(found["factor"], abs=5e-4))
    assert like.error == pytest.approx(found["median error"], abs=1e-3)
    table, pi = table_for("ncnn", name), table_for("ncnn", like.of)
    assert device_of(like.of).title in table.name and f"±{100 * like.error:.0f} %" in table.name
    assert INSTRUCTIONS in table.name and ANALYTIC not in table.name and table.families == pi.families
    for width in (24, 28):
        layer = Family("conv", size=(20, 20)), (width,), (width,)
        assert table.lookup(*layer) == pytest.approx(like.factor * pi.lookup(*layer))
    assert table_for("onnxruntime", name).name.endswith(ANALYTIC)  # nothing was counted there


def test_an_instruction_set_is_taken_for_no_board() -> None:
    assert all(ANALYTIC in table_for("ncnn", name).name for name in ("neon-fp16", "neon"))


@pytest.mark.parametrize(
    ("name", "width"),
    [("pi5", 24), ("pi4", 20), ("rk3588", 24), ("hexagon", 32), ("ascend", 16), ("artpec8", 18), ("tinpu", 20)],
)
def test_a_name_decides_the_grid(name: str, width: int) -> None:
    model, _ = planned(64, 21 if name not in ("hexagon", "artpec8") else 30 if name == "hexagon" else 19)
    SnapWidths(to="auto", isa=name).run(model)  # type: ignore[arg-type]
    assert kept(model) == width


@pytest.mark.parametrize(
    ("machine", "hwcap", "isa"),
    [
        ("aarch64", 1 << 10, "neon-fp16"),
        ("aarch64", 0xFF, "neon"),
        ("armv7l", 0, "neon"),
        ("arm64", 1 << 10, "neon-fp16"),
    ],
)
def test_host_reads_what_the_processor_has(monkeypatch: pytest.MonkeyPatch, machine: str, hwcap: int, isa: str) -> None:
    class Library:
        @staticmethod
        def __call__(_: object) -> object:
            def getauxval(kind: int) -> int:
                assert kind == 16
                return hwcap

            return type("C", (), {"getauxval": staticmethod(getauxval)})

    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(devices.ctypes, "CDLL", Library())
    assert host_isa() == isa


@pytest.mark.parametrize(
    ("machine", "bits"), [("aarch64", 64), ("ARM64", 64), ("armv7l", 32), ("armv8l", 32), ("x86_64", 0), ("", 0)]
)
def test_a_machines_name_tells_arm_in_one_way(monkeypatch: pytest.MonkeyPatch, machine: str, bits: int) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    facts = {"machine": machine, "python": "3.11", "byteorder": sys.byteorder, "numpy": "2", "ncnn": "1", "half": False}
    assert arm_bits() == arm_bits(machine) == bits
    assert board_of(facts).isa.startswith("neon") == host_isa().startswith("neon") == bool(bits)


def test_host_asks_the_system_where_the_library_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: object) -> object:
        raise OSError

    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(devices.ctypes, "CDLL", none)
    for words, isa in (({"fp", "asimdhp"}, "neon-fp16"), ({"fp", "asimd"}, "neon")):
        monkeypatch.setattr(devices.processor, "flags", lambda words=words: words)
        assert host_isa() == isa


def test_onnxruntime_interleaves_nothing_on_arm() -> None:
    assert [blocks_of("onnxruntime", name) for name in ("pi5", "pi4", "x86-avx512", "avx2")] == [1, 1, 16, 8]
    assert [blocks_of("ncnn", name) for name in ("pi5", "pi4", "x86-avx512", "avx2")] == [8, 4, 16, 8]


def test_isa_is_another_word_for_device() -> None:
    assert options_from({"isa": "neon"}).device == "neon"
    with pytest.raises(UsageError, match="not both"):
        options_from({"isa": "neon", "device": "pi4"})
    for options in ({"device": "pi6"}, {"device": "hexagon", "target_latency": "0.5x"}):
        with pytest.raises(UsageError):
            options_from(options)


def test_a_found_file_names_the_device_and_never_the_launcher(tmp_path: Path) -> None:
    config = tmp_path / "onnxslim-yolo.toml"
    config.write_text('isa = "pi4"\n')
    done = command("compile", "m.onnx", "--print-config", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["options"]["for"] == "pi4"
    config.write_text('for = "pi5"\nrun-on = "sh -c \'touch owned\'"\n')
    done = command("compile", "m.onnx", cwd=tmp_path)
    assert done.returncode == 2 and "'run-on' cannot be set" in done.stderr and not (tmp_path / "owned").exists()


def test_run_on_needs_a_pair() -> None:
    with pytest.raises(UsageError, match="--emit names none"):
        options_from({"run_on": "python -", "emit": ("onnx",)})
    assert oy.__version__


def test_an_accelerator_is_said_to_be_a_grid_and_nothing_else(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,3,32,32] x) => (float[1,4,16,16] y)
    <float[64,3,3,3] w, float[4,64,1,1] v>
    { a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w) b = Relu(a) y = Conv(b, v) }"""
    file = build(text).save(tmp_path / "m.onnx")
    options = {"prune": 0.6, "emit": "onnx", "verify": False}
    for name, noted, width in (("hexagon", True, 32), ("pi5", False, None)):
        found = oy.compile(file, out=tmp_path / name, device=name, **options)
        assert any("multiples of 32" in note for note in found.report["notes"]) == noted
        assert width is None or [g["kept"] for g in found.report["groups"] if g["width"] == 64] == [width]
