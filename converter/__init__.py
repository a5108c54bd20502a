"""Convert checkpoints to model files.

Every input is a `Source`; `_open` alone decides what kind it is.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from types import TracebackType
from typing import Any, Self

import numpy as np

from gpt2rt import __version__
from gpt2rt.converter import quality
from gpt2rt.converter.calibrate import MAX_TOKENS, Calibration
from gpt2rt.converter.gguf import GgufFile, is_gguf
from gpt2rt.converter.hub import HUB, hub_source
from gpt2rt.converter.huggingface import HuggingFaceFolder, is_huggingface
from gpt2rt.converter.llmc import LlmcFile, is_llmc
from gpt2rt.converter.model_source import ModelFileSource, is_model_file
from gpt2rt.converter.nanogpt import CHECKPOINT, NanoGptCheckpoint
from gpt2rt.converter.pytorch import is_pytorch
from gpt2rt.converter.quantize import NOT_FINITE, Quantization, packed_chunks, packed_codes, rows_of_chunk
from gpt2rt.converter.source import Source, SourceVocabulary
from gpt2rt.converter.tensorflow_checkpoint import TensorFlowCheckpoint
from gpt2rt.converter.weight_files import is_weight_file
from gpt2rt.errors import CheckpointError, UsageError
from gpt2rt.foreign import translated
from gpt2rt.modelfile import DEFAULT_GROUP_SIZE, GROUP_SIZES, QUANTIZED, WEIGHT_TYPES, Tensor
from gpt2rt.modelfile.chat_settings import CHAT_FORMATS, CHAT_KEYS, check_templates
from gpt2rt.modelfile.writer import Writer
from gpt2rt.regular_file import open_regular

SHOWN = 8  # file names in a message
MAX_NAME = 200  # characters in the name of a model or of a license
BLOCK = 1 << 20  # bytes hashed at a time
NO_FILE_NAME = str.maketrans(dict.fromkeys('/\\:*?"<>|', "-"))  # characters that a file name can't contain

Conversion = namedtuple("Conversion", "path size source_size ratio seconds max_error mean_error quality notes")
Conversion.__doc__ = """The result of a conversion.

Attributes:
    path: the file written.
    size: bytes in the file. source_size: bytes of the source's weights in f32. ratio: source_size / size.
    seconds: how long the conversion took.
    max_error, mean_error: the largest and the mean absolute quantization error of the matrix elements.
    quality: the quality report, a dict (docs/format.md), or None.
    notes: what to know about how the source was read, a list of sentences; usually empty.
