"""Every `onnxslim-yolo` command of README and docs, copied out of the page and run, in the page's order.

    python bench/documented_commands.py            all of it; a page's name runs that page alone

Each page is run in a folder of its own that holds what pages talk about: a bundled detector under the names of models,
a checkpoint made here, a Darknet network of ../shared/material, images, labels, a budget. What is not run has its
reason. Results in bench/results/documented_commands.md.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from onnxslim_yolo.files.atomic import write_atomically  # noqa: E402
from tests.docs_snippets import PAGES, commands  # noqa: E402
from tests.load.repositories import save_like_a_trainer  # noqa: E402
from tests.zoo import module  # noqa: E402

RESULT = ROOT / "bench/results/documented_commands.json"
DARKNET = ROOT.parent / "shared/material/weights/yolo-fastest-1.1"
ELSEWHERE = {
    "plain-hardswish": "the page's own package: tests/test_docs.py installs and runs it",
    "half/model.plan.json": "of the page's Python example: tests/test_apply_plan.py",
    "profile model.onnx --run-on": "minutes of a board; here: tests/verify/test_run_on.py",
    "run-on": "needs a board; with a Python of this machine: tests/test_docs.py",
    "--table my-pi.json": "of a board's table: tests/latency/test_command.py",
    "runs/detect/train": "of a training run: tests/training",
    "--allocate curves": "takes minutes: bench/accuracy.py",
    "--against yolov5n.pt": "30 trials: tests/test_sweep.py runs fewer",
    "onnxslim-yolo finetune ": "trains: bench/finetune_demo.py",
    "onnxslim-yolo sparsify ": "trains: tests/training",
    "onnxslim-yolo distil ": "trains: tests/training",
    "onnxslim-yolo slim ": "trains: tests/training",
}
"""What stands in a command that is not run here → why."""
ALLOWED = (0, 4, 5)
"""Statuses of a command that works: done; a limit that a page's example is made to break; what needs training."""
LIMIT = 280


def main() -> int:
    """Run the pages; the exit status is 1 where a command fails."""
    rows = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for page in [ROOT / "README.md", *sorted(PAGES.rglob("*.md"))]:
        name = page.name if page.name == "README.md" else page.relative_to(PAGES).as_posix()
        found = commands(page)
        if not found or (len(sys.argv) > 1 and name not in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            furnish(Path(folder))
            rows[name] = [run(words, Path(folder)) for words in found]
        write_atomically(RESULT, json.dumps(rows, indent=1) + "\n")
    write_atomically(RESULT.with_suffix(".md"), table(rows))
    return int(any(row["failed"] for page in rows.values() for row in page))


def furnish(folder: Path) -> None:
    """What the pages talk about."""
    shutil.copytree(ROOT / "models", folder / "models", ignore=shutil.ignore_patterns("*.py", "zoo", "demo"))
    sparse = folder / "models/digits-sparse.onnx"
    for name in ("model", "best", "before", "after", "yolov8n", "yolov5n", "exported-again", "models/best"):
        shutil.copy(sparse, folder / f"{name}.onnx")
    rng = np.random.default_rng(0)
    (folder / "labels").mkdir()
    for place in ("images", "calib", "bccd"):
        (folder / place).mkdir()
        for index in range(6):
            Image.fromarray(rng.integers(0, 255, (192, 192, 3), np.uint8)).save(folder / place / f"{index}.jpg")
            if place == "images":
                (folder / "labels" / f"{index}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    Image.fromarray(rng.integers(0, 255, (192, 192, 3), np.uint8)).save(folder / "image.jpg")
    digits = "\n".join(f"  {k}: '{k}'" for k in range(10))
    (folder / "data.yaml").write_text(f"path: .\ntrain: images\nval: images\nnames:\n{digits}\n")
    for suffix in (".cfg", ".weights"):
        if Path(f"{DARKNET}{suffix}").exists():
            shutil.copy(Path(f"{DARKNET}{suffix}"), folder / f"yolov4-tiny{suffix}")
    for name in ("best", "yolov5n"):
        save_like_a_trainer(
            folder / f"{name}.pt", module("yolov8n", nc=10, width=0.25), extra={"train_args": {"imgsz": 64}}
        )
    (folder / "budget.toml").write_text('params = "0.9x"\n')


def run(words: list[str], folder: Path) -> dict[str, object]:
    """One command as a process of its own; `> FILE` and `>> FILE` are carried out."""
    shown = shlex.join(words)
    reasons = ELSEWHERE | ({"--threads 4": "needs four cores"} if (os.cpu_count() or 1) < 4 else {})
    reasons |= {} if find_spec("ultralytics") else {"ultralytics": "needs ultralytics, which only its users have"}
    reasons |= {} if Path(f"{DARKNET}.cfg").exists() else {".cfg": "needs a Darknet network of ../shared/material"}
    why = next((reason for text, reason in reasons.items() if text in f"{shown} "), "")
    if why:
        print("–", shown, why, flush=True)
        return {"command": shown, "status": None, "failed": False, "said": why, "seconds": 0}
    into, arguments = redirected(words[1:])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GITHUB_STEP_SUMMARY": "summary.md", "COLUMNS": "200"}
    line = [sys.executable, "-m", "onnxslim_yolo", *(os.path.expandvars(word) for word in arguments)]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, cwd=folder, env=environment, timeout=LIMIT, check=False
        )
        status, error = done.returncode, done.stderr
        if into:
            (folder / into).write_text(done.stdout)
    except subprocess.TimeoutExpired:
        status, error = -1, f"longer than {LIMIT} s"
    failed = status not in ALLOWED
    said = next((text for text in error.splitlines() if text.startswith("error")), error[-200:]) if failed else ""
    print(status, shown, said, flush=True)
    took = round(time.perf_counter() - start, 1)
    return {"command": shown, "status": status, "failed": failed, "said": " ".join(said.split()), "seconds": took}


def redirected(words: list[str]) -> tuple[str, list[str]]:
    """The file that standard output goes to, and the words in front of it."""
    for sign in (">", ">>", "|"):
        if sign in words:
            at = words.index(sign)
            return words[at + 1] if sign != "|" else "", words[:at]
    return "", words


def table(rows: dict[str, list[dict[str, object]]]) -> str:
    """Per page and command: the status, or why it was not run here."""
    lines = ["| page | command | status |", "|---|---|---|"]
    for page, found in rows.items():
        for row in found:
            text = str(row["command"]).replace("|", "\\|")
            status = (
                f"{row['status']} {row['said']}".strip() if row["status"] is not None else f"not here: {row['said']}"
            )
            lines.append(f"| {page} | `{text}` | {status} |")
    return "# Commands of README and docs, run\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
