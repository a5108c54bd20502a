"""GPT-2 checkpoints written by TensorFlow's Saver: OpenAI's release, and the output of fine-tuning tools.

They are read without TensorFlow. What this reader does not support (checkpoints of version 1, compressed indexes,
types other than f32) is left to TensorFlow, if it is installed.

A prefix is the path that a checkpoint's files have in common, such as `models/124M/model.ckpt`.
"""

from __future__ import annotations

import hashlib
import math
import os
import pathlib
from collections.abc import Collection, Iterable

import numpy as np

from gpt2rt._modelfile import crc32c
from gpt2rt.bounded_json import loads
from gpt2rt.converter.checkpoint_index import MAGIC, MAX_INDEX, UnsupportedCheckpointError, read_index
from gpt2rt.converter.hub import suggestion
from gpt2rt.converter.source import folder_name
from gpt2rt.converter.source_file import SourceFile
from gpt2rt.converter.vocabulary import Vocabulary
from gpt2rt.errors import CheckpointError
from gpt2rt.lines import lines_of
from gpt2rt.modelfile import Hyperparameters, Tensor, tensor_table
from gpt2rt.regular_file import open_regular, read_regular

HPARAMS = "hparams.json"
MAX_TEXT = 1 << 20  # bytes of hparams.json and of the file `checkpoint`
PIECE = 4 << 20  # bytes checked at a time
FLOATS = ("float32", "float16", "bfloat16", "float64")
RELEASED_NAME = "model.ckpt"  # the prefix of every released checkpoint, so it can't name the model

# SHA-256 of a released index. The index holds the checksum of every tensor, so it identifies the weights.
RELEASED = {"71916f763f9746f9b2a06b12d91996cf1084ae008d0424543d39391c5f2dc687": "Modified MIT License (OpenAI)"}


class TensorFlowCheckpoint:
    """A source for `convert`: a complete checkpoint whose tensors have the shapes implied by its hyperparameters.

    Attributes:
        path: the prefix.
        name: the model's name. origin: a line of text that says where it comes from.
        licence: the license of the weights, or None.
        hyperparameters: `Hyperparameters`. is_tied: whether `wte` is also the output head.
        chat: the chat settings that the source implies, as for `convert`, or None.
        size: bytes of the weights in f32. files: the files that hold the weights, in order.
        notes: what the user should know about how the source was read, sentences without a capital or a period.
    """

    is_tied = True
    chat: dict[str, str] | None = None

    def __init__(self, source: str | os.PathLike[str]):
        """
        Args:
            source: a folder with a checkpoint, a prefix, or the path of an index.

        Raises:
            CheckpointError: something is missing or damaged, or a shape is wrong. The weights are not read yet.
        """
        try:
            self._open(source)
        except OSError as error:
            raise CheckpointError(f"{error.filename or source}: can't be read: {error.strerror or error}") from None

    def _open(self, source: str | os.PathLike[str]) -> None:
        self.path = _find_prefix(pathlib.Path(source))
        folder, called = self.path.parent, folder_name(self.path.parent)
        self.name = self.path.name if self.path.name != RELEASED_NAME else called or "model"
        self.origin = f"TensorFlow checkpoint {called}/{self.path.name}"
        self.hyperparameters = _read_hparams(folder / HPARAMS)
        self.licence: str | None = None
        self.notes: list[str] = []
        self._reader: _BundleReader | _TensorFlowReader
        try:
            self._reader = bundle = _BundleReader(self.path)
            self.licence = bundle.licence
            self._names = _match(self.path, self._reader, self.hyperparameters)
            self._reader.check(self._names.values())
        except UnsupportedCheckpointError as reason:
            self._reader = _TensorFlowReader(self.path, reason)
            self._names = _match(self.path, self._reader, self.hyperparameters)
            self._reader.check(self._names.values())
        self.files = self._reader.files
        self.size = sum(4 * math.prod(self._reader.shapes[name]) for name in self._names.values())

    def vocabulary(self) -> Vocabulary:
        """Read the `Vocabulary` next to the checkpoint. Raises VocabularyError."""
        folder, n_vocab = self.path.parent, self.hyperparameters.n_vocab
        return Vocabulary.read(folder / "encoder.json", folder / "vocab.bpe", n_vocab)

    def tensor(self, name: str) -> np.ndarray:
        """Read a tensor and verify its checksum.

        Args:
            name: as in `modelfile.tensor_table`.

        Returns:
            A C-contiguous f32 array: (n_in, n_out) for the matrices of the layers, (n_vocab, n_embd) for
            `wte`, (n_ctx, n_embd) for `wpe`, else (n,).

        Raises:
            CheckpointError: the tensor is damaged.
        """
        array = self._reader.tensor(self._names[name])
        return array[0] if array.ndim == 3 else array

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        """Read some rows of `wte`, or of a separate `lm_head`, which may be too large to be in memory; as `tensor`.

        Args:
            begin, end: the first row, and the one after the last.
        """
        return self._reader.rows(self._names[name], begin, end)

    def verify(self, name: str) -> None:
        """Verify a tensor's checksum, without keeping it. Raises CheckpointError: it is damaged."""
        self._reader.verify(self._names[name])


