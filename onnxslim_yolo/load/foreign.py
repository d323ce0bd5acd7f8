"""What a file is that is not what its name says: told by its first bytes, so that a refusal names the way out."""

from __future__ import annotations

_STARTS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself: run 'git lfs pull'"),
    (b"<", "is a web page: the download failed"),
    (b"\x1f\x8b", "is a gzip file: unpack it first"),
    (b"PK\x03\x04", "is a zip archive: a PyTorch checkpoint is one, and named .pt"),
    (b"\x80", "looks like a pickle: a PyTorch checkpoint is named .pt"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes: export the network to ONNX"),
    (b"7767517", "is an ncnn .param: compile the network that it was converted from"),
    (b"{", "is JSON, no network"),
    (b"[", "is text, no network: Darknet's configurations are named .cfg"),
)
_TFLITE = b"TFL3"
"""At byte 4: the identifier of a FlatBuffer's schema."""


def foreign(start: bytes) -> str | None:
    """What the file is, as the rest of a sentence, by at least its first 24 bytes; None where they tell nothing."""
    if start[4:8] == _TFLITE:
        return "is a TensorFlow Lite model: export the network to ONNX"
    return next((text for magic, text in _STARTS if start.startswith(magic)), None)
