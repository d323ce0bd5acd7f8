"""Whether the float network that an int8 file was read as answers as the file does: seen by running both.

What is compared with after reading is the float network itself, so that a file that was read wrongly would agree with
its own misreading. Codes of 8 bits lose too much for a tolerance. But how two networks respond to the same images (see
`verify.response`) tells another function from rounding: a Relu that is missing halves it.
"""

from __future__ import annotations

from pathlib import Path

from onnxslim_yolo.errors import OnnxSlimError
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.load.onnx import read_as_it_is
from onnxslim_yolo.runtime.onnx_run import image_like_feeds, run_onnx
from onnxslim_yolo.verify.response import groups_of, response

IMAGES = 3

ALIKE = 0.9
"""An output that responds less alike than this is said to be another one. Networks that onnxruntime's own quantiser
wrote are seen at 0.99 and above, at 0.78 and below once an activation is missing."""


def answers_as(path: Path, model: Model) -> str:
    """How far an int8 file's own answers are those of the network that was read of it, in a sentence.

    Args:
        model: in canonical form, of known input size.
    """
    feeds = image_like_feeds(model, IMAGES)
    try:
        there, here = run_onnx(read_as_it_is(path), feeds), run_onnx(model, feeds)
    except OnnxSlimError as error:
        return f"WARNING: the int8 file does not run here, so nothing shows that it was read rightly: {error.message}"
    names = [name for name in there[0] if name in here[0]]
    sides = [[groups_of([run[name] for name in names], names, None) for run in side] for side in (there, here)]
    found = response(*sides)
    least = min(found, key=lambda left: left.alike, default=None)
    if least is None:
        return "WARNING: no output of the int8 file responds to images, so nothing shows that it was read rightly"
    if least.alike >= ALIKE:
        return f"run beside the int8 file, '{least.group}' responds {least.alike:.2f} alike to images (1: the same)"
    return (
        f"WARNING: run beside the int8 file, '{least.group}' responds only {least.alike:.2f} alike to images (1: the "
        "same): either its codes lose that much, or it was read wrongly. Compile the float model if there is one"
    )