def _find_prefix(source: pathlib.Path) -> pathlib.Path:
    """Return the prefix that `source` refers to."""
    if source.is_dir():
        return _prefix_in(source)
    prefix = source.with_name(source.name.removesuffix(".index") or source.name)
    if _index_of(prefix).is_file() or _version_1_files(prefix):
        return prefix
    if source.exists():
        raise CheckpointError(f"{source}: not a TensorFlow checkpoint, expected a folder, a prefix or a .index file")
    hint = suggestion(source.as_posix()) or f"there is no {_index_of(prefix)}"
    raise CheckpointError(f"{source}: no such checkpoint, expected a folder or a prefix ({hint})")


def _prefix_in(folder: pathlib.Path) -> pathlib.Path:
    """Return the prefix named in the folder's file `checkpoint`, or, without that file, the only prefix there."""
    state = folder / "checkpoint"
    if not state.is_file():
        indexes = sorted(folder.glob("*.index"))
        if len(indexes) == 1:
            return indexes[0].with_suffix("")
        if indexes:
            names = ", ".join(index.stem for index in indexes)
            raise CheckpointError(f"{folder}: several checkpoints but no file 'checkpoint' (give one of them: {names})")
        raise CheckpointError(
            f"{folder}: no TensorFlow checkpoint found, expected the files checkpoint and model.ckpt.*"
        )
    for line in lines_of(_read_text(state)):
        key, _, value = line.partition(":")
        if key.strip() == "model_checkpoint_path":
            # The path is from the machine that saved it; the files are in this folder.
            name = pathlib.PureWindowsPath(_unquoted(value.strip())).name
            break
    else:
        raise CheckpointError(f"{state}: does not name a checkpoint, expected a line model_checkpoint_path")
    prefix = folder / name
    if name and (_index_of(prefix).is_file() or _version_1_files(prefix)):
        return prefix
    raise CheckpointError(
        f"{state}: names {name!r}, but {_index_of(prefix).name} does not exist (incomplete download?)"
    )


def _unquoted(text: str) -> str:
    """Decode a protobuf text string: backslash escapes, octal for bytes beyond ASCII."""
    try:
        escaped = text[1:-1].encode("latin-1", "backslashreplace")
        return escaped.decode("unicode_escape").encode("latin-1").decode()
    except ValueError:
        return text[1:-1]


def _index_of(prefix: pathlib.Path) -> pathlib.Path:
    return prefix.with_name(f"{prefix.name}.index")


def _version_1_files(prefix: pathlib.Path) -> list[pathlib.Path]:
    """Return the files of a checkpoint of version 1, one or several numbered ones, recognized by the magic number."""
    files = [prefix] if prefix.is_file() else _numbered(prefix, "-")
    for path in files:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8))
            if int.from_bytes(file.read(8), "little") != MAGIC:
                return []
    return files


def _numbered(prefix: pathlib.Path, mark: str) -> list[pathlib.Path]:
    """Return the files named PREFIX, mark, 00000-of-00002 and so on, in order."""
    digits = "[0-9]" * 5
    start = f"{prefix.name}{mark}"
    return sorted(path for path in prefix.parent.glob(f"*{mark}{digits}-of-{digits}") if path.name[:-14] == start)


