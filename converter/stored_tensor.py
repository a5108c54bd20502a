"""Tensors of a file that is mapped into memory, read in place, and the safetensors files that contain them."""

from __future__ import annotations

import json
import math
import mmap
import pathlib
import struct
from typing import NamedTuple

import numpy as np

from gpt2rt.converter.zip_records import Record
from gpt2rt.errors import CheckpointError

TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class StoredTensor(NamedTuple):
    """A tensor in a mapped file.

    Attributes:
        content: the mapped file. dtype: as safetensors calls it; only tensors of `TYPES` can be read.
        offset: where the values begin, in bytes.
        strides: bytes from a value to the next in each dimension; None for row-major order without gaps.
        record: the part of the file that has a checksum and in which the values lie, or None.
    """

    content: mmap.mmap
    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None
    record: Record | None = None

    def stored(self) -> np.ndarray:
        """Return the values as stored, flat, in row-major order; BF16 as u16."""
        if self.strides is not None:
            return np.ndarray(self.shape, TYPES[self.dtype], self.content, self.offset, self.strides).ravel()
        return np.frombuffer(self.content, TYPES[self.dtype], math.prod(self.shape), self.offset)

    def values(self) -> np.ndarray:
        """Return the values in f32; in place, where they are stored so."""
        array = self.stored().reshape(self.shape)
        if self.dtype == "BF16":  # the upper half of an f32
            return (array.astype("<u4") << 16).view("<f4")
        return array if self.dtype == "F32" and array.flags.aligned else array.astype("<f4")

    def transposed(self) -> np.ndarray:
        """Return the transposed values of a matrix in f32, C-contiguous, and release the pages of the file."""
        values = self.values()
        array = np.ascontiguousarray(values.T)
        self.release(values)
        return array

    def is_same(self, other: StoredTensor | None) -> bool:
        """Return whether two tensors are identical, bit for bit."""
        if other is None or (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        if (self.content, self.offset, self.strides) == (other.content, other.offset, other.strides):
            return True
        bits = TYPES[self.dtype].replace("f", "u")
        return np.array_equal(self.stored().view(bits), other.stored().view(bits))

    def release(self, array: np.ndarray) -> bool:
        """Release the pages of a part of the file; return whether the array lies in it."""
        begin = array.ctypes.data - np.frombuffer(self.content, np.uint8).ctypes.data
        if not 0 <= begin < len(self.content):
            return False
        if hasattr(mmap, "MADV_DONTNEED"):
            first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
            end = min(begin + array.nbytes, len(self.content)) // mmap.PAGESIZE * mmap.PAGESIZE
            if end > first:
                self.content.madvise(mmap.MADV_DONTNEED, first, end - first)
        return True


def read_safetensors(path: pathlib.Path) -> dict[str, StoredTensor]:
    """Map a file and return its tensors by name, after the safetensors package has validated it.

    `safetensors.torch.save_model` writes a tensor with several names once; the metadata maps the others to that name.
    They are in the result too.

    Raises:
        CheckpointError: the file can't be read or is damaged, or the package is missing.
    """
    try:
        from safetensors import SafetensorError, safe_open  # optional dependency
    except ImportError:
        raise CheckpointError(f'{path}: requires the package safetensors (pip install "gpt2rt[huggingface]")') from None
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            entries = json.loads(file.read(length))
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a valid safetensors file: {error!s:.200} (truncated?)") from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from None
    tensors = {}
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        offset = 8 + length + entry["data_offsets"][0]
        tensors[name] = StoredTensor(content, entry["dtype"], tuple(entry["shape"]), offset)
    for alias, name in (entries.get("__metadata__") or {}).items():  # strings, as the package has validated
        if name in tensors:
            tensors.setdefault(alias, tensors[name])
    return tensors
