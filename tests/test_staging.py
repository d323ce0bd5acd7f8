"""Folders a stranger prepared: planted leftovers, links below the target, names that are no file names."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.files import directories
from onnxslim_yolo.files.atomic import INCOMING, STALE_SECONDS, move_into, private_folder, staging, write_atomically
from tests.command import command, environment
from tests.test_bad_input import good, write

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs links and pipes")


def snapshot(folder: Path) -> dict[str, str]:
    """Every name below a folder, and what it is: a link's target, a file's text."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = f"-> {path.readlink()}" if path.is_symlink() else path.read_text() if path.is_file() else "folder"
    return found


@pytest.fixture(params=["by descriptor", "by name"])
def place(request, tmp_path, monkeypatch):
    """A target folder and a foreign one beside it, with the system's calls and without."""
    if request.param == "by name":
        monkeypatch.setattr(directories, "_BY_DESCRIPTOR", False)
    for name in ("target", "foreign"):
        (tmp_path / name).mkdir()
    (tmp_path / "foreign" / "m.onnx").write_text("theirs")
    (tmp_path / "foreign" / "deep").mkdir()
    (tmp_path / "foreign" / "deep" / "x").write_text("theirs")
    return tmp_path


def put(target: Path, *names: str) -> None:
    with staging(target) as stage:
        for name in names or ("m.onnx", "m_ncnn_model/model.ncnn.bin"):
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_text("ours")
        move_into(stage, target)


def plant_link(place: Path, left: Path) -> None:
    left.symlink_to(place / "foreign")


def plant_relative_link(place: Path, left: Path) -> None:
    left.symlink_to("../foreign")


def plant_loop(place: Path, left: Path) -> None:
    left.symlink_to(left.name)


def plant_dangling(place: Path, left: Path) -> None:
    left.symlink_to("nowhere")


def plant_file(place: Path, left: Path) -> None:
    left.write_text("planted")


def plant_pipe(place: Path, left: Path) -> None:
    os.mkfifo(left)


def plant_folder_with_links(place: Path, left: Path) -> None:
    left.mkdir()
    (left / "link").symlink_to(place / "foreign")
    (left / "file").symlink_to(place / "foreign" / "m.onnx")
    (left / "sub").mkdir()
    (left / "sub" / "up").symlink_to("../../../foreign")


def plant_deep(place: Path, left: Path) -> None:
    left.mkdir()
    inner = left
    for _ in range(60):
        inner = inner / "d"
        inner.mkdir()


PLANTS = [
    *(plant_link, plant_relative_link, plant_loop, plant_dangling, plant_file),
    *(plant_pipe, plant_folder_with_links, plant_deep),
]


@POSIX
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_leftover_moves_nothing_and_blocks_nothing(plant, place: Path) -> None:
    before = snapshot(place / "foreign")
    plant(place, place / "target" / INCOMING)
    put(place / "target")
    assert snapshot(place / "foreign") == before
    found = snapshot(place / "target")
    assert found["m.onnx"] == found["m_ncnn_model/model.ncnn.bin"] == "ours"
    assert not os.path.lexists(place / "target" / INCOMING) and "theirs" not in found.values()
    assert {p.name for p in place.iterdir()} == {"target", "foreign"}


def test_control_what_was_really_left_is_finished(place: Path) -> None:
    left = place / "target" / INCOMING
    (left / "sub").mkdir(parents=True)
    (left / "sub" / "half").write_text("left")
    put(place / "target")
    assert snapshot(place / "target")["sub/half"] == "left"


@POSIX
@pytest.mark.parametrize("name", ["m_ncnn_model", "a/b"])
@pytest.mark.parametrize("leads", ["foreign", "loop", "nowhere", "file", "pipe"])
def test_a_link_below_the_target_is_not_followed(name: str, leads: str, place: Path) -> None:
    target = place / "target"
    link = target / name
    link.parent.mkdir(exist_ok=True)
    if leads == "pipe":
        os.mkfifo(link)
    else:
        link.symlink_to(
            {"foreign": place / "foreign", "loop": link.name, "file": place / "foreign/m.onnx"}.get(leads, "no")
        )
    before = snapshot(place / "foreign") | {f"t/{k}": v for k, v in snapshot(target).items()}
    with pytest.raises(InputError, match=f"{link.name}: is a link or a special file, but a folder") as caught:
        put(target, "first", f"{name}/model.ncnn.bin")
    assert caught.value.exit_status == 2 and caught.value.hint
    assert snapshot(place / "foreign") | {f"t/{k}": v for k, v in snapshot(target).items()} == before


@POSIX
def test_a_link_where_a_file_goes_is_replaced_itself(place: Path) -> None:
    (place / "target" / "m.onnx").symlink_to(place / "foreign" / "m.onnx")
    (place / "target" / "deep").mkdir()
    (place / "target" / "deep" / "y").symlink_to(place / "foreign" / "deep" / "x")
    put(place / "target", "m.onnx", "deep/y")
    assert snapshot(place / "target") == {"deep": "folder", "deep/y": "ours", "m.onnx": "ours"}
    assert (place / "foreign" / "m.onnx").read_text() == (place / "foreign" / "deep" / "x").read_text() == "theirs"


@POSIX
def test_the_folder_that_was_asked_for_may_be_a_link(place: Path) -> None:
    (place / "chosen").symlink_to("foreign")
    put(place / "chosen", "new")
    assert (place / "foreign" / "new").read_text() == "ours" and (place / "chosen").is_symlink()


