import io
import os

import pytest
from rich.console import Console

from onnxslim_yolo.report.terminal import MOST, show_report
from tests.report.sample import hostile, sample


def shown(report, *, verbose=False, width=80, encoding="utf-8", terminal=False, timings=None):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    show_report(report, Console(file=stream, width=width, force_terminal=terminal), verbose=verbose, timings=timings)
    stream.flush()
    return raw.getvalue().decode(encoding)


def test_tells_what_changed_at_80_columns():
    text = shown(sample())
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b" not in text
    for part in (
        "best.onnx → best.onnx, best_ncnn_model",
        "4.00 MB  1.00 MB  0.25×",
        "Latency, ncnn  12.00 ms  8.00 ms  0.67×",
        "speed         0.67 of the source's latency in ncnn (quartiles 0.66 to 0.68;",
        "compensation  absorb: mean difference from the source 0.1 instead of 0.4",
        "90 of 200 prunable channels removed (45 %)",
        "PASS  masked source = best.onnx (onnxruntime)",
        "2.0e-06  1.0e-03",
        "control  spoiling /model.0/conv/Conv by 1 %",
        "model.1.cv1.conv +1",
        "2 of 4 groups as they were (-v shows all)",
        "reaches the output 'output0'",
        "note  ranked by weight norms",
        "best_ncnn_model/model.ncnn.bin   500 kB",
    ):
        assert part in text, text
    assert "prune{ratio=0.5}" not in text


def test_verbose_shows_passes_and_every_group():
    text = shown(sample(), verbose=True, timings={"seconds": 2.5, "passes": [0.01, 0.001]})
    assert "prune{ratio=0.5}        90     40  10.0" in text and "2.5 s" in text
    assert "model.0.conv" in text
    assert "-v shows" not in text


def test_long_lists_are_cut_to_the_largest():
    groups = [
        {"id": i, "width": 100, "wanted": 9, "kept": 99 - i, "members": [f"g{i:02}"], "frozen": None} for i in range(40)
    ]
    report = sample(groups=groups, notes=[f"n{i}" for i in range(30)])
    text = shown(report)
    assert "g39" in text
    assert "g00" not in text
    assert f"{40 - MOST} more groups changed" in text
    assert f"{30 - MOST} more notes" in text
    everything = shown(report, verbose=True)
    assert "g00" in everything
    assert "n29" in everything


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"verification": None}, "NOT VERIFIED"),
        ({"pruning": None, "groups": [], "frozen": []}, "no channels were ranked"),
        ({"files": {}, "notes": []}, "nothing written"),
    ],
)
def test_shows_what_there_is(changes, part):
    assert part in shown(sample(**changes))


def test_failure_is_called_so():
    report = sample()
    report["verification"]["checks"][0] |= {"passed": False, "worst": 0.5}
    assert "FAIL  masked source" in shown(report)


def test_names_neither_steer_the_terminal_nor_read_as_markup():
    text = shown(hostile(), verbose=True)
    assert "\x1b" not in text
    assert "\u202e" not in text
    report = sample(notes=["[bold]not markup[/bold] [link=x]y[/]"])
    assert "[bold]not markup[/bold] [link=x]y[/]" in shown(report)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_prints_on_consoles_that_lack_characters(encoding):
    text = shown(sample(), encoding=encoding)
    assert "best.onnx -> best.onnx" in text
    assert "ranked by weight norms instead of gamma" in text


@pytest.mark.skipif("NO_COLOR" in os.environ, reason="NO_COLOR is set")
def test_colours_on_a_terminal_only(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1;32mPASS" in shown(sample(), terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;32m" not in shown(sample(), terminal=True)
