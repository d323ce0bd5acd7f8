"""Folders held open, so that what happens in them happens there: no link is followed, whatever others put in the way.

A path is looked up anew at every use; a link put in its place meanwhile, or lying there already, leads elsewhere. An
open folder is the folder. Where the system has no such calls (Windows), names are joined and links refused.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

Kind = Literal["folder", "file", "other", "nothing"]
"""What a name stands for; a link, a pipe, a device or a socket is "other"."""

_BY_DESCRIPTOR = {os.open, os.stat, os.mkdir, os.unlink, os.rmdir, os.rename} <= os.supports_dir_fd
_FOLDER = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_REAL = _FOLDER | getattr(os, "O_NOFOLLOW", 0)


class Folder:
    """An open folder. `close` it, or use `opened` and `below`."""

    def __init__(self, path: Path, fd: int | None) -> None:
        self.path, self.fd = path, fd

    def close(self) -> None:
        """Let go of it."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def kind(self, name: str) -> Kind:
        """What `name` stands for in this folder, links not followed."""
        try:
            mode = os.stat(self._name(name), follow_symlinks=False, **self._at("dir_fd")).st_mode  # noqa: PTH116
        except FileNotFoundError:
            return "nothing"
        return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"

    def names(self) -> list[str]:
        """What lies in it, sorted."""
        return sorted(os.listdir(self.path if self.fd is None else self.fd))  # noqa: PTH208

    @contextlib.contextmanager
    def below(self, name: str, *, make: bool = False) -> Iterator[Folder]:
        """A real folder in this one. Raises OSError where there is none, or a link instead."""
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._name(name), **self._at("dir_fd"))  # noqa: PTH102
        if self.kind(name) == "other":
            raise NotADirectoryError(f"'{name}' is a link or a special file, expected a folder")
        fd = None if self.fd is None else os.open(name, os.O_RDONLY | _REAL, dir_fd=self.fd)
        folder = Folder(self.path / name, fd)
        try:
            yield folder
        finally:
            folder.close()

    def move(self, name: str, target: Folder) -> None:
        """Put a file of this folder into another under the same name, over whatever file or link is there."""
        places = {**self._at("src_dir_fd"), **target._at("dst_dir_fd")}
        os.replace(self._name(name), target._name(name), **places)  # noqa: PTH105

    def take(self, path: Path, name: str) -> None:
        """Make a folder from elsewhere one of this folder's."""
        os.rename(path, self._name(name), **self._at("dst_dir_fd"))  # noqa: PTH104

    def remove(self, name: str) -> None:
        """Remove whatever has this name: a file, a link (not what it leads to), a folder with all that is in it.

        Raises:
            OSError: it cannot be removed.
        """
        kind = self.kind(name)
        if kind == "folder":
            try:
                with self.below(name) as inner:
                    for each in inner.names():
                        inner.remove(each)
            except RecursionError as error:
                raise OSError("is nested too deeply to be removed") from error
            os.rmdir(self._name(name), **self._at("dir_fd"))
        elif kind != "nothing":
            os.unlink(self._name(name), **self._at("dir_fd"))

    def _name(self, name: str) -> str:
        return name if self.fd is not None else str(self.path / name)

    def _at(self, keyword: str) -> dict[str, Any]:
        return {} if self.fd is None else {keyword: self.fd}


@contextlib.contextmanager
def opened(path: Path, *, follow: bool = True) -> Iterator[Folder]:
    """An existing folder, held open. Raises OSError where it is none, or a link that is not to be followed."""
    if not follow and path.is_symlink():
        raise NotADirectoryError(f"'{path.name}' is a link, expected a folder")
    fd = os.open(path, os.O_RDONLY | (_FOLDER if follow else _REAL)) if _BY_DESCRIPTOR else None
    folder = Folder(path, fd)
    try:
        yield folder
    finally:
        folder.close()
