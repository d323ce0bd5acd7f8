"""Trials of `advise` that an earlier run has made, as they stand in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import require_file
from onnxslim_yolo.report.advice import Row

FORMAT = "onnxslim-yolo/advice"


def known_trials(path: Path) -> dict[str, Row]:
    """By their keys, those that did not fail and are judged as trials are today; none where there is no such file.

    Raises:
        InputError: the file is of something else.
    """
    if not path.exists():
        return {}
    require_file(path)
    hint = "move it away to start again"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be read: {error}", file=path, hint=hint) from error
    trials = data.get("trials") if isinstance(data, dict) and data.get("format") == FORMAT else None
    if not isinstance(trials, dict) or not all(isinstance(row, dict) and "lever" in row for row in trials.values()):
        raise InputError("is no work of `advise`", file=path, hint=hint)
    return {key: row for key, row in trials.items() if not row.get("error") and "precision" in row}


def as_timed_by(row: Row, run_on: str | None, whole: float) -> Row:
    """A row without its times where another machine told them, the one that `run_on` led to then.

    Args:
        whole: predicted µs of the source.
    """
    if row.get("measured") is None or row.get("timed_on") == run_on:
        return row
    kept = {key: value for key, value in row.items() if key not in ("measured", "measured_ms", "timed_on")}
    return kept | {"left": row["predicted_us"] / whole}
