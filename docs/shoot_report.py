"""Take the report's pictures anew: `python docs/shoot_report.py`, with Chromium installed.

The bundled model is compiled, its report opened at 1400 and at 400 pixels, a layer hovered over, and
the upper part kept in docs/screenshots. Stops where the page has complained about anything.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import onnxslim_yolo as oy  # noqa: E402
from tests.report.browser import chromium  # noqa: E402

WIDTHS = {1400: 3600, 400: 4200}
"""Width of the window → height of the picture, in pixels."""
HOVERED = ".block:nth-child(6) .layer"


def main() -> int:
    """Compile, open, hover, shoot; the exit status is 1 where the page has complained."""
    complaints = []
    with tempfile.TemporaryDirectory() as folder, chromium() as page:
        oy.compile(ROOT / "models/bccd-sparse.onnx", prune=0.7, out=folder)
        for width, height in WIDTHS.items():
            page.open(Path(folder) / "bccd-sparse.report.html", width, height)
            page.js("document.querySelector('[data-metric=latency_us]').click()")
            page.hover(HOVERED)
            if page.js("scrollY"):  # what is above the window would be white
                complaints.append(f"{width} px: '{HOVERED}' is not in view unless the page is scrolled")
            page.screenshot(ROOT / f"docs/screenshots/report-{width}.png", full=False)
            complaints += page.errors
    print("\n".join(complaints) or "two pictures in docs/screenshots")
    return int(bool(complaints))


if __name__ == "__main__":
    sys.exit(main())
