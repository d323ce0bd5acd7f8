"""What a compilation will need, asked for before any of it is done: minutes later it would be missing just the same."""

from __future__ import annotations

from pathlib import Path

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import require_folder
from onnxslim_yolo.latency.table_format import read_table
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.report.budget import budget_of
from onnxslim_yolo.report.gains import is_timed
from onnxslim_yolo.report.slim_file import require_checkpoint
from onnxslim_yolo.runtime.dataset import read_calibration, read_dataset
from onnxslim_yolo.runtime.ncnn_run import require_answer
from onnxslim_yolo.runtime.packages import require_counting, require_ncnn


def require_all(path: Path, options: CompileOptions) -> None:
    """Packages, files that options name, the folder to write to, and the Python of `--run-on`.

    Raises:
        InputError: a file is missing or not what it should be, or nothing can be written.
        UnsupportedError, UsageError: see `require_checkpoint`; a package is missing; the launcher starts no Python.
    """
    require_folder(options.folder_for(path))  # a name that cannot be written is refused here, too
    require_checkpoint(path, options)
    _require_packages(options)
    _require_files(options)
    if options.run_on is not None and (options.verify or is_timed(options)):
        require_answer(options.run_on)


def _require_packages(options: CompileOptions) -> None:
    if options.data is not None:
        require_counting()
    if options.compensate == "distil":
        from onnxslim_yolo.training.distil import require_torch

        require_torch()
    here = options.verify or options.measure or options.data is not None
    if "ncnn" in options.emit and here and options.run_on is None:
        require_ncnn("--emit onnx")
    if is_timed(options) and options.run_on is None:
        from onnxslim_yolo.measure.machine import cores_here, require_cores

        require_cores(options.threads, cores_here())


def _require_files(options: CompileOptions) -> None:
    budget_of(options)
    if options.reference is not None and not options.reference.is_file():
        raise InputError("no such file", file=options.reference, hint="--reference names an ONNX file")
    if options.table is not None:
        read_table(options.table)
    if options.data is not None:
        read_dataset(options.data)
    if options.calib is not None:
        read_calibration(options.calib)
