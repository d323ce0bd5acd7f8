from __future__ import annotations

import json
from dataclasses import replace

import pytest

from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.latency import (
    Family,
    Grid,
    LatencyTable,
    LayerKey,
    devices,
    layers_of,
    shipped,
    shipped_tables,
    table_for,
)
from onnxslim_yolo.latency.table import NOISY
from onnxslim_yolo.latency.table_format import read_table, table_as_text, write_table
from onnxslim_yolo.measure.profile import families_of, measure_families
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.pipeline import remainder
from tests.latency.models import cost, formula, small

CONV = Family("conv", kernel=(3, 3), size=(40, 40))
POOL = Family("maxpool", kernel=(5, 5), size=(20, 20))


def made_up(runtime="ncnn", most=64) -> LatencyTable:
    grids = measure_families({CONV: (most, most), POOL: (most, most)}, runtime, 16, formula(runtime))
    return LatencyTable(runtime, "avx512", 1, "1.0", "made up", grids)


def conv(cin: int, cout: int, family: Family = CONV) -> LayerKey:
    return LayerKey(family, (cin,), (cout,))


def test_round_trip(tmp_path):
    table = made_up()
    path = write_table(table, tmp_path / "table.json")
    again = read_table(path)
    assert table_as_text(again) == path.read_text()
    assert (again.runtime, again.isa, again.threads, again.cpu) == ("ncnn", "avx512", 1, "made up")
    for widths in ((16, 16), (13, 40), (57, 28)):
        assert again.predict(conv(*widths)) == pytest.approx(table.predict(conv(*widths)), rel=1e-3)


def test_measured_points_are_returned_as_measured():
    table = made_up()
    for (cin, cout), us in table.families[CONV].us.items():
        assert table.predict(conv(cin, cout)) == pytest.approx(us, rel=1e-9)


@pytest.mark.parametrize("widths", [(48, 48), (40, 24), (20, 52), (57, 13), (51, 32), (33, 55)])
def test_what_is_bilinear_within_a_class_is_interpolated_exactly(widths):
    assert made_up().predict(conv(*widths)) == pytest.approx(cost(conv(*widths)), rel=1e-9)


def test_interpolating_across_classes_would_be_seen():
    """The control: the formula's jump between classes is far above the tolerance of the test before."""
    assert cost(conv(57, 57)) / cost(conv(56, 56)) > 1.5


@pytest.mark.parametrize("runtime", ["ncnn", "onnxruntime"])
@pytest.mark.parametrize("pack", [16, 4, 1])
def test_wider_is_never_faster_within_a_class(runtime, pack):
    table = made_up(runtime)
    widths = {16: range(16, 200, 16), 4: range(4, 200, 16), 1: range(3, 200, 16)}[pack]
    times = [table.predict(conv(c, c)) for c in widths]
    assert times == sorted(times)


def test_beyond_the_table_latency_goes_on_growing():
    table = made_up()
    inside, outside = table.predict(conv(64, 64)), table.predict(conv(128, 128))
    assert 3 < outside / inside < 5


def test_between_measured_sizes():
    large = Family("conv", kernel=(3, 3), size=(80, 80))
    grids = measure_families({CONV: (32, 32), large: (32, 32)}, "ncnn", 16, formula("ncnn"))
    table = LatencyTable("ncnn", "avx512", families=grids)
    between = Family("conv", kernel=(3, 3), size=(52, 52))
    times = [table.predict(conv(32, 32, family)) for family in (CONV, between, large)]
    assert times == sorted(times)
    assert times[1] == pytest.approx(cost(conv(32, 32, between)), rel=0.1)


def test_a_concat_of_unlike_parts_is_as_slow_as_its_worst_part():
    family = Family("concat", size=(20, 20))
    grids = measure_families({family: (64, 128)}, "ncnn", 16, formula("ncnn"))
    table = LatencyTable("ncnn", "avx512", families=grids)
    even = table.predict(LayerKey(family, (32, 32), (64,)))
    odd = table.predict(LayerKey(family, (31, 33), (64,)))
    assert odd > 1.5 * even


