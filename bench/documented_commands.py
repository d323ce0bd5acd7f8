"""Every `onnxslim-yolo` command of README and docs, copied out of the page and run, in the page's order.

    python bench/documented_commands.py            all of it; a page's name runs that page alone

Each page is run in a folder of its own that holds what pages talk about: a bundled detector under the names of models,
a checkpoint made here, a Darknet network of ../shared/material, images, labels, a budget. What is not run has its
reason. Trainings need Ultralytics in this Python, and take four epochs; `$pi` is another process of this machine.
Results in bench/results/documented_commands.md.
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
from tests.docs_snippets import PAGES, blocks, commands  # noqa: E402
from tests.load.repositories import save_like_a_trainer  # noqa: E402
from tests.zoo import module  # noqa: E402

RESULT = ROOT / "bench/results/documented_commands.json"
DARKNET = ROOT.parent / "shared/material/weights/yolo-fastest-1.1"
ELSEWHERE = {
    "--allocate curves": "takes minutes: bench/accuracy.py",
    "arm-python": "needs the emulator of a board: bench/arm_accuracy.py",
    "--resume": "of a run that was stopped: tests/training/test_slim_ultralytics.py",
    "--against yolov5n.pt": "30 trials: tests/test_sweep.py runs fewer",
}
"""What stands in a command that is not run here → why."""
TRAINING = (
    "onnxslim-yolo finetune ",
    "onnxslim-yolo sparsify ",
    "onnxslim-yolo slim ",
    "runs/detect/train",
    "ultralytics",
)
"""What stands in a command that needs Ultralytics, which only its users have."""
FEW = 4
"""Epochs that a training takes here, whatever the page says."""
LAUNCHER = f"{sys.executable} -"
"""In the place of a board: another process of this machine's."""
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
            furnish(Path(folder), page)
            rows[name] = [run(words, Path(folder)) for words in found]
        write_atomically(RESULT, json.dumps(rows, indent=1) + "\n")
    write_atomically(RESULT.with_suffix(".md"), table(rows))
    return int(any(row["failed"] for page in rows.values() for row in page))


def furnish(folder: Path, page: Path) -> None:
    """What the pages talk about, and what the page itself writes before its commands."""
    shutil.copytree(ROOT / "models", folder / "models", ignore=shutil.ignore_patterns("*.py", "zoo", "demo"))
    sparse = folder / "models/digits-sparse.onnx"
    for name in ("model", "best", "before", "after", "yolov8n", "yolov5n", "exported-again", "models/best"):
        shutil.copy(sparse, folder / f"{name}.onnx")
    rng = np.random.default_rng(0)
    (folder / "labels").mkdir()
    for place in ("images", "calib", "bccd", "photographs"):
        (folder / place).mkdir()
        for index in range(10):
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
        save_checkpoint(folder / f"{name}.pt")
    (folder / "budget.toml").write_text('params = "0.9x"\n')
    for block in blocks(page):
        if block.action == "file":
            (folder / block.argument).write_text(block.text)
    python = [block.text for block in blocks(page) if block.action == "run" and block.language == "python"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if page.name == "research.md":  # its checkpoint is what its ONNX file was exported from
        line = [sys.executable, "-m", "onnxslim_yolo", "trace", "best.pt", "-o", "model.onnx"]
        subprocess.run(line, cwd=folder, env=environment, check=True, capture_output=True)
        subprocess.run([sys.executable, "-c", "\n".join(python)], cwd=folder, env=environment, check=True)
    if (folder / "pyproject.toml").exists():
        line = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", "installed", "."]
        subprocess.run(line, cwd=folder, check=True)


def save_checkpoint(path: Path) -> None:
    """A small detector of ten classes as a trainer saves it: Ultralytics itself where it is there."""
    if find_spec("ultralytics"):
        side = ROOT / "tests/training/ultralytics_side.py"
        line = [sys.executable, str(side), "write", str(path.parent), "yolov8n", "10"]
        subprocess.run(line, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        (path.parent / "yolov8n.pt").replace(path)
    else:
        save_like_a_trainer(path, module("yolov8n", nc=10, width=0.25), extra={"train_args": {"imgsz": 64}})


def run(words: list[str], folder: Path) -> dict[str, object]:
    """One command as a process of its own; `> FILE` and `>> FILE` are carried out."""
    shown = shlex.join(words)
    reasons = ELSEWHERE | ({"--threads 4": "needs four cores"} if (os.cpu_count() or 1) < 4 else {})
    if not find_spec("ultralytics"):
        reasons |= dict.fromkeys(TRAINING, "needs ultralytics, which only its users have")
    reasons |= {} if Path(f"{DARKNET}.cfg").exists() else {".cfg": "needs a Darknet network of ../shared/material"}
    why = next((reason for text, reason in reasons.items() if text in f"{shown} "), "")
    if why:
        print("–", shown, why, flush=True)
        return {"command": shown, "status": None, "failed": False, "said": why, "seconds": 0}
    into, arguments = redirected(words[1:])
    arguments, said = shortened(arguments)
    environment = os.environ | {"GITHUB_STEP_SUMMARY": "summary.md", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join((str(ROOT), str(folder / "installed"))), "pi": LAUNCHER}
    line = [sys.executable, "-m", "onnxslim_yolo", *(word.replace("$pi", LAUNCHER) for word in arguments)]
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
    if failed:
        said = next((text for text in error.splitlines() if text.startswith("error")), error[-200:])
    print(status, shown, said, flush=True)
    took = round(time.perf_counter() - start, 1)
    return {"command": shown, "status": status, "failed": failed, "said": " ".join(said.split()), "seconds": took}


def shortened(words: list[str]) -> tuple[list[str], str]:
    """The words with few epochs in place of many, and what to say of that."""
    if "--epochs" not in words:
        return words, ""
    at = words.index("--epochs") + 1
    return [*words[:at], str(FEW), *words[at + 1 :]], f"with --epochs {FEW}"


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
