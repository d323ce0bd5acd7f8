"""Files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import importlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxslim_yolo.errors import InputError

fcntl: Any = None
with contextlib.suppress(ImportError):  # on Windows
    fcntl = importlib.import_module("fcntl")

INCOMING = ".onnxslim-incoming"
STALE_SECONDS = 60.0
"""A staging folder younger than this may belong to a process that has not locked it yet."""


def write_atomically(path: Path, data: bytes | str) -> Path:
    """Write a file under a temporary name beside it, then rename: readers see the old file or the new one.

    Raises:
        InputError: the folder cannot be made or written, or the disk is full. Nothing is left behind.
    """
    content = data.encode("utf-8") if isinstance(data, str) else data
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        os.replace(temporary, path)  # noqa: PTH105 (Path.replace is the same; this names the atomic call)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        reason = error.strerror or str(error)
        raise InputError(f"cannot write: {reason}", file=path, hint="choose another folder with -o") from error
    return path


@contextlib.contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` to write into first; gone afterwards whatever happens.

    One that a killed process left there is taken away by the next.

    Raises:
        InputError: `folder` is a file, or nothing can be written beside it.
    """
    parent = folder.resolve().parent
    prefix = f".{folder.resolve().name}.onnxslim-"
    hint = "choose another folder with -o"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and not folder.is_dir():
            raise InputError("is a file, expected a folder to write to", file=folder, hint=hint)
        if folder.is_dir() and folder.stat().st_dev != parent.stat().st_dev:
            parent = folder.resolve()  # a mount point: renaming does not cross it
        _sweep(parent, prefix)
        stage = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    except OSError as error:
        raise InputError(f"cannot write here: {error.strerror or error}", file=folder, hint=hint) from error
    try:
        with _locked(stage):
            yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _sweep(parent: Path, prefix: str) -> None:
    """Remove the staging folders that nobody holds any more."""
    for left in parent.glob(f"{glob.escape(prefix)}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_SECONDS and left.is_dir() and not _is_locked(left):
                shutil.rmtree(left, ignore_errors=True)


def move_into(stage: Path, folder: Path) -> None:
    """Move every file below `stage` to the same place below `folder`, all of them as one step.

    1. A folder that does not exist yet appears by one rename.
    2. Otherwise files are replaced one by one under a lock on the folder, so that compilations into one folder do not
       mix. The stage becomes `folder/.onnxslim-incoming` before the first of them: if the process is killed half way,
       the next one finishes the move before it makes its own.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        stage.chmod(0o777 & ~_umask())
        with contextlib.suppress(OSError):  # it exists: the second case
            os.rename(stage, folder)  # noqa: PTH104 (fails, where Path.rename is the same, on a folder that has files)
            return
        with _locked(folder):
            incoming = folder / INCOMING
            with contextlib.suppress(OSError):  # somebody's half; if it cannot be finished it goes
                _finish(incoming, folder)
            shutil.rmtree(incoming, ignore_errors=True)
            _refuse_folders(stage, folder)
            os.rename(stage, incoming)  # noqa: PTH104
            _finish(incoming, folder)
    except OSError as error:
        raise InputError(
            f"cannot write: {error.strerror or error}", file=folder, hint="choose another folder with -o"
        ) from error


def _finish(incoming: Path, folder: Path) -> None:
    """Move what has arrived into place. Whoever is interrupted here leaves the rest to the next."""
    if not incoming.is_dir():
        return
    for file in sorted(path for path in incoming.rglob("*") if path.is_file()):
        target = folder / file.relative_to(incoming)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)  # noqa: PTH105
    shutil.rmtree(incoming)


def _refuse_folders(stage: Path, folder: Path) -> None:
    """Raises InputError where a folder has the name of a file to come, before any of them is moved."""
    for file in stage.rglob("*"):
        target = folder / file.relative_to(stage)
        if target.exists() and target.is_dir() != file.is_dir():
            found, wanted = ("a folder", "a file") if target.is_dir() else ("a file", "a folder")
            raise InputError(f"is {found}, but {wanted} of this name is to be written", file=target)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes of this program; the lock ends with the process. No-op on Windows."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks: as good as it can be
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_locked(folder: Path) -> bool:
    if fcntl is None:
        return True
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
