"""The default order of passes: one visible tuple, and the list of every pass of this package."""

from __future__ import annotations

from onnxslim_yolo.manager import Pass
from onnxslim_yolo.passes import (
    AbsorbConstants,
    Canonicalise,
    FocusToConv,
    FoldAffine,
    FoldBatchNorm,
    PruneChannels,
    ReparamBranches,
    ShuffleToGather,
    SliceChannels,
    SnapWidths,
    SppToSppf,
)

PASSES: tuple[type[Pass], ...] = (
    Canonicalise,
    ShuffleToGather,
    PruneChannels,
    SnapWidths,
    AbsorbConstants,
    SliceChannels,
    ReparamBranches,
    FoldBatchNorm,
    FoldAffine,
    FocusToConv,
    SppToSppf,
)
