"""What `--emit ultralytics` gives, in a real Ultralytics: the opt-in tests, as a table of what was tried with what end.

    ONNXSLIM_ULTRALYTICS_PYTHON=PYTHON python bench/ultralytics_peers.py --out bench/results/ultralytics_peers.md

PYTHON is the interpreter of an environment with `ultralytics`, `ncnn`, `pnnx`, `onnxruntime` and this package. The run
takes half an hour of one core; `-k` runs some of it, and `--junit` reads what runs have left, the later ones first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

SUITE = Path(__file__).resolve().parents[1] / "tests/training/test_slim_ultralytics.py"
SAYS = "import torch, ultralytics; print(f'Ultralytics {ultralytics.__version__}, torch {torch.__version__}')"


def main() -> None:
    arguments = parse()
    python = os.environ.get("ONNXSLIM_ULTRALYTICS_PYTHON")
    if not python:
        raise SystemExit("ONNXSLIM_ULTRALYTICS_PYTHON names no interpreter")
    files = arguments.junit or [run(arguments.k)]
    said = subprocess.run([python, "-c", SAYS], capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    text = table(outcomes(files), said)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


def run(chosen: str) -> Path:
    """Run the suite; returns pytest's own account of it."""
    file = Path(tempfile.mkdtemp()) / "junit.xml"
    line = [sys.executable, "-m", "pytest", "-m", "peer", "-q", "-p", "no:cacheprovider", f"--junitxml={file}"]
    subprocess.run([*line, *(["-k", chosen] if chosen else []), str(SUITE)], check=False)
    return file


def outcomes(files: list[Path]) -> dict[str, dict[str, str]]:
    """Per test and case: passed, failed or skipped. Of a case in several files the first counts."""
    found: dict[str, dict[str, str]] = {}
    for file in files:
        for case in ElementTree.parse(file).getroot().iter("testcase"):
            test, _, kind = case.attrib["name"].partition("[")
            ends = [end for end in ("failure", "error", "skipped") if case.find(end) is not None]
            outcome = {"skipped": "skipped", "": "passed"}.get(ends[0] if ends else "", "failed")
            found.setdefault(test, {}).setdefault(kind.rstrip("]"), outcome)
    return found


def table(found: dict[str, dict[str, str]], said: str) -> str:
    """The outcomes as Markdown."""
    every = [outcome for cases in found.values() for outcome in cases.values()]
    counts = ", ".join(f"{every.count(outcome)} {outcome}" for outcome in dict.fromkeys(sorted(every)))
    lines = [
        "# What `--emit ultralytics` gives, in Ultralytics itself",
        "",
        f"{said}; random weights, 96 px, `tests/training/test_slim_ultralytics.py`: {counts}.",
        "",
        "| what | with | outcome |",
        "|---|---|---|",
    ]
    for test, cases in found.items():
        what = test.removeprefix("test_").replace("_", " ")
        for outcome in dict.fromkeys(cases.values()):
            names = ", ".join(kind for kind, end in cases.items() if end == outcome and kind)
            lines.append(f"| {what} | {names or '—'} | {outcome} |")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("-k", default="", help="as of pytest")
    parser.add_argument("--junit", type=Path, nargs="*", help="do not run anything, read these")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
