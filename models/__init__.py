"""Own PyTorch definitions of the YOLO blocks: to rebuild checkpoints. `zoo/` and `demo/` are not shipped.

**Contract for whoever reads checkpoints.** A checkpoint's modules arrive as (class name, instance dictionary):

1. `torch.nn` leaves (Conv2d, BatchNorm2d, SiLU, Upsample, MaxPool2d, Sequential, ModuleList …) are the reader's.
2. Any other class goes through `rebuild(name, modules=…, parameters=…, buffers=…, attributes=…)`: `name` is the class
   name without its module; `modules`, `parameters`, `buffers` are the instance's `_modules`, `_parameters`, `_buffers`
   with sub-modules already rebuilt (in the checkpoint's order: `forward` depends on it for nothing, but
   `input_width` takes the first convolution of a block); `attributes` are its plain attributes, of which only those
   in the class's `ATTRIBUTES` are taken. Constructors are never called.
3. `block_class(name, members)` picks the class. A name may stand for several (`Detect` of YOLOv5 has `m` and
   `anchors`, of YOLOv8 `cv2`, `cv3`; `RepConv` of YOLOv7 and of Ultralytics): they are told apart by `MEMBERS`, the
   sub-modules (or tensors) that must be there (`a|b`: one of both). `BLOCKS[name]` is the first of them.
   `register_block(*names)` adds one.
4. `ATTRIBUTES: Mapping[str, default]` (iterating gives the allowed names). A default of `REQUIRED` means that there is
   none. Values may be numbers, booleans, strings, tuples/lists of such; `stride` may be a tensor.
5. `OPTIONAL` sub-modules that a checkpoint lacks become None (`bn` of a fused Conv).
6. `rebuild` ends with `settle()`: tensors of strides and anchors become Python floats.
7. The container (`Model`, `DetectionModel`, …) is a block too, with the member `model` (a Sequential). Every direct
   child of that Sequential, leaf or block, must carry its own `f` (int or list of ints, default -1); set it with
   `setattr` after rebuilding. `save` and `i` are recomputed or not needed.
8. A detection head's output is chosen by setting `head.output` to "decoded" (default) or "raw", and `head.dynamic` to
   keep H and W symbolic in a trace.

`forward` takes split sizes from sub-modules' widths, never from a stored `c`, so pruned checkpoints work as they are.
"""

from __future__ import annotations

if __name__ == "models":
    raise ImportError("import onnxslim_yolo.models: 'models' would be a second copy of every class")

from onnxslim_yolo.models import (
    blocks_area,
    blocks_backbone,
    blocks_c2f,
    blocks_common,
    blocks_csp,
    blocks_elan,
    blocks_lite,
    blocks_rep,
    container,
    heads,
    heads_dfl,
    heads_tasks,
    yolov6,
    yolov6_r3,
)
from onnxslim_yolo.models.registry import (
    BLOCKS,
    REQUIRED,
    Block,
    allow,
    block_class,
    rebuild,
    register_block,
)

FAMILIES = (
    blocks_area,
    blocks_backbone,
    blocks_common,
    blocks_csp,
    blocks_c2f,
    blocks_elan,
    blocks_lite,
    blocks_rep,
    container,
    heads,
    heads_dfl,
    heads_tasks,
    yolov6,
    yolov6_r3,
)
"""The modules whose blocks are registered."""

__all__ = [
    "BLOCKS",
    "FAMILIES",
    "REQUIRED",
    "Block",
    "allow",
    "block_class",
    "rebuild",
    "register_block",
]
