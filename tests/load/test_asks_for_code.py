"""A checkpoint that asks for code where another program loads it is opened as data here, and reported."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from checkpoint_bytes import PROTO2, STOP, legacy, name, storage, tensor, text, zipped

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.load.checkpoint import read_checkpoint
from onnxslim_yolo.load.pickle_names import asks_for_code, warning

HOSTILE = [
    *("pip._internal.cli.main.main", "numpy.load", "numpy.testing._private.utils.runstring", "torch.hub.load"),
    *(
        "torch.utils.cpp_extension.load",
        "torch._C._load",
        "torch.jit.load",
        "requests.get",
        "evil.Payload",
        "builtins.getattr",
    ),
    *("ultralytics.utils.downloads.safe_download", "ultralytics.utils.checks.run", "utils.general.check_requirements"),
    *("setuptools.setup", "numpy.f2py.crackfortran.myeval", "torchvision.datasets.utils.download_url", "IPython.embed"),
]
ORDINARY = [
    *("torch.nn.modules.conv.Conv2d", "torch._utils._rebuild_tensor_v2", "torch.FloatStorage", "torch.float16"),
    *("ultralytics.nn.tasks.DetectionModel", "models.yolo.Model", "models.common.conv_bn_relu_maxpool", "torch.Size"),
    *("collections.OrderedDict", "numpy.core.multiarray.scalar", "numpy._core.multiarray._reconstruct", "numpy.dtype"),
    *("pathlib.PosixPath", "builtins.set", "utils.autoanchor.Anchors", "torch.optim.sgd.SGD", "argparse.Namespace"),
]


def checkpoint(dotted: str, how: str) -> bytes:
    """A state_dict with one tensor, and beside it the name: as a value, or as an instance of it with a state."""
    module, _, last = dotted.rpartition(".")
    mentioned = name(module, last)
    value = mentioned if how == "mentioned" else mentioned + b")\x81" if how == "instance" else mentioned + b")\x81}b"
    return (
        PROTO2
        + b"}("
        + text("state_dict")
        + b"}"
        + text("w")
        + tensor(storage())
        + b"s"
        + text("x")
        + value
        + b"u"
        + STOP
    )


@pytest.mark.parametrize("how", ["mentioned", "instance", "built"])
@pytest.mark.parametrize("dotted", HOSTILE)
def test_it_is_opened_and_reported(dotted: str, how: str, tmp_path) -> None:
    zipped(tmp_path / "m.pt", checkpoint(dotted, how))
    try:
        notes = read_checkpoint(tmp_path / "m.pt").notes
    except InputError:
        assert dotted == "builtins.getattr", "refused altogether"
        return
    assert (
        len(notes) == 1
        and f"'{dotted}'" in notes[0]
        and "asks for code" in notes[0]
        and "Nothing of it ran" in notes[0]
    )


def test_also_in_the_older_format(tmp_path) -> None:
    data = checkpoint("evil.Payload", "built")
    legacy(tmp_path / "m.pt", data, ["0"], b"\x04" + bytes(7) + bytes(16))
    assert "'evil.Payload'" in read_checkpoint(tmp_path / "m.pt").notes[0]


@pytest.mark.parametrize("dotted", ORDINARY)
def test_control_what_checkpoints_need_is_not_reported(dotted: str, tmp_path) -> None:
    assert asks_for_code([dotted]) == () and warning([dotted]) == ()


def test_many_names_make_one_note() -> None:
    (note,) = warning(f"evil{k}.run" for k in range(1000))
    assert "and 996 more" in note and len(note) < 500
