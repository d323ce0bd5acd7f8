"""What the documentation shows runs: shell and Python snippets, the C++ decoder, and every option named in them."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer.main
from PIL import Image

from tests.docs_snippets import PAGES, ROOT, Block, blocks, commands, run_shell

NEEDS = {"torch": "torch", "ncnn": "ncnn", "plugin": ""}
ALL = sorted(PAGES.rglob("*.md"))
RUN = [page for page in ALL if any(block.action for block in blocks(page))]
RAW = "onnxslim-yolo compile model.onnx --head raw --emit ncnn --no-verify -o pi\n"


def named(page: Path) -> str:
    return str(page.relative_to(PAGES))


@pytest.fixture(scope="module")
def model() -> Path:
    zoo = pytest.importorskip("tests.zoo")
    return zoo.model_path("yolov8n", width=0.25)


@pytest.fixture
def folder(tmp_path, model, monkeypatch) -> Path:
    """A working directory with the files that the pages talk about."""
    shutil.copy(model, tmp_path / "model.onnx")
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", RUN, ids=named)
def test_the_snippets_run(page, folder):
    namespace: dict[str, object] = {"__name__": "snippet"}
    if page.name == "ncnn.md":  # what the quickstart for boards leaves
        run_shell(Block("run", "", "sh", RAW))
    for block in blocks(page):
        if block.action == "file":
            (folder / block.argument).write_text(block.text)
        elif block.action == "run":
            run(block, page, folder, namespace)


def run(block: Block, page: Path, folder: Path, namespace: dict[str, object]) -> None:
    if NEEDS.get(block.argument):
        pytest.importorskip(NEEDS[block.argument])
    if block.argument == "plugin":
        register(folder)
    if block.language == "python":
        exec(compile(block.text, f"{named(page)} (snippet)", "exec"), namespace)
    else:
        run_shell(block)


def register(folder: Path) -> None:
    """What installing the page's package would leave beside its module: the entry point."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))


def test_the_commands_for_a_board_run_where_a_launcher_leads(folder):
    """The page's own, with a Python of this machine in the place of the board's; its table takes minutes."""
    here = f"{shlex.quote(sys.executable)} -"
    page = blocks(PAGES / "quickstart/pi.md")
    (board,) = (block.text for block in page if block.text.startswith("pi="))
    first = next(block.text for block in page if block.action == "run")
    lines = [first.strip(), *board.replace("$pi", here).replace(" --threads 4", "").splitlines()[1:]]
    assert [line.split()[1] for line in lines] == ["compile", "verify", "compile", "bench", "compile"]
    for line in lines:
        run_shell(Block("run", "", "sh", f"{line}\n"))
    assert "there" in json.loads((folder / "pi/model.report.json").read_text())


@pytest.mark.parametrize("page", [*ALL, ROOT / "README.md"], ids=lambda page: page.name)
def test_named_commands_and_options_exist(page):
    from onnxslim_yolo.cli.main import app

    if not page.exists():
        pytest.skip("not written yet")
    group = typer.main.get_command(app)
    for words in commands(page):
        options = [word.split("=")[0] for word in words[1:] if word.startswith("-")]
        if words[1].startswith("-"):
            known = {name for parameter in group.params for name in parameter.opts}
        else:
            assert words[1] in group.commands, f"no command '{words[1]}'"
            known = {name for parameter in group.commands[words[1]].params for name in parameter.opts}
        unknown = set(options) - known - {"--help", "-h"}
        assert not unknown, f"{' '.join(words)}: no such option"


def test_there_is_something_to_run():
    assert sum(block.action == "run" for page in RUN for block in blocks(page)) >= 12
    assert sum(len(commands(page)) for page in ALL) >= 15


