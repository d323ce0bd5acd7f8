import math

import pytest

from onnxslim_yolo.report.command import command_of
from onnxslim_yolo.report.wording import (
    bytes_text,
    change_text,
    compensation_texts,
    control_text,
    count_text,
    figures,
    loss_text,
    prediction_text,
    printable,
    pruning_text,
    ratio_text,
    size_of_result,
    small_text,
    time_text,
    unseen_text,
    verdict_of_all,
    verdicts,
)
from tests.report.sample import sample


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (999, "999"), (999.6, "1.00 k"), (1328, "1.33 k"), (919041, "919 k"), (999_999, "1.00 M"),
     (13_840_128, "13.8 M"), (4.4e9, "4.40 G"), (0.5, "0.500")],
)  # fmt: skip
def test_counts_have_three_digits(value, text):
    assert count_text(value) == text


def test_sizes_and_ratios():
    assert bytes_text(258) == "258 B"
    assert bytes_text(3_759_486) == "3.76 MB"
    assert ratio_text(1, 4) == "0.25×"
    assert ratio_text(1, 0) == "–"
    assert ratio_text(None, 1) == "–"
    assert change_text(200, 100) == "−50.0 %"
    assert change_text(100, 110) == "+10.0 %"
    assert change_text(5, 5) == "±0"
    assert change_text(None, 5) == "–"
    assert change_text(0, 5) == "new"


def test_differences():
    assert [small_text(v) for v in (0, 2.08e-6, 0.0149, 14.6, math.inf, math.nan, None)] == [
        "0", "2.1e-06", "0.015", "15", "∞", "NaN", "∞",
    ]  # fmt: skip


def test_names_cannot_steer_a_terminal():
    assert printable("a\x1b[31mb\n\u202ec γ") == "a\\x1b[31mb\\n\\u202ec γ"
    assert printable("\ud800") == "\\ud800"


def test_verdicts_tell_required_from_reported():
    report = sample()
    assert [(v.word, v.tolerance) for v in verdicts(report)] == [("PASS", 1e-3), ("info", None)]
    assert verdict_of_all(report) == "PASS"
    report["verification"]["checks"][1]["tolerance"] = math.inf  # as an older file has it
    assert [v.word for v in verdicts(report)] == ["PASS", "info"]
    report["verification"]["control"]["noticed"] = False
    assert verdict_of_all(report) == "BLIND"
    report["verification"]["checks"][0] |= {"passed": False, "worst": 0.5}
    assert verdict_of_all(report) == "FAIL"
    assert verdict_of_all(sample(verification=None)) == "NOT VERIFIED"


def test_control_and_loss():
    report = sample()
    assert control_text(report) == "spoiling /model.0/conv/Conv by 1 % shows 2.0e-03, 1000 times the worst above"
    assert "0.7 of its output's spread" in (loss_text(report) or "")
    report["verification"]["control"]["noticed"] = False
    assert "proves little" in control_text(report)
    assert loss_text(sample(verification=None)) is None


def test_pruning_and_result():
    report = sample()
    assert pruning_text(report) == "90 of 200 prunable channels removed (45 %), by |γ|, threshold 0.25"
    assert "without effect" in pruning_text(sample(pruning=report["pruning"] | {"lossless": True}))
    dead = sample(pruning=report["pruning"] | {"lossless": True, "removed": 0, "dead": 0})
    assert pruning_text(dead) == "none of 200 prunable channels is dead"
    unasked = sample(pruning=report["pruning"] | {"lossless": True, "removed": 0, "dead": None})
    assert pruning_text(unasked) == "none of 200 prunable channels removed"
    kept = sample(pruning=report["pruning"] | {"lossless": True, "removed": 0, "dead": 3})
    assert pruning_text(kept).startswith("3 of 200 prunable channels are dead, and stay")
    part = sample(pruning=report["pruning"] | {"lossless": True, "removed": 8, "dead": 11})
    assert pruning_text(part).endswith("; 3 more are dead and fill up widths")
    assert pruning_text(sample(pruning=report["pruning"] | {"prunable": 0, "removed": 0})) == "no channel can be pruned"
    assert pruning_text(sample(pruning=None)) == "no channels were ranked"
    exact = sample(pruning=report["pruning"] | {"gone": ["a", "b"], "blocks": 0})
    assert pruning_text(exact).startswith("2 layers gone whole, without effect on the output; 90 of")
    for_limit = sample(pruning=report["pruning"] | {"gone": ["a", "b"], "blocks": 1})
    assert pruning_text(for_limit).startswith("2 layers gone whole; 90 of")
    assert size_of_result(report) == 1_000_000
    assert size_of_result(sample(files={"a/model.ncnn.bin": 5, "a/model.ncnn.param": 2, "a/metadata.yaml": 9})) == 7
    assert size_of_result(sample(files={})) is None


