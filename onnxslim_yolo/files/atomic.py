"""Files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.directories import Folder, opened

fcntl: Any = None
with contextlib.suppress(ImportError):  # on Windows
    fcntl = importlib.import_module("fcntl")

INCOMING = ".onnxslim-incoming"
STALE_SECONDS = 60.0
"""A staging folder younger than this may belong to a process that has not locked it yet."""
ELSEWHERE = "choose another folder with -o"


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
        raise InputError(f"cannot write: {reason}", file=path, hint=ELSEWHERE) from error
    return path


@contextlib.contextmanager
def staging(folder: Path, hint: str = ELSEWHERE) -> Iterator[Path]:
    """A hidden folder beside `folder` to write into first, or in it; gone afterwards whatever happens.

    One that a killed process left there is taken away by the next.

    Args:
        hint: the way out where it cannot be made.

    Raises:
        InputError: `folder` is a file, or nothing can be written beside it.
    """
    real = resolved(folder)
    parent, prefix = real.parent, f".{real.name}.onnxslim-"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and not folder.is_dir():
            raise InputError("is a file, expected a folder to write to", file=folder, hint=hint)
        if folder.is_dir() and (folder.stat().st_dev != parent.stat().st_dev or not os.access(parent, os.W_OK)):
            parent = real  # a mount point, which renaming does not cross; or a home in a folder of somebody else's
        _sweep(parent, prefix)
    except OSError as error:
        raise InputError(f"cannot write here: {error.strerror or error}", file=folder, hint=hint) from error
    stage = parent / f"{prefix}{secrets.token_hex(8)}"
    try:  # named before it is there: no signal comes between the two
        try:
            stage.mkdir(0o700)
        except OSError as error:
            raise InputError(f"cannot write here: {error.strerror or error}", file=folder, hint=hint) from error
        with _locked(stage, follow=False):
            yield stage
    finally:
        _remove(stage)


@contextlib.contextmanager
def private_folder(prefix: str = "onnxslim-") -> Iterator[Path]:
    """A folder among the temporary ones that only this user can read; gone afterwards whatever happens.

    A signal that comes between making a folder and knowing its name would leave it: `tempfile` makes it first.

    Raises:
        OSError: none can be made.
    """
    folder = Path(tempfile.gettempdir()) / f"{prefix}{secrets.token_hex(8)}"
    try:
        folder.mkdir(0o700)
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:  # a signal came while it went
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _sweep(parent: Path, prefix: str) -> None:
    """Remove what staging left and nobody holds any more, whatever it is by now; a link goes, not what it leads to."""
    with opened(parent) as folder:
        for name in (name for name in folder.names() if name.startswith(prefix)):
            with contextlib.suppress(OSError):
                if time.time() - (parent / name).lstat().st_mtime > STALE_SECONDS and not _is_held(folder, name):
                    folder.remove(name)


def _is_held(folder: Folder, name: str) -> bool:
    if folder.kind(name) != "folder":
        return False
    with folder.below(name) as stage:
        return _is_locked(stage)


def move_into(stage: Path, folder: Path) -> None:
    """Move every file below `stage` to the same place below `folder`, all of them as one step.

    1. A folder that does not exist yet appears by one rename.
    2. Otherwise files are replaced one by one under a lock on the folder, so that compilations into one folder do not
       mix. The stage becomes `folder/.onnxslim-incoming` before the first of them: if the process is killed half way,
       the next one finishes the move before it makes its own.

    `folder` may be a link. Below it none is followed: what is not a real folder where one is needed is refused.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        stage.chmod(0o777 & ~_umask())
        with contextlib.suppress(OSError):  # it exists: the second case
            os.rename(stage, folder)  # noqa: PTH104 (fails, where Path.rename is the same, on a folder that has files)
            return
        with _locked(folder) as target:
            _finish_or_remove(target)
            with opened(stage, follow=False) as source:
                _refuse_what_is_in_the_way(source, target)
            target.take(stage, INCOMING)
            _finish(target)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror or error}", file=folder, hint=ELSEWHERE) from error


def _finish_or_remove(target: Folder) -> None:
    """Somebody's half is finished; what is none, or cannot be finished, goes. Raises InputError where it stays."""
    with contextlib.suppress(OSError, InputError):
        if target.kind(INCOMING) == "folder":
            with target.below(INCOMING) as incoming:
                _refuse_what_is_in_the_way(incoming, target)
            _finish(target)
    try:
        target.remove(INCOMING)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot be removed: {reason}", file=target.path / INCOMING, hint="remove it by hand"
        ) from error


