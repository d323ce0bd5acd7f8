"""Where newcomers lost time, what they met then, and what the same command answers now.

    python bench/frictions.py

*Then* is as it was reported when the second round of trying this as a new user would was written down; *now* is the
output of the command, run here. Tables of the report are cut to the line that matters.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from onnxslim_yolo.files.atomic import write_atomically

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "bench/results/frictions.md"
SPARSE, DENSE = "digits-sparse.onnx", "digits-dense.onnx"
FILES = {"budget.toml": 'params = "0.01x"\n', "nothing.toml": "# params = 3\n"}
MOST = 300
"""Characters of an answer that the table holds."""


@dataclass(frozen=True)
class Friction:
    """What was asked, what was met then, and the words of the answer's lines that show what is met now.

    Attributes:
        shown: a word of the line that is shown; "" for the first. file: shown instead of the output.
        without: modules that are not found. status: that the command ends with.
    """

    what: str
    then: str
    command: str
    status: int
    shown: str = ""
    file: str = ""
    without: tuple[str, ...] = ()


FRICTIONS = (
    Friction(
        "a broken budget",
        "summary and `diff` begin with '✅ PASS'",
        f"compile {SPARSE} --prune 0.5 --emit onnx --budget budget.toml --summary summary.md",
        4,
        shown="allowed",
        file="summary.md",
    ),
    Friction(
        "a misspelt option in CI",
        "no summary is written",
        f"compile {SPARSE} --prun 0.5 --summary misspelt.md",
        2,
        file="misspelt.md",
    ),
    Friction("`--json` where it fails", "no JSON", "compile nothing.onnx --json", 2, shown='"exit"'),
    Friction(
        "a failure beside the file, in GitHub's form",
        "there is no such output",
        "compile nothing.onnx --output-format github",
        2,
        shown="::error",
    ),
    Friction("a sweep over a grid that cannot be", "found at its trial", f"sweep {SPARSE} --prune 0.5,banana", 2),
    Friction(
        "a size spelt HxW",
        "`--imgsz` reads H,W only",
        f"compile {SPARSE} --imgsz 192x192 --emit onnx --no-verify -q -o size",
        0,
        file="size/digits-sparse.plan.json",
    ),
    Friction(
        "more goes than was asked for",
        "'0.5 asked, 62 % removed', without a why; then 77 % beside the 73 % that were removed",
        f"compile {SPARSE} --prune 0.5 --emit onnx --no-verify",
        0,
        shown="asked",
    ),
    Friction(
        "types behind flags",
        "`--version <bool>`",
        "--help",
        0,
        shown="--version",
    ),
    Friction(
        "the folder of the source as the folder to write to",
        "the source is written over, status 0",
        f"compile {SPARSE} --emit onnx -o .",
        2,
    ),
    Friction("`trace` of an ONNX file", "the file is written over, status 0", f"trace {SPARSE}", 2),
    Friction(
        "a budget that limits nothing",
        "PASS, status 0",
        f"compile {SPARSE} --emit onnx --budget nothing.toml",
        2,
    ),
    Friction(
        "a summary that cannot be written",
        "said after compiling, twice",
        f"compile {SPARSE} --emit onnx -o late --summary .",
        2,
    ),
    Friction(
        "a type that `--quantize` does not know",
        "'--quantize int4 needs images'",
        f"compile {SPARSE} --quantize int4",
        2,
    ),
    Friction(
        "an input format that is none",
        "'0..2' is no number",
        f"compile {SPARSE} --input 0..2",
        2,
    ),
    Friction(
        "blocks alone, where none is small",
        "'none of 2176 prunable channels is dead', where most are",
        f"compile {SPARSE} --depth only --prune 0.5 --emit onnx --no-verify -o blocks",
        0,
        shown="no block goes",
    ),
    Friction(
        "a cut asked of a network that is not sparse",
        "it is cut; the loss shows in use",
        f"compile {DENSE} --prune 0.3 --emit onnx --no-verify --will-train",
        0,
        shown="WARNING",
    ),
    Friction(
        "accuracy that was not measured",
        "nothing says so in the report",
        f"compile {SPARSE} --emit onnx --no-verify -q -o report",
        0,
        shown="accuracy not measured",
        file="report/digits-sparse.report.html",
    ),
    Friction(
        "which pass touched a tensor",
        "no way to tell but dumps of every pass",
        f"compile {SPARSE} --prune 0.5 --emit onnx --no-verify -q -o journal",
        0,
        shown="touched by",
        file="journal/digits-sparse.report.html",
    ),
    Friction(
        "ncnn in a step that writes ONNX",
        "always needed, 29 MB",
        f"compile {SPARSE} --emit onnx -q -o without",
        0,
        without=("ncnn", "faster_coco_eval"),
        file="without/digits-sparse.plan.json",
    ),
    Friction(
        "a pair where ncnn is missing",
        "the child process crashes",
        f"compile {SPARSE}",
        2,
        without=("ncnn",),
    ),
)


ELSEWHERE = """

