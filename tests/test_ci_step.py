"""The CI step: action.yml run as a runner would, the summary, and the cache."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from onnxslim_yolo.ci.job import Job, compile_job
from onnxslim_yolo.errors import BudgetError, InputError
from onnxslim_yolo.options import CompileOptions
from onnxslim_yolo.report.annotations import annotation, annotation_of
from tests.command import shim
from tests.test_bad_input import good, write
from tests.test_compile import contents

ROOT = Path(__file__).resolve().parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))


class Runner:
    """Runs the shell steps of a composite action: expressions filled in, outputs passed on, `if` obeyed."""

    def __init__(self, folder: Path, **inputs: str) -> None:
        declared = ACTION["inputs"]
        assert set(inputs) <= set(declared)
        missing = [name for name, spec in declared.items() if spec.get("required") and name not in inputs]
        assert not missing
        self.folder = folder
        self.values = {f"inputs.{name}": inputs.get(name, spec.get("default", "")) for name, spec in declared.items()}
        self.values |= {"github.action_path": "/action", "runner.temp": str(folder / "temp"), "runner.os": "Linux"}
        self.summary = folder / "summary.md"
        self.summary.touch()
        self.used: list[str] = []
        shims = folder / "bin"
        shims.mkdir()
        self._shim(shims / "onnxslim-yolo", shim())
        self._shim(
            shims / "python",
            f'if [ "$2" = pip ]; then echo "$@" > "{folder}/pip.txt"; else exec "{sys.executable}" "$@"; fi',
        )

    @staticmethod
    def _shim(path: Path, body: str) -> None:
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def expand(self, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            expression = match.group(1)
            if expression.startswith("hashFiles("):
                return "hash"
            assert expression in self.values or expression.startswith("steps."), expression
            return self.values.get(expression, "")

        return re.sub(r"\$\{\{ (.+?) \}\}", value, text)

    def holds(self, condition: str) -> bool:
        """Conditions of the form `a == 'x' && b != ''`; anything else is an error of the test."""
        for part in condition.split(" && "):
            match = re.fullmatch(r"([\w.]+) (==|!=) '(\w*)'", part)
            assert match, f"cannot judge {part!r}"
            same = self.values.get(match.group(1), "") == match.group(3)
            if same != (match.group(2) == "=="):
                return False
        return True

    def run(self) -> int:
        """The action's exit status: that of the first step that fails."""
        for step in ACTION["runs"]["steps"]:
            if not self.holds(step.get("if", "inputs.model != ''")):
                continue
            if "uses" in step:
                self.used.append(step["uses"] + " " + " ".join(self.expand(v) for v in step["with"].values()))
                continue
            assert step["shell"] == "bash" and "${{" not in step["run"], "an input could become part of the script"
            outputs = self.folder / "outputs"
            outputs.write_text("")
            environment = os.environ | {
                **{name: self.expand(value) for name, value in step.get("env", {}).items()},
                "GITHUB_OUTPUT": str(outputs),
                "GITHUB_STEP_SUMMARY": str(self.summary),
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
            }
            script = self.folder / "step.sh"
            script.write_text(step["run"])
            command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
            done = subprocess.run(
                command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120
            )
            self.log = done.stdout + done.stderr
            for name, value in outputs_in(outputs.read_text()).items():
                self.values[f"steps.{step['id']}.outputs.{name}"] = value
            if done.returncode:
                return done.returncode
        return 0

    def output(self, name: str) -> str:
        return self.expand(ACTION["outputs"][name]["value"])


