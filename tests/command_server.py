"""A process that has what the command imports, and forks for each command that a test or a shell asks it for.

    python -m tests.command_server SOCKET          serve there until standard input ends
    python -I -S command_server.py SOCKET WORD …   be the command, with these words, in a fork of that process

A question is JSON (words, folder, environment) and three streams; the answer is the exit status.
"""

from __future__ import annotations

import json
import os
import socket
import sys

LOADED = (
    *("onnxslim_yolo.cli.main", "onnxslim_yolo.ci.job", "onnxslim_yolo.emit.ncnn.write", "onnxslim_yolo.report.build"),
    *("onnxslim_yolo.measure.predicted", "onnxslim_yolo.verify.detector", "onnxslim_yolo.verify.ncnn_compare"),
    *("onnxruntime", "jinja2", "numpy.random", "rich.markdown"),
)
"""What all commands but those that need torch import, or something that imports it: half a second's work."""
LONGEST = 600
"""Seconds that a command may take: a machine may have others at work."""


def ask(place: str, words: list[str], cwd: str, environment: dict[str, str], streams: list[int]) -> int:
    """Let the process that serves at `place` run a command with these streams; returns its exit status."""
    question = json.dumps([words, cwd, environment]).encode()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(place)
        socket.send_fds(line, [len(question).to_bytes(8, "big")], streams)
        line.sendall(question)
        return int(line.makefile().readline() or "-1")


def serve(place: str) -> None:
    """Answer until nobody is there to ask. A forked child leaves by what the command raises, as any process does."""
    import gc
    import importlib
    import select

    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()  # a child's collections leave what it shares with the others where it is
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(place)
        listening.listen()
        print("ready", flush=True)
        while listening in select.select([listening, sys.stdin], [], [])[0]:
            line, _ = listening.accept()
            size, streams, _, _ = socket.recv_fds(line, 8, 3)
            with line.makefile("rb") as reads:
                question = json.loads(reads.read(int.from_bytes(size, "big")))
            pid = os.fork()
            if pid == 0:
                listening.close()
                line.close()
                become(*question, streams)
            for stream in streams:
                os.close(stream)
            line.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            line.close()


def become(words: list[str], cwd: str, environment: dict[str, str], streams: list[int]) -> None:
    """Be `python -m onnxslim_yolo` with these words."""
    import runpy
    import signal

    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    # What was made for the server's own knows whether that could be sought in, and these may not be alike.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    signal.alarm(LONGEST)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["onnxslim_yolo", *words]
    runpy.run_module("onnxslim_yolo", run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    if sys.flags.isolated:
        sys.exit(ask(sys.argv[1], sys.argv[2:], os.getcwd(), dict(os.environ), [0, 1, 2]))  # noqa: PTH109
    serve(sys.argv[1])
