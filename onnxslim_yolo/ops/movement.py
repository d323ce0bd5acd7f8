"""Operators that move elements and compute nothing: where each comes from is told in `analysis.movement`."""

from __future__ import annotations

from onnxslim_yolo.ops.question import one_of

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""The same elements in the same order, in another shape."""
SAME = ("Identity", "Dropout", "Cast", "CastLike")
"""Every element stays where it is, apart from its type."""
PICKS = ("Slice", "Gather", "GatherElements", "GatherND", "Split", "Compress")
"""Some of the elements."""
REPEATS = ("Expand", "Tile")
BLOCKS = ("DepthToSpace", "SpaceToDepth")
JOINS = {"Concat": None, "ScatterND": (0, 2), "ScatterElements": (0, 2), "Scatter": (0, 2), "Where": (1, 2)}
"""Operators that move several operands: which inputs those are; None: all."""

ARRANGES = (*VIEWS, "Transpose", "Gather", "Slice", "Split")
"""What an arrangement of elements is spelt with: whole slices in another shape or order, their values and type kept."""
OF_ONE = (*VIEWS, *SAME, *PICKS, *REPEATS, *BLOCKS, "Transpose", "Trilu", "ReverseSequence", "Pad")
"""Operators that move what their first input holds."""
MOVEMENTS = (*OF_ONE, "Concat", "ScatterND", "ScatterElements", "Scatter", "CenterCropPad")

SHAPES = ("Shape", "Size")
"""What says how large something is: of no element at all."""

SIZED_BY = {"Reshape": 1, "Expand": 1, "Tile": 1, "Resize": 1, "Slice": 1, "ConstantOfShape": 0}
"""Operators that read sizes: from which input on."""

tells_sizes = one_of(*SHAPES)
tells_shape = one_of("Shape")
counts_elements = one_of("Size")
is_filled = one_of("ConstantOfShape")
"""One number throughout, as large as it is told."""

keeps_order = one_of(*SAME, *VIEWS)
"""The same elements in the same order, in whatever shape and type."""
is_identity = one_of("Identity")
is_dropout = one_of("Dropout")
is_cast = one_of("Cast", "CastLike")
is_view = one_of(*VIEWS)
is_reshape = one_of("Reshape")

reorders = one_of("Gather", "Transpose")
is_gather = one_of("Gather")
is_transpose = one_of("Transpose")
is_space_to_depth = one_of("SpaceToDepth")

reads_places = one_of("GatherElements", "GatherND", "ScatterND", "ScatterElements", "Scatter", "GridSample", "RoiAlign")
"""Their second input says at which places they read or write."""

is_join = one_of("Concat")
is_split = one_of("Split")
is_slice = one_of("Slice")
is_tile = one_of("Tile")
is_expand = one_of("Expand")
is_pad = one_of("Pad")
