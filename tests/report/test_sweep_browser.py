"""The sweep's picture in a real browser: no complaint, every point drawn, fits a phone, a hostile name is text."""

from __future__ import annotations

import pytest

from onnxslim_yolo.report.sweep import write_sweep_html
from tests.report.browser import CHROMIUM, chromium

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
EVIL = "</script><img src=x onerror=alert(1)>.onnx"
ROWS = [
    {"key": "a", "model": "best.onnx", "prune": "0.0", "macs": 100, "map50": 0.5, "file": "trials/a"},
    {"key": "b", "model": "best.onnx", "prune": "0.5", "snap": "none", "macs": 60, "map50": 0.4},
    {"key": "c", "model": "best.onnx", "prune": "0.5", "snap": "8", "macs": 50, "map50": 0.45},
    {"key": "d", "model": EVIL, "prune": "0.0", "macs": 70, "map50": 0.3},
    {"key": "e", "model": "best.onnx", "prune": "0.9", "error": "UsageError: <b>no</b>"},
]


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (400, True)])
def test_the_picture(tmp_path, width, dark):
    file = write_sweep_html(ROWS, "best.onnx", tmp_path / "sweep.html")
    with chromium() as page:
        page.open(file, width, dark=dark)
        assert page.errors == []
        assert page.js("document.querySelectorAll('#plot .points .point').length") == 4
        assert page.js("document.querySelectorAll('#plot .lines path').length") >= 1
        assert page.js("document.querySelectorAll('img').length") == 0
        assert page.js("document.documentElement.scrollWidth") <= width
        front = page.js("[...document.querySelectorAll('tr td:first-child')].map(cell => cell.textContent)")
        assert [text.split(",")[1].strip() for text in front] == ["prune 0.5", "unpruned"]
