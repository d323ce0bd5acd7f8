"""Feed broken NCNN files to the reader that stands in front of ncnn's own loader.

    python bench/fuzz_ncnn.py [ncnn-param] [ncnn-bin] [--inputs 10000] [--write]

* ncnn-param: the text of four converted networks, mutated: bytes flipped, lines dropped, doubled and swapped, cut off,
  numbers made huge, tokens of the grammar put in.
* ncnn-bin: the weights of these networks mutated and cut, now and then under a `.param` that is mutated, too, and so
  asks for other weights than there are.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzzing import TOKENS, Options, Tally, fuzz, mutate, run

from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
from onnxslim_yolo.runtime.ncnn_reader import parse_param, read_ncnn
from tests.emit.ncnn_cases import BINARY, CONV, LINEAR, POOL
from tests.numeric import build

GRAMMAR = [
    *(b"0=1", b"-23300=2,1,2", b"-23310=99999999,1", b"1e999", b"-233", b"Split", b"MemoryData", b"7767517"),
    *(b"100000 100000", b"\r", *TOKENS),
]


def main() -> int:
    texts = (CONV["conv-leaky"], BINARY["gate-channel"], POOL["se-block"], LINEAR["attention"])
    pairs = [emit_ncnn(build(text)) for text in texts]
    place = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    param, weights = Path(place.name) / "m.param", Path(place.name) / "m.bin"

    def text(rng: random.Random) -> bytes:
        return mutate(rng, rng.choice(pairs).param.encode(), GRAMMAR)

    def parsed(data: object) -> None:
        parse_param(data)  # type: ignore[arg-type]

    def both(rng: random.Random) -> tuple[bytes, bytes]:
        pair = rng.choice(pairs)
        lines = pair.param.encode()
        return (mutate(rng, lines, GRAMMAR) if rng.random() < 0.3 else lines), mutate(rng, pair.bin)

    def read(data: object) -> None:
        lines, floats = data  # type: ignore[misc]
        param.write_bytes(lines)
        weights.write_bytes(floats)
        read_ncnn(param, weights)

    readers: dict[str, Callable[[Options], Tally]] = {
        "ncnn-param": lambda options: fuzz("ncnn-param", text, parsed, options),
        "ncnn-bin": lambda options: fuzz("ncnn-bin", both, read, options),
    }
    with place:
        return run(readers, __doc__)


if __name__ == "__main__":
    sys.exit(main())
