"""Feed mutated `.param` files to the reader and report what came of them: nothing but InputError may.

    python bench/fuzz_ncnn_param.py [--inputs 100000] [--seed 0]

Mutations of four converted networks: bytes flipped, lines dropped, doubled and swapped, files truncated, numbers made
huge, tokens of the grammar inserted. Exit status 1 if anything else was raised, an input took more than a second, or
the process grew by more than 200 MB.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from onnxslim_yolo.emit.ncnn import emit_ncnn
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.verify.ncnn_reader import parse_param
from tests.emit.ncnn_cases import BINARY, CONV, LINEAR, POOL
from tests.numeric import build

TOKENS = [
    *(
        b"0=1",
        b"-23300=2,1,2",
        b"-23310=99999999,1",
        b"=",
        b"1e999",
        b"nan",
        b"-233",
        b"9" * 40,
        b"Split",
        b"MemoryData",
    ),
    *(b"\x00", b"\xff", "é".encode(), b"\r", b"\n", b" ", b",", b'"', b"7767517", b"100000 100000"),
]
LIMIT_SECONDS, LIMIT_KILOBYTES = 1.0, 200 << 10


def mutate(rng: random.Random, data: bytes) -> bytes:
    """A few random edits."""
    for _ in range(rng.randint(1, 4)):
        kind = rng.randrange(6)
        at = rng.randrange(len(data) + 1)
        if kind == 0 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + rng.choice(TOKENS) + data[at + rng.randrange(12) :]
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            lines = data.split(b"\n")
            first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
            lines[first], lines[second] = lines[second], lines[first]
            data = b"\n".join(lines)
        elif kind == 4:
            lines = data.split(b"\n")
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
            data = b"\n".join(lines)
        else:
            data = data[:at] + rng.choice(TOKENS) * rng.randrange(1, 2000) + data[at:]
    return data


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    texts = (CONV["conv-leaky"], BINARY["gate-channel"], POOL["se-block"], LINEAR["attention"])
    seeds = [emit_ncnn(build(text)).param.encode() for text in texts]
    outcomes: Counter[str] = Counter()
    slowest, failures = 0.0, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(options.inputs):
        data = mutate(rng, rng.choice(seeds))
        start = time.perf_counter()
        try:
            parse_param(data)
            outcomes["accepted"] += 1
        except InputError:
            outcomes["refused"] += 1
        except Exception as error:
            outcomes[type(error).__name__] += 1
            failures += 1
            print(f"{type(error).__name__}: {error}\n{data[:400]!r}")
        slowest = max(slowest, time.perf_counter() - start)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{options.inputs} inputs: {dict(outcomes)}; slowest {slowest * 1e3:.1f} ms; grew by {grown / 1024:.1f} MB")
    return int(failures > 0 or slowest > LIMIT_SECONDS or grown > LIMIT_KILOBYTES)


if __name__ == "__main__":
    sys.exit(main())
