"""As a new user would: a fresh environment, `pip install .`, and the first command of README and of each quickstart.

    python bench/fresh_install.py

Times are wall times of this machine at that moment, downloads included; the machine's load is written beside them. The
pages' model is the bundled detector.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from onnxslim_yolo.files.atomic import write_atomically

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "bench/results/fresh_install.md"
PYTHON = (
    "import onnxslim_yolo as oy; "
    "result = oy.compile('model.onnx', prune=0.5, snap='none', compensate='none', out='half', emit='onnx'); "
    "print(result.verdict)"
)
REPORT = "ci/model.report.json"
COMMANDS = {
    "install": f"pip install --quiet {shlex.quote(str(ROOT))}",
    "README": "onnxslim-yolo compile bccd-sparse.onnx --prune 0.7 --for pi5",
    "Raspberry Pi": "onnxslim-yolo compile model.onnx --prune 0.5 --head raw --for pi5 --emit ncnn -o pi",
    "CI": "onnxslim-yolo compile model.onnx --prune 0.5 --budget budget.toml --emit onnx -o ci --json",
    "CI, what changed": f"onnxslim-yolo diff {REPORT} {REPORT}",
    "research": f"python -c {shlex.quote(PYTHON)}",
}


def main() -> int:
    """Install and run; the exit status is 1 where a step fails."""
    rows, failed = [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in ("bccd-sparse", "model"):
            shutil.copy(ROOT / "models/bccd-sparse.onnx", folder / f"{model}.onnx")
        (folder / "budget.toml").write_text('params = "0.9x"\n')
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "OMP_", "VIRTUAL"))}
        environment = kept | {"PATH": f"{folder / 'venv/bin'}{os.pathsep}{os.environ['PATH']}"}
        for title, command in COMMANDS.items():
            line = shlex.split(command)
            start = time.perf_counter()
            done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
            took = time.perf_counter() - start
            failed += done.returncode != 0
            shown = " ".join("…" if word == PYTHON else word.replace(str(ROOT), ".") for word in line)
            rows.append(f"| {title} | `{shown}` | {done.returncode} | {took:.0f} | {os.getloadavg()[0]:.0f} |")
            print(rows[-1], done.stderr[-300:] if done.returncode else "", flush=True)
    head = "| step | command | status | s | load |\n|---|---|---|---|---|\n"
    title = f"# A fresh environment\n\n{os.cpu_count()} cores, shared; load as of the step's end.\n\n"
    write_atomically(RESULT, title + head + "\n".join(rows) + "\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
