"""Stages of a long run, each done once: what a stage left is written down, and the next start goes on behind it.

    stages = Stages.open(folder / "slim.json", asked)
    facts = stages.run("sparsify", lambda: {"file": str(train())})

A stage counts as done when the file that it names is there as it was left; otherwise it, and those behind it, are done
again. The note is written whole or not at all, so that a run may be stopped at any time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxslim_yolo.errors import InputError, UsageError
from onnxslim_yolo.files.atomic import sha256_of, write_atomically

FORMAT, VERSION = "onnxslim-yolo/stages", 1


@dataclass
class Stages:
    """The note of a run, and what it says.

    Attributes:
        file: the note. asked: what the run was asked for, plain values.
        done: per stage, in order, what it left: its `facts`, the `sha256` of the file it names, its `seconds`.
        skipped: the stages that this start has found done.
    """

    file: Path
    asked: Mapping[str, Any]
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, file: Path, asked: Mapping[str, Any]) -> Stages:
        """The run that the note tells of, or a new one.

        Raises:
            UsageError: the note is of a run that was asked for something else. InputError: it is none of ours.
        """
        if not file.exists():
            found = cls(file, asked)
            found._write()
            return found
        try:
            held = json.loads(file.read_text(encoding="utf-8"))
            known = (held["format"], held["version"]) == (FORMAT, VERSION)
            before, done = dict(held["asked"]), {str(k): dict(v) for k, v in held["done"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"is no note of a run: {error!s:.200}", file=file, hint="choose another folder") from error
        if not known:
            raise InputError("is a note of another version", file=file, hint="choose another folder")
        differing = [key for key in {**before, **asked} if before.get(key) != asked.get(key)]
        if differing:
            key = differing[0]
            raise UsageError(
                f"{file.parent} holds a run with {key} {before.get(key)}, asked for is {asked.get(key)}",
                hint="give what it was begun with to go on, or another folder with -o",
            )
        return cls(file, asked, done)

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a stage left: of an earlier start, or of doing it now.

        Args:
            work: does it, and returns plain values; `file` names what the next stage needs, relative to the folder.
        """
        if self._stands(name):
            self.skipped.append(name)
        else:
            kept = {}
            for earlier, left in self.done.items():  # what stands behind it was made of what is gone
                if earlier == name:
                    break
                kept[earlier] = left
            self.done = kept
            begun = time.perf_counter()
            facts = work()
            path = self._path(facts)
            left = {"facts": facts, "sha256": sha256_of(path), "seconds": round(time.perf_counter() - begun, 1)}
            self.done[name] = left
            self._write()
        found: dict[str, Any] = self.done[name]["facts"]
        return found

    def _path(self, facts: Mapping[str, Any]) -> Path:
        return self.file.parent / str(facts["file"])

    def _stands(self, name: str) -> bool:
        left = self.done.get(name)
        if left is None:
            return False
        try:
            path = self._path(left["facts"])
            return path.is_file() and sha256_of(path) == left["sha256"]
        except (KeyError, TypeError, OSError):
            return False

    def _write(self) -> None:
        content = {"format": FORMAT, "version": VERSION, "asked": dict(self.asked), "done": self.done}
        write_atomically(self.file, json.dumps(content, indent=1) + "\n")
