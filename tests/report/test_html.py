import gzip
import hashlib
import math
import re
from html.parser import HTMLParser
from importlib import resources

import pytest

from onnxslim_yolo.report import html
from onnxslim_yolo.report.html import LIBRARY, render_html, write_html
from tests.report.sample import HOSTILE, hostile, sample

PLOTLY_SHA256 = "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"


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


def test_names_stay_names():
    clean, spoilt = Tags(render_html(sample())), Tags(render_html(hostile()))
    assert spoilt.risky == []
    assert spoilt.tags.count("script") == clean.tags.count("script")
    assert "img" not in spoilt.tags
    assert HOSTILE not in render_html(hostile())


def test_the_policy_runs_two_scripts_and_loads_nothing():
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', render_html(sample())).group(1)
    policy = policy.replace("&#39;", "'")
    assert policy.startswith("default-src 'none'")
    assert policy.count("'sha256-") == 2
    assert "unsafe-eval" not in policy
    assert "script-src 'unsafe-inline'" not in policy


def test_the_library_is_the_one_its_readme_names():
    packed = resources.files("onnxslim_yolo.report").joinpath(LIBRARY).read_bytes()
    assert hashlib.sha256(gzip.decompress(packed)).hexdigest() == PLOTLY_SHA256
    assert PLOTLY_SHA256 in resources.files("onnxslim_yolo.report").joinpath("vendor/README.md").read_text()


@pytest.mark.parametrize(
    "changes",
    [
        {"verification": None, "speed": None, "accuracy": None, "compensation": None},
        {"speed": None, "compensation": []},
        {"compensation": [{"pass": "absorb", "without": None, "compensated": None, "measure": "", "images": 0,
                           "kind": ""}]},
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
