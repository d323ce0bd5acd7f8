"""The report in the terminal: what changed, whether it still is the same detector, what was left whole and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxslim_yolo.report.wording import (
    accuracy_text,
    bytes_text,
    compensation_texts,
    control_text,
    equality_word,
    figures,
    headline,
    loss_text,
    members_text,
    printable,
    pruning_text,
    small_text,
    speed_text,
    unseen_text,
    verdicts,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

MOST = 12
"""Rows of a long list that are shown unless everything is asked for."""
BAR = 16
"""Characters of a width's bar."""
_STYLES = {"PASS": "bold green", "FAIL": "bold red", "BLIND": "bold yellow", "NOT VERIFIED": "bold yellow"}
_LEVELS = {"pass": "bold green", "warn": "bold yellow", "fail": "bold red"}
_ASCII = str.maketrans(
    {"→": "->", "×": "x", "γ": "gamma", "–": "-", "…": "...", "█": "#", "░": ".", "∞": "inf", "·": "-", "−": "-"}
)
"""For consoles whose encoding lacks them."""

Report = Mapping[str, Any]
Timings = Mapping[str, Any] | None
"""`seconds` of the compilation and of its `passes`, which the report itself does not hold."""


def show_report(report: dict[str, Any], console: Console, *, verbose: bool = False, timings: Timings = None) -> None:
    """Print a report. `verbose` adds the passes, the unchanged groups, and whatever a long list leaves out."""
    most = len(report["groups"]) + len(report["notes"]) + len(report["frozen"]) if verbose else MOST
    printer = _Printer(console)
    _verdict(report, printer)
    _headline(report, printer, timings)
    _verification(report, printer)
    _measured(report, printer)
    _groups(report, printer, most, verbose)
    _frozen(report, printer, most)
    _notes(report["notes"], printer, most)
    if verbose:
        _passes(report, printer, timings)
    _files(report, printer)


class _Printer:
    """Prints text as it is, without markup, in characters that the console has."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._unicode = (console.encoding or "").lower().replace("-", "").startswith("utf")

    def text(self, *parts: str | tuple[str, str]) -> Text:
        """Parts, plain or with a style, as one rich text."""
        from rich.text import Text

        pairs = [(part, "") if isinstance(part, str) else part for part in parts]
        return Text.assemble(*[(self._encodable(text), style) for text, style in pairs])

    def line(self, *parts: str | tuple[str, str]) -> None:
        """One paragraph, wrapped at the console's width."""
        self._console.print(self.text(*parts))

    def show(self, renderable: RenderableType) -> None:
        """A table, or an empty line."""
        self._console.print(renderable)

    def rows(self, table: Table, rows: Sequence[Sequence[str | tuple[str, str]]]) -> None:
        """Fill a table and print it."""
        for row in rows:
            table.add_row(*[self.text(cell) for cell in row])
        self.show(table)

    def _encodable(self, text: str) -> str:
        if self._unicode:
            return text.encode("utf-8", "backslashreplace").decode("utf-8")
        encoding = self._console.encoding or "ascii"
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)


def _table(*columns: str, head: bool = True, left: Sequence[int] = (0,)) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=head, header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(
            column,
            justify="left" if index in left else "right",
            overflow="fold",
            no_wrap=index not in left,
        )
    return table


def _verdict(report: Report, printer: _Printer) -> None:
    """The worst of the verdicts, and what to do about it: what is wrong is read first."""
    found = headline(report)
    printer.line(
        (printable(found.word), _LEVELS.get(found.level, "bold")), f": {printable(found.text)}" if found.text else ""
    )
    if found.advice:
        rows = [(("" if number else "help", "dim"), printable(said)) for number, said in enumerate(found.advice)]
        printer.rows(_table("", "", head=False, left=(0, 1)), rows)
        printer.show("")


def _headline(report: Report, printer: _Printer, timings: Timings) -> None:
    source, files = report["source"], report["files"]
    names = [name for name in files if "/" not in name]
    names += list(dict.fromkeys(name.split("/")[0] for name in files if "/" in name))
    result = ", ".join(printable(name) for name in names) or "nothing written"
    took = f"  {timings['seconds']:.1f} s" if timings else ""
    printer.line((f"{printable(source['file'])} → {result}", "bold"), (took, "dim"))
    rows = [(figure.title, *figure.texts()) for figure in figures(report)]
    printer.rows(
        _table("", "before", "after", "ratio"),
        [(title, before, after, (ratio, "bold")) for title, before, after, ratio in rows],
    )
    printer.line(("channels  ", "dim"), pruning_text(report))


