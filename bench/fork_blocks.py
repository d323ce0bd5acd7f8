"""Blocks of the forks people train, written anew and small: what `random_graphs.py` strings together.

Every block maps (b, c, h, w) to the same shape (c a multiple of 8, h and w 8). Architectures are facts; nothing is
copied.
"""

from __future__ import annotations

from fork_convolutions import CONVOLUTIONS
from fork_gates import GATES
from fork_parts import Block
from fork_tokens import TOKENS

BLOCKS: dict[str, Block] = {**CONVOLUTIONS, **GATES, **TOKENS}
"""Name → block of so many channels."""