def test_families_never_measured_are_estimated():
    table = made_up()
    assert table.predict(LayerKey(Family("depthwise", kernel=(3, 3), size=(40, 40)), (64,), (64,))) > 0
    assert table.predict(conv(32, 32, Family("conv", kernel=(7, 7), size=(40, 40)))) > table.predict(conv(32, 32))


def test_a_removed_layer_costs_nothing():
    assert made_up().predict(LayerKey(CONV, (0,), (16,))) == 0


def test_a_graph_is_the_sum_of_its_layers():
    graph = small().graph
    table = LatencyTable("ncnn", "avx512", families=measure_families(families_of([graph]), "ncnn", 16, formula("ncnn")))
    assert table.predict_graph(graph) == pytest.approx(sum(table.predict(key) for key in layers_of(graph)))
    assert table.predict_graph(graph) == pytest.approx(sum(cost(key) for key in layers_of(graph)), rel=0.2)


def test_scale_multiplies_everything():
    table = made_up()
    scaled = LatencyTable(table.runtime, table.isa, families=table.families, scale=1.5)
    assert scaled.predict(conv(20, 20)) == pytest.approx(1.5 * table.predict(conv(20, 20)))


def test_overhead_is_paid_per_layer_that_is_there():
    table = made_up()
    slow = LatencyTable(table.runtime, table.isa, families=table.families, overhead=3.0)
    assert slow.predict(conv(20, 20)) == pytest.approx(table.predict(conv(20, 20)) + 3.0)
    assert slow.predict(LayerKey(CONV, (0,), (16,))) == 0


def test_onnxruntime_converts_layouts_around_ragged_concats():
    table = LatencyTable.analytic("onnxruntime", "avx512")
    family = Family("concat", size=(80, 80))
    even = table.predict(LayerKey(family, (32, 32), (64,)))
    ragged = table.predict(LayerKey(family, (28, 36), (64,)))
    assert ragged > 2 * even


MALFORMED = {
    "format": ("format", "something"),
    "version": ("version", 2),
    "runtime": ("runtime", "tflite"),
    "isa": ("isa", "sse"),
    "threads": ("threads", 0),
    "scale": ("scale", 0),
    "overhead": ("overhead", -1),
    "families": ("families", {}),
}


@pytest.mark.parametrize("key", MALFORMED)
def test_malformed_heads_are_refused(tmp_path, key):
    data = json.loads(table_as_text(made_up()))
    data[MALFORMED[key][0]] = MALFORMED[key][1]
    (tmp_path / "t.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=MALFORMED[key][0]):
        read_table(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", 3), ("op", None), ("kernel", [3]), ("kernel", [0, 3]), ("size", "40x40"), ("groups", 0), ("in", []),
        ("in", [16, 8]), ("in", [8.0, 16]), ("out", None), ("us", []), ("us", [[1.0]]), ("us", 7),
    ],
)  # fmt: skip
def test_malformed_families_are_refused(tmp_path, key, value):
    data = json.loads(table_as_text(made_up()))
    data["families"][0][key] = value
    (tmp_path / "t.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"families\[0\]"):
        read_table(tmp_path / "t.json")


@pytest.mark.parametrize("value", ["1", True, -1, [], {}])
def test_malformed_times_are_refused(tmp_path, value):
    data = json.loads(table_as_text(made_up()))
    data["families"][0]["us"][0][0] = value
    (tmp_path / "t.json").write_text(json.dumps(data))
    with pytest.raises(InputError):
        read_table(tmp_path / "t.json")


def test_a_family_twice_or_without_times_is_refused(tmp_path):
    data = json.loads(table_as_text(made_up()))
    for families in (
        [data["families"][0]] * 2,
        [{**data["families"][1], "us": [None] * len(data["families"][1]["us"])}],
    ):
        (tmp_path / "t.json").write_text(json.dumps({**data, "families": families}))
        with pytest.raises(InputError):
            read_table(tmp_path / "t.json")


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b"\xff\xfe", b"[" * 100000, b'{"format": NaN}'])
def test_what_is_no_table_is_refused(tmp_path, content):
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(InputError):
        read_table(tmp_path / "t.json")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.json")


