"""What can be asked for, told once: a table of options that command line, configuration file and Python read."""

from onnxslim_yolo.options.compile_options import ALIASES, EMITTERS, ROWS, CompileOptions, options_from
from onnxslim_yolo.options.row import PANELS, Row
from onnxslim_yolo.options.spellings import parse_limit, parse_size

__all__ = [
    "ALIASES",
    "EMITTERS",
    "PANELS",
    "ROWS",
    "CompileOptions",
    "Row",
    "options_from",
    "parse_limit",
    "parse_size",
]
