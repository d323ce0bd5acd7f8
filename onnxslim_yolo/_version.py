"""The version, and where this package is installed from: both from this one place."""

from __future__ import annotations

__version__ = "0.1.0"

INDEX_HAS_IT = False
"""Whether an index of packages has a release. Changes at release: then `pip install onnxslim-yolo` is printed."""

REPOSITORY = "git+https://github.com/OWNER/onnxslim-yolo"
"""Where whoever has no copy installs from until then; OWNER is whoever hosts the copy that you use."""


def requirement(extra: str = "") -> str:
    """What pip is handed by somebody who has no copy, with one of the package's extras."""
    name = f"onnxslim-yolo[{extra}]" if extra else "onnxslim-yolo"
    return name if INDEX_HAS_IT else f"{name} @ {REPOSITORY}"


def install_line(extra: str) -> str:
    """The command that adds an extra to *this* installation, from where that came: a folder, a wheel, a repository."""
    import shlex

    where, editable = _origin(extra)
    return f"pip install {'-e ' if editable else ''}{shlex.quote(where or requirement(extra))}"


def _origin(extra: str) -> tuple[str | None, bool]:
    """Where pip noted that this came from (PEP 610), None where unknown or gone; and whether it is editable there."""
    import json
    from importlib.metadata import PackageNotFoundError, distribution
    from pathlib import Path
    from urllib.parse import unquote, urlparse

    try:
        noted = json.loads(distribution("onnxslim-yolo").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None, False
    url = str(noted.get("url", ""))
    if "vcs_info" in noted:
        kind, commit = noted["vcs_info"].get("vcs", "git"), noted["vcs_info"].get("commit_id", "")
        return f"onnxslim-yolo[{extra}] @ {kind}+{url}{commit and '@' + commit}", False
    path = Path(unquote(urlparse(url).path))
    there = url.startswith("file:") and path.exists()
    return f"{path}[{extra}]" if there else None, there and bool(noted.get("dir_info", {}).get("editable"))
