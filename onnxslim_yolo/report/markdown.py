"""A report, or the difference of two, as GitHub-flavoured Markdown: a step summary, a pull request's comment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onnxslim_yolo.report.command import command_of
from onnxslim_yolo.report.wording import (
    accuracy_text,
    bytes_text,
    change_text,
    compensation_texts,
    control_text,
    count_text,
    figures,
    headline,
    loss_text,
    members_text,
    printable,
    pruning_text,
    small_text,
    speed_text,
    time_text,
    unseen_text,
    verdicts,
)

MOST = 30
"""Rows of a list before the rest is only counted: comments have a limit, and so have readers."""
_MARKS = {"PASS": "✅", "FAIL": "❌", "BLIND": "⚠️", "NOT VERIFIED": "⚠️", "info": "ℹ️"}
_LEVELS = {"pass": "✅", "fail": "❌", "warn": "⚠️"}
_FIGURES = {
    "parameters": ("Parameters", count_text),
    "macs": ("MACs", count_text),
    "bytes": ("File size", bytes_text),
    "latency_us": ("Latency, predicted", time_text),
    "latency_ms": ("Latency", "{:.2f} ms".format),
    "latency_ratio": ("Latency ÷ source's", "{:.2f}".format),
    "map50": ("mAP50", "{:.3f}".format),
    "nodes": ("Nodes", count_text),
    "removed": ("Channels removed", count_text),
    "gone": ("Layers gone whole", count_text),
    "difference_from_source": ("Difference from the source", small_text),
}


def markdown_summary(report: Mapping[str, Any]) -> str:
    """One compilation: sizes before and after, channels, verification with its control, frozen groups, notes."""
    verdict = headline(report)
    lines = [
        f"### onnxslim-yolo: {_code(report['source']['file'])}{_status(report)}",
        "",
        _said(verdict.word, verdict.text, verdict.level),
        *(f"- {_text(advice)}" for advice in verdict.advice),
        "",
        _text(pruning_text(report)),
        "",
        *_table(("", "before", "after", "ratio"), _sizes(report)),
        *_verification(report),
        *_section("Limits that are broken", _bullets([one["message"] for one in _broken(report)])),
        *(f"\n{_text(said)}." for said in _gains(report)),
        *_section("Files", _table(("file", "size"), [(_code(n), bytes_text(s)) for n, s in report["files"].items()])),
        *_widths(report),
        *_section(
            "Left whole, and why",
            _table(("channels", "reason"), [(str(f["channels"]), _text(f["reason"])) for f in report["frozen"]]),
        ),
        *_section("Notes", _bullets(report["notes"])),
        "",
        "```sh",
        printable(command_of(report)).replace("```", "'''"),
        "```",
    ]
    return "\n".join(lines) + "\n"


_KINDS = {3: "verification failed", 4: "over budget", 5: "no longer detects"}
"""What an exit status means."""


def _status(report: Mapping[str, Any]) -> str:
    status = report.get("exit") or 0
    return f": {_KINDS[status]} (exit {status})" if status in _KINDS else ""


def _broken(report: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    broken: Sequence[Mapping[str, Any]] = (report.get("budget") or {}).get("broken", ())
    return broken


def _said(word: str, text: str, level: str) -> str:
    return f"{_LEVELS.get(level, '')} **{_text(word)}**{f': {_text(text)}' if text else ''}"


def markdown_failure(file: str, message: str, exit_status: int, way_out: str | None = None) -> str:
    """A compilation that came to nothing: what failed, the status it exits with, and what helps."""
    helps = f"\nHelp: {_text(way_out)}\n" if way_out else ""
    kind = _KINDS.get(exit_status, "not compiled")
    return f"### ❌ onnxslim-yolo: {_code(file)}: {kind} (exit {exit_status})\n\n{_text(message)}\n{helps}"


def markdown_diff(diff: Mapping[str, Any]) -> str:
    """Two compilations: figures, files, options, verification and widths that changed."""
    old, new = diff["old"], diff["new"]
    verdict = diff["verdict"]["new"]
    source = "same input" if diff["same_source"] else f"input changed: {old['sha256'][:12]} → {new['sha256'][:12]}"
    lines = [
        f"### onnxslim-yolo: {_code(new['file'])}",
        "",
        _said(verdict["word"], verdict["text"], verdict["level"]),
        "",
        f"Was {_text(diff['verdict']['old']['word'])} · {_text(source)}",
        "",
        *_table(("", "old", "new", "change"), _figure_rows(diff["figures"])),
        *_section("Files", _table(("file", "old", "new", "change"), _file_rows(diff["files"]))),
        *_section("Options", _table(("option", "old", "new"), _option_rows(diff["options"]))),
        *_section("Blocks", _table(_BLOCK_HEAD, _block_rows(diff["blocks"]))),
        *_section("Widths", _table(("layers", "old", "new"), _width_rows(diff["widths"]))),
        *_section("New notes", _bullets(diff["notes"]["new"])),
        *_section("Notes that are gone", _bullets(diff["notes"]["gone"])),
    ]
    if not any((diff["widths"], diff["blocks"], diff["options"])) and all(
        f["old"] == f["new"] for f in diff["figures"].values()
    ):
        lines += ["", "Nothing changed."]
    return "\n".join(lines) + "\n"


def _gains(report: Mapping[str, Any]) -> list[str]:
    compensated = [f"Compensation by {text}" for text in compensation_texts(report)]
    measured = [speed_text(report), accuracy_text(report)]
    return [*compensated, *(text for text in measured if text is not None)]


def _sizes(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [(_text(figure.title), *figure.texts()) for figure in figures(report)]


def _verification(report: Mapping[str, Any]) -> list[str]:
    if report["verification"] is None:
        return ["", "Nothing that was written has been run (`--no-verify`)."]
    rows = [
        (
            f"{_MARKS[v.word]} {v.word}",
            _text(v.label),
            _text(v.runtime),
            small_text(v.worst),
            "–" if v.tolerance is None else small_text(v.tolerance),
        )
        for v in verdicts(report)
    ]
    lines = _section("Verification", _table(("", "compared", "in", "worst", "allowed"), rows))
    lines += ["", f"Control: {_text(control_text(report))}."]
    if (unseen := unseen_text(report)) is not None:
        lines += ["", f"Not seen: {_text(unseen)}."]
    loss = loss_text(report)
    return lines if loss is None else [*lines, "", f"Difference from the source: {_text(loss)}."]


def _widths(report: Mapping[str, Any]) -> list[str]:
    changed = [g for g in report["groups"] if g["kept"] != g["width"]]
    rows = [(_code(members_text(g["members"], 2)), str(g["width"]), str(g["wanted"]), str(g["kept"])) for g in changed]
    return _section(
        f"Widths: {len(changed)} of {len(report['groups'])} groups changed",
        _table(("layers", "before", "wanted", "kept"), rows),
        folded=True,
    )


def _figure_rows(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for name, (title, form) in _FIGURES.items():
        pair = figures.get(name)
        if pair is None or (pair["old"] is None and pair["new"] is None):
            continue
        shown = ["–" if value is None else form(value) for value in (pair["old"], pair["new"])]
        rows.append((title, *shown, change_text(pair["old"], pair["new"])))
    return rows


def _file_rows(files: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            _code(name),
            *("–" if pair[k] is None else bytes_text(pair[k]) for k in ("old", "new")),
            change_text(pair["old"], pair["new"]),
        )
        for name, pair in files.items()
    ]


def _option_rows(options: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (_code(name), *("default" if pair[k] is None else _code(pair[k]) for k in ("old", "new")))
        for name, pair in options.items()
    ]


_BLOCK_HEAD = ("block", "layers left", "MACs", "parameters", "latency, predicted", "change")


def _block_rows(blocks: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Those whose latency changed most come first: of many only the first are shown."""
    rows = []
    for name, pair in blocks.items():
        sides = [pair[key] or {} for key in ("old", "new")]
        shown = []
        for metric, form in (*((m, count_text) for m in ("layers", "macs", "parameters")), ("latency_us", time_text)):
            old, new = ("gone" if not side else form(side[metric]) for side in sides)
            shown.append(old if old == new else f"{old} → {new}")
        took = [side.get("latency_us", 0.0) for side in sides]
        rows.append((abs(took[1] - took[0]), (_code(name), *shown, change_text(*took))))
    return [row for _, row in sorted(rows, key=lambda each: -each[0])]


