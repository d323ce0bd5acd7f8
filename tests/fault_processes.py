"""Processes that write into a folder and are killed, run at once or out of room; is what they leave whole?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import INCOMING, move_into, staging
from tests.command import environment
from tests.test_bad_input import good, write
from tests.test_compile import contents

ENVIRONMENT = environment()

WRITER = """
import sys, time
from pathlib import Path
from onnxslim_yolo.files import atomic as files
folder, run, count, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
print("ready", flush=True)
sys.stdin.readline()
for turn in range(int(sys.argv[5])):
    with files.staging(folder) as stage:
        for index in range(count):
            (stage / "sub").mkdir(exist_ok=True)
            files.write_atomically(stage / ("sub" if index % 2 else ".") / f"f{index}", f"{run}.{turn} " * size)
        files.move_into(stage, folder)
"""
"""Writes sets of files again and again; every file says which set it is of."""


def writer(folder: Path, run: str, *, count: int = 8, size: int = 2000, turns: int = 1000) -> subprocess.Popen[str]:
    """A process that begins to write once it reads a line."""
    arguments = [sys.executable, "-c", WRITER, str(folder), run, str(count), str(size), str(turns)]
    process = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=folder.parent
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def start(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def sets_in(folder: Path) -> list[str]:
    """Which set each file in place is of. Fails on a file that is not whole."""
    found = []
    for name, data in contents(folder).items():
        if not name.startswith(INCOMING):
            words = data.decode().split()
            assert len(words) == 2000 and len(set(words)) == 1, f"{name} is half written"
            found.append(words[0])
    return found


def heal(folder: Path) -> None:
    """What the next compilation does first: it finishes or removes what was left, then writes a file of its own."""
    with staging(folder) as stage:
        (stage / "marker").write_text("x")
        move_into(stage, folder)
    (folder / "marker").unlink()


COMPILER = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import onnxslim_yolo as oy
source, folder, task = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def compile_into(out, prune):
    oy.compile(source, out=out, prune=prune, snap="none", emit="onnx", verify=False)

def child(prunes):
    pid = os.fork()
    if pid == 0:
        try:
            for prune in prunes:
                compile_into(folder, prune)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return pid

began = time.perf_counter()
compile_into(folder.parent / "warm", 0.5)  # imports and caches; what follows takes milliseconds
shutil.rmtree(folder.parent / "warm")
if task == "kill":
    compile_into(folder.parent / "warm", 0.5)
    once = time.perf_counter()
    compile_into(folder.parent / "warm", 0.5)
    once = time.perf_counter() - once
    shutil.rmtree(folder.parent / "warm")
    dice = random.Random(int(sys.argv[4]))
    for round in range(int(sys.argv[5])):
        pid = child([0.25, 0.5, 0.75] * 100)
        time.sleep(dice.uniform(0, 4 * once))
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        print("killed", flush=True)
        sys.stdin.readline()
else:
    pids = [child([prune] * 6) for prune in (0.25, 0.5, 0.75)]
    sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids))
"""
"""Compiles in children of a process that has everything loaded, so that kills hit the compilation, not imports."""


def whole(folder: Path) -> float | None:
    """The `prune` that the files in a folder are of; None without a report. Fails where they are of several runs."""
    if not (folder / "m.report.json").exists():
        return None
    report = json.loads((folder / "m.report.json").read_text())
    prune = report["options"]["prune"]
    assert report["files"] == {"m.onnx": (folder / "m.onnx").stat().st_size}
    onnx.load(folder / "m.onnx")
    plan = json.loads((folder / "m.plan.json").read_text())
    kept = [[group["kept"] for group in found["groups"]] for found in (plan, report)]
    assert kept[0] == kept[1], "plan and report are of two runs"
    page = (folder / "m.report.html").read_text()
    assert page.endswith(("</html>\n", "</html>"))
    assert f"--prune {prune}" in page, "page and report are of two runs"
    return float(prune)


def compiler(folder: Path, *task: object) -> subprocess.Popen[str]:
    source = write(good(), folder.parent / "m.onnx")
    arguments = [sys.executable, "-c", COMPILER, str(source), str(folder), *map(str, task)]
    return subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


FULL = """
import os, subprocess, sys
from pathlib import Path
import onnxslim_yolo as oy
from onnxslim_yolo.errors import InputError
place, source = Path(sys.argv[1]), Path(sys.argv[2])
made = [["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]]
if subprocess.run(made[0], capture_output=True).returncode:
    sys.exit(77)
out = place / "out"
options = {"out": out, "snap": "none", "emit": "onnx", "verify": False}
oy.compile(source, prune=0.25, **options)
before = {p.name: p.read_bytes() for p in out.iterdir()}
page, free = os.sysconf("SC_PAGE_SIZE"), 0
for pages in (0, 1, 2, 4, 10, 30, 100, 150):  # the new files need more than all but the last but one of these
    used = sum(-(-p.stat().st_size // page) for p in out.iterdir())
    blob = place / "blob"
    blob.write_bytes(b"")
    room = os.statvfs(place).f_bavail - pages
    with blob.open("wb") as stream:
        stream.write(bytes(max(0, room) * page))
    try:
        oy.compile(source, prune=0.5, **options)
        print("written")
    except InputError as error:
        assert "No space left" in str(error), error
        print("refused")
        assert {p.name: p.read_bytes() for p in out.iterdir()} == before, f"changed with {pages} pages free"
    assert {p.name for p in place.iterdir()} == {"out", "blob"}, list(place.iterdir())
    blob.unlink()
oy.compile(source, prune=0.5, **options)
print("written")
"""
"""Compiles on a file system of 4 MB with less and less room; exits with 77 where it may not mount one."""


def as_nobody(folder: Path) -> str:
    """What `staging(folder)` says to a user without rights, asked in a forked child."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        said = "allowed"
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            with staging(folder):
                pass
        except InputError as error:
            said = str(error)
        except BaseException as error:
            said = repr(error)
        os.write(send, said.encode())
        os._exit(0)
    os.close(send)
    os.waitpid(child, 0)
    with os.fdopen(receive) as stream:
        return stream.read()
