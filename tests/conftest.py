"""Being a conftest inside the package `tests`, this file makes `from tests.zoo import …` work in every test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path.cwd()
os.fsync = lambda descriptor: None  # a test's files need not outlive a power cut, and disks are waited for


@pytest.fixture(autouse=True)
def stays_where_it_was() -> Iterator[None]:
    """A test that leaves the process in another folder breaks whichever test comes next on its worker."""
    yield
    left = Path.cwd()
    os.chdir(HERE)
    assert left == HERE, f"this test left the working directory at {left}"
