import json

import onnx
import pytest

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.report.diff import diff_reports, markdown_diff, markdown_summary, read_report
from tests.report.sample import HOSTILE, hostile, sample


def write(folder, report):
    path = folder / "x.report.json"
    path.write_text(report if isinstance(report, str) else json.dumps(report), encoding="utf-8")
    return path


def test_a_report_is_read_as_it_was_written(tmp_path):
    assert read_report(write(tmp_path, sample())) == sample()


def test_a_compilation_s_report_is_read(tmp_path):
    """The shape checked here is the one that build.py writes."""
    import onnxslim_yolo as oy

    source = tmp_path / "net.onnx"
    graph = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,3,8,8] x) => (float[1,4,8,8] y) {
      a = Conv <pads = [1,1,1,1]> (x, w)
      b = Relu (a)
      y = Conv (b, v)
    }"""
    model = onnx.parser.parse_model(graph)
    import numpy as np

    random = np.random.default_rng(0)
    for name, shape in (("w", (8, 3, 3, 3)), ("v", (4, 8, 1, 1))):
        values = random.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.save(model, source)
    result = oy.compile(source, out=tmp_path / "out", prune=0.5, snap="none", emit="onnx")
    report = read_report(tmp_path / "out" / "net.report.json")
    assert report["pruning"]["removed"] == result.report["pruning"]["removed"] > 0
    assert "net.onnx" in markdown_summary(report)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[" * 100_000, "nested too deeply|no JSON"),
        ("[]", "is no report"),
        ("{}", "is no report"),
        (json.dumps(sample(format="onnxslim-yolo/plan")), "is no report"),
        (json.dumps(sample(version=2)), "version 2, expected 1"),
        (json.dumps(sample(groups={})), "'groups' is {}, expected a list"),
        (json.dumps(sample(files={"a": "1"})), r"'files\[0\]' is '1'"),
        (json.dumps(sample(speed=True)), "'speed' is True, expected an object"),
        (json.dumps({k: v for k, v in sample().items() if k != "after"}), "'after' is missing"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        read_report(path)
    assert str(path) in str(caught.value)


def test_other_bytes_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match="cannot be read"):
        read_report(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no JSON"):
        read_report(path)


def _spots(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _spots(item, (*path, key))


@pytest.mark.parametrize("wrong", [None, -1, "x", [], {}, 1.5, True, 1 << 70])
def test_any_field_of_the_wrong_kind_is_refused_or_harmless(tmp_path, wrong):
    """Whatever stands in whatever place: an InputError, or a report that can be shown."""
    refused = 0
    for spot in _spots(sample()):
        report = sample()
        place = report
        for key in spot[:-1]:
            place = place[key]
        place[spot[-1]] = wrong
        path = write(tmp_path, report)
        try:
            read = read_report(path)
        except InputError:
            refused += 1
            continue
        markdown_summary(read)
        markdown_diff(diff_reports(sample(), read))
    assert refused > 30


def test_nothing_changed():
    diff = diff_reports(sample(), sample())
    assert diff["same_source"]
    assert diff["widths"] == [] and diff["options"] == {}
    assert "Nothing changed." in markdown_diff(diff)


def test_what_changed():
    new = sample(options={"prune": 0.7}, notes=["another"], files={"best.onnx": 900_000})
    new["source"]["sha256"] = "cd" * 32
    new["after"]["parameters"] = 80
    new["speed"]["result_ms"] = 4.0
    new["groups"][1]["kept"] = 16
    diff = diff_reports(sample(), new)
    assert not diff["same_source"]
    assert diff["figures"]["parameters"] == {"old": 160, "new": 80}
    assert diff["widths"] == [
        {
            "members": ["model.1.cv1.conv", "model.1.cv2.conv"],
            "old": {"width": 64, "kept": 32},
            "new": {"width": 64, "kept": 16},
        }
    ]
    assert diff["notes"] == {"new": ["another"], "gone": ["ranked by weight norms instead of γ"]}
    assert json.loads(json.dumps(diff)) == diff
    text = markdown_diff(diff)
    assert "| Parameters | 160 | 80 | −50.0 % |" in text
    assert "| Latency, predicted | 520 µs | 520 µs | ±0 |" in text
    assert "| Latency | 8.00 ms | 4.00 ms | −50.0 % |" in text
    assert "| mAP50 | 0.430 | 0.430 | ±0 |" in text
    assert "| `prune` | `0.5` | `0.7` |" in text
    assert "| `model.1.cv1.conv, model.1.cv2.conv` | 32 of 64 | 16 of 64 |" in text
    assert "Nothing changed" not in text


def test_groups_of_the_same_members_are_told_apart():
    new = sample()
    new["groups"].append(dict(new["groups"][2], kept=24))
    assert [row["new"] for row in diff_reports(sample(), new)["widths"]] == [{"width": 128, "kept": 24}]


def test_summary_has_it_all():
    text = markdown_summary(sample())
    for part in (
        "| Parameters | 400 | 160 | 0.40× |",
        "✅ **PASS**",
        "| Latency, ncnn | 12.00 ms | 8.00 ms | 0.67× |",
        "| mAP50 | 0.450 | 0.430 | 0.96× |",
        "control, the source against itself: 1.00",
        "best.onnx 0.430 (0.260)",
        "| `model.1.cv1.conv` | 128 | 40 | 48 |",
        "Control: spoiling /model.0/conv/Conv by 1 %",
        "| 10 | reaches the output 'output0' |",
        "onnxslim-yolo compile best.onnx",
    ):
        assert part in text
    assert "has been run" in markdown_summary(sample(verification=None))


def _html_in(text):
    """Every piece of HTML that a Markdown reader passes on."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(text)
    inline = [child for token in tokens for child in token.children or []]
    return "".join(t.content for t in [*tokens, *inline] if t.type in ("html_block", "html_inline"))


def test_names_stay_names_in_markdown():
    report = hostile()
    assert "<script" in _html_in(f"| {HOSTILE} |")  # what is looked for can be found
    for text in (markdown_summary(report), markdown_diff(diff_reports(sample(), report))):
        html = _html_in(text)
        assert "<script" not in html and "<img" not in html
        assert HOSTILE not in text
        assert "\x1b" not in text
    assert "@\u200bteam" in markdown_summary(sample(notes=["@team"]))
