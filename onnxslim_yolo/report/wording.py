"""How figures, verdicts and names are put, the same in the terminal, in HTML and in Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from onnxslim_yolo.latency.methods import ANALYTIC, INSTRUCTIONS

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count_text(value: float) -> str:
    """A count with three digits and an SI prefix: 919041 → '919 k'."""
    for size, prefix in _STEPS:
        if abs(value) >= size * 0.9995:
            return f"{_three(value / size)} {prefix}"
    return str(int(value)) if value == int(value) else _three(value)


def bytes_text(value: float) -> str:
    """A size in SI units: 3759486 → '3.76 MB'."""
    text = count_text(value)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def _three(value: float) -> str:
    decimals = 2 - math.floor(math.log10(float(f"{abs(value):.2e}")))
    return f"{value:.{max(0, decimals)}f}"


def ratio_text(after: float | None, before: float | None) -> str:
    """`after` as a share of `before`: '0.26×'; '–' where there is nothing to divide by."""
    if not before or after is None:
        return "–"
    return f"{after / before:.2f}×"


def percent_text(part: float, whole: float) -> str:
    """A share in per cent without decimals; '0 %' of nothing."""
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


def change_text(old: float | None, new: float | None) -> str:
    """The relative change with its sign: '−11.5 %'; '±0' where nothing changed, '–' where one is missing."""
    if old is None or new is None:
        return "–"
    if old == new:
        return "±0"
    if not old:
        return "new"
    change = 100 * (new - old) / old
    return f"{'+' if change > 0 else '−'}{abs(change):.1f} %"


def time_text(microseconds: float) -> str:
    """A latency in three digits: 1234.5 → '1.23 ms', 12.345 → '12.3 µs'."""
    if microseconds >= 999.5:
        return f"{_three(microseconds / 1e3)} ms"
    return f"{_three(microseconds) if microseconds > 0 else 0} µs"


def small_text(value: float | None) -> str:
    """A difference in two digits, '0' where it is exactly zero, '∞' and 'NaN' where it is no number."""
    if value is None or math.isinf(value):
        return "∞"
    if math.isnan(value):
        return "NaN"
    return "0" if value == 0 else f"{value:.2g}" if abs(value) >= 0.01 else f"{value:.1e}"


def printable(text: object) -> str:
    """Text from a file made harmless to show: control, escape and direction characters are spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in str(text))


def members_text(members: Sequence[str], most: int = 1) -> str:
    """The first names of a group's layers, and how many more there are."""
    shown = ", ".join(printable(name) for name in members[:most])
    rest = len(members) - most
    return shown + (f" +{rest}" if rest > 0 else "") if members else "(unnamed)"


@dataclass(frozen=True)
class Verdict:
    """One comparison as people read it.

    Attributes:
        label: what was compared. runtime: in what.
        worst: the worst element's difference, in units of the output's spread.
        tolerance: what was allowed; None: the figure is reported, nothing was required.
        word: 'PASS', 'FAIL' or 'info'.
    """

    label: str
    runtime: str
    worst: float
    tolerance: float | None
    word: str


def verdicts(report: Mapping[str, Any]) -> list[Verdict]:
    """Every comparison of a report's verification, in the order they were made; none where it was skipped."""
    verification = report.get("verification")
    return [] if verification is None else [_verdict(check) for check in verification["checks"]]


def _verdict(check: Mapping[str, Any]) -> Verdict:
    tolerance = check["tolerance"]
    worst = math.inf if check["worst"] is None else check["worst"]
    required = tolerance is not None and math.isfinite(tolerance)
    word = "info" if not required else "PASS" if check["passed"] else "FAIL"
    return Verdict(check["label"], check["runtime"], worst, tolerance if required else None, word)


@dataclass(frozen=True)
class Headline:
    """The worst of a report's verdicts: a word, what it rests on, "pass", "warn" or "fail", and what to do about it."""

    word: str
    text: str
    level: str
    advice: tuple[str, ...] = ()


