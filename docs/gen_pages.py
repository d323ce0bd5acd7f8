"""What the site takes from elsewhere in the repository, at every build: an mkdocs hook.

The picture of the channel labels (drawn from a real analysis), the report's screenshots, and every table of
`bench/results` with the commands that make it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from draw_labels import picture  # mkdocs loads hooks with their folder on the path
from gen_tables import fine_tuning
from kept_result import Result
from results_list import BENCHMARKS

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "bench/results"


def result_pages() -> dict[str, str]:
    """Path in the site → Markdown: an overview, and a page for each benchmark that has no other."""
    rows = [f"| [{each.title}]({_link(each)}) | {each.says} | {_commands(each)} |" for each in BENCHMARKS]
    text = (
        "# Benchmark results\n\nEvery figure in this documentation that is not called a development measurement is "
        "from one of these. What the scripts wrote is kept in `bench/results/`, as JSON and as Markdown. The latency "
        "tables (A, B, C, masks, predicted) are made in one go by `python bench/latency_tables.py` on an idle machine; "
        "`taskset` chooses the core. Each says which machine, which versions and which rounds, and carries an A/A "
        "control: the same file against itself.\n\n| result | what it shows | repeat it with |\n|---|---|---|\n"
    )
    found = {"results/index.md": text + "\n".join(rows) + "\n"}
    for each in BENCHMARKS:
        if _link(each).startswith("../"):
            continue
        body = [_shown(path) for path in files_of(each) if path.suffix in (".md", ".txt")] or [fine_tuning() + "\n"]
        found[f"results/{_link(each)}"] = f"# {each.title}\n\n{_how(each)}\n\n" + "\n\n".join(map(_below, body))
    return found


def files_of(result: Result) -> list[Path]:
    """What it left in `bench/results`."""
    return sorted(path for pattern in result.files for path in RESULTS.glob(pattern))


def _link(result: Result) -> str:
    """Its page, seen from the overview."""
    if result.page:
        return result.page.removeprefix("results/") if result.page.startswith("results/") else f"../{result.page}"
    return f"{next(path.stem for path in files_of(result) if path.suffix in ('.md', '.txt'))}.md"


def _commands(result: Result) -> str:
    return "<br>".join(f"`{command}`" for command in result.commands)


def _how(result: Result) -> str:
    kept = ", ".join(f"`bench/results/{path.name}`" for path in files_of(result))
    needs = f" It needs {result.needs}." if result.needs else ""
    says = f"{result.says[:1].upper()}{result.says[1:]}. Kept in {kept}.{needs} Repeat it with"
    return "\n".join([says, "", "```sh", *result.commands, "```"])


def _shown(path: Path) -> str:
    """What a file holds, as Markdown."""
    text = path.read_text(encoding="utf-8")
    return text if path.suffix == ".md" else f"```text\n{text}```\n"


def _below(text: str) -> str:
    """A file's text below the page's title: its own title goes, where it has one."""
    first, _, rest = text.partition("\n")
    return rest.lstrip("\n") if first.startswith("# ") else text


def on_config(config: Any) -> Any:
    """mkdocs: name the pages in the navigation."""
    for entry in config.nav:
        if "Benchmark results" in entry:
            entry["Benchmark results"] = list(result_pages())
    return config


def on_files(files: Any, config: Any) -> Any:
    """mkdocs: add the files."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "channel-labels.svg", content=picture()))
    for path, text in result_pages().items():
        files.append(File.generated(config, path, content=text))
    for shot in sorted((HERE / "screenshots").glob("*.png")):
        files.append(File.generated(config, f"screenshots/{shot.name}", abs_src_path=str(shot)))
    return files