def outputs_in(text: str) -> dict[str, str]:
    """What a runner reads from the file of outputs: `name=value`, or `name<<MARK`, lines, MARK."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        if "<<" in line.split("=", 1)[0]:
            name, mark = line.split("<<", 1)
            found[name] = "\n".join(iter(lambda mark=mark: next(lines, mark), mark))
        else:
            name, found[name] = line.split("=", 1)
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write(good(), tmp_path / "m y.onnx")
    (tmp_path / "tight.toml").write_text('params = "0.01x"\n')
    (tmp_path / "loose.toml").write_text('params = "1.0x"\n')
    return tmp_path


def test_the_action_first_and_again(place: Path) -> None:
    options = "--emit onnx --prune 0.25 --keep 'z'"
    runner = Runner(place, model="m y.onnx", options=options, budget="loose.toml", baseline="old.json", torch="true")
    assert runner.run() == 0, runner.log
    assert (place / "pip.txt").read_text().strip() == "-m pip install --quiet /action[torch]"
    assert runner.output("status") == "0" and runner.output("report") == "slim/m y.report.json"
    assert runner.output("diff") == "", "there was no baseline yet"
    assert (place / "slim" / "m y.onnx").exists()
    summary = runner.summary.read_text()
    assert "### onnxslim-yolo: `m y.onnx`" in summary and "✅ **PASS**" in summary
    assert [use.split("@")[0] for use in runner.used] == ["actions/cache", "actions/upload-artifact"]
    first = contents(place / "slim")

    (place / "slim" / "m y.report.json").rename(place / "old.json")
    (place / "bin").rename(place / "bin0")
    runner = Runner(place, model="m y.onnx", options=options, budget="loose.toml", baseline="old.json", artifact="")
    assert runner.run() == 0, runner.log
    assert "Unchanged: taken from the cache." in runner.summary.read_text()
    assert "Nothing changed." in (place / runner.output("diff")).read_text()
    again = contents(place / "slim")
    assert again.pop("diff.md") and again == first
    assert len(runner.used) == 1, "no artefact was asked for"


def test_the_action_over_budget(place: Path) -> None:
    runner = Runner(place, model="m y.onnx", options="--emit onnx --no-verify", budget="tight.toml", cache="false")
    assert runner.run() == 4
    assert runner.output("status") == "4" and (place / "slim" / "m y.onnx").exists()
    summary = runner.summary.read_text()
    assert "over budget (exit 4)" in summary and "params: 232" in summary
    first = summary.strip().splitlines()[2]
    assert "OVER BUDGET" in first and "parameters 232, allowed 2" in first and "PASS" not in summary
    assert any("upload-artifact" in use for use in runner.used), "the files are there to look at"


def test_the_action_on_bad_input_runs_nothing_from_it(place: Path) -> None:
    runner = Runner(place, model="$(touch ran).onnx", options="--prune 0.5; touch ran", cache="false")
    assert runner.run() == 2
    assert not (place / "ran").exists() and not (place / "slim").exists()
    assert runner.output("report") == "" and not any("upload" in use for use in runner.used)
    (place / "x").mkdir()
    runner = Runner(place / "x", model="n.onnx")
    assert runner.run() == 2
    assert "`n.onnx`: not compiled (exit 2)" in runner.summary.read_text()


@pytest.mark.parametrize("options", ["--prune 0.5 'oops", '--emit "onnx', "--prune 0.5 \\"])
def test_options_that_are_no_words_fail_the_job(options: str, place: Path) -> None:
    runner = Runner(place, model="m y.onnx", options=options, cache="false")
    assert runner.run() == 2
    assert runner.output("status") == "2" and runner.output("report") == "" and not (place / "slim").exists()
    assert "not compiled (exit 2)" in runner.summary.read_text() and "'options'" in runner.summary.read_text()


@pytest.mark.parametrize(
    "options", ["--pruned 0.5", "--prune 2", "--snap pow3", "--emit", "other.onnx", "--max-drop x"]
)
def test_a_misspelt_option_reaches_the_summary(options: str, place: Path) -> None:
    runner = Runner(place, model="m y.onnx", options=options, cache="false")
    assert runner.run() == 2
    summary = runner.summary.read_text()
    assert summary.count("###") == 1 and "`m y.onnx`: not compiled (exit 2)" in summary
    assert len(summary.splitlines()) >= 3, "and why"


ANNOTATE = ["--output-format", "github", "--emit", "onnx", "--no-verify", "-o", "o"]


def shown(place: Path, *words: str) -> tuple[int, list[str]]:
    """A command's exit status, and the workflow commands that it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "onnxslim_yolo", *words]
    done = subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, [text for text in done.stdout.splitlines() if text.startswith("::")]


def test_what_is_wrong_is_an_annotation(place: Path) -> None:
    status, (line,) = shown(place, "compile", "m y.onnx", *ANNOTATE, "--budget", "tight.toml")
    assert status == 4
    assert line.startswith("::error file=m y.onnx,title=onnxslim-yolo::params: 232, allowed 2")
    status, (line,) = shown(place, "compile", "m y.onnx", *ANNOTATE)
    assert status == 0 and line.startswith("::warning file=m y.onnx,title=onnxslim-yolo::NOT VERIFIED")
    status, (line,) = shown(place, "compile", *ANNOTATE, "--pruned", "--", "m y.onnx")
    assert status == 2 and line.startswith("::error file=m y.onnx,title=onnxslim-yolo::No such option")
    assert shown(place, "compile", "m y.onnx", "--emit", "onnx", "-o", "o2", "--output-format", "github") == (0, [])
    report = "o/m y.report.json"
    assert shown(place, "diff", report, report, "--output-format", "github")[1][0].startswith("::warning")
    assert shown(place, "diff", report, "o2/m y.report.json", "--output-format", "github") == (0, [])
    assert shown(place, "diff", report, report) == (0, [])
    status, (line,) = shown(place, "verify", "m y.onnx", "none.onnx", "--output-format", "github")
    assert status == 2 and line.startswith("::error file=none.onnx")


def test_a_name_makes_no_annotation_of_its_own() -> None:
    line = annotation("error", "100 % of\n::set-output name=x::y", "a,b: c\n::error::z")
    assert line == (
        "::error file=a%2Cb%3A c%0A%3A%3Aerror%3A%3Az,title=onnxslim-yolo::100 %25 of%0A::set-output name=x::y"
    )
    assert annotation_of({"level": "pass", "word": "PASS", "text": ""}, "x") is None


