"""Runs passes: times them, and checks invariants between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxslim_yolo.analysis.kept import forget
from onnxslim_yolo.errors import OnnxSlimError, PassError
from onnxslim_yolo.files.atomic import write_atomically
from onnxslim_yolo.files.spelling import spell
from onnxslim_yolo.ir.check import InvariantError, check_graph
from onnxslim_yolo.ir.graph import toposort
from onnxslim_yolo.ir.journal import Change, changes, picture
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.passes.protocol import Pass, effect_of
from onnxslim_yolo.runtime.progress import tell


@dataclass(frozen=True)
class PassRecord:
    """What one pass did: rewrites made, wall seconds, nodes left, and with a journal what happened to which tensor."""

    name: str
    spec: str
    rewrites: int
    seconds: float
    nodes: int
    changes: tuple[Change, ...] = ()


Observer = Callable[[Pass, Model, Model], None]
"""Called after each pass with the pass, the model before it (a copy) and the model after it."""


@dataclass
class PassManager:
    """Runs passes in order.

    Args:
        passes: the passes, in order.
        check: check the graph's invariants after every pass that changed something.
        dump_to: a directory that gets the graph after every pass, as `03-fold-bn.onnx`.
        observe: called after every pass that rewrote something, with (pass, copy of the model before, model after);
            `--verify-each` is one.
        first_index: the number that dumps begin with.
        journal: whether records hold what happened to which tensor.
    """

    passes: Sequence[Pass]
    check: bool = True
    dump_to: Path | None = None
    observe: Observer | None = None
    first_index: int = 0
    journal: bool = False

    def run(self, model: Model) -> list[PassRecord]:
        """Run all passes on the model, in place.

        Raises:
            PassError: a pass failed or left a graph that breaks an invariant; `pass_name` says which, and the message
                which passes ran before it.
        """
        records: list[PassRecord] = []
        total = self.first_index + len(self.passes)
        pictured = picture(model.graph) if self.journal else {}
        for index, step in enumerate(self.passes):
            tell(step.name, self.first_index + index, total)
            before = model.copy() if self.observe is not None else None
            records.append(self._run_one(step, model, records))
            if self.journal and records[-1].rewrites:
                now = picture(model.graph)
                records[-1] = replace(records[-1], changes=changes(pictured, now))
                pictured = now
            if self.dump_to is not None:
                _dump(model, self.dump_to, self.first_index + index, step.name)
            if self.observe is not None and before is not None and records[-1].rewrites:
                self.observe(step, before, model)
        return records

    def _run_one(self, step: Pass, model: Model, done: list[PassRecord]) -> PassRecord:
        history = ", ".join(record.name for record in done) or "none"
        start = time.perf_counter()
        try:
            rewrites = step.run(model)
            if rewrites:
                model.graph.nodes = toposort(model.graph)
                if effect_of(step) != "plan":
                    forget(model.graph)
                    if self.check:
                        check_graph(model.graph)
        except InvariantError as error:
            message = f"left a broken graph: {error} (passes before it: {history})"
            raise PassError(message, pass_name=step.name, file=model.source.file, hint=_BUG_HINT) from error
        except OnnxSlimError:
            raise
        except Exception as error:
            message = f"failed: {type(error).__name__}: {error} (passes before it: {history})"
            raise PassError(message, pass_name=step.name, file=model.source.file, hint=_BUG_HINT) from error
        return PassRecord(step.name, spell(step), rewrites, time.perf_counter() - start, len(model.graph.nodes))


_BUG_HINT = "this is a bug of the pass; leave it out with --passes, and report it with the output of --debug"


def _dump(model: Model, folder: Path, index: int, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / f"{index:02d}-{name}.onnx", model.to_onnx().SerializeToString(deterministic=True))
