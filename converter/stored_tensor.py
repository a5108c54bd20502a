"""Tensors of a file, each read when it is needed, and the safetensors files that contain them."""

from __future__ import annotations

import math
import pathlib
from typing import NamedTuple

import numpy as np

from gpt2rt.bounded_json import loads
from gpt2rt.converter.source_file import SourceFile
from gpt2rt.converter.zip_records import Record
from gpt2rt.errors import CheckpointError

TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
MAX_HEADER = 4 << 20  # bytes of a safetensors file's header; 1558M's has 60,000
MAX_UNITS = 400_000  # of its JSON
COMPARED = 1 << 20  # values that are compared at a time


class StoredTensor(NamedTuple):
    """A tensor in a file.

    Attributes:
        file: the file. dtype: as safetensors calls it; only tensors of `TYPES` can be read.
        offset: where the values begin, in bytes.
        strides: bytes from a value to the next in each dimension; None for row-major order without gaps.
        record: the part of the file that has a checksum and in which the values lie, or None.
    """

    file: SourceFile
    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None
    record: Record | None = None

    def stored(self) -> np.ndarray:
        """Read the values as they are stored; BF16 as u16. Raises CheckpointError: the file was cut."""
        dtype = np.dtype(TYPES[self.dtype])
        if self.strides is None or not math.prod(self.shape):
            return self.file.array(TYPES[self.dtype], self.offset, self.shape)
        size = sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True)) + dtype.itemsize
        return np.ndarray(self.shape, dtype, self.file.array("u1", self.offset, (size,)), 0, self.strides)

    def values(self) -> np.ndarray:
        """Read the values, in f32 and C-contiguous. Raises as `stored`."""
        array = self.stored()
        if self.dtype == "BF16":  # the upper half of an f32
            array = (array.astype("<u4") << 16).view("<f4")
        return np.asarray(array, "<f4", order="C")

    def rows(self, begin: int, end: int) -> np.ndarray:
        """Read some rows, as `values`."""
        shape = (end - begin, *self.shape[1:])
        step = np.dtype(TYPES[self.dtype]).itemsize * math.prod(self.shape[1:])
        step = step if self.strides is None else self.strides[0]
        return self._replace(shape=shape, offset=self.offset + begin * step).values()

    def transposed(self) -> np.ndarray:
        """Read the transposed values of a matrix, as `values`."""
        return np.ascontiguousarray(self.values().T)

    def is_same(self, other: StoredTensor | None) -> bool:
        """Return whether two tensors are identical, bit for bit. Raises as `stored`."""
        if other is None or (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        if (self.file, self.offset, self.strides) == (other.file, other.offset, other.strides):
            return True
        if len(self.shape) != 2:
            return np.array_equal(self.values().view("<u4"), other.values().view("<u4"))
        rows = max(1, COMPARED // max(1, self.shape[1]))
        return all(
            np.array_equal(self.rows(begin, end).view("<u4"), other.rows(begin, end).view("<u4"))
            for begin in range(0, self.shape[0], rows)
            for end in (min(begin + rows, self.shape[0]),)
        )


def read_safetensors(path: pathlib.Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by name, after the safetensors package has validated it.

    `safetensors.torch.save_model` writes a tensor with several names once; the metadata maps the others to that name.
    They are in the result too.

    Raises:
        CheckpointError: the file can't be read or is damaged, or the package is missing.
    """
    try:
        from safetensors import SafetensorError, safe_open  # optional dependency
    except ModuleNotFoundError:
        raise CheckpointError(f'{path}: requires the package safetensors (pip install "gpt2rt[huggingface]")') from None
    try:
        file = SourceFile(path)
        length = int.from_bytes(file[:8], "little")
        if MAX_HEADER < length <= len(file):
            raise CheckpointError(f"{path}: its header has {length} bytes, expected at most {MAX_HEADER}")
        entries = loads(file[8 : 8 + length], MAX_UNITS) if length <= MAX_HEADER else {}
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not a valid safetensors file: {error!s:.200} (truncated?)") from error
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from error
    tensors = {}
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        offset = 8 + length + entry["data_offsets"][0]
        tensors[name] = StoredTensor(file, entry["dtype"], tuple(entry["shape"]), offset)
    for alias, name in (entries.get("__metadata__") or {}).items():  # strings, as the package has validated
        if name in tensors:
            tensors.setdefault(alias, tensors[name])
    return tensors