def test_lookup_of_tables(tmp_path):
    path = write_table(made_up(), tmp_path / "t.json")
    assert table_for("ncnn", path=path).cpu == "made up"
    with pytest.raises(UsageError, match="measured in ncnn"):
        table_for("onnxruntime", path=path)
    assert table_for("ncnn", "neon").families == {}
    with pytest.raises(UsageError, match="no device"):
        _ = table_for("ncnn", "sse").lanes


def test_a_table_of_more_threads_is_read_where_there_are_as_many(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "DATA", tmp_path)
    shipped._shipped.cache_clear()
    for threads in (1, 2, 4):
        write_table(replace(made_up(), threads=threads), shipped.table_file("ncnn", "neon", threads))
    write_table(replace(made_up(), threads=9), tmp_path / "ncnn-neon-fp16.json")  # another machine's
    try:
        found = [table_for("ncnn", "neon", threads=threads).threads for threads in (1, 2, 3, 4, 16)]
        assert found == [1, 2, 2, 4, 4]
        assert table_for("ncnn", "neon").threads == 1
    finally:
        shipped._shipped.cache_clear()


def test_a_table_of_an_instruction_set_is_its_machines_and_this_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "DATA", tmp_path)
    shipped._shipped.cache_clear()
    write_table(replace(made_up(), isa="avx2"), shipped.table_file("ncnn", "avx2"))
    try:
        assert {bool(table_for("ncnn", name).families) for name in ("avx2", "x86-avx2")} == {True}
        for isa in ("avx2", "avx512"):  # what this machine is decides, not its name
            monkeypatch.setattr(devices, "host_isa", lambda isa=isa: isa)
            shipped._shipped.cache_clear()
            assert bool(table_for("ncnn").families) == (isa == "avx2")
    finally:
        shipped._shipped.cache_clear()


def test_passes_are_told_the_threads():
    options = CompileOptions(threads=2, prune=0.5, quantize="int8", calib="images")
    steps = remainder(options, small())
    judged = [step for step in steps if hasattr(step, "table")]
    assert {step.name for step in judged} == {"drop-blocks", "snap", "conv-before-resize", "quantise"}
    assert {step.threads for step in judged} == {2}
    with pytest.raises(UsageError, match="--threads 0"):
        CompileOptions(threads=0)


def test_shipped_tables_load_and_know_the_cliffs():
    names = {path.name for path in shipped_tables()}
    assert {"ncnn-avx512.json", "onnxruntime-avx512.json"} <= names
    for runtime in ("ncnn", "onnxruntime"):
        table = table_for(runtime, "avx512")
        assert table.families
        assert table.predict(conv(57, 57)) > table.predict(conv(48, 48))
        wide = Family("conv", kernel=(3, 3), size=(160, 160))
        assert table.predict(conv(31, 31, wide)) > table.predict(conv(32, 32, wide))


def test_every_shipped_table_is_named_for_what_it_holds():
    assert len(shipped_tables()) >= 6
    for path in shipped_tables():
        table = read_table(path)
        owners = [name for name in devices.DEVICES if devices.DEVICES[name].isa == table.isa]
        files = [shipped.table_file(table.runtime, name, table.threads) for name in owners]
        assert path in files, path
        assert table.noise is None or table.noise <= NOISY, path


def test_grids_hold_only_finite_widths():
    grid = made_up().families[POOL]
    assert isinstance(grid, Grid)
    assert grid.outs == ()
    assert set(grid.us) == {(c,) for c in grid.ins}
