"""ncnn's published times of a Raspberry Pi 4 and 5 against instructions of the same networks, counted under emulation.

    python bench/arm_latency.py count a76|a72 [NETWORK…]     into --counts, what is there already is not counted again
    python bench/arm_latency.py fit --write                  bench/results/arm_latency.json and .md

Facts of others: `benchmark/README.md` (single-thread minimum of ten runs), `benchncnn.cpp` (input sizes) and the
`.param` files, read from a checkout of ncnn at --ncnn; weights are 0, here as there. Needs bench/arm_setup.py and
arm_counter.sh, and the aarch64 wheel of the ncnn that was timed, unpacked at ROOT/site-VERSION:

    pip install --no-deps --only-binary=:all: --platform manylinux2014_aarch64 --python-version 3.11 \\
        --target ~/.cache/onnxslim-yolo-arm/site-20231027 ncnn==1.0.20231027
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from arm_counting import Counter
from arm_maps import layers_of_param, maps
from arm_setup import default_root
from arm_weights import NUMBER_BYTES, Network, far_bytes, report

RESULTS = Path(__file__).with_name("results")
BOARDS = {"a76": "Raspberry Pi 5 Broadcom BCM2712, Cortex-A76", "a72": "Raspberry Pi 4 Model B Broadcom BCM2711B0"}
"""How the README's sections begin; the first of that name counts."""
TIMED = {"a76": "20231027", "a72": "20230517"}
"""The release before the commit that brought these times: 070dac995 of 2023-12-12, cc37c1099 of 2023-06-15."""
_ROW = re.compile(r"^\s*(\S+)\s+min =\s*([\d.]+)\s", re.MULTILINE)
_SIZE = re.compile(r'^\s*benchmark\("([^"]+)", ncnn::Mat\((\d+), (\d+), (\d+)\)', re.MULTILINE)


def main() -> None:
    root = default_root()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=("count", "fit"))
    parser.add_argument("core", nargs="?", choices=sorted(BOARDS))
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--ncnn", type=Path, default=root / "ncnn")
    parser.add_argument("--counts", type=Path, default=root)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.job == "count":
        count(options.core, options.ncnn / "benchmark", file_of(options.counts, options.core), options.networks)
        return
    files = {core: file_of(options.counts, core) for core in BOARDS}
    boards = {core: networks(core, options.ncnn / "benchmark", file) for core, file in files.items() if file.is_file()}
    text, facts = report(boards, TIMED)
    print(text)
    if options.write:
        (RESULTS / "arm_latency.md").write_text(text)
        (RESULTS / "arm_latency.json").write_text(json.dumps(facts, indent=1) + "\n")


def file_of(folder: Path, core: str) -> Path:
    return folder / f"networks-{core}.jsonl"


def count(core: str, benchmark: Path, file: Path, only: list[str]) -> None:
    """Instructions of the published networks layer by layer, the fast ones first."""
    sizes, known = sizes_of(benchmark), known_counts(file)
    with Counter(core, site=f"site-{TIMED[core]}") as counter, file.open("a") as stream:
        for name, ms in sorted(published(core, benchmark).items(), key=lambda item: item[1]):
            if name in known or (only and name not in only):
                continue
            param = benchmark / "models" / f"{name}.param"
            made = [layer.made for layer in layers_of_param(param) if layer.type != "Input"]
            counts = counter.by_blob(param, [sizes[name]], made)
            print(f"{name}: {ms} ms, {sum(map(sum, counts or [])) / 1e6:.1f} M", flush=True)
            stream.write(json.dumps([name, counts]) + "\n")
            stream.flush()


def known_counts(file: Path) -> dict[str, list[list[int]]]:
    return dict(json.loads(line) for line in file.read_text().splitlines()) if file.is_file() else {}


def published(core: str, benchmark: Path) -> dict[str, float]:
    """Milliseconds of one thread, by network."""
    text = (benchmark / "README.md").read_text()
    section = text[text.index(f"### {BOARDS[core]}") :]
    alone = section[section.index("num_threads = 1\n") :]
    return {name: float(ms) for name, ms in _ROW.findall(alone[: alone.index("```")])}


def sizes_of(benchmark: Path) -> dict[str, list[int]]:
    """(c, h, w) of each network's input."""
    text = (benchmark / "benchncnn.cpp").read_text()
    return {name: [int(c), int(h), int(w)] for name, w, h, c in _SIZE.findall(text)}


def networks(core: str, benchmark: Path, counted: Path) -> list[Network]:
    """The published networks that were counted."""
    times, counts, sizes = published(core, benchmark), known_counts(counted), sizes_of(benchmark)
    found = []
    for name, ms in times.items():
        if counts.get(name):
            param = benchmark / "models" / f"{name}.param"
            by_layer = maps(param, sizes[name], counted.with_name("networks-maps.json"))
            maps_bytes = NUMBER_BYTES[core] * sum(by_layer)
            found.append(Network(name, ms, counts[name], maps_bytes, far_bytes(core, by_layer)))
    return found


if __name__ == "__main__":
    main()
