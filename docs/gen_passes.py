"""One page per pass, made from its module's docstring; an mkdocs hook, run at every build.

mkdocs build --strict -f docs/mkdocs.yml        # adds the pages to the site
python docs/gen_passes.py FOLDER                # writes them as Markdown files
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from draw_passes import EXAMPLES, pictures

from onnxslim_yolo.files.spelling import options_of
from onnxslim_yolo.passes.protocol import Pass, effect_of
from onnxslim_yolo.pipeline import PASSES

EFFECTS = {
    "exact": "Exact: the model computes the same function before and after.",
    "plan": "Changes the plan only, not the graph.",
    "slice": "Exact in this sense: the result computes what the model computes with the removed channels masked.",
    "blocks": "Exact in this sense: the result computes what the model computes with the removed blocks masked.",
    "head": "Other outputs of the same network.",
    "approximate": "An approximation: the loss that it leaves is reported, not checked as an equality.",
}


def pages() -> dict[str, str]:
    """Path in the site → Markdown, in the order in which the default pipeline runs the passes."""
    return {"passes/index.md": _overview()} | {f"passes/{cls.name}.md": _page(cls) for cls in PASSES}


def _overview() -> str:
    rows = [f"| [{cls.name}]({cls.name}.md) | {_summary(cls)} |" for cls in PASSES]
    intro = (
        "# Passes\n\nOne pass is one file in `passes/` with one class. These pages are made from their docstrings. The "
        "table has the order of the default pipeline, which `onnxslim_yolo/pipeline.py` spells out; a pipeline of your "
        "own is text, such as `--passes 'prune{ratio=0.7},snap{to=pow2},slice,reparam,fold-bn'`.\n"
    )
    return "\n".join([intro, "| pass | what it does |", "|---|---|", *rows]) + "\n"


def _page(cls: type[Pass]) -> str:
    source = Path(inspect.getsourcefile(cls) or "")
    parts = [f"# {cls.name}", _markdown(_docstring(source)), "## Effect", EFFECTS[effect_of(_class_only(cls))]]
    parts += ["## Before and after", EXAMPLES[cls.name].caption, _inlined(pictures(cls.name))]
    parts += ["## Options", _options(cls), "## In a pipeline", f"```text\n{_example(cls)}\n```"]
    for module in _shared(source):
        title = module.stem.removeprefix("_").replace("_", "-")
        parts += [f"## Shared: `{title}`", _markdown(_docstring(module))]
    parts.append(f"Source: `passes/{source.name}`, class `{cls.__name__}`.")
    return "\n\n".join(parts) + "\n"


def _class_only(cls: type[Pass]) -> Any:
    """`effect` is a class attribute, so the class does where an instance is asked for."""
    return cls


def _summary(cls: type[Pass]) -> str:
    text = _docstring(Path(inspect.getsourcefile(cls) or "")).split("\n\n")[0].replace("\n", " ")
    text = text.removeprefix(f"{cls.name}:").strip()
    return (text[:1].upper() + text[1:]).replace("|", "\\|")


def _options(cls: type[Pass]) -> str:
    rows = options_of(cls)
    if not rows:
        return "None."
    said = meanings(cls)
    texts = [
        f"| `{name}` | {_linked(said[name])} | {kind.replace('|', ' or ')} | `{default or ' '}` |"
        for name, kind, default in rows
    ]
    return "\n".join(["| option | what it means | type | default |", "|---|---|---|---|", *texts])


_ARGUMENT = re.compile(r"    (\w+(?:, \w+)*): (.*)")


def meanings(cls: type[Pass]) -> dict[str, str]:
    """What each option of a pass means, from its class's docstring; where that names another pass, what is said there.

    Raises:
        KeyError: the docstring refers to a pass that does not know the option.
    """
    found: dict[str, str] = {}
    names: list[str] = []
    documented = [each for each in reversed(cls.__mro__) if each is not object]  # its own words go before its base's
    for line in (line for each in documented for line in inspect.cleandoc(each.__doc__ or "").splitlines()):
        begun = _ARGUMENT.fullmatch(line)
        if begun:
            names = begun[1].split(", ")
            found |= dict.fromkeys(names, begun[2])
        elif line.startswith("        ") and names:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
        else:
            names = []
    for name, text in found.items():
        other = re.search(r"see the pass `([\w-]+)`", text)
        if other:
            known = meanings(next(each for each in PASSES if each.name == other[1]))
            found[name] = known[name]
    return found


def _linked(text: str) -> str:
    """In a table's cell: without bars, and what other passes are called linked."""
    shared = re.sub(r" ?\(see `_(\w+)`\)", r" (see *\1* below)", text)
    names = "|".join(cls.name for cls in PASSES)
    return re.sub(rf"(?:the )?pass `({names})`|`({names})` pass", _link, shared).replace("|", "\\|")


def _link(found: re.Match[str]) -> str:
    name = found[1] or found[2]
    return f"the pass [`{name}`]({name}.md)"


def _inlined(svg: str) -> str:
    """As one block of HTML, which ends for Markdown at an empty line."""
    return "\n".join(line for line in svg.splitlines() if line.strip())


def _example(cls: type[Pass]) -> str:
    options = " ".join(f"{name}={default}" for name, _, default in options_of(cls) if default and "(" not in default)
    return f"{cls.name}{{{options}}}" if options else cls.name


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def _shared(path: Path) -> list[Path]:
    """The private modules beside a pass that it imports, directly or not: their docstrings hold its algebra, too."""
    found: list[Path] = []
    for name in re.findall(r"onnxslim_yolo\.passes\.(_\w+)|onnxslim_yolo\.passes import (_\w+)", path.read_text()):
        module = path.with_name(f"{name[0] or name[1]}.py")
        if module not in found:
            found += [module, *(each for each in _shared(module) if each not in found)]
    return found


def _markdown(text: str) -> str:
    """A docstring as Markdown: what continues a numbered item is indented by four, as Python-Markdown wants it."""
    lines, in_item = [], False
    for line in text.splitlines():
        if re.match(r"\d+\. ", line):
            if not in_item and lines and lines[-1].strip():
                lines.append("")
            in_item = True
        elif line.strip() and not line.startswith("   "):
            if in_item and lines[-1].strip():
                lines.append("")
            in_item = False
        elif in_item and line.strip():
            line = f" {line}"
        lines.append(line)
    return "\n".join(lines)


def on_config(config: Any) -> Any:
    """mkdocs: name the pages in the navigation."""
    for entry in config.nav:
        if "Passes" in entry:
            entry["Passes"] = [{path[7:-3] if path != "passes/index.md" else "All": path} for path in pages()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """mkdocs: add the pages."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


if __name__ == "__main__":
    for page, content in pages().items():
        target = Path(sys.argv[1]) / page
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
