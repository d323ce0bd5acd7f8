"""A model file as a function from images to detections, whatever runtime it needs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx

from onnxslim_yolo.analysis.limits import ANY, Asked
from onnxslim_yolo.errors import InputError, UnsupportedError, UsageError
from onnxslim_yolo.files.atomic import require_file
from onnxslim_yolo.files.yaml import read_yaml
from onnxslim_yolo.heads.finish import Detections, postprocess
from onnxslim_yolo.heads.spec import HEAD_KEY, HeadSpec, class_names
from onnxslim_yolo.heads.values import recognise
from onnxslim_yolo.ir.graph import Array
from onnxslim_yolo.ir.input_format import UNIT, InputFormat, input_format_of
from onnxslim_yolo.ir.model import Model
from onnxslim_yolo.runtime.ncnn_run import Arithmetic
from onnxslim_yolo.verify.affordable import require_affordable
from onnxslim_yolo.verify.input_size import DECLARED, FIXED, GUESSED, input_size

SLOW = 600.0
"""Seconds that a board, or an emulator, may take for one image."""


ON_BOARDS = "compile it, and give the folder NAME_ncnn_model"


class Runner(Protocol):
    """Runs a network on a (1, 3, h, w) float32 input and returns its outputs, batch first."""

    def __call__(self, images: Array) -> Sequence[Array]:
        """(1, 3, h, w) → outputs in the file's order."""
        ...


@dataclass(frozen=True)
class Network:
    """An opened model file.

    Attributes:
        file: where it came from.
        size: (h, w) of its input, pixels.
        metadata: the file's.
        run: the network itself.
        form: what it is fed for a pixel.
        notes: what of this was guessed.
        sure: how sure its size is: `FIXED` in the file, `DECLARED` in its metadata, or else `GUESSED`.
        graph: of a checkpoint, what was read and traced: it takes seconds, and need not be done again.
        last: an ONNX file is fed (1, h, w, 3), which `run` does.
    """

    file: Path
    size: tuple[int, int]
    metadata: Mapping[str, str]
    run: Runner
    form: InputFormat = UNIT
    notes: tuple[str, ...] = ()
    sure: int = FIXED
    graph: onnx.ModelProto | None = field(default=None, repr=False, compare=False)
    last: bool = False


@dataclass
class Detector:
    """A network with its post-processing: `detector(images)` gives one `Detections` an image.

    The head is identified at the first call, from the outputs' shapes, unless it is given. Thresholds as in
    `postprocess`; the defaults here are those of evaluation.
    """

    network: Network
    head: HeadSpec | None = None
    nc: int | None = None
    conf: float = 0.001
    iou: float = 0.6
    max_det: int = 300
    multi_label: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the input, pixels."""
        return self.network.size

    def __call__(self, images: Array) -> list[Detections]:
        """(b, 3, h, w) RGB float32 in [0, 1] → detections in the input's pixels; b is 1 unless the model takes more."""
        feed = self.network.form.feed
        if self.head is None:
            self.head = self._identify(self.network.run(feed(images)))
        turn = self.head.bgr and not self.network.form.bgr
        outputs = self.network.run(feed(images[:, ::-1] if turn else images))
        return postprocess(
            outputs, self.head, conf=self.conf, iou=self.iou, max_det=self.max_det, multi_label=self.multi_label
        )

    def _identify(self, outputs: Sequence[Array]) -> HeadSpec:
        metadata = self.network.metadata
        if HEAD_KEY not in metadata and cut_by_emitter(metadata):
            raise UnsupportedError(
                "its head was cut where ncnn lacks an operator, and nothing says how to finish it",
                file=self.network.file,
                hint="convert it with --head raw, which describes the head in metadata.yaml",
            )
        try:
            return recognise(outputs, self.size, metadata, self.nc)
        except UnsupportedError as error:
            raise UnsupportedError(error.message, file=self.network.file, hint=error.hint) from error


