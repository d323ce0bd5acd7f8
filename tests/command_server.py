"""A process that has what the command imports, and forks for each command: `tests.command` asks it.

A line of JSON on its standard input is a command: its arguments, folder, environment, and the files that take what it
says. The line that answers is its exit status.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import sys
from typing import Any

LOADED = (
    *("onnxslim_yolo.cli.main", "onnxslim_yolo.ci.job", "onnxslim_yolo.emit.ncnn.write", "onnxslim_yolo.report.build"),
    *("onnxslim_yolo.measure.predicted", "onnxslim_yolo.verify.detector", "onnxslim_yolo.verify.ncnn_compare"),
    *("onnxruntime", "jinja2", "numpy.random", "rich.markdown"),
)
"""What all commands but those that need torch import, or something that imports it: half a second's work."""


def serve() -> None:
    """Answer until nobody asks. A forked child leaves by what the command raises, as any process of it does."""
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()  # a child's collections leave what it shares with the others where it is
    print("ready", flush=True)
    while line := sys.stdin.readline():
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become(asked)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def become(asked: dict[str, Any]) -> None:
    """Be `python -m onnxslim_yolo` with these arguments."""
    for descriptor, path in enumerate((os.devnull, *asked["streams"])):
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    signal.alarm(120)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["onnxslim_yolo", *asked["arguments"]]
    runpy.run_module("onnxslim_yolo", run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    serve()