def test_the_table_of_fuzzing_is_what_the_fuzzers_wrote(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    import fuzzing

    table = fuzzing.RESULTS.read_text(encoding="utf-8").removeprefix(fuzzing.TITLE)
    page = fuzzing.PAGE.read_text(encoding="utf-8")
    assert table.startswith(fuzzing.HEAD) and fuzzing.with_table(page, table) == page
    assert fuzzing.with_table(page, table + "| x |\n") != page


def test_the_commands_of_the_reliability_page_run_something():
    text = (PAGES / "reliability.md").read_text(encoding="utf-8")
    lines = re.findall(r'`python -m pytest -n 0 ([^`"]+) -k "([^`"]+)"`', text)
    files = sorted({file for names, _ in lines for file in names.split()})
    assert len(lines) >= 18
    collect = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", *files]
    done = subprocess.run(collect, capture_output=True, text=True, cwd=ROOT, check=True)
    known = [line for line in done.stdout.splitlines() if "::" in line]
    for names, words in lines:
        for word in words.split(" or "):
            assert any(line.startswith(tuple(names.split())) and word in line for line in known), f"{names} -k {word}"
    for script in re.findall(r"`python (bench/\w+\.py)", text):
        assert (ROOT / script).is_file()


def test_the_support_table_is_what_its_script_wrote(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(ROOT / "bench")
    import support_table

    kept = json.loads(support_table.RESULTS.read_text())
    page = support_table.PAGE.read_text()
    known = [kept[name] for name in support_table.ARCHITECTURES if name in kept]
    assert page == support_table.page(known)
    missing = [name for name in support_table.ARCHITECTURES if name not in kept]
    assert not missing, f"run python bench/support_table.py {' '.join(missing)}"


def test_figures_of_the_pages_are_those_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import gen_tables

    asked = set()
    for page in ALL:
        text = page.read_text(encoding="utf-8")
        assert gen_tables.filled(text) == text, f"{page.name}: run python docs/gen_tables.py"
        asked |= set(re.findall(r"<!-- table: ([\w-]+) -->", text))
    assert asked == set(gen_tables.TABLES)
    spoilt = (PAGES / "comparison.md").read_text(encoding="utf-8").replace("| 1.", "| 2.", 1)  # the control
    assert gen_tables.filled(spoilt) != spoilt


def test_every_result_says_how_to_repeat_it(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import gen_pages

    files = [set(gen_pages.files_of(result)) for result in gen_pages.BENCHMARKS]
    assert all(files), "a result without a file"
    missing = {path.name for path in gen_pages.RESULTS.iterdir()} - {path.name for each in files for path in each}
    assert not missing, f"say in docs/results_list.py how to repeat {', '.join(sorted(missing))}"
    scripts = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "bench").glob("*.py")}
    known = "".join(scripts.values())
    for command in (line for result in gen_pages.BENCHMARKS for line in result.commands):
        words = command.split()
        assert words[1].removeprefix("bench/") in scripts, command
        assert all(f'"{word}"' in known for word in words if word.startswith("--")), command
    overview = gen_pages.result_pages()["results/index.md"]
    assert all(result.title in overview for result in gen_pages.BENCHMARKS)


def test_a_page_for_every_pass(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import gen_passes

    from onnxslim_yolo.pipeline import PASSES

    pages = gen_passes.pages()
    assert len(pages) == len(PASSES) + 1
    prune = pages["passes/prune.md"]
    assert "⌊R·n⌋ least important" in prune and "| `ratio` | share in [0, 1) of the prunable channels" in prune
    assert "[`prune`]" not in pages["passes/prune-to.md"].split("## Options")[1], "what prune says stands here, too"
    for cls in PASSES:
        page = pages[f"passes/{cls.name}.md"]
        assert "<svg" in page and "\n\n" not in page[page.index("<svg") : page.index("</svg>")], cls.name
        said = gen_passes.meanings(cls)
        assert all(said.get(name) for name, _, _ in gen_passes.options_of(cls)), cls.name


def test_a_picture_is_of_what_the_pass_did(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import dataclasses

    import draw_passes

    svg = draw_passes.pictures("fold-bn")
    before, after = svg.split('<g transform="translate(')[1:]
    assert "BatchNorm" in before and "BatchNorm" not in after
    assert before.count('class="changed"') == 2 and after.count('class="changed"') == 1
    idle = dataclasses.replace(draw_passes.EXAMPLES["fold-bn"], body="y = Conv (x, w1)")  # the control
    monkeypatch.setitem(draw_passes.EXAMPLES, "fold-bn", idle)
    with pytest.raises(ValueError, match="does nothing"):
        draw_passes.pictures("fold-bn")


def test_the_picture_shows_what_the_analysis_found(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import draw_labels

    svg = draw_labels.picture()
    assert svg.count('text-anchor="middle"') == 4 + 2 + 2 + 2 + 2 + 6 + 2
    assert svg.count(">2</text>") == 6  # stem, right, branch, sum, and twice in joined


MAIN = """
#include <cstdio>
int main() {
    std::vector<float> map(%(channels)d * %(cstep)d);
    if (std::fread(map.data(), 4, map.size(), stdin) != map.size()) return 1;
    std::vector<Box> found;
    decode_level(map.data(), %(cstep)d, %(w)d, %(h)d, 16.f, %(reg_max)d, %(nc)d, %(conf)ff, found);
    for (const Box& b : suppress(found, %(iou)ff))
        std::printf("%%.9g %%.9g %%.9g %%.9g %%.9g %%d\\n", b.x1, b.y1, b.x2, b.y2, b.score, b.label);
}
"""


def decoded_in_cpp(level: np.ndarray, folder: Path, text: str, **numbers: float) -> np.ndarray:
    """Rows x1 y1 x2 y2 score class from the page's decoder; channels are padded as ncnn pads them."""
    channels, h, w = level.shape
    cstep = -(-h * w // 4) * 4 + 4
    padded = np.zeros((channels, cstep), np.float32)
    padded[:, : h * w] = level.reshape(channels, -1)
    source = folder / "main.cpp"
    source.write_text(text + MAIN % {"channels": channels, "cstep": cstep, "w": w, "h": h, **numbers})
    line = [shutil.which("g++") or "", "-O1", "-std=c++11", "-Wall", "-Werror", source.name, "-o", "decode"]
    subprocess.run(line, check=True, cwd=folder)
    done = subprocess.run([str(folder / "decode")], input=padded.tobytes(), capture_output=True, check=True)
    return np.array([line.split() for line in done.stdout.decode().splitlines()], np.float64)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_the_cpp_decoder_agrees_with_postprocess(tmp_path):
    from onnxslim_yolo.heads.finish import HeadSpec, postprocess

    (text,) = (block.text for block in blocks(PAGES / "ncnn.md") if block.action == "cpp")
    level = np.random.default_rng(1).normal(size=(4 * 16 + 5, 7, 9)).astype(np.float32) * 2
    level[64:] -= 2
    head = HeadSpec(kind="v8-raw", nc=5, strides=(16.0,), reg_max=16)
    (expected,) = postprocess([level[None]], head, conf=0.3, iou=0.4)
    rows = np.column_stack((expected.boxes, expected.scores, expected.classes))
    numbers = {"reg_max": 16, "nc": 5, "conf": 0.3, "iou": 0.4}
    found = decoded_in_cpp(level, tmp_path, text, **numbers)
    assert len(rows) >= 10 and found.shape == rows.shape
    assert np.abs(found - rows).max() < 1e-4
    spoilt = text.replace("i % w + 0.5f", "i % w + 0.51f")  # the control
    assert spoilt != text and np.abs(decoded_in_cpp(level, tmp_path, spoilt, **numbers) - rows).max() > 0.1


@pytest.mark.skipif(shutil.which("mkdocs") is None, reason="mkdocs is not installed")
def test_the_site_builds_strictly(tmp_path):
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", str(ROOT / "docs/mkdocs.yml")]
    done = subprocess.run([*line, "-d", str(tmp_path / "site")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "site/passes/slice/index.html").is_file()


def test_the_first_command_of_the_readme_gives_the_figures_beside_it(tmp_path, monkeypatch):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^pip install \. && (onnxslim-yolo compile .*)$", text, re.MULTILINE)
    printed = re.search(r"([\d.]+) of its parameters and ([\d.]+) of its MACs", text)
    assert printed, "the sentence below the command"
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("*.py", "zoo", "demo"))
    monkeypatch.chdir(tmp_path)
    run_shell(Block("run", "", "sh", line + "\n"))
    report = json.loads((tmp_path / "bccd-sparse-slim/bccd-sparse.report.json").read_text())
    found = [report["after"][name] / report["before"][name] for name in ("parameters", "macs")]
    assert [f"{share:.2f}" for share in found] == list(printed.groups())
