"""The passes: one file, one class, one rewrite each."""

from __future__ import annotations

if __name__ != "onnxslim_yolo.passes":
    # Importing this folder under another name would make a second copy of every class.
    raise ImportError(f"import onnxslim_yolo.passes, not {__name__}: this folder is part of the package onnxslim_yolo")

from onnxslim_yolo.passes.absorb import AbsorbConstants
from onnxslim_yolo.passes.activations import Activations
from onnxslim_yolo.passes.canonicalise import Canonicalise
from onnxslim_yolo.passes.conv_before_resize import ConvBeforeResize
from onnxslim_yolo.passes.conv_before_split import ConvBeforeSplit
from onnxslim_yolo.passes.drop_blocks import DropBlocks
from onnxslim_yolo.passes.drop_dead import DropDead
from onnxslim_yolo.passes.focus import FocusToConv
from onnxslim_yolo.passes.fold_affine import FoldAffine
from onnxslim_yolo.passes.fold_bn import FoldBatchNorm
from onnxslim_yolo.passes.head import Head
from onnxslim_yolo.passes.pad_pool import PadToPool
from onnxslim_yolo.passes.prune import PruneChannels
from onnxslim_yolo.passes.quantise import Quantise
from onnxslim_yolo.passes.reconstruct import Reconstruct
from onnxslim_yolo.passes.reparam import ReparamBranches
from onnxslim_yolo.passes.shuffle import ShuffleToGather
from onnxslim_yolo.passes.slice import SliceChannels
from onnxslim_yolo.passes.snap import SnapWidths
from onnxslim_yolo.passes.spp import SppToSppf
from onnxslim_yolo.passes.to_target import PruneToTarget

__all__ = [
    "AbsorbConstants",
    "Activations",
    "Canonicalise",
    "ConvBeforeResize",
    "ConvBeforeSplit",
    "DropBlocks",
    "DropDead",
    "FocusToConv",
    "FoldAffine",
    "FoldBatchNorm",
    "Head",
    "PadToPool",
    "PruneChannels",
    "PruneToTarget",
    "Quantise",
    "Reconstruct",
    "ReparamBranches",
    "ShuffleToGather",
    "SliceChannels",
    "SnapWidths",
    "SppToSppf",
]