"""


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    weight_type: str = "int8",
    group_size: int | None = None,
    name: str | None = None,
    licence: str | None = None,
    chat: dict[str, str] | None = None,
    vocabulary: str | os.PathLike[str] | None = None,
    calibration_text: str | None = None,
    quality_text: str | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Convert a checkpoint to a model file. The file is written completely or not at all.

    Args:
        source: a folder as released by OpenAI, or a checkpoint prefix; a Hugging Face folder, or `hf:OWNER/NAME`,
            optionally with `@REVISION`; a file of weights in such a folder; a GGUF file; a checkpoint of
            nanoGPT (ckpt.pt) or a model file of llm.c; or an f32 or f16 model file.
        output: the file to write; by default a name made from the source and the weight type, in the current folder.
        weight_type: "f32", "f16", "int8" or "int4".
        group_size: number of inputs that share a scale (int8 and int4 only); None selects the type's default.
        name: the model's name; defaults to the source's name.
        licence: the license of the weights, one line of text; defaults to the source's license, where it is known.
        chat: chat settings to store in the file, a dict with any of the metadata's keys (docs/format.md);
            defaults to the source's settings.
        vocabulary: for a checkpoint of nanoGPT or llm.c, which has none: a folder with encoder.json and vocab.bpe, or
            vocab.json and merges.txt, or tokenizer.json.
        calibration_text: text like that on which the model will be used; int8 and int4 weights are calibrated on it,
            which takes minutes and reduces the quality loss. None rounds each weight to the nearest value.
        quality_text: text on which the written weights are compared with the source; the result, a quality report,
            is stored in the file. None skips the report.
        force: replace the output file if it exists.
        progress: called with (done, total) in bytes of the source's weights; a quality report doubles the total.

    Returns:
        A `Conversion`.

    Raises:
        UsageError: an argument is invalid.
        CheckpointError, VocabularyError: the source is missing, damaged or not supported.
        ModelFileError: the file can't be written.
    """
    begin = time.perf_counter()
    for argument, path in ("source", source), ("output", output), ("vocabulary", vocabulary):
        if not isinstance(path, (str, os.PathLike)) and not (argument != "source" and path is None):
            raise UsageError(f"{argument}: got {path!r:.80}, expected a path")
    group_size = _checked_group_size(weight_type, group_size)
    with translated(source):
        checkpoint = _open(source, vocabulary)
        source_vocabulary = checkpoint.vocabulary()
    n_vocab = checkpoint.hyperparameters.n_vocab
    if source_vocabulary.n_vocab != n_vocab:
        raise CheckpointError(
            f"{checkpoint.path}: the vocabulary has {source_vocabulary.n_vocab} tokens, expected n_vocab, which is"
            f" {n_vocab}"
        )
    default = f"{_printable(checkpoint.name).translate(NO_FILE_NAME)}-{weight_type}.bin"
    output = pathlib.Path(default if output is None else output)
    if os.path.exists(output) and any(os.path.samefile(output, file) for file in checkpoint.files):
        raise UsageError(f"{output}: the output is the source itself (choose another output file)")
    metadata: dict[str, Any] = {
        "name": _printable(checkpoint.name)[:MAX_NAME] if name is None else _checked_line("model name", name),
        "source": _printable(checkpoint.origin),
        "source_sha256": "0" * 64,
        "converter": f"gpt2rt {__version__}",
        "quantization": {},
    }
    if licence is not None or checkpoint.licence:
        metadata["licence"] = checkpoint.licence if licence is None else _checked_line("license", licence)
    if chat is not None or checkpoint.chat:
        metadata["chat"] = _checked_chat({**(checkpoint.chat or {}), **(chat or {})})

    quantization, done = Quantization(), 0
    report, calibration, total = None, None, checkpoint.size
    if calibration_text is not None:
        calibration = _calibration(checkpoint, source_vocabulary, calibration_text, weight_type, group_size)
    if quality_text is not None:
        quality_tokens, total = quality.encode(source_vocabulary, quality_text), 2 * checkpoint.size

    def advance(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        if progress:
            progress(done, total)

    shape = checkpoint.hyperparameters, weight_type, group_size
    writer = Writer(output, *shape, metadata, source_vocabulary.section(), force, checkpoint.is_tied)
    with writer, _Digest(checkpoint.files) as digest:
        for tensor in writer.tensors:
            chunks = _chunks(checkpoint, tensor, weight_type, group_size, quantization, advance, calibration)
            writer.write_tensor(chunks)
        if quality_text is not None:
            report = quality.measure(checkpoint, writer, quality_tokens, quality_text, advance)
            advance(total - done)  # the remainder of an integer division
        if report is not None:
            metadata["quality"] = report
        metadata["source_sha256"] = digest.result()
        metadata["quantization"] = {"max_error": quantization.max_error, "mean_error": quantization.mean_error}
        if calibration:
            metadata["quantization"] |= calibration.origin
    size = output.stat().st_size
    seconds = time.perf_counter() - begin
    errors = quantization.max_error, quantization.mean_error
    notes = [_printable(note) for note in checkpoint.notes]
    return Conversion(str(output), size, checkpoint.size, checkpoint.size / size, seconds, *errors, report, notes)


def _open(source: str | os.PathLike[str], vocabulary: str | os.PathLike[str] | None) -> Source:
    """Open the source at a path or with a name on the Hugging Face Hub; `vocabulary` is as for `convert`."""
    found = _found(source, vocabulary)
    if vocabulary is not None and not isinstance(found, NanoGptCheckpoint | LlmcFile):
        raise UsageError(
            f"vocabulary {str(vocabulary)!r}: not allowed for {source}, which has a vocabulary of its own (only"
            " checkpoints of nanoGPT and llm.c need one)"
        )
    return found


def _found(source: str | os.PathLike[str], vocabulary: str | os.PathLike[str] | None) -> Source:
    """Open the source with the reader of its kind."""
    if str(source).startswith(HUB):
        return hub_source(source)
    try:
        if os.path.isdir(source):
            return _open_folder(pathlib.Path(source), vocabulary)
        if os.path.isfile(source):
            if is_gguf(source):
                return GgufFile(source)
            if is_model_file(source):
                return ModelFileSource(source)
            if is_llmc(source):
                return LlmcFile(source, vocabulary)
            if is_weight_file(source):
                return HuggingFaceFolder(pathlib.Path(source).parent, weights=pathlib.Path(source))
            if is_pytorch(source):
                return NanoGptCheckpoint(source, vocabulary)
    except OSError as error:
        raise CheckpointError(f"{source}: can't be read: {error.strerror or error}") from None
    return TensorFlowCheckpoint(source)


def _open_folder(folder: pathlib.Path, vocabulary: str | os.PathLike[str] | None) -> Source:
    """Open the source in a folder. Raises OSError."""
    if is_huggingface(folder):
        return HuggingFaceFolder(folder)
    names = sorted(os.listdir(folder))
    if "checkpoint" in names or any(name.endswith(".index") for name in names):
        return TensorFlowCheckpoint(folder)
    if CHECKPOINT in names:
        return NanoGptCheckpoint(folder / CHECKPOINT, vocabulary)
    found = ", ".join(map(_printable, names[:SHOWN])) or "nothing"
    raise CheckpointError(
        f"{folder}: no GPT-2 model found, expected OpenAI's files (checkpoint, model.ckpt.*, hparams.json,"
        " encoder.json, vocab.bpe) or a Hugging Face folder (config.json, weights and tokenizer files) or nanoGPT's"
        f" {CHECKPOINT}; found {found}{' ...' if len(names) > SHOWN else ''} (for a GGUF file or one of llm.c, give the"
        " path of the file)"
    )


def _calibration(
    source: Source, vocabulary: SourceVocabulary, text: str, weight_type: str, group_size: int
) -> Calibration:
    """Return a `Calibration` on a text."""
    if weight_type not in QUANTIZED:
        raise UsageError(f"calibration: expected int8 or int4, got {weight_type} (it is not quantized)")
    tokens = quality.tokenizer_of(vocabulary).encode(text[: 64 * MAX_TOKENS], special=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Calibration(source, tokens, weight_type, group_size, digest)


def _chunks(
    source: Source,
    tensor: Tensor,
    weight_type: str,
    group_size: int,
    quantization: Quantization,
    advance: Callable[[int], None],
    calibration: Calibration | None,
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a tensor for the file."""
    label = f"{source.path}: tensor {tensor.name!r}"
    if not tensor.is_matrix:
        array = source.tensor(tensor.name)
        if not np.isfinite(array).all():
            raise CheckpointError(NOT_FINITE.format(label))
        yield array.data.cast("B")
        yield bytes(tensor.length - array.nbytes)
        advance(array.nbytes)
        return
    inputs_first = tensor.name not in ("wte", "lm_head")
    if calibration:
        array = source.tensor(tensor.name)
        w = array.T if inputs_first else array
        chunks = packed_codes(w, *calibration.rounded(tensor.name), weight_type, group_size, quantization)
    elif inputs_first:
        array = source.tensor(tensor.name)
        chunks = packed_chunks(label, array, inputs_first, weight_type, group_size, quantization)
    else:
        n_out, n_in = tensor.shape
        step = rows_of_chunk(n_in, weight_type, group_size)
        blocks = (source.rows(tensor.name, row, min(row + step, n_out)) for row in range(0, n_out, step))
        options = inputs_first, weight_type, group_size, quantization
        chunks = chain.from_iterable(packed_chunks(label, block, *options) for block in blocks)
    for chunk, _, n_rows in chunks:
        yield chunk
        advance(4 * n_rows * tensor.shape[1])


class _Digest:
    """The SHA-256 of concatenated files, computed in a thread while the weights are packed."""

    def __init__(self, files: Sequence[pathlib.Path]):
        self._files, self._is_wanted = files, True
        self._error: OSError | None = None
        self._hash = hashlib.sha256()
        self._thread = threading.Thread(target=self._run, name="gpt2rt-sha256")

    def _run(self) -> None:
        buffer = bytearray(BLOCK)
        try:
            for path in self._files:
                with open_regular(path) as file:
                    while self._is_wanted and (n := file.readinto(buffer)):
                        self._hash.update(memoryview(buffer)[:n])
        except OSError as error:
            self._error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def result(self) -> str:
        """Wait for the digest and return it in hexadecimal."""
        self._thread.join()
        if self._error:
            raise CheckpointError(f"{self._error.filename}: can't be read: {self._error.strerror or self._error}")
        return self._hash.hexdigest()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_wanted = False
        self._thread.join()


def _checked_group_size(weight_type: str, group_size: int | None) -> int:
    """Return the group size to use, 0 for float types."""
    if weight_type not in WEIGHT_TYPES:
        raise UsageError(f"weight type {weight_type!r}: expected f32, f16, int8 or int4")
    if group_size is None:
        return DEFAULT_GROUP_SIZE[weight_type]
    if weight_type not in QUANTIZED:
        raise UsageError(f"group size {group_size!r}: not allowed for {weight_type} (only int8 and int4 have groups)")
    if group_size not in GROUP_SIZES:
        raise UsageError(f"group size {group_size!r}: expected one of {', '.join(map(str, GROUP_SIZES))}")
    return group_size


def _checked_line(what: str, text: str) -> str:
    """Return `text` if it is safe to print on a terminal and to store in the file."""
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_NAME or not text.isprintable():
        raise UsageError(f"{what} {text!r:.80}: expected 1 to {MAX_NAME} printable characters")
    return text


def _checked_chat(chat: dict[str, str]) -> dict[str, str]:
    """Return the chat settings for the metadata."""
    for key, value in chat.items():
        if key not in CHAT_KEYS:
            raise UsageError(f"chat setting {key!r}: expected one of {', '.join(CHAT_KEYS)}")
        if key == "format" and value not in CHAT_FORMATS:
            raise UsageError(f"chat format {value!r}: expected one of {', '.join(CHAT_FORMATS)}")
        if key in ("opening", "template", "opening_template") and not isinstance(value, str):
            raise UsageError(f"chat {key} {value!r:.80}: expected a string")
        if key in ("user_name", "bot_name"):
            is_name = isinstance(value, str) and value == value.strip() and value.isprintable() and ":" not in value
            if not is_name or not 1 <= len(value) <= MAX_NAME:
                raise UsageError(f"chat {key} {value!r:.80}: expected a name on one line, without a colon")
    check_templates(chat)
    return dict(chat)


def _printable(text: str) -> str:
    """Replace what can't be printed with `?`: control characters, and bytes of a file name that are not UTF-8."""
    return "".join(character if character.isprintable() else "?" for character in text)
