"""Paths that the tests of loading need."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def material() -> Path:
    """The folder of real weights and images, or a skip."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "material"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder
