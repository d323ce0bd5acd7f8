"""The headline: the worst of the verdicts in words, and the exit status."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from onnxslim_yolo.report.budget import Budget, Limit, budget_as_json
from onnxslim_yolo.report.diff import diff_reports, markdown_diff, markdown_summary
from onnxslim_yolo.report.html import render_html
from onnxslim_yolo.report.terminal import show_report
from onnxslim_yolo.report.verdict import verdict_of
from onnxslim_yolo.report.wording import figures
from tests.report.sample import sample


def judged(state: str = "alive", *, budget: Budget | None = None, accuracy: Any = None, **options: bool) -> Any:
    report = sample(accuracy=accuracy)
    report["budget"] = budget_as_json(budget or Budget(), report)
    alive = {"state": state, "why": "0 of 31 detections kept", "images": 6}
    chosen = {"will_train": False, "sparse": True, "images": False} | options
    report["verdict"], report["exit"] = verdict_of(report, alive, **chosen)
    return report


def measured(before: float, after: float) -> dict[str, Any]:
    return {"data": "d", "images": 9, "models": {"source": {"map50": before, "map": 0.1}}, "map50_drop": before - after}


@pytest.mark.parametrize(
    ("report", "word", "status"),
    [
        (judged("alive"), "PASS", 0),
        (judged("weakened"), "WEAKENED", 0),
        (judged("not judged"), "PASS", 0),
        (judged("needs training"), "PRUNED, NEEDS TRAINING", 5),
        (judged("needs training", will_train=True), "PRUNED, NEEDS TRAINING", 0),
        (judged("needs training", budget=Budget(params=Limit(10))), "OVER BUDGET", 4),
        (judged("alive", budget=Budget(params=Limit(10))), "OVER BUDGET", 4),
        (judged("alive", accuracy=measured(0.5, 0.2)), "PRUNED, NEEDS TRAINING", 5),
        (judged("needs training", accuracy=measured(0.5, 0.46)), "PASS", 0),
        (judged("needs training", accuracy=measured(0.5, 0.3)), "WEAKENED", 0),
    ],
)
def test_the_worst_is_the_headline(report: Any, word: str, status: int) -> None:
    assert (report["verdict"]["word"], report["exit"]) == (word, status)
    console = Console(file=StringIO(), width=400)
    show_report(report, console)
    said = report["verdict"]["text"]
    for text in (console.file.getvalue(), markdown_summary(report), markdown_diff(diff_reports(sample(), report))):  # type: ignore[attr-defined]
        assert text.index(word.split(",", maxsplit=1)[0]) < text.index(said[:20].replace("_", "\\_"))
        assert word == "PASS" or "PASS" not in text[: text.index(said[:20])]
    page = render_html(report)
    assert page.index(f">{word}<") < page.index("Is it still the same detector?")


def test_what_only_int8_has_ruined_was_not_pruned() -> None:
    found = {}
    for weights in (100, 60):
        report = sample(accuracy=None) | {"int8": {"layers": []}, "budget": {"broken": []}}
        report["before"]["layers"], report["after"]["layers"] = ([{"parameters": n}] for n in (100, weights))
        report["before"]["macs"], report["after"]["macs"] = 100, 90  # a convolution was moved to fewer pixels
        alive = {"state": "needs training", "why": "0 of 31 detections kept", "images": 6}
        found[weights], status = verdict_of(report, alive, will_train=False, sparse=True, images=True)
        assert status == 5 and "--calib images like those" in found[weights]["advice"][0]
    assert found[100]["word"] == "INT8, NO LONGER DETECTS" and len(found[100]["advice"]) == 1
    assert found[60]["word"] == "PRUNED, NEEDS TRAINING" and len(found[60]["advice"]) > 1


def test_a_broken_limit_is_said_in_words() -> None:
    report = judged("needs training", budget=Budget(params=Limit(16), macs=Limit(0.5, relative=True)))
    parameters = report["after"]["parameters"]
    assert report["verdict"]["text"].startswith(f"parameters {parameters:,}, allowed 16")
    assert "0 of 31 detections kept" in report["verdict"]["text"], "both are said"
    assert report["budget"]["limits"] == {"params": "16", "macs": "0.5x"}
    assert report["budget"]["broken"][0]["limit"] == "params"


def test_advice_fits_what_was_asked() -> None:
    plain = judged("needs training", sparse=False)["verdict"]["advice"]
    assert any("--calib" in a for a in plain) and any("not trained for sparsity" in a for a in plain)
    given = judged("needs training", images=True, will_train=True)["verdict"]["advice"]
    assert not any("--calib" in a or "sparsity" in a or "--will-train" in a for a in given)
    assert judged("alive")["verdict"]["advice"] == []


def test_sizes_are_compared_like_with_like() -> None:
    report = sample(ncnn={"weights": "fp16"})
    report["files"] = {"m.onnx": 2_000, "m_ncnn_model/model.ncnn.bin": 900, "m_ncnn_model/model.ncnn.param": 100}
    report["source"] |= {"file": "m.pt", "bytes": 2_100, "onnx_bytes": 4_000, "ncnn_bytes": 2_000}
    shown = [(f.title, *f.texts()) for f in figures(report)[:2]]
    assert shown == [
        ("File, as ONNX", "4.00 kB", "2.00 kB", "0.50×"),
        ("NCNN pair, fp16", "2.00 kB", "1.00 kB", "0.50×"),
    ]