What is no command, and what holds it:

* a wheel holds every package (two were missing, and nothing started): `tests/test_house.py`
* the Pi page's commands for the board run (its `verify` ended with status 2): `tests/test_docs.py`
* hover text lay over the block that it tells of: `tests/report/test_browser.py`
* every printed `pip install` line installs: `tests/test_install_lines.py`
* `options` of the CI step that cannot be split fail the job: `tests/test_ci_step.py`
* README's figures are for a named device, and the command beside them gives them: `tests/test_docs.py`
* the graph is reached by keyboard, dragged and zoomed, the console clean: `tests/report/test_browser.py`
* layers moved by `conv-before-resize` are no second block: `tests/report/test_network.py`
* the plain-shell job of `quickstart/ci.md` failed on its first run, without a baseline: `tests/test_ci_examples.py`
* the pre-commit page named no budget and left two folders untracked: the page says both
* tracing, judging and the report counted nothing while they ran: `tests/test_progress.py`
* trials of newcomers, timed by hand in a fresh clone and a new environment (Python 3.11, two cores that others used,
  too): `pip install .` 43 s; README's Python example 7 s, the research page's 8 s; the page's own pass installed 14 s;
  the plain-shell and GitLab jobs 58 s to install and 9 s to compile; pre-commit 75 s the first time, 4 s again
* an option of a pass has its meaning, a pass its picture: `tests/test_docs.py`
* random test networks are the same under any `OMP_NUM_THREADS`: `tests/models/test_zoo.py`
"""


def main() -> int:
    """Run every command; the exit status is 1 where one ends otherwise than it should."""
    rows, wrong = [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in (SPARSE, DENSE):
            (folder / file).write_bytes((ROOT / "models" / file).read_bytes())
        for file, text in FILES.items():
            (folder / file).write_text(text, encoding="utf-8")
        for each in FRICTIONS:
            status, answer = answered(each, folder)
            wrong += status != each.status
            print(f"{each.what}: {status}, {answer}", flush=True)
            rows.append(f"| {each.what} | `{each.command}` | {each.then} | {answer} | {status} |")
    head = ["| what | command | then | now | status |", "|---|---|---|---|---|"]
    title = "# Frictions of newcomers, then and now\n\n"
    write_atomically(RESULT, title + "\n".join([*head, *rows]) + ELSEWHERE)
    return int(wrong > 0)


def answered(each: Friction, folder: Path) -> tuple[int, str]:
    """The command's exit status, and the line that shows its answer."""
    gone = "".join(f"sys.modules[{name!r}] = None; " for name in each.without)
    code = f"import sys; {gone}sys.argv[0] = 'onnxslim-yolo'; from onnxslim_yolo.cli.main import main; main()"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "1000", "NO_COLOR": "1"}
    line = [sys.executable, "-c", code, *each.command.split()]
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    text = (folder / each.file).read_text(encoding="utf-8") if each.file else f"{done.stderr}\n{done.stdout}"
    if each.file and not each.shown and each.file.endswith(".json"):
        return done.returncode, f"`{each.file}` is written"
    lines = [line.strip() for line in text.splitlines() if line.strip() and each.shown in line]
    shown = lines[0] if lines else "(nothing)"
    at = max(0, shown.find(each.shown) - 60) if len(shown) > MOST else 0
    shown = shown[at : at + MOST]
    if each.file.endswith(".html"):
        shown = re.sub(r"<[^>]*>", "", shown).partition('"')[0]  # of an attribute's text what stands in it
    return done.returncode, "`" + " ".join(shown.split()).replace("|", "\\|").replace("`", "'") + "`"


if __name__ == "__main__":
    sys.exit(main())
