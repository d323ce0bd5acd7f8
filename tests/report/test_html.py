import gzip
import hashlib
import math
import re
from html.parser import HTMLParser
from importlib import resources

import pytest

from onnxslim_yolo.report import html
from onnxslim_yolo.report.html import LAYOUT_LIBRARY, LIBRARY, render_html, write_html
from tests.report.sample import HOSTILE, hostile, sample
from tests.report.test_network import moved_report

VENDORED = {
    LIBRARY: "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba",
    LAYOUT_LIBRARY: "54a503e346f93ca0bb10abe7999587e037262935687aca45eb4e4b0f64bbb578",
}


class Tags(HTMLParser):
    """Counts elements, and what would load or run something."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.risky = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.risky += [(tag, name) for name, _ in attrs if name.startswith("on") or name in ("src", "srcset")]
        self.risky += [(tag, v) for n, v in attrs if n == "href" and not str(v).startswith("#")]


def test_everything_is_in_it():
    text = render_html(sample())
    for part in (
        "<h1>best.onnx</h1>",
        "4.00 MB",
        "90 of 200 prunable channels removed",
        "masked source = best.onnx",
        "1000 times the worst above",
        "Latency, ncnn",
        "quartiles 0.66 to 0.68",
        "mAP50 (mAP50-95) on 128 images of coco.yaml",
        "reaches the output &#39;output0&#39;",
        "ranked by weight norms",
        "prune{ratio=0.5}",
        "--keep &#39;a b&#39;",
        '"edges": [0.0, 0.2, 0.4, 0.6]',
        "channels 192 → 80, wanted 60",
        "gone from the result",
        "absorb: mean difference from the source 0.1 instead of 0.4 on 1 synthetic image",
        "1.30 ms → 520 µs, by ncnn 1.0, a CPU (avx2)",
    ):
        assert part in text, part
    assert Tags(text).risky == []


def test_the_same_report_gives_the_same_bytes(tmp_path):
    one = write_html(sample(), tmp_path / "a.html").read_bytes()
    assert one == write_html(sample(), tmp_path / "b.html").read_bytes()
    assert one != render_html(sample(notes=[])).encode()
    assert len(one) < 700_000


def test_what_was_not_measured_is_said_first_of_all_figures():
    without = render_html(sample(accuracy=None))
    tiles = without[without.index('<div class="tiles">') :]
    assert tiles.index("accuracy not measured") < tiles.index("File size")
    assert "accuracy not measured" not in render_html(sample())


def test_what_was_moved_has_a_block_of_its_own():
    text = render_html(moved_report())
    assert "<b>computed in parts</b>" in text
    assert "/model.1/cv1/conv/Conv_part, /model.1/cv1/conv/Conv_part_1" in text
    assert "<b>computed in parts</b>" not in render_html(sample())


def test_names_stay_names():
    clean, spoilt = Tags(render_html(sample())), Tags(render_html(hostile()))
    assert spoilt.risky == []
    assert spoilt.tags.count("script") == clean.tags.count("script")
    assert "img" not in spoilt.tags
    assert HOSTILE not in render_html(hostile())


def test_the_policy_runs_four_scripts_and_loads_nothing():
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', render_html(sample())).group(1)
    policy = policy.replace("&#39;", "'")
    assert policy.startswith("default-src 'none'")
    assert policy.count("'sha256-") == 4
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy


@pytest.mark.parametrize(("name", "digest"), VENDORED.items())
def test_the_libraries_are_those_their_readme_names(name, digest):
    packed = resources.files("onnxslim_yolo.report").joinpath(name).read_bytes()
    assert hashlib.sha256(gzip.decompress(packed)).hexdigest() == digest
    assert digest in resources.files("onnxslim_yolo.report").joinpath("vendor/README.md").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"verification": None, "speed": None, "accuracy": None, "compensation": None},
        {"speed": None, "compensation": []},
        {"compensation": [{"pass": "absorb", "without": None, "compensated": None, "measure": "", "images": 0,
                           "kind": ""}]},
        {"network": None, "journal": []},
        {"network": {"blocks": [], "edges": []}, "journal": None},
        {"pruning": None, "groups": [], "frozen": [], "notes": [], "files": {}, "passes": []},
        {"before": {"macs": 0, "parameters": 0, "nodes": 0, "layers": []},
         "after": {"macs": 0, "parameters": 0, "nodes": 0, "layers": []}},
    ],
)  # fmt: skip
def test_shows_what_there_is(changes):
    assert "<h1>best.onnx</h1>" in render_html(sample(**changes))


def test_of_many_layers_the_largest_are_drawn(monkeypatch):
    monkeypatch.setattr(html, "MOST", 2)
    text = render_html(sample())
    assert text.count('class="layer') - text.count('class="layers') == 2
    assert "2 smaller ones are in" in text
    assert "2 others are in" in text
    assert "/model.9/dw/Conv" not in text
    assert "smaller ones" not in render_html(
        sample(before=sample()["after"] | {"layers": []}, after=sample()["after"] | {"layers": []})
    )


def test_numbers_that_are_none_do_not_break_the_data():
    report = sample()
    report["pruning"] |= {"threshold": math.inf, "histogram": None}
    report["verification"]["checks"][0] |= {"worst": math.nan, "passed": False}
    text = render_html(report)
    data = text[text.index('id="data">') :].split("</script>")[0]
    assert "Infinity" not in data and "NaN" not in data
    assert '"threshold": null' in data