def _verification(report: Report, printer: _Printer) -> None:
    verdict = equality_word(report)
    printer.show("")
    if report["verification"] is None:
        printer.line((verdict, _STYLES[verdict]), ": what was written has not been run")
        return
    checks = verdicts(report)
    required = [v for v in checks if v.tolerance is not None]
    printer.line(
        (verdict, _STYLES[verdict]),
        f"  {len(required)} comparisons with the plan; worst element in units of its output's spread",
    )
    table = _table("", "compared", "worst", "allowed", left=(0, 1))
    rows = []
    for v in checks:
        allowed = "–" if v.tolerance is None else small_text(v.tolerance)
        label = f"{printable(v.label)} ({printable(v.runtime)})"
        rows.append(((v.word, _STYLES.get(v.word, "dim")), label, small_text(v.worst), allowed))
    printer.rows(table, rows)
    said = [("control", control_text(report)), ("not seen", unseen_text(report)), ("loss", loss_text(report))]
    _sentences(said, printer)


def _measured(report: Report, printer: _Printer) -> None:
    said = [
        *(("compensation", text) for text in compensation_texts(report)),
        ("speed", speed_text(report)),
        ("accuracy", accuracy_text(report)),
    ]
    if any(text is not None for _, text in said):
        printer.show("")
        _sentences(said, printer)


def _sentences(said: Sequence[tuple[str, str | None]], printer: _Printer) -> None:
    rows = [((title, "dim"), text) for title, text in said if text is not None]
    printer.rows(_table("", "", head=False, left=(0, 1)), rows)


GROUPS_MEAN = (
    "group: channels that can only go together; wanted: as ranked; kept: at a width the runtime is fast at, "
    "more or fewer"
)


def _groups(report: Report, printer: _Printer, most: int, verbose: bool) -> None:
    groups = report["groups"]
    if not groups:
        return
    changed = [g for g in groups if verbose or g["kept"] != g["width"]]
    largest = sorted(changed, key=lambda g: g["kept"] - g["width"])[:most]
    chosen = {id(g) for g in largest}
    same = sum(g["kept"] == g["width"] for g in groups)
    printer.show("")
    if changed:
        table = _table("group", "width", "wanted", "kept", "", left=(0, 4))
        printer.rows(table, [_group_row(g) for g in changed if id(g) in chosen])
        printer.line((GROUPS_MEAN, "dim"))
    hidden = [f"{len(changed) - len(largest)} more groups changed"] if len(changed) > len(largest) else []
    hidden += [f"{same} of {len(groups)} groups as they were"] if same and not verbose else []
    if hidden:
        printer.line((f"{'; '.join(hidden)} (-v shows all)", "dim"))


def _group_row(group: Report) -> tuple[str | tuple[str, str], ...]:
    width, kept = group["width"], group["kept"]
    full = min(BAR, round(BAR * kept / width)) if width else 0
    bar = ("frozen", "dim") if group["frozen"] is not None else ("█" * full + "░" * (BAR - full), "cyan")
    return members_text(group["members"]), str(width), str(group["wanted"]), str(kept), bar


def _frozen(report: Report, printer: _Printer, most: int) -> None:
    frozen = report["frozen"]
    if not frozen:
        return
    printer.show("")
    table = _table("frozen", "why", left=(1,))
    printer.rows(table, [(str(f["channels"]), printable(f["reason"])) for f in frozen[:most]])
    if len(frozen) > most:
        rest = sum(f["channels"] for f in frozen[most:])
        printer.line((f"{rest} more channels for {len(frozen) - most} more reasons (-v shows all)", "dim"))


def _notes(notes: Sequence[str], printer: _Printer, most: int) -> None:
    if not notes:
        return
    printer.show("")
    table = _table("", "", head=False, left=(0, 1))
    printer.rows(table, [(("note", "yellow"), printable(note)) for note in notes[:most]])
    if len(notes) > most:
        printer.line((f"{len(notes) - most} more notes (-v shows all)", "dim"))


def _passes(report: Report, printer: _Printer, timings: Timings) -> None:
    printer.show("")
    table = _table("pass", "rewrites", "nodes", "ms")
    spent = timings["passes"] if timings else [None] * len(report["passes"])
    printer.rows(
        table,
        [
            (printable(p["spec"]), str(p["rewrites"]), str(p["nodes"]), "–" if s is None else f"{1e3 * s:.1f}")
            for p, s in zip(report["passes"], spent, strict=True)
        ],
    )


def _files(report: Report, printer: _Printer) -> None:
    if not report["files"]:
        return
    printer.show("")
    table = _table("written", "size")
    printer.rows(table, [(printable(name), bytes_text(size)) for name, size in report["files"].items()])
