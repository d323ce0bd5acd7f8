"""The same readers under inputs that are guided by which branches they reach: atheris, which is libFuzzer for Python.

    pip install atheris
    python bench/fuzz_atheris.py [READER …] [--inputs 100000] [--write]

READER: ncnn-param, and those of bench/fuzz_readers.py. Each runs in a process of its own, from a sound file and a list
of the format's words. Whatever is neither success nor one clear refusal ends it: an exception, a crash, 10 seconds,
a gigabyte. What it found to reach more branches stays in --corpus (a temporary folder unless given).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzzing import GROWTH, SECONDS, TOKENS, Tally, record

TEXT = (
    "ncnn-param",
    "darknet-cfg",
    "plan",
    "report",
    "budget",
    "config",
    "table",
    "data-yaml",
    "metadata-yaml",
    "model-yaml",
)
BINARY = ("darknet-weights", "pt", "safetensors")
INSTRUMENTED = ("onnxslim_yolo", "tomllib", "json.decoder", "zipfile", "yaml")
"""Packages whose branches guide it."""


def child(name: str, folder: Path, corpus: Path, inputs: int) -> None:
    """Fuzz one reader in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        from fuzz_readers import targets

        from onnxslim_yolo.emit.ncnn.emitter import emit_ncnn
        from onnxslim_yolo.errors import OnnxSlimError
        from onnxslim_yolo.runtime.ncnn_reader import parse_param
        from tests.emit.ncnn_cases import CONV
        from tests.numeric import build
    if name == "ncnn-param":
        seed, read = emit_ncnn(build(CONV["conv-leaky"])).param.encode(), parse_param  # type: ignore[assignment]
    else:
        target = targets(folder)[name]
        seed, read = target.seed(), target.read  # type: ignore[assignment]
    (corpus / "sound").write_bytes(seed)

    def one(data: bytes) -> None:
        try:
            read(data)  # type: ignore[operator]
        except OnnxSlimError as error:
            assert error.exit_status == 2 and len(str(error)) <= 2000

    words = folder / "words.dict"
    quoted = ("".join(f"\\x{byte:02x}" for byte in token) for token in TOKENS)
    words.write_text("".join(f'"{word}"\n' for word in quoted if word))
    memory = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 + GROWTH
    limits = [f"-runs={inputs}", "-seed=1", f"-timeout={SECONDS}", f"-rss_limit_mb={memory >> 20}", f"-dict={words}"]
    size = f"-max_len={max(4096, 2 * len(seed))}"
    atheris.Setup([sys.argv[0], *limits, size, f"-artifact_prefix={corpus.parent}/", str(corpus)], one)
    atheris.Fuzz()


def guided(name: str, inputs: int, place: Path) -> Tally:
    """What came of one reader, as libFuzzer's closing lines tell it."""
    corpus = place / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, __file__, "--child", name, "--inputs", str(inputs), "--corpus", str(place)]
    done = subprocess.run(line, capture_output=True, text=True, errors="replace")
    tally = Tally()
    runs = re.findall(r"^#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)", done.stderr, re.MULTILINE)
    if runs:
        count, edges, _, kept = (int(number) for number in runs[-1])
        tally.inputs = count
        tally.outcomes |= {"branches reached": edges, "files kept": kept}
    if done.returncode or not runs or tally.inputs < inputs:
        tally.findings.append(f"{name}: exit {done.returncode}\n{done.stderr[-3000:]}")
        print(tally.findings[0])
    print(f"{name}: {tally.inputs} inputs, {dict(tally.outcomes)}")
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", help=f"of {', '.join((*TEXT, *BINARY))}; default: all")
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--corpus", type=Path, help="keep inputs that reach something new here")
    parser.add_argument("--write", action="store_true", help="put the figures into bench/results/fuzz.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as text:
        place = given.corpus or Path(text)
        if given.child:
            child(given.child, Path(text), place / given.child / "corpus", given.inputs)
        found = {}
        for name in given.readers or (*TEXT, *BINARY):
            found[name] = guided(name, given.inputs, place)
            if given.write:
                record(f"{name}, guided", 0, given.inputs, found[name], f"{name} --inputs {given.inputs}")
    return int(any(tally.findings for tally in found.values()))


if __name__ == "__main__":
    sys.exit(main())