def _width_rows(widths: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [(_code(members_text(row["members"], 2)), _width(row["old"]), _width(row["new"])) for row in widths]


def _width(width: Mapping[str, int] | None) -> str:
    return "–" if width is None else f"{width['kept']} of {width['width']}"


def _section(title: str, body: list[str], *, folded: bool = False) -> list[str]:
    """A titled part; nothing where its body is empty."""
    if not body:
        return []
    if folded:
        return ["", "<details>", f"<summary>{title}</summary>", "", *body, "", "</details>"]
    return ["", f"**{title}**", "", *body]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    align = ["---", *("---:" if name in _RIGHT else "---" for name in head[1:])]
    lines = [_row(head), _row(align), *(_row(row) for row in rows[:MOST])]
    return [*lines, "", f"… and {len(rows) - MOST} more"] if len(rows) > MOST else lines


_RIGHT = (
    *_BLOCK_HEAD[1:],
    "before",
    "after",
    "ratio",
    "wanted",
    "kept",
    "old",
    "new",
    "change",
    "size",
    "worst",
    "allowed",
)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _bullets(notes: Sequence[str]) -> list[str]:
    lines = [f"- {_text(note)}" for note in notes[:MOST]]
    return [*lines, f"- … and {len(notes) - MOST} more"] if len(notes) > MOST else lines


def _code(value: object) -> str:
    """A name from a file as a code span: no character in it can end the span, the cell or the line."""
    return "`" + printable(value).replace("`", "'").replace("|", "\\|") + "`"


def _text(value: object) -> str:
    """Text from a file with everything that Markdown or HTML would act on escaped, mentions included."""
    text = printable(value).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "`*_[]|#~!":
        text = text.replace(character, "\\" + character)
    return text.replace("@", "@\u200b")