def open_network(
    path: Path,
    *,
    size: tuple[int, int] | None = None,
    threads: int = 0,
    form: InputFormat | None = None,
    asked: Asked | None = None,
    run_on: str | None = None,
    arithmetic: Arithmetic | None = None,
) -> Network:
    """Open an ONNX file, an NCNN folder or `.param`, or a checkpoint.

    Args:
        path: the file or folder.
        size: (h, w) for models whose input size is free; must agree with the model's where it is fixed.
        threads: 0 for as many as there are cores.
        form: what the network is fed for a pixel; None: what the file shows, else values in [0, 1].
        asked: what running it may take: of a graph judged before it is opened, None: not judged; of an NCNN pair held
            while it runs, None: by the size of its `.bin`.
        run_on: a command that starts the Python to run an NCNN pair in (see `runtime.launchers`); None: this machine's.
        arithmetic: what ncnn computes in; None: fp32 here, and what it chooses by itself where `run_on` leads.

    Raises:
        InputError: the file is missing, broken, or of an unknown kind.
        UsageError: `size` contradicts the model, or the launcher starts no Python that will do.
    """
    if path.is_dir() or path.suffix == ".param":
        return _open_ncnn(path, size, threads, form, run_on, arithmetic, asked)
    if run_on is not None:
        raise UsageError(f"--run-on runs NCNN pairs, and {path.name} is none", hint=ON_BOARDS)
    threads = threads or os.cpu_count() or 1
    require_file(path)
    if not path.is_file():
        raise InputError("no such file", file=path)
    if path.suffix == ".onnx":
        if asked is not None:
            require_affordable(path, path, size, asked)
        return open_onnx(path, path, size, threads, form)
    return _open_checkpoint(path, size, threads, form, asked)


def open_onnx(
    source: Path | bytes,
    file: Path,
    size: tuple[int, int] | None = None,
    threads: int = 1,
    form: InputFormat | None = None,
) -> Network:
    """An ONNX model, from a file or from bytes, in onnxruntime with one session. Raises as `open_network`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    model = str(source) if isinstance(source, Path) else source
    try:
        str(file).encode()
    except UnicodeEncodeError as error:
        hint = "rename it, or set a UTF-8 locale (LC_ALL=C.UTF-8)"
        raise InputError("its name is no text in this locale", file=file, hint=hint) from error
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise InputError(f"onnxruntime cannot open it: {error}", file=file) from error
    inputs = session.get_inputs()
    shape, last = _image_of(inputs, file)
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    name, dtype = inputs[0].name, _TYPES.get(inputs[0].type, np.dtype(np.float32))

    def run(images: Array) -> Sequence[Array]:
        whole = np.rint(images) if dtype.kind in "iu" else images
        whole = whole.transpose(0, 2, 3, 1) if last else whole
        outputs = session.run(None, {name: whole.astype(dtype, copy=False)})
        return [np.asarray(output, np.float32) if output.dtype == np.float16 else output for output in outputs]

    shown, notes = _shown_format(source, form, metadata)
    declared = shape[1:3] if last else shape[2:]
    where, guessed = input_size(file, declared, size, metadata)
    known = all(isinstance(dim, int) and dim > 0 for dim in declared)
    sure = FIXED if known else GUESSED if guessed else DECLARED
    return Network(file, where, metadata, run, shown, (*notes, *guessed), sure, last=last)


def _image_of(inputs: Sequence[Any], file: Path) -> tuple[Sequence[int | str | None], bool]:
    """The shape of the one input, and whether its channels come last. Raises InputError where it is no one image."""
    shape: list[int | str | None] = list(inputs[0].shape) if len(inputs) == 1 else []
    if len(shape) == 4:
        last = shape[3] == 3 and shape[1] != 3
        batch, channels = shape[0], shape[3 if last else 1]
        if batch in (1, None) or isinstance(batch, str):
            if channels in (3, None) or isinstance(channels, str):
                return shape, last
        else:
            hint = "export it with batch 1, or an open one (dynamic=True)"
            raise InputError(f"its batch is fixed at {batch}, and images are run one by one", file=file, hint=hint)
    listed = ", ".join(f"{i.name} {i.shape}" for i in inputs)
    raise InputError(f"expected one input (1, 3, h, w) or (1, h, w, 3); found {listed}", file=file)


_TYPES = {
    f"tensor({name})": np.dtype(kind)
    for name, kind in (("float16", "f2"), ("double", "f8"), ("uint8", "u1"), ("int8", "i1"), ("int32", "i4"))
}


def _shown_format(
    source: Path | bytes, form: InputFormat | None, metadata: Mapping[str, str]
) -> tuple[InputFormat, tuple[str, ...]]:
    """What an ONNX file is fed for a pixel, and notes where that was read off its first layers."""
    known = form or input_format_of(metadata)
    if known is not None:
        return known, ()
    import onnx

    from onnxslim_yolo.load import format_of

    proto = onnx.ModelProto()
    proto.ParseFromString(source.read_bytes() if isinstance(source, Path) else source)
    model = Model.from_onnx(proto)
    return format_of(model), tuple(model.notes)


def _open_ncnn(
    path: Path,
    size: tuple[int, int] | None,
    threads: int,
    form: InputFormat | None,
    run_on: str | None,
    arithmetic: Arithmetic | None,
    asked: Asked | None,
) -> Network:
    from onnxslim_yolo.runtime.ncnn_effort import require_affordable_pair
    from onnxslim_yolo.runtime.ncnn_run import NcnnRunner, ncnn_files

    where, guessed = _ncnn_size(path, size)
    if asked is not None:
        require_affordable_pair(*ncnn_files(path), where, asked)
    memory = None if asked is None else asked.memory
    if run_on is None:
        runner = NcnnRunner(
            path, threads=threads or os.cpu_count() or 1, arithmetic=arithmetic or "fp32", memory=memory
        )
    else:
        kind = arithmetic or "default"
        runner = NcnnRunner(path, threads=threads or 1, arithmetic=kind, run_on=run_on, timeout=SLOW)
    notes = guessed if runner.board is None else (*guessed, *runner.board.notes)
    return Network(path, where, _ncnn_metadata(path), runner, form or ncnn_input_format(path), notes)


def ncnn_input_format(path: Path) -> InputFormat:
    """What an NCNN folder's network is fed for a pixel, as metadata.yaml says."""
    return input_format_of(_ncnn_metadata(path)) or UNIT


