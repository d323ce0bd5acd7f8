"""fold-affine: constant scales and shifts per channel folded into the linear layer beside them.

Chains of Mul, Add, Sub, Div with constants that vary along the channels only (`/255` and mean/std at the input, layer
scale, YOLOv7's implicit knowledge) compose to y = s·x + t. As for `fold-bn`:

1. behind a linear layer whose output nothing else reads: always;
2. before linear layers, if every reader is one: s always. t too, if none is padded; otherwise W∗(s·x + t) =
   (W·s)∗(x + t/s) takes in the scale and leaves one Add, if there is no zero in s;
3. anywhere else a chain longer than one Mul and one Add is shortened to that; x·1 + 0 goes.

Along the last axis (tokens) the same holds for MatMul.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnxslim_yolo.ir.graph import Namer
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.rewrites.chain import fold_chains


@dataclass(frozen=True)
class FoldAffine:
    """Fold constant per-channel scales and shifts into the layer before or behind them, where that is exact."""

    name: ClassVar[str] = "fold-affine"

    def run(self, model: Model) -> int:
        """Fold, and return how many chains were folded or shortened."""
        return fold_chains(model.graph, Namer(model.graph), with_batch_norm=False)