def _read_text(path: pathlib.Path) -> str:
    try:
        return read_regular(path, MAX_TEXT).decode("utf-8-sig")
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: no such file, expected it next to the checkpoint (OpenAI's release includes it)"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: not UTF-8 text (damaged?)") from None


def _read_hparams(path: pathlib.Path) -> Hyperparameters:
    """Read the hyperparameters; other keys are for training and ignored."""
    try:
        content = loads(_read_text(path).encode())
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: contains a {type(content).__name__}, expected an object with n_vocab and so on")
    for name in Hyperparameters._fields:
        if name not in content:
            raise CheckpointError(f"{path}: has no {name}, expected {', '.join(Hyperparameters._fields)}")
        if type(content[name]) is not int:
            raise CheckpointError(f"{path}: {name} is {content[name]!r:.80}, expected an integer")
    hyperparameters = Hyperparameters(*(content[name] for name in Hyperparameters._fields))
    if problem := hyperparameters.problem():
        raise CheckpointError(f"{path}: {problem}")
    return hyperparameters


def _stored_shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape in a checkpoint: a layer's matrix is a convolution of width 1, (1, n_in, n_out)."""
    if tensor.is_matrix and tensor.name != "wte":
        return (1, *reversed(tensor.shape))
    return tuple(tensor.shape)


def _match(
    path: pathlib.Path, reader: _BundleReader | _TensorFlowReader, hyperparameters: Hyperparameters
) -> dict[str, str]:
    """Map our tensor names to the checkpoint's. Raises CheckpointError if a tensor is missing, extra or misshapen."""
    scope = _scope(path, reader.shapes)
    table = tensor_table(hyperparameters, "f32", 0)
    names = {tensor.name: scope + tensor.name for tensor in table}
    missing = [name for name in names.values() if name not in reader.shapes]
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} of {len(names)} tensors are missing, the first is {missing[0]!r}"
            f" (does {HPARAMS} belong to it? n_layer is {hyperparameters.n_layer})"
        )
    for tensor in table:
        name, shape = names[tensor.name], _stored_shape(tensor)
        if reader.shapes[name] != shape:
            raise CheckpointError(
                f"{path}: tensor {name!r} has shape {list(reader.shapes[name])}, expected {list(shape)} from {HPARAMS}"
            )
    expected = set(names.values())
    for name in sorted(reader.shapes):
        if name not in expected and reader.shapes[name] and not _is_slot(name, expected):
            raise CheckpointError(
                f"{path}: unexpected tensor {name!r} for a GPT-2 of {hyperparameters.n_layer} layers"
                f" (does {HPARAMS} belong to it?)"
            )
    return names


def _scope(path: pathlib.Path, names: Collection[str]) -> str:
    """Return the scope of `wte`: `model/` if there is one, else the only scope that has a `wte`."""
    if "model/wte" in names:
        return "model/"
    scopes = sorted(name.removesuffix("wte") for name in names if f"/{name}".endswith("/wte"))
    if not scopes:
        first = ", ".join(sorted(names)[:3])
        raise CheckpointError(
            f"{path}: not a GPT-2 model: no tensor 'model/wte' among its {len(names)} (the first are {first:.200})"
        )
    if len(scopes) > 1:
        raise CheckpointError(f"{path}: several tensors 'wte', expected one (found under {', '.join(scopes):.200})")
    return scopes[0]


def _is_slot(name: str, variables: Collection[str]) -> bool:
    """Return whether this is an optimizer's slot of a variable: `model/wte/Adam_1`, perhaps under another scope."""
    parts = name.split("/")
    return any(
        "/".join(parts[begin:end]) in variables for begin in range(len(parts)) for end in range(begin + 1, len(parts))
    )