@POSIX
def test_old_leftovers_of_any_shape_are_swept_and_links_lead_nowhere(place: Path) -> None:
    before, old = snapshot(place / "foreign"), time.time() - 2 * STALE_SECONDS
    for plant in PLANTS:
        left = place / f".target.onnxslim-{plant.__name__}"
        plant(place, left)
        os.utime(left, (old, old), follow_symlinks=False)
    put(place / "target")
    found = {p.name for p in place.iterdir() if p.is_symlink() or not p.is_dir() or directories._BY_DESCRIPTOR}
    assert found <= {"target", "foreign"}, "without descriptors nobody can tell which folder is held"
    assert snapshot(place / "foreign") == before


@POSIX
def test_what_cannot_be_removed_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "target" / INCOMING).write_text("planted")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(directories.os, "unlink", refuse)
    with pytest.raises(InputError, match=rf"{INCOMING}: cannot be removed: Permission denied") as caught:
        put(place / "target")
    assert "by hand" in (caught.value.hint or "")


@POSIX
def test_temporary_names_are_not_guessed(tmp_path: Path) -> None:
    """A link of the name that a half-written file used to have leads nowhere."""
    mine = tmp_path / "mine"
    mine.write_text("mine")
    for name in ("x.onnx.part", ".x.onnx.part", "x.onnx"):
        (tmp_path / name).symlink_to(mine)
    write_atomically(tmp_path / "x.onnx", "new")
    assert mine.read_text() == "mine" and not (tmp_path / "x.onnx").is_symlink()


@POSIX
def test_the_default_folder_is_no_link_and_dumps_follow_none(tmp_path: Path) -> None:
    write(good(), tmp_path / "m.onnx")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "m-slim").symlink_to("foreign")
    done = command("compile", "m.onnx", "--no-verify", cwd=tmp_path)
    assert done.returncode == 2 and "m-slim: is a link" in done.stderr and not list((tmp_path / "foreign").iterdir())
    (tmp_path / "m-slim").unlink()
    (tmp_path / "dumps").mkdir()
    (tmp_path / "foreign" / "x").write_text("mine")
    for index in range(4):
        (tmp_path / "dumps" / f"{index:02d}-canonicalise.onnx").symlink_to(tmp_path / "foreign" / "x")
    done = command("compile", "m.onnx", "--no-verify", "--print-after-all", "dumps", "-q", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "foreign" / "x").read_text() == "mine", done.stderr


@POSIX
@pytest.mark.parametrize("name", ["m\nstatus=0", "a\tb", "a\x1b[31m", "a\u202eb", "a\x7f", "\udcff"])
def test_names_with_control_characters_are_refused(name: str, tmp_path: Path) -> None:
    path = write(good(), tmp_path / f"{name}.onnx")
    done = command("compile", path, "--no-verify", cwd=tmp_path)
    assert done.returncode == 2 and "no written file may have" in done.stderr and "--name" in done.stderr, done.stderr
    assert not any("slim" in p.name for p in tmp_path.iterdir())
    assert command("compile", path, "--no-verify", "--name", "plain", "-q", cwd=tmp_path).returncode == 0
    write(good(), tmp_path / "plain.onnx")
    done = command("compile", "plain.onnx", "--no-verify", "--name", name, cwd=tmp_path)
    assert done.returncode == 2 and "is no file name" in done.stderr


@POSIX
def test_a_file_name_in_a_locale_without_utf_8(tmp_path: Path) -> None:
    plain = {**environment(), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    write(good(), tmp_path / "mödel→.onnx")
    done = command("compile", "mödel→.onnx", cwd=tmp_path, env=plain)
    assert done.returncode == 2 and "--name" in done.stderr and "Traceback" not in done.stderr, done.stderr
    done = command("compile", "mödel→.onnx", "--name", "m", "-o", "out", "--measure", cwd=tmp_path, env=plain)
    assert done.returncode == 0 and (tmp_path / "out" / "m.onnx").exists(), done.stderr
    for words in (("inspect",), ("inspect", "--json")):
        done = command(*words, "mödel→.onnx", cwd=tmp_path, env=plain)
        assert done.returncode == 0 and done.stderr == "", (words, done.stderr)
    for words in (("verify", "out/m.onnx"), ("bench", "--rounds", "3")):
        done = command(*words, "mödel→.onnx", cwd=tmp_path, env=plain)
        assert done.returncode == 2 and "is no text in this locale" in done.stderr, (words, done.stderr)


if sys.platform == "win32":
    pytestmark = pytest.mark.skip("written for POSIX")


def test_a_private_folder_is_gone_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal may come while it is made, while it is used, and while it goes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make, remove = Path.mkdir, shutil.rmtree
    with private_folder("onnxslim-test-") as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), private_folder():
        raise KeyboardInterrupt

    def interrupted(folder: Path, mode: int) -> None:
        make(folder, mode)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "mkdir", interrupted)
        with private_folder():
            pass
    calls: list[Path] = []

    def once(folder: Path, ignore_errors: bool) -> None:
        calls.append(folder)
        if len(calls) == 1:
            raise KeyboardInterrupt
        remove(folder, ignore_errors=ignore_errors)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", once)
        with private_folder():
            pass
    assert list(tmp_path.iterdir()) == [] and len(calls) == 2
