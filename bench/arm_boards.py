"""How well the models of a Pi 5 and a Pi 4 tell the time of other boards: one factor a board, each network held out.

    python bench/arm_boards.py [--write]      bench/results/arm_boards.md and .json

Published: `benchmark/README.md` of ncnn at --ncnn (single thread, minimum). Predicted: what the Pi whose table stands
for the board takes by arm_latency.json, that network held out there, too, times the factor that fits all others. The
factors are those of `latency/devices.py`; a test holds the two together. Of phones, whose name says no processor, the
one is taken with the most networks and, among these, the oldest: tables are for what is about.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from arm_setup import default_root
from arm_weights import figures_of

RESULTS = Path(__file__).with_name("results")
BOARDS = {
    "pi3": ("Raspberry Pi 3 Model B+", "a72"),
    "pizero2": ("Raspberry Pi Zero 2 W", "a72"),
    "rk3588": ("Rockchip RK3588 (Quad Core", "a76"),
    "rk3566": ("OrangePicm4, Rockchip Rk3566", "a76"),
    "android": ("Qualcomm SM8150-AC Snapdragon 855+", "a76"),
    "android-fp32": ("Qualcomm MSM8996 Pro Snapdragon 821", "a72"),
    "rk3588, another": ("Station-M3/ROC-RK3588S-PC", "a76"),
    "rk3588, of 2022": ("Rockchip RK3588 (Cortex-A76 2.4GHz x 4", "a76"),
    "rk3566, another": ("Station-M2/ROC-RK3566-PC", "a76"),
    "android, Snapdragon 8 Gen 2": ("Qualcomm SM8550-AB", "a76"),
    "android, Dimensity 9300": ("MediaTek Dimensity 9300", "a76"),
    "android-fp32, Kirin 970": ("Kirin 970", "a72"),
    "android-fp32, Snapdragon 660": ("Qualcomm SDM660", "a72"),
}
"""How sections of the README begin, and the core whose instructions stand for the board's: fp16 arithmetic or not."""
_ROW = re.compile(r"^\s*(\S+)\s+min =\s*([\d.]+)\s", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ncnn", type=Path, default=default_root() / "ncnn")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    readme = (options.ncnn / "benchmark" / "README.md").read_text()
    predicted = json.loads((RESULTS / "arm_latency.json").read_text())
    lines = [
        "# Other boards by a Pi's model", "",
        "`python bench/arm_boards.py`. ncnn's published single-thread minimum against the model of the Pi whose table",
        "stands for the board, times one factor; every network is held out from both.", "",
        "| `--for` | published as | by | networks | × | median error | largest | rank correlation |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    facts = {}
    for name, (title, core) in BOARDS.items():
        times = alone(readme, title)
        both = [(times[n["name"]], n["held out ms"]) for n in predicted[core]["networks"] if n["name"] in times]
        ms, guess = np.array(both).T
        held_out = [guess[i] * factor(np.delete(ms, i), np.delete(guess, i)) for i in range(len(ms))]
        found = {"factor": float(f"{factor(ms, guess):.4g}"), "networks": len(ms), **figures_of(held_out, ms)}
        facts[name] = {"of": "pi5" if core == "a76" else "pi4", "published as": title, **found}
        errors = " | ".join(f"{found[key]:.1%}" for key in ("median error", "largest error"))
        row = (name, title, facts[name]["of"], len(ms), found["factor"], errors, f"{found['rank correlation']:.3f}")
        lines.append(f"| {' | '.join(map(str, row))} |")
    text = "\n".join([*lines, ""])
    print(text)
    if options.write:
        (RESULTS / "arm_boards.md").write_text(text)
        (RESULTS / "arm_boards.json").write_text(json.dumps(facts, indent=1) + "\n")


def alone(readme: str, title: str) -> dict[str, float]:
    """Milliseconds of one thread on the processor by network: the first such run of the section, on its fast cores."""
    section = readme[readme.index(f"### {title}") :]
    end = section.find("\n### ", 1)
    for run in re.split(r"(?=loop_count = )", section[: end if end > 0 else None])[1:]:
        if re.search(r"num_threads = 1\b", run) and "gpu_device = -1" in run and len(found := dict(rows(run))) > 9:
            return found
    raise ValueError(f"{title}: no run of one thread")


def rows(run: str) -> Iterator[tuple[str, float]]:
    return ((name, float(ms)) for name, ms in _ROW.findall(run))


def factor(ms: np.ndarray, guess: np.ndarray) -> float:
    """What leaves the least squared relative error."""
    share = guess / ms
    return float(share.sum() / (share**2).sum())


if __name__ == "__main__":
    main()