_LEVELS = {"PASS": "pass", "FAIL": "fail"}


def headline(report: Mapping[str, Any]) -> Headline:
    """What a report begins with. Reports of earlier versions know one verdict only, that of verification."""
    found = report.get("verdict")
    if found is None:
        word = equality_word(report)
        return Headline(word, "", _LEVELS.get(word, "warn"))
    return Headline(found["word"], found["text"], found["level"], tuple(found["advice"]))


def verdict_of_all(report: Mapping[str, Any]) -> str:
    """The headline's word."""
    return headline(report).word


def equality_word(report: Mapping[str, Any]) -> str:
    """Whether the files compute what the plan says: 'PASS', 'FAIL', 'BLIND' (agreement proves little: the control was
    not noticed) or 'NOT VERIFIED'."""
    if report.get("verification") is None:
        return "NOT VERIFIED"
    if any(v.word == "FAIL" for v in verdicts(report)):
        return "FAIL"
    return "PASS" if report["verification"]["control"]["noticed"] else "BLIND"


def control_text(report: Mapping[str, Any]) -> str:
    """The control in one sentence."""
    control = report["verification"]["control"]
    layer, share = printable(control["layer"]) or "a layer", percent_text(control["spoiled_by"], 1)
    shown = math.inf if control["worst"] is None else control["worst"]
    seen = f"spoiling {layer} by {share} shows {small_text(shown)}"
    if not control["noticed"]:
        return f"{seen}: not clearly noticed, so agreement proves little on these weights"
    worst = max((v.worst for v in verdicts(report) if v.tolerance is not None), default=0.0)
    return f"{seen}, {shown / worst:.0f} times the worst above" if worst else f"{seen}; above it is exactly 0"


def unseen_text(report: Mapping[str, Any]) -> str | None:
    """The columns that the comparisons cannot vouch for, in one sentence; None where there are none."""
    verification = report.get("verification") or {"checks": []}
    found: dict[str, dict[str, None]] = {}
    for check in verification["checks"]:
        for output in check.get("outputs", ()) if check["tolerance"] is not None else ():
            for kind in _UNSEEN:
                names = [f"{printable(output['output'])} {printable(name)}" for name in output.get(kind, ())]
                found.setdefault(kind, {}).update(dict.fromkeys(names))
    parts = []
    for kind, why in _UNSEEN.items():
        names = list(found.get(kind, ()))
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        parts += [f"{why}: {', '.join(names[:_MOST_NAMED])}{more}"] if names else []
    return "; ".join(parts) or None


_UNSEEN = {
    "blind": "no input moves",
    "dim": "rounding hides 1 % of",
    "silent": "no input raises above a detection's score",
}
_MOST_NAMED = 6


def loss_text(report: Mapping[str, Any]) -> str | None:
    """How far the result is from the unpruned source, in one sentence; None where that was not measured."""
    loss = (report.get("verification") or {}).get("difference_from_source")
    if loss is None:
        return None
    return (
        f"pruning moves the worst element by {small_text(loss['worst'])} of its output's spread; reported, not checked"
    )


def size_of_result(report: Mapping[str, Any]) -> int | None:
    """Bytes of the ONNX file written, or of the NCNN pair where there is no ONNX."""
    files: Mapping[str, int] = report["files"]
    onnx = [size for name, size in files.items() if name.endswith(".onnx")]
    pair = [size for name, size in files.items() if name.endswith((".ncnn.bin", ".ncnn.param"))]
    return onnx[0] if onnx else sum(pair) or None


