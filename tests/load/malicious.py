"""Checkpoints that attack, or are broken, one way each: `CASES` is name → (writer, words the refusal must have)."""

from __future__ import annotations

from malicious_archives import BROKEN, EDGES
from malicious_networks import RUN
from malicious_pickles import BOMBS, CALLS, STATE

CASES = {
    f"{group}: {key}": value
    for group, cases in (
        *(("calls", CALLS), ("state", STATE), ("bombs", BOMBS), ("broken", BROKEN)),
        *(("run", RUN), ("edges", EDGES)),
    )
    for key, value in cases.items()
}
