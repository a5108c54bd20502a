"""A pickle of tensors, read without running anything.

A pickle is a program for a small machine, whose instructions can call any function of any module by name. This machine
has no such instruction: it knows the few names that torch.save writes for a dict of tensors, builds plain values and
`StoredTensor`s itself, and refuses every other name. `pickletools` parses the instructions.
"""

from __future__ import annotations

import io
import math
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gpt2rt.converter.source_file import SourceFile
from gpt2rt.converter.stored_tensor import StoredTensor
from gpt2rt.converter.zip_records import Record

MAX_OPCODES = 250_000  # bounds the time and the memory that a pickle takes; nanoGPT's of 1558M has 100,000
MAX_RANK = 8
MAX_COUNT = 1 << 60  # of bytes and values, so that no product of two is unreasonable
SHOWN = 100  # characters of a name in a message

# {storage type: (type as safetensors calls it, bytes of a value)}
STORAGES = {
    **{"FloatStorage": ("F32", 4), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2)},
    **{"DoubleStorage": ("F64", 8), "ByteStorage": ("U8", 1), "CharStorage": ("I8", 1), "BoolStorage": ("BOOL", 1)},
    **{"ShortStorage": ("I16", 2), "IntStorage": ("I32", 4), "LongStorage": ("I64", 8)},
    **{"ComplexFloatStorage": ("C64", 8), "ComplexDoubleStorage": ("C128", 16), "UntypedStorage": ("U8", 1)},
}
DTYPES = {
    **{"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2), "float64": ("F64", 8)},
    **{"uint8": ("U8", 1), "int8": ("I8", 1), "int16": ("I16", 2), "int32": ("I32", 4), "int64": ("I64", 8)},
    **{"uint16": ("U16", 2), "uint32": ("U32", 4), "uint64": ("U64", 8), "bool": ("BOOL", 1)},
    **{"complex64": ("C64", 8), "complex128": ("C128", 16)},
    **{"float8_e4m3fn": ("F8_E4M3", 1), "float8_e5m2": ("F8_E5M2", 1)},
}

ORDERED_DICT = "collections.OrderedDict"
TENSOR, UNTYPED_TENSOR = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"
PARAMETER = "torch._utils._rebuild_parameter"
KNOWN = {
    *(ORDERED_DICT, TENSOR, UNTYPED_TENSOR, PARAMETER),
    *(f"{module}.{name}" for name in STORAGES for module in ("torch", "torch.cuda", "torch.storage")),
    *(f"torch.{name}" for name in DTYPES),
}
KEYS = (str, int, float, bool, bytes, type(None))  # hashing a nested tuple could take forever
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class RefusedError(Exception):
    """A pickle with more than tensors and plain values; the message is the rest of a sentence after the path."""


class DamagedPickleError(Exception):
    """Malformed instructions; the message is the rest of a sentence that begins with the path."""


class Global(NamedTuple):
    """One of the `KNOWN` names. It stands for itself: there is no object of that name here."""

    name: str


class Storage(NamedTuple):
    """The memory of one or more tensors: its record, and its values' type and size in bytes."""

    record: Record
    dtype: str
    item: int


class Unpickler:
    """Reads pickles from a stream."""

    def __init__(self, file: SourceFile, storage: Callable[[Any], Storage]):
        """
        Args:
            file: in which the tensors lie.
            storage: called with what the pickle says about a storage; returns a `Storage` whose record is in the file.
        """
        self._left = MAX_OPCODES
        self._file, self._storage = file, storage
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []  # the stacks below
        self._memo: dict[int, Any] = {}

    def load(self, stream: io.BytesIO) -> Any:
        """Return the value of the next pickle.

        Raises:
            RefusedError: it has more than tensors and plain values. DamagedPickleError: it is malformed.
        """
        self._stack, self._marks, self._memo = [], [], {}
        try:
            self._left = MAX_OPCODES
            for opcode, argument, _ in pickletools.genops(stream):
                self._spend(1)
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._run(opcode.name, argument)
        except (IndexError, KeyError, ValueError, OverflowError, Warning) as error:  # a warning, where it is an error
            raise DamagedPickleError(f"not a valid pickle: {error!s:.100}") from None
        raise DamagedPickleError("not a valid pickle: it has no end")

    def _spend(self, n: int) -> None:
        """Count instructions, or values that a single instruction copies."""
        self._left -= n
        if self._left < 0:
            raise DamagedPickleError(f"its pickle has more than {MAX_OPCODES} instructions")

    def _run(self, opcode: str, argument: Any) -> None:
        """Run one instruction."""
        stack = self._stack
        if opcode in VALUES:
            stack.append(argument)
        elif opcode in CONSTANTS:
            stack.append(CONSTANTS[opcode])
        elif opcode in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif opcode in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif opcode in TUPLES:
            stack.append(tuple(self._pop(TUPLES[opcode])))
        elif opcode == "MARK":
            self._marks.append(stack)
            self._stack = []
        elif opcode in ("GLOBAL", "INST"):
            stack.append(_known(*argument.partition(" ")[::2]))
            if opcode == "INST":
                raise _refused(opcode, stack[-1])
        elif opcode == "STACK_GLOBAL":
            module, name = self._pop(2)
            stack.append(_known(module, name))
        elif opcode == "REDUCE":
            function, arguments = self._pop(2)
            stack.append(self._called(function, arguments))
        elif opcode == "BUILD":
            self._pop(1)  # the attributes of a state dict, such as versions of modules
            if type(stack[-1]) is not OrderedDict:
                raise _refused(opcode, stack[-1])
        elif opcode in ("BINPERSID", "PERSID"):
            stack.append(self._storage(argument if opcode == "PERSID" else stack.pop()))
        elif opcode not in ("PROTO", "FRAME"):
            self._fill(opcode)

    def _fill(self, opcode: str) -> None:
        """Run an instruction that makes or fills a container, or discards values."""
        stack = self._stack
        if opcode == "EMPTY_DICT":
            stack.append({})
        elif opcode == "EMPTY_LIST":
            stack.append([])
        elif opcode == "EMPTY_SET":
            stack.append(set())
        elif opcode == "TUPLE":
            self._replace(tuple)
        elif opcode == "LIST":
            self._replace(list)
        elif opcode == "FROZENSET":
            self._replace(lambda items: frozenset(map(_key, items)))
        elif opcode == "DICT":
            self._replace(lambda items: _put({}, items))
        elif opcode == "SETITEM":
            items = self._pop(2)
            _put(stack[-1], items)
        elif opcode == "SETITEMS":
            items = self._pop_mark()
            _put(self._stack[-1], items)
        elif opcode in ("APPEND", "APPENDS"):
            items = self._pop(1) if opcode == "APPEND" else self._pop_mark()
            if type(self._stack[-1]) is not list:
                raise ValueError(f"{opcode} to a {type(self._stack[-1]).__name__}")
            self._stack[-1].extend(items)
        elif opcode == "ADDITEMS":
            items = self._pop_mark()
            if type(self._stack[-1]) is not set:
                raise ValueError(f"{opcode} to a {type(self._stack[-1]).__name__}")
            self._stack[-1].update(map(_key, items))
        elif opcode == "DUP":
            stack.append(stack[-1])
        elif opcode == "POP" and stack:
            stack.pop()
        elif opcode in ("POP", "POP_MARK"):
            self._pop_mark()
        else:
            raise _refused(opcode, stack[0] if stack else None)

    def _pop(self, n: int) -> list[Any]:
        """Remove and return the last n values."""
        if len(self._stack) < n:
            raise ValueError("an instruction lacks a value")
        values = self._stack[len(self._stack) - n :]
        del self._stack[len(self._stack) - n :]
        return values

    def _pop_mark(self) -> list[Any]:
        """Remove and return the values since the last mark."""
        values, self._stack = self._stack, self._marks.pop()
        return values

    def _replace(self, container: Callable[[list[Any]], Any]) -> None:
        """Replace the values since the last mark with a container of them."""
        items = self._pop_mark()
        self._stack.append(container(items))

    def _called(self, function: Any, arguments: Any) -> Any:
        """Return what a call of one of the `KNOWN` functions stands for."""
        if type(function) is not Global:
            raise _refused("REDUCE", function)
        if type(arguments) is not tuple:
            raise ValueError("the arguments of a call are not a tuple")
        if function.name == ORDERED_DICT:
            pairs = arguments[0] if arguments else ()
            if type(pairs) not in (list, tuple):
                raise ValueError(f"an OrderedDict of a {type(pairs).__name__}, expected pairs")
            self._spend(len(pairs))
            return _ordered(pairs)
        if function.name == TENSOR and len(arguments) in (6, 7):
            return self._tensor(arguments[0], arguments[1:4], None, arguments[6:])
        if function.name == UNTYPED_TENSOR and len(arguments) in (7, 8):
            return self._tensor(arguments[0], arguments[1:4], arguments[6], arguments[7:])
        if function.name == PARAMETER and len(arguments) == 3 and type(arguments[0]) is StoredTensor:
            return arguments[0]
        raise _refused("REDUCE", function)

    def _tensor(self, storage: Any, layout: tuple[Any, ...], dtype: Any, flags: tuple[Any, ...]) -> StoredTensor:
        """Return a tensor.

        Args:
            layout: (index of its first value in the storage, shape, strides in values).
            dtype: None for that of the storage. flags: of the tensor; none is supported.
        """
        if type(storage) is not Storage:
            raise ValueError(f"a tensor lies in a {type(storage).__name__}, expected a storage")
        if any(flags):
            raise RefusedError("it has a tensor with flags (conjugated or negated), expected plain tensors")
        if dtype is None:
            kind, item = storage.dtype, storage.item
        elif type(dtype) is Global and (name := dtype.name.removeprefix("torch.")) in DTYPES:
            kind, item = DTYPES[name]
        else:
            raise ValueError("a tensor's type is not a type")
        (first,), shape, strides = _counts(layout[:1]), _counts(layout[1]), _counts(layout[2])
        if len(shape) != len(strides):
            raise ValueError(f"a tensor has {len(shape)} dimensions and {len(strides)} strides")
        n_values, n_stored = math.prod(shape), storage.record.size // item
        last = first + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if n_values and last >= n_stored:
            raise ValueError(f"a tensor ends at value {last} of {n_stored} in its storage")
        if n_values > n_stored:
            raise RefusedError(
                f"it has a tensor of {n_values} values that stores only {n_stored}, expected all of them"
            )
        offset = storage.record.offset + item * (first if n_values else 0)
        steps = tuple(item * stride for stride in strides)
        is_contiguous = not n_values or all(
            n == 1 or step == item * math.prod(shape[i + 1 :])
            for i, (n, step) in enumerate(zip(shape, steps, strict=True))
        )
        return StoredTensor(self._file, kind, shape, offset, None if is_contiguous else steps, storage.record)


def _known(module: Any, name: Any) -> Global:
    """Return the name if it is one of the `KNOWN`."""
    found = f"{module}.{name}" if type(module) is type(name) is str else "a name that is not text"
    if found not in KNOWN:
        raise RefusedError(
            f"it refers to {found[:SHOWN]!r}, expected only tensors, dicts, lists and numbers; nothing in it was run"
            ' (save the tensors alone: torch.save(model.state_dict(), "pytorch_model.bin"))'
        )
    return Global(found)


def _refused(opcode: str, target: Any) -> RefusedError:
    what = target.name if type(target) is Global else f"a {type(target).__name__}"
    return RefusedError(
        f"its pickle has the instruction {opcode} with {what}, expected only tensors, dicts, lists and numbers; nothing"
        ' in it was run (save the tensors alone: torch.save(model.state_dict(), "pytorch_model.bin"))'
    )


def _key(key: Any) -> Any:
    if type(key) not in KEYS:
        raise ValueError(f"a key is a {type(key).__name__}, expected text or a number")
    return key


def _put(target: Any, items: list[Any]) -> Any:
    """Put keys and values, which alternate, into a dict; return it."""
    if type(target) not in (dict, OrderedDict):
        raise ValueError(f"items of a {type(target).__name__}, expected a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_key(key)] = value
    return target


def _ordered(pairs: Sequence[Any]) -> OrderedDict[Any, Any]:
    """Return an OrderedDict of pairs, which Python 2 writes as a list of lists."""
    found: OrderedDict[Any, Any] = OrderedDict()
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise ValueError("an OrderedDict of something other than pairs")
        found[_key(pair[0])] = pair[1]
    return found


def _counts(numbers: Any) -> tuple[int, ...]:
    if type(numbers) not in (tuple, list) or len(numbers) > MAX_RANK:
        raise ValueError(f"a tensor's shape is not a list of at most {MAX_RANK} counts")
    if not all(type(n) is int and 0 <= n < MAX_COUNT for n in numbers):
        raise ValueError("a tensor's shape, strides or offset are not counts")
    return tuple(numbers)
