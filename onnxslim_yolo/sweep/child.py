"""The process that runs trials of a sweep: one line of JSON in (a trial and the folder), one row out.

It is started isolated, without the folder that this package lies in on its path: the package is loaded from where this
file is.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path


def load_package() -> None:
    """Make `import onnxslim_yolo` mean the package that this file is part of."""
    here = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location(
        here.name, here / "__init__.py", submodule_search_locations=[str(here)]
    )
    if spec is None or spec.loader is None or here.name in sys.modules:
        return
    sys.modules[here.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def main() -> None:
    """Answer until standard input ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever is printed goes to standard error
    load_package()
    from onnxslim_yolo.sweep.rows import Trial
    from onnxslim_yolo.sweep.run import run_trial

    for line in sys.stdin:
        request = json.loads(line)
        row = run_trial(Trial(**request["trial"]), Path(request["folder"]))
        print(json.dumps(row), file=channel, flush=True)


if __name__ == "__main__":
    main()
