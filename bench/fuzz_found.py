"""Configuration as a stranger writes it, and folders as a stranger leaves them: does anything lead outside?

    python bench/fuzz_found.py [found-config] [folders] [--inputs N] [--write]

`found-config`: files of random keys and paths, made of what leads out (`..`, absolute names, links, loops, names that
no file system takes), read as a file that nobody named. A path that is accepted must lie below the file's folder.

`folders`: a target folder with up to six random leftovers, links, pipes and folders in it, into which files are moved.
Whatever comes of it, nothing beside the folder may change, and what was moved is there, whole, or nothing was.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzzing import Options, Tally, fuzz, run

from onnxslim_yolo.cli.config import ONLY_BY_HAND, read_config
from onnxslim_yolo.cli.defaults import _check, options_of
from onnxslim_yolo.cli.main import compile_command
from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files.atomic import INCOMING, move_into

PARTS = [
    *("..", ".", "a", "sub", "out-link", "up-link", "loop", "inner-link", "~", "$HOME", "etc", "passwd", "", " ", "C:"),
    *(
        "\\\\server",
        "a" * 300,
        "ü",
        "\\u0000",
        "\\t",
        "\\n",
        "%2e%2e",
        "..\u2044..",
        "file",
        "dev",
        "null",
        "proc",
        "self",
        "cwd",
    ),
]
NAMES = [
    "m.onnx",
    "sub",
    "sub/x",
    "m_ncnn_model",
    "m_ncnn_model/model.ncnn.bin",
    INCOMING,
    f"{INCOMING}/x",
    f"{INCOMING}/sub/y",
]
FILES = ("m.onnx", "m_ncnn_model/model.ncnn.bin", "sub/x")


def text_of(rng: random.Random, keys: list[str]) -> str:
    """One to four keys with a path, or something else, as their value."""
    lines = []
    for key in rng.sample(keys, rng.randint(1, 4)):
        path = rng.choice(["", "", "", "/", "//", "./"]) + "/".join(rng.choices(PARTS, k=rng.randint(1, 5)))
        value = rng.choice(
            [f'"{path}"'] * 6 + ["true", "1", f'["{path}"]', f"'''{path}'''", f'"prune{{calib={path}}}"']
        )
        lines.append(f"{key} = {value}")
    return "\n".join(lines) + "\n"


def config_reader(folder: Path) -> Callable[[object], object]:
    """Reads a file as found. Raises AssertionError where an accepted path leads out."""
    home = folder / "home"
    (home / "sub").mkdir(parents=True)
    (folder / "outside").mkdir()
    (home / "out-link").symlink_to(folder / "outside")
    (home / "sub" / "up-link").symlink_to("../..")
    (home / "loop").symlink_to("loop")
    (home / "inner-link").symlink_to("sub")
    (home / "file").touch()
    keys, root = options_of(compile_command), home.resolve()
    kinds = {option.parameter: option for option in keys.values()}

    def read(data: object) -> object:
        (home / "onnxslim-yolo.toml").write_bytes(data)  # type: ignore[arg-type]
        values = read_config(home / "onnxslim-yolo.toml", keys, _check, found=True).values
        for name, value in values.items():
            assert kinds[name].key not in ONLY_BY_HAND, f"{name} was set by a file that was found"
            if kinds[name].kind is Path:
                real = os.path.realpath(value)
                assert Path(real).is_relative_to(root) or "loop" in value, f"{name} leads to {real}"
        return values

    return read


def plant(rng: random.Random, target: Path, outside: Path) -> None:
    """A leftover of a random shape under a random name."""
    place = target / rng.choice(NAMES)
    if os.path.lexists(place) or not place.parent.is_dir() or place.parent.is_symlink():
        return
    kind = rng.randrange(7)
    if kind == 0:
        place.symlink_to(outside)
    elif kind == 1:
        place.symlink_to(rng.choice([outside / "theirs", Path("nowhere"), Path(place.name), Path("..")]))
    elif kind == 2:
        os.mkfifo(place)
    elif kind == 3:
        place.write_text("planted")
    else:
        place.mkdir()


def moved(data: object) -> object:
    """Plants, moves, looks. Raises AssertionError where something beside the target changed, or half was moved."""
    rng = random.Random(data)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        target, outside, stage = place / "target", place / "outside", place / "stage"
        for each in (target, outside, stage, stage / "sub", stage / "m_ncnn_model"):
            each.mkdir()
        (outside / "theirs").write_text("theirs")
        for _ in range(rng.randint(0, 6)):
            plant(rng, target, outside)
        for each in FILES:
            (stage / each).write_text("ours")
        try:
            move_into(stage, target)
        except InputError:
            done = False
        else:
            done = True
        assert [p.name for p in outside.iterdir()] == ["theirs"] and (outside / "theirs").read_text() == "theirs"
        ours = [each for each in FILES if not (target / each).is_symlink() and _text(target / each) == "ours"]
        assert len(ours) == (len(FILES) if done else 0), f"{len(ours)} files were moved, done is {done}"
        assert {p.name for p in place.iterdir()} <= {"target", "outside", "stage"}
        shutil.rmtree(target)
        if not done:
            raise InputError("refused")
    return done


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def main() -> int:
    """Both, or those named."""
    keys = [*options_of(compile_command), "trust", "run-on"]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        tempfile.tempdir = name
        read = config_reader(Path(name))

        def config(options: Options) -> Tally:
            return fuzz("found-config", lambda rng: text_of(rng, keys).encode("utf-8", "replace"), read, options)

        def folders(options: Options) -> Tally:
            return fuzz("folders", lambda rng: rng.randbytes(8), moved, options)

        return run({"found-config": config, "folders": folders}, __doc__)


if __name__ == "__main__":
    sys.exit(main())
