"""What the site takes from elsewhere in the repository, at every build: an mkdocs hook.

The picture of the channel labels (drawn from a real analysis), the report's screenshots, and every table of
`bench/results`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from draw_labels import picture  # mkdocs loads hooks with their folder on the path

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "bench/results"


def result_pages() -> dict[str, str]:
    """Path in the site → Markdown, for each table in `bench/results`."""
    found = {}
    for path in sorted(RESULTS.glob("*.md")):
        title = path.stem.replace("_", " ")
        script = RESULTS.parent / f"{path.stem}.py"
        how = f"Repeat with `python bench/{script.name}`. " if script.exists() else ""
        head = f"# {title[:1].upper() + title[1:]}\n\n{how}Kept in `bench/results/{path.name}`.\n\n"
        found[f"results/{path.stem}.md"] = head + path.read_text()
    return found


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
