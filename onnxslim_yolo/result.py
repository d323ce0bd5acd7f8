"""What a compilation hands back: the models, where its files are, and the plan and report that they hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxslim_yolo.ir.model import Model

if TYPE_CHECKING:
    from onnxslim_yolo.emit.torch import GraphModule


@dataclass(frozen=True)
class Taught:
    """What a network was taught by before it was compiled: it is judged against that, not against itself.

    Attributes:
        teacher: in canonical form. images: those that it was taught on.
        facts: for the report, under `distillation`. note: the same in a sentence.
    """

    teacher: Model
    images: Path
    facts: dict[str, Any]
    note: str


@dataclass
class Result:
    """What a compilation made.

    Attributes:
        model: the compiled graph.
        folder: where the files are.
        trainable: the graph as cut, before anything is fused: BatchNorms are still there.
        onnx, ncnn, torch, ultralytics: the ONNX file, the NCNN folder, the saved module, the checkpoint for
            Ultralytics; None where not asked for.
        slim: what is known about that checkpoint.
        plan, report: the contents of NAME.plan.json and NAME.report.json.
        timings: wall `seconds` of the compilation, and of each pass in the report's order. Files do not hold them, so
            that the same input and options give the same bytes.
    """

    model: Model
    folder: Path
    onnx: Path | None = None
    ncnn: Path | None = None
    torch: Path | None = None
    ultralytics: Path | None = None
    slim: dict[str, Any] | None = None
    trainable: Model | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> dict[str, Any]:
        """The report's `verdict`: `word` and `text` of the headline, what to do (`advice`), and under `equal`, `alive`
        and `accuracy` a `state` each."""
        found: dict[str, Any] = self.report["verdict"]
        return found

    def to_torch(self) -> GraphModule:
        """The pruned network as a trainable module, its BatchNorms kept and its parameters under their old names.

        Raises:
            UnsupportedError: an operator that the module cannot run; it is named. ImportError: torch is missing.
        """
        from onnxslim_yolo.emit.torch import to_torch

        return to_torch(self.trainable or self.model)
