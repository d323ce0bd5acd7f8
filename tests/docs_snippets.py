"""Fenced blocks of the documentation, and how to run them.

A comment in front of a fence says what is done with it: `<!-- run -->` runs it, `<!-- run: NEED -->` runs it where NEED
is there, `<!-- file: NAME -->` writes it to a file, `<!-- cpp: NAME -->` compiles it. Blocks without one are not run.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs/pages"
_FENCE = re.compile(r"(?:<!-- (\w+)(?:: ([\w.-]+))? -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: what the comment asks for ("" without one), its argument, the language, the text."""

    action: str
    argument: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    return [Block(a or "", b or "", language, text) for a, b, language, text in _FENCE.findall(page.read_text())]


def commands(page: Path) -> list[list[str]]:
    """Every `onnxslim-yolo …` line of a page's shell blocks, split into words, without comments and redirections."""
    lines = [line for block in blocks(page) if block.language in ("sh", "bash", "console") for line in lines_of(block)]
    return [words for line in lines if (words := shlex.split(line, comments=True)) and words[0] == "onnxslim-yolo"]


def lines_of(block: Block) -> list[str]:
    """The lines of a shell block, continued ones joined."""
    return [line for line in block.text.replace("\\\n", " ").splitlines() if line.strip()]


def run_shell(block: Block) -> None:
    """Run `onnxslim-yolo …` lines in this process (starting an interpreter for each takes too long)."""
    from onnxslim_yolo.cli.main import main

    for line in lines_of(block):
        words = shlex.split(line, comments=True)
        assert words[0] == "onnxslim-yolo", f"only onnxslim-yolo can be run here, not '{line}'"
        target = Path(words[words.index(">") + 1]) if ">" in words else None
        arguments = words[: words.index(">")] if target else words
        with contextlib.ExitStack() as stack:
            if target:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(target.open("w"))))
            stack.enter_context(pytest.MonkeyPatch.context()).setattr(sys, "argv", arguments)
            try:
                main()
            except SystemExit as stop:
                assert not stop.code, f"'{line}' exits {stop.code}"
