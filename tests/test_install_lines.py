"""Every printed `pip install` of this package installs it: from where it is, as no index has it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from onnxslim_yolo import _version
from onnxslim_yolo._version import REPOSITORY, install_line, requirement
from tests.docs_snippets import PAGES, ROOT

PRINTED = [ROOT / "README.md", ROOT / "models/README.md", ROOT / "Dockerfile", *sorted(PAGES.rglob("*.md"))]
EXTRAS = {"", "torch", "sweep", "demo", "docs", "dev"}


def printed() -> list[str]:
    """What pip is handed, wherever the pages install this package by name."""
    found = []
    for page in PRINTED:
        text = page.read_text(encoding="utf-8")
        found += re.findall(r"""pip install [^`\n&]*?["']?(onnxslim-yolo[^"'`\n]*)["']?""", text)
        found += re.findall(r"""additional_dependencies: \[["']?(.*?)["']?\]$""", text, re.MULTILINE)
    return found


def test_the_pages_install_what_exists() -> None:
    found = printed()
    assert len(found) >= 5
    assert set(found) <= {requirement(extra) for extra in EXTRAS}, "see onnxslim_yolo/_version.py"
    for text in found:
        assert Requirement(text).name == "onnxslim-yolo"


def test_nothing_else_names_a_package_that_no_index_has() -> None:
    for path in [*(ROOT / "onnxslim_yolo").rglob("*.py"), *(ROOT / "bench").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert path.name == "_version.py" or not re.search(r"pip install ['\"]?onnxslim", text), path


class Noted:
    """A distribution of which pip noted this."""

    def __init__(self, url: str, **more: object) -> None:
        self.text = json.dumps({"url": url, **more})

    def read_text(self, name: str) -> str:
        return self.text if name == "direct_url.json" else ""


def test_the_message_names_where_this_came_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = tmp_path / "a copy"
    place.mkdir()

    def said(noted: Noted) -> list[str]:
        monkeypatch.setattr(metadata, "distribution", lambda name: noted)
        return shlex.split(install_line("torch"))

    assert said(Noted(place.as_uri(), dir_info={})) == ["pip", "install", f"{place}[torch]"]
    assert said(Noted(place.as_uri(), dir_info={"editable": True})) == ["pip", "install", "-e", f"{place}[torch]"]
    git = {"vcs": "git", "commit_id": "abc"}
    expected = "onnxslim-yolo[torch] @ git+https://example.org/x@abc"
    assert said(Noted("https://example.org/x", vcs_info=git)) == ["pip", "install", expected]
    elsewhere = ["pip", "install", f"onnxslim-yolo[torch] @ {REPOSITORY}"]
    assert said(Noted((tmp_path / "gone").as_uri(), dir_info={})) == elsewhere
    monkeypatch.setattr(Noted, "read_text", lambda self, name: None)
    assert said(Noted("")) == elsewhere
    monkeypatch.setattr(_version, "INDEX_HAS_IT", True)  # the one thing that changes at release
    assert said(Noted("")) == ["pip", "install", "onnxslim-yolo[torch]"]


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_the_line_installs(tmp_path: Path) -> None:
    """With the placeholder filled in by this repository."""
    pytest.importorskip("setuptools", minversion="77")
    pytest.importorskip("pip")
    text = requirement().replace(REPOSITORY, f"git+{ROOT.as_uri()}")
    line = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*line, "--target", str(tmp_path / "x"), text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "x/onnxslim_yolo/passes/slice.py").is_file()
    (info,) = (tmp_path / "x").glob("onnxslim_yolo-*.dist-info")
    assert json.loads((info / "direct_url.json").read_text())["vcs_info"]["vcs"] == "git"
