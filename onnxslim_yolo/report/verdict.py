"""The verdicts in words: what a report's headline says, what to do about it, and the status of the command.

Three verdicts: *equal*, whether the files compute what the plan says; *alive*, whether what is left still detects what
the source detects; *accuracy*, mAP with `--data`. The worst is the headline, and a broken limit comes before all of
them, since it is the user's own.

    exit 0 done · 4 a limit is broken · 5 the result no longer detects, unless it will be trained

Both may be the case: then 4, and the headline says both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HALF = 0.5
"""Where mAP was measured, it decides: less than this share of the source's is no detector any more …"""
MOST = 0.9
"""… and more than this share one, whatever the detections said."""

Verdict = dict[str, Any]


def verdict_of(
    report: Mapping[str, Any], alive: Mapping[str, Any], *, will_train: bool, sparse: bool, images: bool
) -> tuple[Verdict, int]:
    """The verdict as report.json holds it, and the exit status.

    Args:
        report: with `verification`, `accuracy` and `budget`. alive: see `verify.alive`.
        will_train: whether the result is going to be trained. sparse: whether the source was trained to be.
        images: whether there were calibration images.

    Returns:
        `word`, `text`, `level` ("pass", "warn", "fail") and `advice` for the headline; `equal`, `alive` and `accuracy`
        with a `state` each.
    """
    equal, accuracy = _equal(report), _accuracy(report)
    alive = _weighed(alive, accuracy)
    broken = [one["text"] for one in report["budget"]["broken"]]
    dead = alive["state"] == "needs training"
    int8 = report.get("int8") is not None
    pruned = not int8 or _weights(report["after"]) < _weights(report["before"])
    found = _headline(equal, alive, accuracy, broken, pruned)
    advice = ([RANGES] if int8 else []) if _hurt(alive) else []
    advice += _advice(alive, sparse, images, will_train) if pruned else []
    parts = {"equal": {"state": equal}, "alive": dict(alive), "accuracy": accuracy, "will_train": will_train}
    return found | {"advice": advice} | parts, 4 if broken else 5 if dead and not will_train else 0


def _weights(network: Mapping[str, Any]) -> int:
    """Of its layers: rewrites that cut nothing save multiplications, and BatchNorms' parameters."""
    return sum(int(layer["parameters"]) for layer in network["layers"])


def _equal(report: Mapping[str, Any]) -> str:
    verification = report["verification"]
    if verification is None:
        return "not verified"
    if any(not c["passed"] for c in verification["checks"] if c["tolerance"] is not None):
        return "failed"
    return "equal" if verification["control"]["noticed"] else "blind"


def _accuracy(report: Mapping[str, Any]) -> dict[str, Any]:
    found = report.get("accuracy")
    if found is None:
        return {"state": "not measured", "map50_left": None, "text": "accuracy not measured: give --data"}
    before = found["models"]["source"]["map50"]
    after = before - found["map50_drop"]
    left = after / before if before > 0 else None
    text = f"mAP50 {after:.3f} of {before:.3f}"
    return {"state": "lost" if left is not None and left < HALF else "measured", "map50_left": left, "text": text}


def _weighed(alive: Mapping[str, Any], accuracy: Mapping[str, Any]) -> dict[str, Any]:
    """Detections are evidence about mAP; where that is known, they yield to it."""
    left = accuracy["map50_left"]
    state = alive["state"]
    if left is not None and left < HALF:
        return {**alive, "state": "needs training", "why": _joined(accuracy["text"], alive["why"])}
    if left is not None and left > MOST and state in ("needs training", "weakened", "not judged"):
        return {**alive, "state": "alive", "why": _joined(accuracy["text"], alive["why"])}
    if left is not None and state in ("needs training", "not judged"):
        return {**alive, "state": "weakened", "why": _joined(accuracy["text"], alive["why"])}
    return dict(alive)


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _hurt(alive: Mapping[str, Any]) -> bool:
    return alive["state"] in ("needs training", "weakened")


def _headline(
    equal: str, alive: Mapping[str, Any], accuracy: Mapping[str, Any], broken: list[str], pruned: bool
) -> Verdict:
    state, why = alive["state"], alive["why"]
    if broken:
        rest = f"; pruned, needs training: {why}" if state == "needs training" else ""
        return _said("OVER BUDGET", "; ".join(broken) + rest, "fail")
    if equal == "failed":
        return _said("FAIL", "what was written does not compute what it should", "fail")
    if state == "needs training":
        return _said("PRUNED, NEEDS TRAINING" if pruned else "INT8, NO LONGER DETECTS", why, "fail")
    if equal == "not verified":
        return _said("NOT VERIFIED", "what was written has not been run", "warn")
    if equal == "blind":
        return _said("BLIND", f"on these weights agreement proves little; {_alive_text(alive)}", "warn")
    if state == "weakened":
        return _said("WEAKENED", why, "warn")
    measured = accuracy["text"]
    if state == "alive" and not alive["images"]:  # nothing can have been lost
        return _said("PASS", why + (f"; {measured}" if accuracy["map50_left"] is not None else ""), "pass")
    return _said("PASS", f"computes what its plan says; {_alive_text(alive)}; {measured}", "pass")


def _alive_text(alive: Mapping[str, Any]) -> str:
    name = "alive" if alive["state"] == "alive" else f"alive: {alive['state']}"
    return f"{name}: {alive['why']}" if alive["why"] else name


def _said(word: str, text: str, level: str) -> Verdict:
    return {"word": word, "text": text, "level": level}


RANGES = (
    "int8 loses less with --calib images like those that it will see, with objects in them, and with --quantize int8, "
    "which leaves float what costs too much"
)
NOT_SPARSE = "this network was not trained for sparsity, and pruning it costs accuracy at any ratio"


def _advice(alive: Mapping[str, Any], sparse: bool, images: bool, will_train: bool) -> list[str]:
    """What to do about a result that lost detections, the cheapest first."""
    state = alive["state"]
    if not _hurt(alive):
        return []
    found = [] if sparse else [NOT_SPARSE]
    found.append("--prune dead removes only what contributes nothing")
    if not images:
        found.append("--calib DIR --compensate reconstruct makes up for part of the loss, from unlabelled images")
    else:
        found.append("prune less: --prune with a smaller ratio, or --target-latency")
    if not sparse:
        found.append("without training a smaller --imgsz loses less than pruning; with it, train with sparsity first")
    if not will_train and state == "needs training":
        found.append(
            "fine-tune what was written; --will-train (implied by --emit torch) says that you will, and exits 0"
        )
    return found