def ncnn_input_size(path: Path, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """(h, w) of an NCNN folder's or `.param`'s input: `size`, else what metadata.yaml says, else the Input layer."""
    return _ncnn_size(path, size)[0]


def _ncnn_size(path: Path, size: tuple[int, int] | None) -> tuple[tuple[int, int], tuple[str, ...]]:
    from onnxslim_yolo.runtime.ncnn_reader import read_ncnn
    from onnxslim_yolo.runtime.ncnn_run import channels_last, ncnn_files

    net = read_ncnn(*ncnn_files(path))
    # Parameters 0 and 1 of an Input layer are width and height; 0 stands for any.
    ends = [(layer, (2, 1) if channels_last(layer) else (1, 0)) for layer in net.layers if layer.type == "Input"]
    sides = [tuple(layer.integer(key) for key in keys) for layer, keys in ends]
    return input_size(path, sides[0] if sides else [None, None], size, _ncnn_metadata(path))


def _ncnn_metadata(path: Path) -> dict[str, str]:
    file = (path if path.is_dir() else path.parent) / "metadata.yaml"
    if not file.is_file():
        return {}
    data = read_yaml(file, "metadata.yaml", "a mapping")
    texts = {str(key): value for key, value in data.items()}
    return {key: _as_text(value) if key.startswith("onnxslim_yolo") else str(value) for key, value in texts.items()}


def _as_text(value: Any) -> str:
    """A description that was written as JSON may come back as the mapping it spells."""
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # a date, say: no description of ours
        return str(value)


def cut_by_emitter(metadata: Mapping[str, str]) -> bool:
    """Whether an NCNN folder's metadata say that the converter left out the tail of the network."""
    from onnxslim_yolo.emit.ncnn.write import SECTION

    try:
        section = json.loads(metadata.get(SECTION, "{}"))
    except (ValueError, RecursionError):
        return False
    return isinstance(section, dict) and bool(section.get("cut"))


def _open_checkpoint(
    path: Path, size: tuple[int, int] | None, threads: int, form: InputFormat | None, asked: Asked | None
) -> Network:
    from onnxslim_yolo.load import LoadOptions, read_model

    _, proto = read_model(path, LoadOptions(imgsz=size, input=form, asked=asked or ANY))
    if asked is not None:
        require_affordable(proto, path, size, asked)
    return replace(open_onnx(proto.SerializeToString(), path, size, threads, form), graph=proto)


def require_as_many(expected: int, got: int, first: Path, second: Path) -> None:
    """Raises InputError where two networks that are to be compared have not as many outputs."""
    if expected == got:
        return
    whole = first if expected < got else second
    hint = f"where one ends in raw maps: `compile {whole} --prune 0 --head raw` has the other end there"
    raise InputError(f"has {got} outputs, {first.name} has {expected}", file=second, hint=hint)


__all__ = ["Detector", "Network", "Runner", "class_names", "open_network", "open_onnx", "require_as_many"]
