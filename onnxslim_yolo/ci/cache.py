"""Results of earlier compilations, so that an unchanged model returns at once.

A result is kept under the SHA-256 of everything that decides its bytes: the input and what is read with it (Darknet
weights, external data, labelled images), the options and the files they name, the versions of this tool and of the
libraries below it, and the instruction set where widths are snapped for this machine. An entry appears by one rename,
lists the SHA-256 of each of its files, and counts only while all of them match.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from onnxslim_yolo._version import __version__
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import move_into, sha256_of, staging, write_atomically
from onnxslim_yolo.load.files_read import content_of, files_of_data, files_of_model
from onnxslim_yolo.options import CompileOptions

LIBRARIES = ("onnx", "onnxruntime", "onnx-graphsurgeon", "ncnn", "numpy", "torch")
MANIFEST = "cache.json"


def key_of(path: Path, options: CompileOptions) -> str:
    """The key of a compilation, in hexadecimal.

    Raises:
        InputError: the input, or a file that an option names, cannot be read.
    """
    facts: dict[str, Any] = {
        "tool": __version__,
        "libraries": {name: _version(name) for name in LIBRARIES},
        "passes": sorted(
            f"{point.value} {_distribution(point)}" for point in entry_points(group="onnxslim_yolo.passes")
        ),
        "input": path.name,
        "options": options.as_json(),
        "files": content_of(_files_read(path, options)),
    }
    if options.device == "host":
        from onnxslim_yolo.latency import host_isa

        facts["isa"] = host_isa()
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _distribution(point: Any) -> str:
    return "" if point.dist is None else f"{point.dist.name} {point.dist.version}"


def _files_read(path: Path, options: CompileOptions) -> Iterator[Path]:
    """Every file whose content decides the result, the input first."""
    yield from files_of_model(path)
    for named in _named(options):
        yield from sorted(p for p in named.rglob("*") if p.is_file()) if named.is_dir() else [named]
    if options.data is not None:
        yield from files_of_data(options.data)
    if options.calib is not None and not options.calib.is_dir():
        from onnxslim_yolo.runtime.dataset import read_calibration

        yield from read_calibration(options.calib)


def _named(options: CompileOptions) -> Iterator[Path]:
    """Files and folders that an option, or a pass of a textual pipeline, reads."""
    for field in fields(options):
        value = getattr(options, field.name)
        if isinstance(value, Path) and field.name not in ("out", "dump_to", "data"):
            yield value
    if options.passes is not None:
        from onnxslim_yolo.pipeline import parse_pipeline

        for step in parse_pipeline(options.passes):
            values = [getattr(step, field.name) for field in fields(step)]  # type: ignore[arg-type]
            yield from (Path(v) for v in values if isinstance(v, (str, Path)) and str(v) and Path(v).exists())


@dataclass(frozen=True)
class Entry:
    """A place in the cache: the folder that holds, or will hold, one result."""

    folder: Path

    def report(self) -> dict[str, Any] | None:
        """The result's report, or None where there is no complete, undamaged result."""
        try:
            listed = self._listed()
            if not _inside(listed) or not all(self._holds(name, digest) for name, digest in listed.items()):
                return None
            names = [name for name in listed if name.endswith(".report.json")]
            text = (self.folder / "files" / names[0]).read_text(encoding="utf-8")
            report: dict[str, Any] = json.loads(text)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None
        return report

    def _listed(self) -> dict[str, str]:
        manifest = self.folder / MANIFEST
        if not manifest.is_file():  # a pipe would be waited for
            raise LookupError(MANIFEST)
        listed: dict[str, str] = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        return listed

    def _holds(self, name: str, digest: str) -> bool:
        path = self.folder / "files" / name
        return path.is_file() and not path.is_symlink() and sha256_of(path) == digest

    def fetch(self, target: Path) -> None:
        """Copy the result's files to `target`. Raises InputError where that cannot be written."""
        with staging(target) as stage:
            with _writing(target, "choose another folder with -o"):
                for name in self._listed():  # nothing else that lies there
                    (stage / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self.folder / "files" / name, stage / name, follow_symlinks=False)
            move_into(stage, target)

    def store(self, source: Path, names: Iterable[str]) -> None:
        """Keep a result's files. Raises InputError where the cache cannot be written."""
        hint = "make room, or choose another folder with --cache"
        with staging(self.folder, hint) as stage:
            listed = {}
            with _writing(self.folder, hint):
                for name in names:
                    copy = stage / "files" / name
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source / name, copy)
                    listed[name] = sha256_of(copy)
            write_atomically(stage / MANIFEST, json.dumps({"files": listed}, indent=1) + "\n")
            shutil.rmtree(self.folder, ignore_errors=True)  # damaged, or nothing
            move_into(stage, self.folder)


@contextlib.contextmanager
def _writing(folder: Path, hint: str) -> Iterator[None]:
    """Raises InputError where the disk is full, or a file cannot be copied for another reason."""
    try:
        yield
    except (OSError, shutil.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)[:200]
        raise InputError(f"cannot write: {reason}", file=folder, hint=hint) from error


def _inside(names: Iterable[str]) -> bool:
    return not any(Path(name).is_absolute() or ".." in Path(name).parts for name in names)
