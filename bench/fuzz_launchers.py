"""Launchers (`--run-on`) that answer with something else than our children: is it always one clear message?

    python bench/fuzz_launchers.py [launcher-pairs] [launcher-times] [--inputs N] [--write]

What a real launcher wrote while a small pair was run, or timed and its layers profiled, is
recorded, mutated (one in ten is not), and written by a launcher that only writes and swallows. A process is started
for each input.
"""

from __future__ import annotations

import os
import random
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzzing import TOKENS, Options, Tally, fuzz, mutate, run

from onnxslim_yolo.measure.benchmark import benchmark
from onnxslim_yolo.runtime import launchers
from onnxslim_yolo.runtime.ncnn_run import run_ncnn

GRAMMAR = [
    *(b'{"ok": true}', b'"ok": false', b"null", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'"shape": [2147483647, 9]'),
    *(b'"result"', b'"round": 1', b'"error": 1', b'"cores": "x"', b"[" * 3000, b"onnxslim-yolo: ready 3.1\n", *TOKENS),
]
PAIR = "7767517\n2 2\nInput in0 0 1 in0 0=8 1=8 2=3\nPooling pool 1 1 in0 out0 0=1 4=1\n"


def recorded(place: Path, use: Callable[[str], object]) -> bytes:
    """What a Python here writes as a launcher."""
    record = place / "record"
    use(f"sh -c 'exec {shlex.quote(sys.executable)} -q -i 2>/dev/null | tee {shlex.quote(str(record))}' -")
    return record.read_bytes()


def main() -> int:
    held = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    place = Path(held.name)
    param, weights, played = place / "m.param", place / "m.bin", place / "played"
    param.write_text(PAIR)
    weights.write_bytes(b"")
    image = np.zeros((3, 8, 8), np.float32)

    def pairs(launcher: str) -> object:
        return run_ncnn(param, weights, [{"in0": image}], run_on=launcher, timeout=20)

    def times(launcher: str) -> object:
        return benchmark([param], rounds=3, size=(8, 8), run_on=launcher, layers=True)

    def fuzzer(name: str, use: Callable[[str], object]) -> Callable[[Options], Tally]:
        def start(options: Options) -> Tally:
            transcript = recorded(place, use)
            own = Path(f"{played}-{name}")

            def read(data: object) -> None:
                own.write_bytes(data)  # type: ignore[arg-type]
                use(f"sh -c 'cat {own}; exec >&-; cat >/dev/null'")

            def make(rng: random.Random) -> bytes:
                return transcript if rng.random() < 0.1 else mutate(rng, transcript, GRAMMAR)

            return fuzz(f"launcher-{name}", make, read, options)

        return start

    os.environ["OMP_NUM_THREADS"] = "1"
    launchers.ENDS_WITHIN = 0.01
    return run({f"launcher-{name}": fuzzer(name, use) for name, use in (("pairs", pairs), ("times", times))}, __doc__)


if __name__ == "__main__":
    sys.exit(main())
