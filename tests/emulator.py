"""The emulated ARM64 Python, where bench/arm_setup.py has set one up: tests that need it skip without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("ONNXSLIM_ARM_ROOT") or Path.home() / ".cache" / "onnxslim-yolo-arm")
LAUNCHER = ROOT / "arm-python"

emulated = pytest.mark.skipif(not LAUNCHER.is_file(), reason="no emulated ARM64 Python: bench/arm_setup.py")


def launcher(core: str) -> str:
    """What `--run-on` takes for a core: a76 (Pi 5), a72 (Pi 4), a53 (Pi 3)."""
    return f"{LAUNCHER} {core} -"
