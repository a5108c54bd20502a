"""A file of a checkpoint while it is read: by offset, never mapped, so that one that is cut meanwhile is an error."""

from __future__ import annotations

import os
import pathlib
import struct
from typing import Any

import numpy as np

from gpt2rt.errors import CheckpointError
from gpt2rt.regular_file import open_regular


class SourceFile:
    """An open regular file. Like `bytes`, it has a length, and a slice of it is `bytes`, read when it is taken.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Raises OSError: it can't be opened, or is not a regular file."""
        self.path = pathlib.Path(path)
        self._file = open_regular(path).detach()
        self._size = os.fstat(self._file.fileno()).st_size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        begin, end, _ = part.indices(self._size)
        content = bytearray(max(0, end - begin))
        self.read_into(content, begin)
        return bytes(content)

    def read_into(self, buffer: bytearray | memoryview, offset: int) -> None:
        """Fill a buffer with the bytes from an offset on. Raises CheckpointError: the file no longer has them."""
        view = memoryview(buffer).cast("B")
        done = 0
        try:
            self._file.seek(offset)
            while done < len(view):
                n = self._file.readinto(view[done:])
                if not n:
                    raise CheckpointError(
                        f"{self.path}: byte {offset + done} is missing, expected {self._size} bytes as when it was"
                        " opened (is something writing it?)"
                    )
                done += n
        except OSError as error:
            raise CheckpointError(f"{self.path}: can't be read: {error.strerror or error}") from error

    def array(self, dtype: str, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        """Read an array that begins at an offset. Raises as `read_into`."""
        array = np.empty(shape, dtype)
        if array.size:
            self.read_into(array.data.cast("B"), offset)
        return array

    def unpack(self, layout: struct.Struct, offset: int) -> tuple[Any, ...]:
        """Return the numbers at an offset, which must be followed by enough bytes."""
        return layout.unpack(self[offset : offset + layout.size])
