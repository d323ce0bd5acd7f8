"""Exceptions a user is meant to read.

Each carries what happened, where (file, node), and the way out; the command line prints exactly that and exits with
`exit_status`. Anything else that escapes is a bug of ours.
"""

from __future__ import annotations

LONGEST = 1500
"""Characters of a message that are shown."""
LONGEST_NAME = 400
"""Characters of a file's or a node's name in it."""


class OnnxSlimError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        message: what happened, in one sentence: what was expected and what was found.
        file: the file it happened in, if one is to blame.
        node: the node, tensor or layer it happened at.
        hint: the way out.
    """

    exit_status = 2

    def __init__(self, message: str, *, file: object = None, node: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.file = None if file is None else str(file)
        self.node = node
        self.hint = hint

    def __str__(self) -> str:
        where = ", ".join(part for part in (_name(self.file), self.node and f"node '{_name(self.node)}'") if part)
        text = f"{where}: {self.message}" if where else self.message
        return _plain(f"{text}\n  help: {self.hint}" if self.hint else text)


def _name(text: str | None) -> str | None:
    """A name, without its middle where it is so long that it would hide what is said about it."""
    if text is None or len(text) <= LONGEST_NAME:
        return text
    return f"{text[: LONGEST_NAME // 2]}…{text[-LONGEST_NAME // 2 :]}"


def _plain(text: str) -> str:
    """Text with names from a file in it, as a terminal may show it: no control characters, and not without end."""
    shown = "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text[:LONGEST])
    return shown if len(shown) <= LONGEST and len(text) <= LONGEST else f"{shown[:LONGEST]} …"


class InputError(OnnxSlimError):
    """The input file is broken, unsafe, or of a kind that cannot be compiled."""


class UsageError(OnnxSlimError):
    """An option or a pipeline is spelt wrong or contradicts another."""


class UnsupportedError(OnnxSlimError):
    """The input is well-formed, but something in it cannot be expressed in what was asked for."""


class PassError(OnnxSlimError):
    """A pass failed or left a graph that breaks an invariant. `pass_name` says which."""

    exit_status = 3

    def __init__(
        self,
        message: str,
        *,
        pass_name: str,
        file: object = None,
        node: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(f"pass '{pass_name}': {message}", file=file, node=node, hint=hint)
        self.pass_name = pass_name


class VerificationError(OnnxSlimError):
    """What was written does not compute what the source computes."""

    exit_status = 3


class BudgetError(OnnxSlimError):
    """A limit that the user set was not met."""

    exit_status = 4


class NotAliveError(OnnxSlimError):
    """What was written computes what its plan says, and no longer detects what its source detects."""

    exit_status = 5
