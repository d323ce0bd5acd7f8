"""ONNX's own node tests, pruned: what goes, what is held and why, and whether it is right.

    python bench/node_tests.py [--every N] [--only WORD] [--write]

Every test of one node is wrapped as Conv-BatchNormalization → node → Conv (see `tests/node_tests.py`): what is dead is
removed and changes nothing; three random choices equal their masks. With --write the table goes to
`bench/results/node_tests.txt`. `tests/test_node_tests.py` runs a part of it.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.node_tests import ROUNDING, Outcome, check, every_case

RESULTS = Path(__file__).parent / "results" / "node_tests.txt"


def main() -> None:
    """Run them all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    found: list[Outcome] = []
    crashed: list[str] = []
    for index, (name, proto, inputs) in enumerate(every_case()):
        if index % args.every or args.only not in name:
            continue
        try:
            found.append(check(name, proto, inputs))
        except Exception as error:
            crashed.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}")
            if args.only:
                traceback.print_exc()
    text = table(found, crashed)
    print(text)
    if args.write:
        RESULTS.write_text(text)


def table(found: list[Outcome], crashed: list[str]) -> str:
    """Counts, what is wrong, and per operator what became of it."""
    wrong = [f"{o.name}: differs by {o.error:.1e}" for o in found if o.error > ROUNDING]
    states = Counter(outcome.state for outcome in found)
    lines = [
        f"{len(found) + len(crashed)} node tests: " + ", ".join(f"{n} {state}" for state, n in states.most_common())
    ]
    lines += [f"wrong: {len(wrong)}", *wrong, f"crashed: {len(crashed)}", *crashed, ""]
    by_op: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in found:
        if outcome.state != "skipped":
            by_op[outcome.op].append(outcome)
    lines.append(f"{'operator':<28}{'tests':>6}{'pruned':>7}{'dead gone':>12}  held because")
    for op, outcomes in sorted(by_op.items()):
        pruned = sum(o.state == "pruned" for o in outcomes)
        gone = f"{sum(o.dead[0] for o in outcomes)} of {sum(o.dead[1] for o in outcomes)}"
        reasons = Counter(reason.split("' ")[-1][:70] for o in outcomes for reason in o.reason.split("; ") if reason)
        why = "; ".join(reason for reason, _ in reasons.most_common(2))
        lines.append(f"{op:<28}{len(outcomes):>6}{pruned:>7}{gone:>12}  {why}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
