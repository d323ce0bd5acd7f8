"""Files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from onnxslim_yolo.errors import InputError


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


def move_into(stage: Path, folder: Path) -> None:
    """Move every file below `stage` to the same place below `folder`, replacing what is there file by file.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        for file in sorted(path for path in stage.rglob("*") if path.is_file()):
            target = folder / file.relative_to(stage)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)  # noqa: PTH105
    except OSError as error:
        raise InputError(
            f"cannot write: {error.strerror or error}", file=folder, hint="choose another folder with -o"
        ) from error


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
