"""Take the report's pictures anew: `python docs/shoot_report.py`, with Chromium installed.

The bundled model is compiled for a Raspberry Pi 5, its report opened at 1400 and at 400 pixels, light and dark: the
upper part with a layer hovered over, and the graph with a block reached by keyboard. Kept in docs/screenshots, with 256
colours. Stops where the page has complained about anything.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import onnxslim_yolo as oy  # noqa: E402
from tests.report.browser import Page, chromium  # noqa: E402

SHOTS = ROOT / "docs/screenshots"
WIDTHS = {1400: (3600, 640), 400: (4400, 780)}
"""Width of the window → heights of the pictures of report and graph, in pixels."""
HOVERED = ".block:nth-child(6) .layer"
STEPS = 8
"""From the input to the block that is shown, by arrow keys."""


def main() -> int:
    """Compile, open, hover, shoot; the exit status is 1 where the page has complained."""
    complaints: list[str] = []
    with tempfile.TemporaryDirectory() as folder, chromium() as page:
        oy.compile(ROOT / "models/bccd-sparse.onnx", prune=0.7, device="pi5", out=folder)
        file = Path(folder) / "bccd-sparse.report.html"
        for width, (height, graph_height) in WIDTHS.items():
            for dark in (False, True):
                scheme = "-dark" if dark else ""
                page.open(file, width, height, dark=dark)
                page.js("document.querySelector('[data-metric=latency_us]').click()")
                page.hover(HOVERED)
                if page.js("scrollY"):  # what is above the window would be white
                    complaints.append(f"{width} px: '{HOVERED}' is not in view unless the page is scrolled")
                _shoot(page, SHOTS / f"report-{width}{scheme}.png")
                page.open(file, width, graph_height, dark=dark)
                _walk(page)
                page.wait("!document.getElementById('tip').hidden")
                _shoot(page, SHOTS / f"graph-{width}{scheme}.png")
                complaints += page.errors
    print("\n".join(complaints) or "eight pictures in docs/screenshots")
    return int(bool(complaints))


def _walk(page: Page) -> None:
    """To a block of the graph, by keyboard; the graph stands at the window's top."""
    page.js("document.getElementById('network').scrollIntoView({block: 'start', behavior: 'instant'})")
    page.js("document.querySelector('#graph .node').focus({preventScroll: true})")
    for _ in range(STEPS):
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight")


def _shoot(page: Page, file: Path) -> None:
    page.screenshot(file, full=False)
    with Image.open(file) as shot:
        shot.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
