"""Trials of a sweep in processes of their own, several at a time."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from onnxslim_yolo.runtime.children import Child, file_name
from onnxslim_yolo.sweep.rows import Row, Trial

CHILD = Path(__file__).with_name("child.py")


def run_in_children(trials: Sequence[dict[str, Any]], folder: Path, jobs: int) -> Iterator[Row]:
    """The trials' rows as they come.

    Args:
        trials: the fields of each `Trial`.
        folder: where they write, absolute.
        jobs: processes; -1: one a core.
    """
    todo: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    done: queue.SimpleQueue[Row | BaseException] = queue.SimpleQueue()
    for trial in trials:
        todo.put(trial)
    workers = [_Worker(todo, done, folder) for _ in range(min(jobs if jobs > 0 else _cores(), len(trials)))]
    try:
        for worker in workers:
            worker.start()
        for _ in trials:
            row = done.get()
            if isinstance(row, BaseException):
                raise row
            yield row
    finally:
        for worker in workers:
            worker.stop()


class _Worker(threading.Thread):
    """Hands one child after another trial; a child that dies costs its trial only."""

    def __init__(
        self, todo: queue.SimpleQueue[dict[str, Any]], done: queue.SimpleQueue[Row | BaseException], folder: Path
    ) -> None:
        super().__init__(daemon=True)
        self._todo, self._done, self._folder = todo, done, folder
        self._child: Child | None = None
        self._stopped = False

    def run(self) -> None:
        """Until nothing is left to do."""
        try:
            while not self._stopped:
                self._done.put(self._answer(self._todo.get_nowait()))
        except queue.Empty:
            pass
        except BaseException as error:  # reaches whoever waits for the row
            self._done.put(error)
        finally:
            self._end()

    def stop(self) -> None:
        """End the child, and with it the thread."""
        self._stopped = True
        if self._child is not None:
            self._child.kill()
        if self.ident is not None:
            self.join()

    def _answer(self, trial: dict[str, Any]) -> Row:
        if self._child is None:
            self._child = Child(CHILD, environment={"OMP_NUM_THREADS": "1"}, text=True, stderr=subprocess.DEVNULL)
            if self._stopped:
                raise queue.Empty
        try:
            self._child.stdin.write(json.dumps({"trial": trial, "folder": file_name(self._folder)}) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except (OSError, EOFError):
            line = ""
        if line:
            row: Row = json.loads(line)
            return row
        self._end()
        return _died(trial)

    def _end(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


def _died(trial: dict[str, Any]) -> Row:
    name = Path(trial["model"]).name
    return {"key": Trial(**trial).key, "model": name, "error": "VerificationError: the trial's process died"}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