def _finish(target: Folder) -> None:
    """Move what has arrived into place. Whoever is interrupted here leaves the rest to the next."""
    with target.below(INCOMING) as incoming:
        _move_all(incoming, target)
    target.remove(INCOMING)


def _move_all(source: Folder, target: Folder) -> None:
    """Files go, folders are gone through; links and whatever else lies there stay, to be removed with the rest."""
    for name in source.names():
        kind = source.kind(name)
        if kind == "file":
            source.move(name, target)
        elif kind == "folder":
            with source.below(name) as inner, target.below(name, make=True) as place:
                _move_all(inner, place)


def _refuse_what_is_in_the_way(source: Folder, target: Folder) -> None:
    """Raises InputError where a file to come meets a folder, or a folder no folder, before anything is moved."""
    for name in source.names():
        wanted, found = source.kind(name), target.kind(name)
        if wanted == "file" and found == "folder":
            raise InputError("is a folder, but a file of this name is to be written", file=target.path / name)
        if wanted != "folder" or found == "nothing":
            continue
        if found != "folder":
            what = "a file" if found == "file" else "a link or a special file"
            hint = "remove it, or choose another folder with -o"
            raise InputError(
                f"is {what}, but a folder of this name is to be written", file=target.path / name, hint=hint
            )
        with source.below(name) as inner, target.below(name) as place:
            _refuse_what_is_in_the_way(inner, place)


@contextlib.contextmanager
def _locked(path: Path, *, follow: bool = True) -> Iterator[Folder]:
    """Hold a folder open, and against other processes of this program; the lock ends with the process."""
    with opened(path, follow=follow) as folder:
        if fcntl is not None and folder.fd is not None:
            with contextlib.suppress(OSError):  # a file system without locks: as good as it can be
                fcntl.flock(folder.fd, fcntl.LOCK_EX)
        yield folder


def _is_locked(folder: Folder) -> bool:
    """Whether another process holds it. On Windows nobody can tell."""
    if fcntl is None or folder.fd is None:
        return True
    try:
        fcntl.flock(folder.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def require_file(path: Path) -> None:
    """Raises InputError for what is no file to be read to its end: a pipe, a device, a socket, a link to one."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # whoever opens it says what is the matter
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        what = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise InputError(f"is {what}, expected a file", file=path, hint="copy what it gives into a file first")


def require_place(path: Path, option: str = "-o") -> None:
    """Raises InputError where `write_atomically` is certain to fail: a folder in its place, or one nobody may write.

    Args:
        option: what names the file.
    """
    if path.is_dir():
        raise InputError("is a folder, expected a file to write", file=path, hint=f"choose another name with {option}")
    _require_writable(path.parent, path, f"choose another folder with {option}")


def require_folder(folder: Path, option: str = "-o") -> None:
    """Raises InputError where nothing can come to lie in a folder: a file in its place, or one nobody may write.

    Args:
        option: what names the folder.
    """
    hint = f"choose another folder with {option}"
    if os.path.lexists(folder) and not folder.is_dir():
        found = "file" if folder.exists() else "link that leads nowhere"
        raise InputError(f"is a {found}, expected a folder to write to", file=folder, hint=hint)
    _require_writable(folder, folder, hint)


def _require_writable(folder: Path, said_of: Path, hint: str) -> None:
    """Raises InputError where a folder cannot be written, or made: the nearest that is there decides."""
    there = next((each for each in (folder, *folder.parents) if each.exists()), Path())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "Permission denied" if there.is_dir() else f"{there} is no folder"
        raise InputError(f"cannot write here: {reason}", file=said_of, hint=hint)


def resolved(path: Path) -> Path:
    """The path without links. Raises InputError for links that lead in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: before Python 3.13
        raise InputError("is a link that leads in a circle, or nowhere", file=path, hint="name another path") from error


def require_other(written: Iterable[Path], *read: Path | None, hint: str = "name another file") -> None:
    """Raises InputError where a file to be written is one that is read."""
    places = {resolved(path): path for path in read if path is not None}
    for path in written:
        if resolved(path) in places:
            raise InputError("would be written over, and it is what is read", file=path, hint=hint)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