@pytest.mark.parametrize("name", ["n\nstatus=0", "n\nreport=/etc/passwd\nx"])
def test_a_name_with_a_newline_adds_no_output(name: str, place: Path) -> None:
    (place / "m y.onnx").rename(place / f"{name.replace('/', '')}.onnx")
    tries = {"a": {"model": f"{name.replace('/', '')}.onnx"}, "b": {"model": "z.onnx", "name": name}}
    write(good(), place / "z.onnx")
    for key, inputs in tries.items():
        (place / key).mkdir()
        runner = Runner(place, options="--emit onnx --no-verify", cache="false", budget="tight.toml", **inputs)
        assert runner.run() == 2, runner.log
        assert runner.output("status") == "2" and runner.output("report") == "" and not (place / "slim").exists()
        (place / "bin").rename(place / key / "bin")


def test_an_out_with_a_newline_is_one_output(place: Path) -> None:
    runner = Runner(
        place,
        model="m y.onnx",
        out="o\nstatus=0",
        options="--emit onnx --no-verify",
        cache="false",
        budget="tight.toml",
    )
    assert runner.run() == 4, runner.log
    assert runner.output("status") == "4" and runner.output("report") == "o\nstatus=0/m y.report.json"


def test_the_action_reads_no_configuration_that_it_finds(place: Path) -> None:
    (place / "onnxslim-yolo.toml").write_text('prune = 2\nsummary = "planted.md"\n')
    (place / "shlex.py").write_text("open('ran', 'w')")
    (place / "mine.toml").write_text('emit = "onnx"\nno-verify = true\n')
    runner = Runner(place, model="m y.onnx", config="mine.toml", cache="false")
    assert runner.run() == 0, runner.log
    assert not (place / "planted.md").exists() and not (place / "ran").exists()
    assert not (place / "slim" / "m y_ncnn_model").exists(), "the file that was named counts"


def quiet(stage: str) -> None:
    """Progress that nobody watches."""


def test_the_cache_key_is_what_decides_the_bytes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    source, cache = place / "m y.onnx", place / "cache"

    def cached(**options: object) -> bool:
        chosen = CompileOptions(**({"emit": ("onnx",), "verify": False, "prune": 0.25} | options))  # type: ignore[arg-type]
        return compile_job(Job(source, chosen, cache), quiet).cached

    assert [cached(), cached(), cached(prune=0.5), cached(prune=0.5)] == [False, True, False, True]
    assert cached(out=place / "elsewhere") is False, "the report names the folder"
    budget = place / "loose.toml"
    assert [cached(budget=budget), cached(budget=budget)] == [False, True]
    budget.write_text('params = "0.99x"\n')
    assert cached(budget=budget) is False, "the budget's content counts"
    other = good()
    other.producer_name = "another"
    write(other, source)
    assert cached() is False, "another input"
    monkeypatch.setattr("onnxslim_yolo.ci.cache.__version__", "0.0.0")
    assert cached() is False, "another version"


def test_a_damaged_entry_does_not_count(place: Path) -> None:
    job = Job(place / "m y.onnx", CompileOptions(emit=("onnx",), verify=False, out=place / "o"), place / "cache")
    first = compile_job(job, quiet)
    entry = next((place / "cache").iterdir())
    before = contents(place / "o")
    for damage in (
        lambda: (entry / "files" / "m y.onnx").write_bytes(b"poison"),
        lambda: (entry / "files" / "m y.plan.json").unlink(),
        lambda: (entry / "cache.json").write_text("[]"),
        lambda: (entry / "cache.json").write_text(json.dumps({"files": {"../../m y.onnx": "0"}})),
    ):
        damage()
        again = compile_job(job, quiet)
        assert again.cached is False and contents(place / "o") == before
        assert compile_job(job, quiet).cached is True and first.report == again.report
    assert {p.name for p in (place / "cache").iterdir()} == {entry.name}


def test_a_broken_budget_is_broken_from_the_cache_too(place: Path) -> None:
    options = CompileOptions(emit=("onnx",), verify=False, out=place / "o", budget=place / "tight.toml")
    job = Job(place / "m y.onnx", options, place / "cache", place / "s.md")
    for cached in (False, True):
        outcome = compile_job(job, quiet)
        assert outcome.cached is cached
        with pytest.raises(BudgetError, match="params: 232"):
            outcome.require_budget()
    assert (place / "s.md").read_text().count("over budget (exit 4)") == 2


def test_the_summary_cannot_be_written(place: Path) -> None:
    options = CompileOptions(emit=("onnx",), verify=False, out=place / "o")
    job = Job(place / "m y.onnx", options, None, place / "no" / "s.md")
    with pytest.raises(InputError, match="cannot write the summary"):
        compile_job(job, quiet)
