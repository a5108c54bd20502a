"""PyTorch's files, as torch.save writes them: pytorch_model.bin, ckpt.pt. They are read without PyTorch.

Since version 1.6 a file is a zip archive: a pickle, and a record for each storage. Before, it was a sequence of
pickles (a magic number, a version, facts on the machine, the object, the keys of the storages), and the storages.
"""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from gpt2rt.converter.source_file import SourceFile
from gpt2rt.converter.stored_tensor import StoredTensor, read_safetensors
from gpt2rt.converter.unpickler import STORAGES, DamagedPickleError, Global, RefusedError, Storage, Unpickler
from gpt2rt.converter.zip_records import BadZipError, Record, read_records
from gpt2rt.errors import CheckpointError
from gpt2rt.regular_file import open_regular

ZIP = b"PK\3\4"
PROTO = b"\x80"  # the first byte of a pickle
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001  # of the format before 1.6
MAX_PICKLE = 4 << 20  # bytes
DAMAGED = "truncated or damaged?"


def is_pytorch(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins as those of torch.save do. Raises OSError."""
    with open_regular(path) as file:
        head = file.read(8)
    is_length = not any(head[5:8]) and len(head) == 8  # of the header of a safetensors file
    return head.startswith(ZIP) or (head.startswith(PROTO) and not is_length)


def read_pytorch(path: pathlib.Path) -> dict[Any, Any]:
    """Return the dict in a file: plain values, and `StoredTensor`s in place of tensors.

    Nothing in the file is run (see `Unpickler`).

    Raises:
        CheckpointError: it can't be read, is damaged, or has more than tensors and plain values.
    """
    try:
        file = SourceFile(path)
        if not len(file):
            raise CheckpointError(f"{path}: the file is empty (incomplete download?)")
        found = _read_zip(file) if file[:4] == ZIP else _read_legacy(file)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from None
    except RefusedError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except BadZipError as error:
        raise CheckpointError(f"{path}: not a file of torch.save: {error} ({DAMAGED})") from None
    except DamagedPickleError as error:
        raise CheckpointError(f"{path}: {error} ({DAMAGED})") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: contains a {type(found).__name__}, expected a dict of tensors")
    return found


def read_tensors(path: pathlib.Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file or of a state dict in PyTorch's format, by name.

    Raises:
        CheckpointError: as `read_safetensors` and `read_pytorch`; or a value is not a tensor, or a checksum is wrong.
    """
    try:
        if path.suffix == ".safetensors" or not is_pytorch(path):
            return read_safetensors(path)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from None
    return checked_tensors(path, read_pytorch(path))


def checked_tensors(path: pathlib.Path, state: dict[Any, Any]) -> dict[str, StoredTensor]:
    """Return a state dict after its names, values and checksums were checked. Raises CheckpointError."""
    for name, tensor in state.items():
        if type(name) is not str or type(tensor) is not StoredTensor:
            shown = repr(name) if type(name) is str else f"the value of a key that is a {type(name).__name__}"
            raise CheckpointError(
                f"{path}: {shown:.80} is a {type(tensor).__name__}, expected only tensors with names"
                " (a checkpoint of a training program? save the model alone: torch.save(model.state_dict(), FILE))"
            )
    for record, name in _records(state.items()).items():
        if record.is_damaged(state[name].file):
            raise CheckpointError(f"{path}: tensor {name!r:.80} is damaged: its checksum is wrong")
    return state


def _records(tensors: Iterable[tuple[str, StoredTensor]]) -> dict[Record, str]:
    """Return the records of tensors, each with the name of one tensor in it."""
    return {tensor.record: name for name, tensor in tensors if tensor.record}


def _read_zip(file: SourceFile) -> Any:
    """Return the object of an archive."""
    records = read_records(file)
    root = next((name.removesuffix("/data.pkl") for name in records if name.endswith("/data.pkl")), None)
    if root is None:
        raise BadZipError("it has no record data.pkl")
    if f"{root}/constants.pkl" in records:
        raise RefusedError("a TorchScript archive, expected a state dict: torch.save(model.state_dict(), FILE)")
    if (order := records.get(f"{root}/byteorder")) and order.size <= 16:
        name = file[order.offset : order.offset + order.size]
        if name != b"little":
            raise RefusedError(f"its byteorder is {name.decode(errors='replace')!r}, expected 'little'")

    def storage(saved: Any) -> Storage:
        kind, key, n_values, _ = _storage_id(saved, 5)
        dtype, item = STORAGES[kind]
        record = records.get(f"{root}/data/{key}")
        if record is None:
            raise DamagedPickleError(f"it has no record data/{key[:80]}")
        if record.size != item * n_values:
            raise DamagedPickleError(f"record data/{key[:80]} has {record.size} bytes, expected {item * n_values}")
        return Storage(record, dtype, item)

    pickle = records[f"{root}/data.pkl"]
    if pickle.size > MAX_PICKLE:
        raise DamagedPickleError(f"its pickle has {pickle.size} bytes, expected at most {MAX_PICKLE}")
    if pickle.is_damaged(file):
        raise DamagedPickleError("the checksum of its pickle is wrong")
    return Unpickler(file, storage).load(io.BytesIO(file[pickle.offset : pickle.offset + pickle.size]))


def _read_legacy(file: SourceFile) -> Any:
    """Return the object of a file in the format before 1.6."""
    records: dict[str, Record] = {}
    sizes: dict[str, tuple[str, int]] = {}  # {key: (storage type, number of values)}

    def storage(saved: Any) -> Storage:
        kind, key, n_values, view = _storage_id(saved, 6)
        dtype, item = STORAGES[kind]
        if sizes.setdefault(key, (kind, n_values)) != (kind, n_values):
            raise DamagedPickleError(f"storage {key[:80]!r} has two types or sizes")
        record = records.get(key, Record(0, item * n_values, 0))
        if view is not None:
            record = _view(record, view, item)
        return Storage(record, dtype, item)

    stream = io.BytesIO(file[:MAX_PICKLE])
    unpickler = Unpickler(file, storage)
    if unpickler.load(stream) != MAGIC:
        raise DamagedPickleError("a pickle, but not of torch.save: its magic number is wrong")
    if unpickler.load(stream) != VERSION:
        raise RefusedError(f"its version is not {VERSION}, the only one of files before PyTorch 1.6")
    machine = unpickler.load(stream)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise RefusedError("written on a big-endian machine, expected a little-endian one")
    begin = stream.tell()
    unpickler.load(stream)  # where the storages lie is known only after the object
    keys = unpickler.load(stream)
    position = stream.tell()
    if type(keys) is not list or not all(type(key) is str for key in keys) or set(keys) != sizes.keys():
        raise DamagedPickleError("the keys of its storages are not those of its tensors")
    for key in keys:
        kind, n_values = sizes[key]
        size = STORAGES[kind][1] * n_values
        if position + 8 + size > len(file):
            raise DamagedPickleError(
                f"storage {key[:80]!r} ends at byte {position + 8 + size}, the file has {len(file)}"
            )
        if int.from_bytes(file[position : position + 8], "little") != n_values:
            raise DamagedPickleError(f"storage {key[:80]!r} does not begin with its number of values")
        records[key] = Record(position + 8, size, 0)
        position += 8 + size
    if position != len(file):
        raise DamagedPickleError(f"its storages end at byte {position}, the file has {len(file)}")
    stream.seek(begin)
    return unpickler.load(stream)


def _storage_id(saved: Any, length: int) -> tuple[str, str, int, Any]:
    """Return (type, key, number of values, view) of what a pickle says about a storage."""
    if type(saved) is not tuple or len(saved) != length or saved[0] != "storage":
        raise RefusedError("it has an object outside its pickle that is not a storage, expected only tensors")
    kind, key, n_values = saved[1], saved[2], saved[4]
    name = kind.name.rpartition(".")[2] if type(kind) is Global else ""
    if name not in STORAGES or type(key) is not str or type(n_values) is not int or not 0 <= n_values < 1 << 60:
        raise DamagedPickleError("a storage has no valid type, key and size")
    return name, key, n_values, saved[5] if length == 6 else None


def _view(record: Record, view: Any, item: int) -> Record:
    """Return the part of a record that a view (key, first value, number of values) is."""
    if type(view) is not tuple or len(view) != 3 or not all(type(n) is int and n >= 0 for n in view[1:]):
        raise DamagedPickleError("the view of a storage is not a key and two counts")
    first, n_values = view[1:]
    if item * (first + n_values) > record.size:
        raise DamagedPickleError("the view of a storage is longer than the storage")
    return Record(record.offset + item * first, item * n_values, 0)