def test_figures_say_when_they_compare_two_kinds_of_file():
    report = sample()
    assert [f.title for f in figures(report)] == ["File size", "Parameters", "MACs", "Latency, ncnn", "mAP50"]
    report["source"]["file"] = "best.pt"
    assert figures(report)[0].title == "File, .pt → .onnx"
    assert figures(sample(files={}))[0].texts() == ("4.00 MB", "–", "–")


@pytest.mark.parametrize(
    ("table", "title", "says"),
    [
        ("ncnn 1.0, a Pi: instruction model, ±7 % on ncnn's published networks", "instruction model", "counted"),
        ("ncnn, neon: analytic estimate", "analytic estimate", "packing rules"),
    ],
)
def test_what_was_not_measured_is_not_called_so(table, title, says):
    report = sample(speed=None)
    for side in ("before", "after"):
        report[side]["table"] = table
    assert figures(report)[3].title == f"Latency, {title}"
    text = prediction_text(report) or ""
    assert text.startswith("0.40×, 1.30 ms → 520 µs") and says in text and "nothing was timed" in text
    assert "measured" not in text and "--measure" not in text


def test_predicted_latency_is_shown_where_none_was_measured():
    report = sample(speed=None)
    assert figures(report)[3].title == "Latency, predicted"
    assert figures(report)[3].texts() == ("1.30 ms", "520 µs", "0.40×")
    assert "by ncnn 1.0, a CPU" in (prediction_text(report) or "")
    report["after"]["latency_us"] = None
    assert prediction_text(report) is None and "Latency, predicted" not in [f.title for f in figures(report)]
    assert [time_text(us) for us in (0, 0.5, 12.345, 999.4, 1234.5)] == [
        "0 µs",
        "0.500 µs",
        "12.3 µs",
        "999 µs",
        "1.23 ms",
    ]


def test_compensation_says_so_where_it_makes_things_worse():
    report = sample()
    assert compensation_texts(report) == [
        "absorb: mean difference from the source 0.1 instead of 0.4 on 1 synthetic image"
    ]
    report["compensation"][0] |= {"compensated": 0.5, "measure": "head error", "images": 16, "kind": "held-out"}
    assert compensation_texts(report) == [
        "absorb: head error 0.5 instead of 0.4 on 16 held-out images; it makes things WORSE here"
    ]
    assert compensation_texts(sample(compensation=None)) == []


def test_a_measured_ratio_is_shown_as_measured():
    report = sample(speed=sample()["speed"] | {"ratio": 0.7})
    assert figures(report)[3].texts() == ("12.00 ms", "8.00 ms", "0.70×")


def test_command_is_what_a_shell_takes():
    assert command_of(sample()) == (
        "onnxslim-yolo compile best.onnx -o 'my out' --prune 0.5 --keep model.0 --keep 'a b' --emit onnx --no-verify"
    )
    options = {"imgsz": [320, 640], "target_macs": 0.7, "normalise": True, "trust": False, "verify_each": True}
    assert command_of(sample(options=options)) == (
        "onnxslim-yolo compile best.onnx --imgsz 320,640 --target-macs 0.7x --normalise --verify-each"
    )


def test_command_names_options_that_exist():
    """Every field of the options has a flag that the command line knows."""
    from dataclasses import fields

    import typer

    from onnxslim_yolo.cli.main import app
    from onnxslim_yolo.options import CompileOptions

    group = typer.main.get_command(app)
    command = group.commands["compile"]  # type: ignore[attr-defined]
    known = {flag for parameter in command.params for flag in parameter.opts}
    for field in fields(CompileOptions):
        flag = command_of(sample(options={field.name: field.name != "verify"})).split()[3]
        if field.name != "aggregate":  # spelt in a pipeline only
            assert flag in known, field.name


def test_what_the_comparisons_cannot_see_is_one_sentence():
    report = sample()
    assert unseen_text(report) is None
    output = {"output": "output0", "blind": ["w"], "dim": [], "silent": [f"class {k}" for k in range(9)]}
    report["verification"]["checks"][0]["outputs"] = [output]
    again = [output, {"output": "b", "blind": ["h"]}]
    report["verification"]["checks"].append({**report["verification"]["checks"][0], "outputs": again})
    text = unseen_text(report)
    assert text.startswith("no input moves: output0 w, b h; no input raises above a detection's score: output0 cl")
    assert text.endswith("and 3 more")
    report["verification"] = None
    assert unseen_text(report) is None


@pytest.mark.parametrize("where", ["terminal", "html", "markdown"])
def test_every_report_says_it(where):
    from rich.console import Console

    from onnxslim_yolo.report.html import render_html
    from onnxslim_yolo.report.markdown import markdown_summary
    from onnxslim_yolo.report.terminal import show_report

    report = sample()
    report["verification"]["checks"][0]["outputs"] = [{"output": "output0", "silent": ["class 7"]}]
    console = Console(record=True, width=200)
    show_report(report, console)
    text = {"terminal": console.export_text, "html": lambda: render_html(report)}
    said = text.get(where, lambda: markdown_summary(report))()
    assert "ot seen" in said and "output0 class 7" in said
