"""What a saved module is told by: its format, without torch."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, TypeAlias

FORMAT, VERSION = "onnxslim-yolo/module", 1

Description: TypeAlias = dict[str, Any]

TRACED_ROWS = "traced_rows"
"""An attribute of ours on Reshape: how long the input's axis 0 was in the graph. With a larger batch it is longer, and
so is the result's axis 0 by the same factor: (b·k, …)."""


def is_saved_module(path: Path) -> bool:
    """Whether a file is what `save_module` writes. Looks at its first bytes only, and runs nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if name is None:
                return False
            with archive.open(name) as pickle:
                return FORMAT.encode() in pickle.read(256)
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError, EOFError, zlib.error, struct.error):
        return False  # whatever it is, `open_archive` says what is wrong with it
