"""Every malicious or broken checkpoint is refused, quickly, and nothing in it runs."""

from __future__ import annotations

import random
import sys
import time

import pytest
from checkpoint_bytes import name, raw, zipped
from malicious import CASES

from onnxslim_yolo.errors import InputError, OnnxSlimError
from onnxslim_yolo.load.checkpoint import read_checkpoint
from onnxslim_yolo.load.torch_archive import open_archive
from onnxslim_yolo.load.trace_checkpoint import trace_checkpoint

torch = pytest.importorskip("torch")


@pytest.fixture
def sentinel(tmp_path, monkeypatch):
    """A path that appears when code runs; a module `evil` on the path makes it appear when imported."""
    path = tmp_path / "RAN"
    folder = tmp_path / "path"
    folder.mkdir()
    folder.joinpath("evil.py").write_text(
        f"import pathlib\npathlib.Path({str(path)!r}).touch()\nclass X: pass\ndef touch(): pass\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    yield path
    sys.modules.pop("evil", None)


@pytest.mark.parametrize("case", CASES)
def test_refused_and_not_executed(case, tmp_path, sentinel):
    write, words = CASES[case]
    path = tmp_path / "model.pt"
    write(path, sentinel)
    start = time.process_time()
    with pytest.raises(InputError, match=words) as caught:
        trace_checkpoint(path, imgsz=(64, 64))
    assert time.process_time() - start < 20, "CPU time: what else runs on the machine does not count"
    assert str(path) in str(caught.value)
    assert not sentinel.exists()


def test_the_sentinel_works(tmp_path, sentinel):
    """The control: Python's own unpickler does run these."""
    import pickle
    import zipfile

    for case in ("calls: os.system", "calls: eval", "calls: user's function"):
        path = tmp_path / "model.pt"
        CASES[case][0](path, sentinel)
        pickle.loads(zipfile.ZipFile(path).read("archive/data.pkl"))
        assert sentinel.exists(), case
        sentinel.unlink()
        sys.modules.pop("evil", None)


def test_an_unknown_class_is_inert(tmp_path, sentinel):
    path = tmp_path / "model.pt"
    state = b"\x80\x02}X\x01\x00\x00\x00m" + name("evil", "X") + b")\x81}X\x01\x00\x00\x00aK\x01sbs."
    raw(state)(path, sentinel)
    record = open_archive(path).root["m"]
    assert (record.name, record.attributes) == ("evil.X", {"a": 1})
    assert not sentinel.exists()
    assert not hasattr(record, "__dict__")


@pytest.fixture(scope="module")
def pickle_of_a_model(tmp_path_factory):
    import zipfile

    path = tmp_path_factory.mktemp("fuzz") / "good.pt"
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.SiLU())
    torch.save({"model": model, "names": ["a"], "n": {1, 2}, "t": (1.5, None)}, path)
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split("/")[0]
        files = {key.replace(root, "archive", 1): archive.read(key) for key in archive.namelist()}
    return files.pop("archive/data.pkl"), files


def test_damaged_pickles_give_errors_or_models(pickle_of_a_model, tmp_path):
    """Random damage: no exception but ours, no hang, no crash."""
    good, files = pickle_of_a_model
    files.pop("archive/version", None)
    draw = random.Random(0)
    path, refused = tmp_path / "model.pt", 0
    for _ in range(400):
        data = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        zipped(path, bytes(data[: draw.choice((len(data), draw.randrange(len(data))))]), files)
        try:
            read_checkpoint(path)
        except OnnxSlimError:
            refused += 1
    assert refused > 200


def test_the_undamaged_pickle_is_read(pickle_of_a_model, tmp_path):
    data, files = pickle_of_a_model
    zipped(tmp_path / "model.pt", data, files)
    assert len(read_checkpoint(tmp_path / "model.pt").state_dict) == 7


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_checkpoint(path)
