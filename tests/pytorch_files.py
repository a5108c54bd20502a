"""Files of torch.save for tests, written without PyTorch: the archives since 1.6, and the format before it."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
KINDS = {"<f4": "FloatStorage", "<f2": "HalfStorage", "|u1": "ByteStorage", "|b1": "BoolStorage", "<i8": "LongStorage"}

BOTH = pytest.mark.parametrize("is_legacy", [False, True], ids=["zip", "legacy"])
ARRAYS = {
    "a": np.arange(12, dtype="<f4").reshape(3, 4) / 7,
    "h": np.arange(5, dtype="<f2"),
    "empty": np.zeros((0, 3), "<f4"),
    "number": np.array(3.5, "<f4"),
}


class Global(NamedTuple):
    """A name in a pickle."""

    module: str
    name: str


class Call(NamedTuple):
    """A call of a name in a pickle."""

    function: Global
    arguments: tuple


class Persistent(NamedTuple):
    """An object outside the pickle."""

    saved: tuple


class Storages:
    """The storages of a file, which are added as its tensors are made.

    Args:
        is_legacy: whether the file is in the format before 1.6, which describes a storage with six values.
    """

    def __init__(self, is_legacy=False):
        self.is_legacy, self.contents, self._keys = is_legacy, {}, {}

    def storage(self, array, kind=None, key=None):
        """Return what a pickle says about the storage of a flat array; the same array is the same storage."""
        if key is None:
            key = self._keys.setdefault(id(array), str(len(self._keys)))
        self.contents[key] = array
        kind = Global("torch", kind or KINDS[array.dtype.str])
        return Persistent(("storage", kind, key, "cpu", len(array), *([None] if self.is_legacy else [])))

    def view(self, array, shape, strides, first=0, kind=None):
        """Return a tensor that is a part of a flat array; strides are in values."""
        arguments = (
            self.storage(array, kind),
            first,
            shape,
            strides,
            False,
            Call(Global("collections", "OrderedDict"), ()),
        )
        return Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)

    def tensor(self, array, kind=None):
        """Return a tensor with the values of an array, in a storage of its own."""
        array = np.array(array, order="C")
        strides = tuple(step // array.itemsize for step in array.strides)
        return self.view(array.reshape(-1), array.shape, strides, kind=kind)

    def state(self, tensors):
        """Return a state dict with the values of {name: array}."""
        return OrderedDict((name, self.tensor(array)) for name, array in tensors.items())


def pickled(value, end=b"."):
    """Return a value as a pickle of protocol 2, as torch.save writes them."""
    return b"\x80\x02" + _instructions(value) + end


def _instructions(value):
    if isinstance(value, Global):
        return f"c{value.module}\n{value.name}\n".encode()
    if isinstance(value, Call):
        return _instructions(value.function) + _instructions(value.arguments) + b"R"
    if isinstance(value, Persistent):
        return _instructions(value.saved) + b"Q"
    if isinstance(value, OrderedDict):
        items = b"".join(map(_instructions, (part for item in value.items() for part in item)))
        attributes = _instructions({"_metadata": Call(Global("collections", "OrderedDict"), ())})
        return b"ccollections\nOrderedDict\n)R(" + items + b"u" + attributes + b"b"
    if isinstance(value, dict):
        return b"}(" + b"".join(map(_instructions, (part for item in value.items() for part in item))) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_instructions, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_instructions, value)) + b"t"
    return pickle.dumps(value, 2)[2:-1]


def write_zip(path, value, storages, root="archive", order=b"little", **extra):
    """Write an archive; `extra` are more records by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{root}/data.pkl", value if isinstance(value, bytes) else pickled(value))
        if order:
            archive.writestr(f"{root}/byteorder", order)
        for key, array in storages.contents.items():
            archive.writestr(f"{root}/data/{key}", array.tobytes())
        for name, content in extra.items():
            archive.writestr(f"{root}/{name}", content)
    return path


def write_legacy(path, value, storages, magic=MAGIC, version=VERSION, is_little=True, keys=None):
    """Write a file in the format before 1.6."""
    machine = {"protocol_version": version, "little_endian": is_little, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    keys = sorted(storages.contents) if keys is None else keys
    stream = io.BytesIO()
    for part in (magic, version, machine, value, keys):
        stream.write(part if isinstance(part, bytes) else pickled(part))
    for key in sorted(storages.contents):
        array = storages.contents[key]
        stream.write(struct.pack("<q", len(array)) + array.tobytes())
    path.write_bytes(stream.getvalue())
    return path


def write(path, make, is_legacy=False):
    """Write what `make` returns for the file's `Storages`, in either format."""
    storages = Storages(is_legacy)
    value = make(storages)
    return (write_legacy if is_legacy else write_zip)(path, value, storages)


def small_file(path, is_legacy=False):
    """Write a state dict with the values of ARRAYS."""
    return write(path, lambda storages: storages.state(ARRAYS), is_legacy)
