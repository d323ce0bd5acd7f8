"""What an installation takes on disk, package by package, without torch.

    pip install . && python bench/install_size.py

Follows this package's requirements through the metadata of what is installed here, and adds up the files that each
distribution lists, its byte code included. What several of them need counts once, where it is first needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from onnxslim_yolo.files.atomic import write_atomically

RESULT = Path(__file__).resolve().parent / "results" / "install_size.json"
PURPOSE = {
    "onnxruntime": "runs graphs: verification, calibration, measuring",
    "onnx": "reads, checks and writes ONNX",
    "numpy": "arithmetic",
    "ncnn": "runs NCNN pairs; not in `requirements-onnx.txt`",
    "faster-coco-eval": "mAP: `eval`, `--data`; not in `requirements-onnx.txt`",
    "pillow": "reads images",
    "sympy": "onnxruntime's own requirement; not imported here",
}


def needed(name: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    """(distribution, who needs it) for everything that a distribution requires without extras, once each."""
    for text in requires(name) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        key = canonicalize_name(requirement.name)
        if key not in seen:
            seen.add(key)
            yield key, name
            try:
                yield from needed(key, seen)
            except PackageNotFoundError:
                continue


def size_of(name: str) -> int:
    """Bytes of the files that a distribution lists; of one that is not installed 0."""
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        return 0
    return sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file())


def main() -> None:
    """Measure, and write the table."""
    found = {name: {"by": by, "bytes": size_of(name)} for name, by in needed("onnxslim-yolo", set())}
    rows = dict(sorted(found.items(), key=lambda item: -int(item[1]["bytes"])))
    total = sum(int(row["bytes"]) for row in rows.values())
    write_atomically(RESULT, json.dumps(rows, indent=1) + "\n")
    lines = ["| package | MB | needed by | for |", "|---|---|---|---|"]
    for name, row in rows.items():
        if int(row["bytes"]) >= 1e6:
            lines.append(f"| {name} | {int(row['bytes']) / 1e6:.0f} | {row['by']} | {PURPOSE.get(name, '')} |")
    lines.append(f"| *all {len(rows)}* | *{total / 1e6:.0f}* | | |")
    write_atomically(RESULT.with_suffix(".md"), "# What an installation takes\n\n" + "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
