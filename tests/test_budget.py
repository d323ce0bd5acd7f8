"""Budgets: what they read, and what they hold a report to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.report.budget import Budget, Limit, read_budget, violations


def report(**changes: Any) -> dict[str, Any]:
    """A report with the figures that budgets look at."""
    base: dict[str, Any] = {
        "source": {"bytes": 1000},
        "before": {"parameters": 100, "macs": 1000},
        "after": {"parameters": 60, "macs": 500},
        "files": {"a.onnx": 600, "a_ncnn_model/model.ncnn.bin": 300},
        "verification": {"checks": [{"worst": 1e-5, "tolerance": 1e-3}, {"worst": 9.0, "tolerance": None}]},
    }
    return base | changes


def test_every_key_is_read(tmp_path: Path) -> None:
    file = tmp_path / "budget.toml"
    file.write_text(
        'params = "0.5x"\nmacs = 2_000_000\nfile_size = "4 MB"\n'
        "max_difference = 1e-3\nlatency_ratio = 0.8\nmap_drop = 0.02\n"
    )
    budget = read_budget(file)
    assert budget.params == Limit(0.5, relative=True)
    assert budget.file_size == Limit(4e6)
    assert budget.map_drop == Limit(0.02)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("param = 3", "param"),
        ("params = true", "params"),
        ('params = "much"', "params"),
        ('map_drop = "0.5x"', "map_drop"),
        ("params = -1", "params"),
        ("params = [1]", "params"),
        ("params = ", "TOML"),
    ],
)
def test_a_bad_budget_is_refused_by_key(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "budget.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=named):
        read_budget(file)


def test_a_long_text_is_no_limit(tmp_path: Path) -> None:
    """Found by fuzzing: 58,000 digits with a letter among them took the pattern a minute. The CPU limit sees it."""
    (tmp_path / "budget.toml").write_text(f'file_size = "{"9" * 30_000}T{"9" * 30_000} MB"\n')
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_CPU, (8, 8))\n"
        "from pathlib import Path; from onnxslim_yolo.report.budget import read_budget\n"
        "try: read_budget(Path(sys.argv[1]))\nexcept Exception as error: print(str(error)[-200:])"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "budget.toml")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "is no limit" in done.stdout, done.stderr


def test_a_missing_budget_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_budget(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("budget", "broken"),
    [
        (Budget(), 0),
        (Budget(params=Limit(60)), 0),
        (Budget(params=Limit(59)), 1),
        (Budget(macs=Limit(0.5, relative=True)), 0),
        (Budget(macs=Limit(0.49, relative=True)), 1),
        (Budget(file_size=Limit(0.6, relative=True)), 0),
        (Budget(file_size=Limit(599)), 1),
        (Budget(max_difference=Limit(1e-4)), 0),
        (Budget(max_difference=Limit(1e-6)), 1),
        (Budget(latency_ratio=Limit(2.0)), 1),
        (Budget(map_drop=Limit(1.0)), 1),
    ],
)
def test_limits_hold_or_are_named(budget: Budget, broken: int) -> None:
    assert len(violations(budget, report())) == broken


def test_what_was_measured_counts() -> None:
    full = report(speed={"ratio": 0.7}, accuracy={"map50_drop": 0.03})
    assert not violations(Budget(latency_ratio=Limit(0.8)), full)
    assert violations(Budget(latency_ratio=Limit(0.6)), full)
    assert violations(Budget().with_options(max_drop=0.02, require_speedup=None), full)
    assert not violations(Budget().with_options(max_drop=0.04, require_speedup=1.25), full)