class _BundleReader:
    """A checkpoint of version 2, read without TensorFlow.

    Attributes:
        shapes: {name: shape} of all tensors. licence: the license of the weights, or None.
        files: as in `TensorFlowCheckpoint`; set by `check`.
    """

    def __init__(self, prefix: pathlib.Path):
        self._prefix, index = prefix, _index_of(prefix)
        if not index.is_file():
            raise UnsupportedCheckpointError(f"{prefix}: is a checkpoint of version 1")
        self._n_shards, self._entries = read_index(index)
        self.licence = RELEASED.get(hashlib.sha256(read_regular(index, MAX_INDEX)).hexdigest())
        self.shapes = {name: entry.shape for name, entry in self._entries.items()}

    def check(self, names: Iterable[str]) -> None:
        """Open the data files, and check that these tensors are f32 and within them."""
        self._shards: dict[int, SourceFile] = {}
        self._verified: set[str] = set()
        for name in names:
            entry = self._entries[name]
            if entry.is_sliced or entry.dtype != "float32":
                what = "saved in pieces" if entry.is_sliced else f"of type {entry.dtype}"
                raise UnsupportedCheckpointError(f"{self._prefix}: tensor {name!r} is {what}")
            length = 4 * math.prod(entry.shape)
            if entry.size != length:
                raise CheckpointError(
                    f"{_index_of(self._prefix)}: tensor {name!r} has {entry.size} bytes,"
                    f" expected {length} from its shape"
                )
            path = self._shard(entry.shard)
            if entry.shard not in self._shards:
                self._shards[entry.shard] = _opened(path)
            size = len(self._shards[entry.shard])
            if entry.offset + entry.size > size:
                raise CheckpointError(
                    f"{path}: has {size} bytes, but tensor {name!r} ends at byte"
                    f" {entry.offset + entry.size} (truncated download?)"
                )
        self.files = [self._shard(shard) for shard in sorted(self._shards)]

    def _shard(self, number: int) -> pathlib.Path:
        return self._prefix.with_name(f"{self._prefix.name}.data-{number:05}-of-{self._n_shards:05}")

    def tensor(self, name: str) -> np.ndarray:
        entry = self._entries[name]
        array = self._shards[entry.shard].array("<f4", entry.offset, entry.shape)
        self._compare(name, crc32c(array.data.cast("B")) if array.size else 0)
        return array

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        if name not in self._verified:
            self.verify(name)
        entry = self._entries[name]
        offset = entry.offset + 4 * begin * entry.shape[1]
        return self._shards[entry.shard].array("<f4", offset, (end - begin, entry.shape[1]))

    def verify(self, name: str) -> None:
        entry, checksum = self._entries[name], 0
        for begin in range(entry.offset, entry.offset + entry.size, PIECE):
            end = min(begin + PIECE, entry.offset + entry.size)
            checksum = crc32c(self._shards[entry.shard][begin:end], checksum)
        self._compare(name, checksum)

    def _compare(self, name: str, checksum: int) -> None:
        entry = self._entries[name]
        if checksum != entry.checksum:
            raise CheckpointError(
                f"{self._shard(entry.shard)}: tensor {name!r} is damaged: checksum {checksum:08x},"
                f" expected {entry.checksum:08x} (download it again)"
            )
        self._verified.add(name)


def _opened(path: pathlib.Path) -> SourceFile:
    """Open a data file."""
    try:
        return SourceFile(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file, but the index refers to it (incomplete download?)") from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from error


class _TensorFlowReader:
    """Any checkpoint, read by TensorFlow. Has the interface of `_BundleReader`."""

    def __init__(self, prefix: pathlib.Path, reason: UnsupportedCheckpointError):
        """
        Args:
            prefix: the checkpoint's prefix. reason: why `_BundleReader` can't read it.
        """
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its notices at startup would break a progress bar
        try:
            import tensorflow as tf  # optional dependency; takes seconds
        except ModuleNotFoundError:
            raise CheckpointError(f'{reason}, which requires TensorFlow (pip install "gpt2rt[tensorflow]")') from None
        self._prefix, self._errors = prefix, (tf.errors.OpError, ValueError, RuntimeError)
        try:
            self._reader = tf.train.load_checkpoint(str(prefix))
        except self._errors as error:
            raise CheckpointError(f"{prefix}: TensorFlow can't read it: {_first_line(error)}") from None
        self.shapes = {name: tuple(shape) for name, shape in self._reader.get_variable_to_shape_map().items()}
        self.files = _version_1_files(prefix) or _numbered(prefix, ".data-")
        self._kept: tuple[str, np.ndarray] = "", np.empty(0)  # the tensor whose rows are read, and its name

    def check(self, names: Iterable[str]) -> None:
        """Check that these tensors are of a floating-point type that can be converted to f32."""
        dtypes = self._reader.get_variable_to_dtype_map()
        for name in names:
            if dtypes[name].name not in FLOATS:
                raise CheckpointError(
                    f"{self._prefix}: tensor {name!r} is of type {dtypes[name].name},"
                    f" expected one of {', '.join(FLOATS)}"
                )

    def tensor(self, name: str) -> np.ndarray:
        try:
            array = self._reader.get_tensor(name)
        except self._errors as error:
            raise CheckpointError(f"{self._prefix}: tensor {name!r} is damaged: {_first_line(error)}") from None
        with np.errstate(over="ignore"):  # infinities are rejected later, with the tensor's name
            return np.ascontiguousarray(array, np.float32)

    def rows(self, name: str, begin: int, end: int) -> np.ndarray:
        if self._kept[0] != name:
            self._kept = name, self.tensor(name)
        return self._kept[1][begin:end]

    def verify(self, name: str) -> None:
        self.tensor(name)


def _first_line(error: BaseException) -> str:
    return str(getattr(error, "message", error)).partition("\n")[0][:300]