@dataclass(frozen=True)
class Figure:
    """One figure before and after; `after` is None where nothing was written, `form` puts it into words.

    `ratio` is given where it was measured by itself, as medians of ratios are not ratios of medians.
    """

    title: str
    before: float
    after: float | None
    form: Callable[[float], str]
    ratio: float | None = None

    def texts(self) -> tuple[str, str, str]:
        """Before, after and their ratio."""
        after = "–" if self.after is None else self.form(self.after)
        ratio = ratio_text(self.after, self.before) if self.ratio is None else f"{self.ratio:.2f}×"
        return self.form(self.before), after, ratio


def figures(report: Mapping[str, Any]) -> list[Figure]:
    """What is shown first: sizes, parameters, MACs, and latency and mAP where they were measured."""
    before, after = report["before"], report["after"]
    found = [
        *_sizes(report),
        Figure("Parameters", before["parameters"], after["parameters"], count_text),
        Figure("MACs", before["macs"], after["macs"], count_text),
    ]
    speed, accuracy = report.get("speed"), report.get("accuracy")
    if speed is not None:
        title = f"Latency, {printable(speed['runtime'])}"
        found.append(Figure(title, speed["source_ms"], speed["result_ms"], _milliseconds, speed["ratio"]))
    elif (left := before.get("latency_us")) is not None and after.get("latency_us") is not None:
        found.append(Figure(_latency_title(before.get("table")), left, after["latency_us"], time_text))
    if accuracy is not None:
        source = accuracy["models"]["source"]["map50"]
        found.append(Figure("mAP50", source, source - accuracy["map50_drop"], "{:.3f}".format))
    return found


def _sizes(report: Mapping[str, Any]) -> list[Figure]:
    """Every kind of file written beside the source as that kind: a checkpoint may hold half precision, and an ONNX file
    single; Darknet keeps its weights beside its cfg; a pair is compared with the source's pair."""
    source, files = report["source"], report["files"]
    own = PurePath(source["file"]).suffix.lower()
    found = []
    onnx = [size for name, size in files.items() if name.endswith(".onnx")]
    pair = sum(size for name, size in files.items() if name.endswith((".ncnn.bin", ".ncnn.param")))
    if source.get("onnx_bytes") is None:  # a report of an earlier version
        same = own == (".onnx" if onnx else ".bin + .param") or not (onnx or pair)
        title = "File size" if same else f"File, {printable(own)} → {'.onnx' if onnx else '.bin + .param'}"
        return [Figure(title, source["bytes"], size_of_result(report), bytes_text)]
    if onnx:
        title = "File size" if own == ".onnx" else "File, as ONNX"
        found.append(Figure(title, source["onnx_bytes"], onnx[0], bytes_text))
    if pair:
        weights = (report.get("ncnn") or {}).get("weights")
        title = f"NCNN pair, {printable(weights)}" if weights else "NCNN pair"
        found.append(Figure(title, source.get("ncnn_bytes", source["bytes"]), pair, bytes_text))
    return found or [Figure("File size", source["bytes"], None, bytes_text)]


def _milliseconds(value: float) -> str:
    return f"{value:.2f} ms"


def speed_text(report: Mapping[str, Any]) -> str | None:
    """How latency was measured, in one sentence; None where it was not."""
    speed = report.get("speed")
    if speed is None:
        return None
    quartiles = " to ".join(f"{value:.2f}" for value in speed["quartiles"])
    threads = f"{speed['threads']} thread{'' if speed['threads'] == 1 else 's'}"
    return (
        f"{speed['ratio']:.2f} of the source's latency in {printable(speed['runtime'])} (quartiles {quartiles}; "
        f"{threads}, {speed['rounds']} rounds in turn); control, the source against itself: {speed['control']:.2f}"
    )


