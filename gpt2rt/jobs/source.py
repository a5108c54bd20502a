"""Source: the rows of a file, which is read twice: to identify it, and to hand out its rows in shards."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import stat
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from typing import IO, Any, NamedTuple

import numpy as np

from gpt2rt.errors import UsageError
from gpt2rt.jobs.row import MAX_ROW_BYTES, Row, RowError, parsed, row_key
from gpt2rt.regular_file import open_regular

BOM = b"\xef\xbb\xbf"
PACKED = {".gz": "gzip", ".bz2": "bz2", ".xz": "lzma"}  # modules that unpack
PARQUET_ROWS = 1024  # read at a time


class Shard(NamedTuple):
    """Consecutive rows of the input."""

    number: int
    rows: list[Row]


class Survey:
    """What is known of an input after all of it was read.

    Attributes:
        sha256: of its content, unpacked. n_rows: in it. n_usable: those that have the field which they need.
    """

    def __init__(self, sha256: str, n_rows: int, n_usable: int, repeated: tuple[np.ndarray, np.ndarray]):
        self.sha256, self.n_rows, self.n_usable = sha256, n_rows, n_usable
        self._rows, self._earlier = repeated  # i64 (n,), ascending; and for each the first row with the same id

    def earlier(self, number: int) -> int | None:
        """Return the number of an earlier row with the same id."""
        at = bisect_left(self._rows, number)
        return int(self._earlier[at]) if at < len(self._rows) and self._rows[at] == number else None


class Source:
    """A JSON Lines file, packed by gzip, bzip2 or xz or as it is, or a Parquet file.

    Lines without text are no rows. Rows are counted from 0.

    Attributes:
        path: of the file, or a URI such as s3://bucket/name, which pyarrow opens.
    """

    def __init__(self, path: str, *, id_field: str, columns: tuple[str, ...] | None = None):
        """
        Args:
            id_field: the field with a row's id. columns: those of a Parquet file that are needed; None for all.
        """
        self.path = path
        self._id_field, self._columns = id_field, columns
        self._is_parquet = path.endswith(".parquet")
        self._state: object = None

    def survey(self, needed_field: str) -> Survey:
        """Read all of it, in 16 bytes of memory for each row.

        Args:
            needed_field: that each row must have.

        Raises:
            UsageError: it can't be read.
        """
        digest = hashlib.sha256()
        high, low, n_rows, n_usable = array("Q"), array("Q"), 0, 0
        self._state = self._file_state()
        for content in self._contents(digest.update):
            key = None
            with contextlib.suppress(RowError):
                fields = parsed(content)
                n_usable += needed_field in fields
                key = row_key(fields, self._id_field)
            # Rows without an id have one of their own: their number.
            name = key.encode(errors="surrogatepass") if key is not None else b"#%d" % n_rows
            hashed = hashlib.blake2b(name, digest_size=16).digest()
            high.append(int.from_bytes(hashed[:8], "little"))
            low.append(int.from_bytes(hashed[8:], "little"))
            n_rows += 1
        repeated = _repeated(np.frombuffer(high, np.uint64), np.frombuffer(low, np.uint64))
        return Survey(digest.hexdigest(), n_rows, n_usable, repeated)

    def shards(self, survey: Survey, size: int, wanted: Callable[[int], bool]) -> Iterator[Shard]:
        """Yield the wanted shards, each of `size` rows, the last one of the rest.

        Raises:
            UsageError: the file can't be read, or has changed since the survey.
        """
        rows: list[Row] = []
        n_rows = 0
        for number, content in enumerate(self._contents()):
            n_rows = number + 1
            shard = number // size
            if wanted(shard):
                rows.append(Row(number, content, survey.earlier(number)))
                if len(rows) == size or n_rows == survey.n_rows:
                    if self._file_state() != self._state:
                        raise self._changed()
                    yield Shard(shard, rows)
                    rows = []
        if n_rows != survey.n_rows:
            raise self._changed()

    def _changed(self) -> UsageError:
        return UsageError(f"{self.path}: it changed while it was read (run the command again)")

    def _file_state(self) -> object:
        """Return what changes when the file does."""
        if "://" in self.path:
            system, path = _file_system(self.path)
            info = system.get_file_info(path)
            return info.size, info.mtime_ns
        try:
            status = os.stat(self.path)
        except (OSError, ValueError) as error:
            raise _unreadable(self.path, error) from None
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{self.path}: not a regular file (a job reads its input more than once)")
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _contents(self, digest: Callable[[bytes], object] = lambda _: None) -> Iterator[bytes | None]:
        """Yield the JSON of each row; None if it is too long."""
        try:
            with self._opened() as file:
                yield from self._parquet_rows(file, digest) if self._is_parquet else _lines(file, digest)
        except UsageError:
            raise
        except (OSError, ValueError, EOFError) as error:
            raise _unreadable(self.path, error) from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] in ("lzma", "_lzma", "zlib", "pyarrow"):
                raise _unreadable(self.path, error) from None
            raise

    def _opened(self) -> AbstractContextManager[Any]:
        """Open the file, unpacked."""
        if self.path.endswith((".zst", ".zip", ".tar")):
            raise UsageError(f"{self.path}: packed in a way that is not supported (unpack it, or pack it with gzip)")
        unpacked: Any
        if "://" in self.path:
            system, path = _file_system(self.path)
            unpacked = system.open_input_file(path) if self._is_parquet else io.BufferedReader(_Native(system, path))
        else:
            unpacked = open_regular(self.path)
        for ending, module in PACKED.items():
            if self.path.endswith(ending):
                unpacked = import_module(module).open(unpacked)
        opened: AbstractContextManager[Any] = unpacked
        return opened

    def _parquet_rows(self, file: IO[bytes], digest: Callable[[bytes], object]) -> Iterator[bytes | None]:
        parquet = _imported("pyarrow.parquet")
        opened = parquet.ParquetFile(file)
        names = opened.schema_arrow.names
        columns = None if self._columns is None else [name for name in self._columns if name in names]
        for batch in opened.iter_batches(PARQUET_ROWS, columns=columns):
            for fields in batch.to_pylist():
                content = row_content(fields)
                digest(content + b"\n")
                yield content if len(content) <= MAX_ROW_BYTES else None


def _lines(file: IO[bytes], digest: Callable[[bytes], object]) -> Iterator[bytes | None]:
    """Yield each line that has text, without its end; None if it is too long."""
    is_first = True
    while line := file.readline(MAX_ROW_BYTES + 1):
        digest(line)
        is_too_long = len(line) > MAX_ROW_BYTES and not line.endswith(b"\n")
        content = line.removeprefix(BOM) if is_first else line
        is_first = False
        while is_too_long and line and not line.endswith(b"\n"):
            line = file.readline(MAX_ROW_BYTES)
            digest(line)
        if is_too_long:
            yield None
        elif content := content.strip():
            yield content


def row_content(fields: object) -> bytes:
    """Return a row as JSON, given values of Python, NumPy or Arrow."""
    try:
        return json.dumps(fields, default=_plain, allow_nan=False).encode()
    except ValueError:
        return json.dumps(_without_nan(fields), default=_plain).encode()


def _without_nan(value: object) -> object:
    """Return a value with null in the place of what JSON has no numbers for."""
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: object) -> object:
    """Return what stands in JSON for a value that it does not have, such as a date."""
    if isinstance(value, (np.bool_, np.integer)):
        return value.item()
    if isinstance(value, np.floating):
        return _without_nan(float(value))
    if type(value).__name__ in ("NAType", "NaTType"):  # of pandas: no value
        return None
    return value.hex() if isinstance(value, bytes) else str(value)


def _repeated(high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows whose id an earlier row has, that row), given the halves of each id's hash."""
    order = np.lexsort((low, high))  # stable: rows with the same id stay in order
    same = (high[order[1:]] == high[order[:-1]]) & (low[order[1:]] == low[order[:-1]])
    if not same.any():
        return np.empty(0, np.int64), np.empty(0, np.int64)
    is_start = np.concatenate(([True], ~same))
    starts = order[np.maximum.accumulate(np.where(is_start, np.arange(len(order)), 0))]
    rows, earlier = order[~is_start], starts[~is_start]
    ascending = np.argsort(rows)
    return rows[ascending], earlier[ascending]


def _unreadable(path: str, error: Exception) -> UsageError:
    if isinstance(error, FileNotFoundError):
        return UsageError(f"{path}: no such file")
    return UsageError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}")


class _Native(io.RawIOBase):
    """A file of pyarrow, as a raw stream of Python."""

    def __init__(self, system: Any, path: str):
        self._file = system.open_input_stream(path, compression=None)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def _file_system(uri: str) -> tuple[Any, str]:
    found: tuple[Any, str] = _imported("pyarrow.fs").FileSystem.from_uri(uri)
    return found


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise UsageError("Parquet files and URIs need the package pyarrow (pip install 'gpt2rt[parquet]')") from None
