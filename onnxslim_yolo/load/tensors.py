"""Tensor records to torch tensors, with every bound checked before anything is read or reserved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxslim_yolo.errors import InputError
from onnxslim_yolo.load.records import Storage, TensorRecord
from onnxslim_yolo.load.torch_archive import ITEM_SIZES, Archive

if TYPE_CHECKING:
    import torch

_SPARE_BYTES = 64 << 20
_GROWTH = 16


class TensorReader:
    """Makes tensors of an archive's records, each once. Floating point becomes float32.

    Together they may take, and read, sixteen times the file's size plus 64 MiB: halves that become floats double it,
    and what lies beyond are tensors that share one storage over and over.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._left = _GROWTH * archive.size + _SPARE_BYTES
        self._made: dict[int, tuple[TensorRecord, torch.Tensor]] = {}
        self._last: tuple[Storage | None, bytearray] = (None, bytearray())

    def __call__(self, record: TensorRecord) -> torch.Tensor:
        """The tensor, contiguous and independent of the file.

        Raises:
            InputError: it reaches beyond its storage, claims more elements than there are, or the budget is used up.
        """
        if id(record) not in self._made:
            self._made[id(record)] = (record, self._make(record))
        return self._made[id(record)][1]

    def _make(self, record: TensorRecord) -> torch.Tensor:
        import torch

        count = _checked_count(record, self._archive)
        self._charge(count * max(4, ITEM_SIZES[record.storage.dtype]))
        dtype = getattr(torch, record.storage.dtype)
        try:
            if count == 0:
                return torch.empty(record.size, dtype=torch.float32 if dtype.is_floating_point else dtype)
            tensor = torch.frombuffer(self._bytes(record.storage), dtype=dtype).as_strided(
                record.size, record.stride, record.offset
            )
        except (RuntimeError, ValueError, TypeError) as error:  # more axes, or longer ones, than torch can count
            raise InputError(f"a tensor of shape {record.size} cannot be made", file=self._archive.path) from error
        converted = tensor.to(torch.float32) if dtype.is_floating_point else tensor
        return converted.clone(memory_format=torch.contiguous_format)

    def _bytes(self, storage: Storage) -> bytearray:
        """A storage's numbers. Views of one storage usually follow each other, so the last one is kept."""
        if self._last[0] != storage:
            self._charge(storage.count * ITEM_SIZES[storage.dtype])
            self._last = (storage, bytearray(self._archive.read_storage(storage)))
        return self._last[1]

    def _charge(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise InputError("its tensors together claim far more memory than the file has", file=self._archive.path)


def _checked_count(record: TensorRecord, archive: Archive) -> int:
    storage: Storage = record.storage
    count = 1
    for size in record.size:
        count *= size
    last = record.offset + sum((n - 1) * step for n, step in zip(record.size, record.stride, strict=True) if n)
    if count and (last >= storage.count or count > storage.count):
        raise InputError(
            f"a tensor of shape {record.size} reaches element {last} of a storage of {storage.count}", file=archive.path
        )
    if storage.count * ITEM_SIZES[storage.dtype] > archive.size:
        raise InputError(
            f"a storage claims {storage.count} {storage.dtype}, more than the file of {archive.size} bytes holds",
            file=archive.path,
        )
    return count