def prediction_text(report: Mapping[str, Any]) -> str | None:
    """What latency is predicted, and by what, in one sentence; None where it was not."""
    before, after = report["before"], report["after"]
    if before.get("latency_us") is None or after.get("latency_us") is None or before.get("table") is None:
        return None
    times = f"{time_text(before['latency_us'])} → {time_text(after['latency_us'])}"
    table, ratio = printable(before["table"]), ratio_text(after["latency_us"], before["latency_us"])
    if INSTRUCTIONS in table:
        return f"{ratio}, {times}, by {table}: instructions of layers, counted under emulation; nothing was timed there"
    if ANALYTIC in table:
        return f"{ratio}, {times}, by {table}: from packing rules, good for ratios; nothing was timed there"
    known = f"{times}, by {table}"
    return f"{known}: a sum over layers measured one by one, which tells widths apart; --measure times the files"


def _latency_title(table: Any) -> str:
    """What a predicted latency is called: as much as its table is."""
    kind = next((kind for kind in (INSTRUCTIONS, ANALYTIC) if kind in str(table)), "predicted")
    return f"Latency, {kind}"


def compensation_texts(report: Mapping[str, Any]) -> list[str]:
    """One sentence a compensating pass: how far from the source without it and with it, and on what images."""
    return [_compensation(row) for row in report.get("compensation") or []]


def _compensation(row: Mapping[str, Any]) -> str:
    without, found = row["without"], row["compensated"]
    images = f"{row['images']} {printable(row['kind'])} image{'' if row['images'] == 1 else 's'}"
    measure = "head error" if row["measure"] == "head error" else "mean difference from the source"
    name = f"{printable(row['pass'])}: {measure} {small_text(found)} instead of {small_text(without)} on {images}"
    worse = without is not None and (found is None or found > without)
    return f"{name}; it makes things WORSE here" if worse else name


def accuracy_text(report: Mapping[str, Any]) -> str | None:
    """mAP of the source and of each file, in one sentence; None where it was not measured."""
    accuracy = report.get("accuracy")
    if accuracy is None:
        return None
    rows = [f"{printable(n)} {m['map50']:.3f} ({m['map']:.3f})" for n, m in accuracy["models"].items()]
    where = f"{accuracy['images']} images of {printable(accuracy['data'])}"
    return f"mAP50 (mAP50-95) on {where}: {', '.join(rows)}"


def pruning_text(report: Mapping[str, Any]) -> str:
    """How many layers and channels went, of how many, ranked by what."""
    pruning = report["pruning"]
    if pruning is None:
        return "no channels were ranked"
    gone = len(pruning.get("gone") or ())
    text = _channels_text(pruning)
    # Blocks that a limit has cost contributed something; of what else is gone, nothing reached the output.
    effect = "" if pruning.get("blocks") else ", without effect on the output"
    return f"{gone} layer{'s' if gone > 1 else ''} gone whole{effect}; {text}" if gone else text


def _channels_text(pruning: Mapping[str, Any]) -> str:
    removed, prunable = pruning["removed"], pruning["prunable"]
    dead = pruning.get("dead") or 0
    if not prunable:
        return "no channel can be pruned"
    if pruning["lossless"] and not removed and pruning.get("dead") is None:
        return f"none of {prunable} prunable channels removed"
    if pruning["lossless"] and not removed:
        return _all_stay(dead, prunable) if dead else f"none of {prunable} prunable channels is dead"
    text = f"{removed} of {prunable} prunable channels removed ({percent_text(removed, prunable)})"
    if pruning["lossless"] and removed:
        more = f"; {dead - removed} more are dead and fill up widths" if dead > removed else ""
        return f"{text}, all of them without effect on the output{more}"
    kind = {"gamma": "|γ|", "weight": "weight norm"}.get(pruning["importance"], str(pruning["importance"] or ""))
    threshold = "" if pruning["threshold"] is None else f", threshold {pruning['threshold']:.3g}"
    return f"{text}, by {kind}{threshold}" if kind else text


def _all_stay(dead: int, prunable: int) -> str:
    are = "channel is dead, and stays" if dead == 1 else "channels are dead, and stay"
    return f"{dead} of {prunable} prunable {are}: fewer would not be a faster width (--snap none removes what is dead)"
