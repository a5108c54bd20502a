"""Model: a mapped file, its tokenizer, and the threads that run it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from gpt2rt import _engine
from gpt2rt._kernels import KV_TYPES, Weights, matrix_rows
from gpt2rt._tokenizer import Tokenizer
from gpt2rt.arguments import whole_number
from gpt2rt.errors import UsageError
from gpt2rt.generate import Generation, prompt_ids
from gpt2rt.lookup import is_worth_it
from gpt2rt.model_folder import named_model
from gpt2rt.modelfile import Hyperparameters, ModelFile
from gpt2rt.sampling import SamplingParams, sampling_with
from gpt2rt.threads import default_threads, most_threads

MAX_THREADS = 256
THREADS_VARIABLE = "GPT2RT_THREADS"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Unpack

    import numpy as np
    from numpy.typing import NDArray

    from gpt2rt.batch import BatchGeneration
    from gpt2rt.chat import Answer
    from gpt2rt.explain.trace import TextTrace
    from gpt2rt.modelfile import Tensor
    from gpt2rt.modelfile.reader import Metadata, Path
    from gpt2rt.sampling import SamplingKeywords


def number_of_threads(n_threads: int | None) -> int:
    """Return the number of threads to use: the argument, else GPT2RT_THREADS, else `default_threads()`.

    Warn if that is more than this machine allows, and return what it allows.

    Raises:
        UsageError: it is not a valid number of threads.
    """
    name: str = "n_threads"
    if n_threads is None:
        variable = os.environ.get(THREADS_VARIABLE)
        if not variable:
            return default_threads()
        name = THREADS_VARIABLE
        if not variable.isdecimal():
            raise UsageError(f"{name}: got {variable!r:.80}, expected a whole number from 1 to {MAX_THREADS}")
        n_threads = int(variable)
    wanted = whole_number(name, n_threads, 1, MAX_THREADS)
    most = most_threads()
    if wanted > most:
        import warnings

        warnings.warn(
            f"{name}: got {wanted}, but this process may use {most} (CPU affinity or quota); running with {most}",
            stacklevel=4,
        )
    return min(wanted, most)


class Model:
    """A model that is ready to run. It is immutable; any number of sequences and threads can share it.

    Pickling stores the path and options; unpickling opens the file again.

    Attributes:
        path: the model file.
        hyperparameters: n_vocab, n_ctx, n_embd, n_head, n_layer.
        weight_type: "f32", "f16", "int8" or "int4".
        group_size: number of inputs that share a scale, 0 for float types.
        tokenizer: the model's `Tokenizer`.
    """

    hyperparameters: Hyperparameters

    def __init__(
        self,
        path: Path,
        *,
        n_threads: int | None = None,
        use_mmap: bool = True,
        isa: str | None = None,
        kv_type: str | None = None,
    ):
        """See `open_model`."""
        if not (isa is None or isinstance(isa, str)):
            raise UsageError(f"isa: got {isa!r:.80}, expected the name of an instruction set or None")
        if not (kv_type is None or kv_type in KV_TYPES):
            raise UsageError(f"kv_type: got {kv_type!r:.80}, expected one of {', '.join(KV_TYPES)} or None")
        self._options = (n_threads, use_mmap, isa, kv_type)
        threads = number_of_threads(n_threads)
        self._file = ModelFile(path, use_mmap)
        self.path = self._file.path
        self.hyperparameters = self._file.hyperparameters
        self.weight_type = self._file.weight_type
        self.group_size = self._file.group_size
        weights = Weights(self._file.sections["weights"], self._file.shape, isa, kv_type)
        self._runtime = _engine.Runtime(weights, threads)
        self._is_closed = False
        self.tokenizer = Tokenizer(self._file.vocabulary(), self.hyperparameters.n_vocab)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (os.path.abspath(self.path), *self._options)

    @property
    def n_threads(self) -> int:
        """The number of threads of a forward pass, including the caller's."""
        return self._runtime.n_threads

    @property
    def isa(self) -> str:
        """The instruction set that the kernels use."""
        return self._runtime.weights.isa

    @property
    def kv_type(self) -> str:
        """The type of the keys and values in the sequences' KV caches: "f16", "f32" or "int8"."""
        return self._runtime.weights.kv_type

    @property
    def metadata(self) -> Metadata:
        """The file's metadata (docs/format.md), a dict. Raises ModelFileError if it is damaged."""
        return self._file.metadata

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors, with name, shape, and length in bytes, in the order in which they are stored."""
        return self._file.tensors

    def tensor(self, name: str, rows: Iterable[int] | None = None) -> NDArray[np.float32]:
        """Return a tensor as the model uses it, dequantized: a new numpy array of f32.

        Args:
            name: one of `tensors`; a matrix is (n_out, n_in).
            rows: of a matrix; None for all.

        Raises:
            UsageError: there is no such tensor or row.
        """
        import numpy

        for one in self._file.tensors:
            if one.name == name:
                break
        else:
            raise UsageError(f"tensor {name!r:.80}: unknown (Model.tensors lists the names)")
        content = self._file.sections["weights"][one.offset : one.offset + one.length]
        if not one.is_matrix:
            if rows is not None:
                raise UsageError(f"tensor {name}: rows are those of a matrix, this is a vector or wpe")
            n_values = math.prod(one.shape)
            return numpy.frombuffer(content, numpy.float32, n_values).reshape(one.shape).copy()
        n_out, n_in = one.shape
        wanted = range(n_out) if rows is None else [whole_number("row", row, 0, n_out - 1) for row in rows]
        found = matrix_rows((content, n_out, n_in), self._file.shape, wanted)
        return numpy.frombuffer(bytearray(found), numpy.float32).reshape(len(wanted), n_in)

    @property
    def weights_size(self) -> int:
        """The bytes of weights, all of which are read for each token."""
        return len(self._file.sections["weights"])

    @property
    def weights_checksum(self) -> int:
        """The CRC32C of the weights, as stored in the file; `gpt2rt verify` compares it with the weights."""
        checksum: int = self._file.checksums["weights"]
        return checksum

    @property
    def checksums(self) -> dict[str, int]:
        """The CRC32C of each section, as stored in the file."""
        return dict(self._file.checksums)

    def damaged_sections(self) -> Iterator[tuple[str, int, int]]:
        """Read the whole file; yield (section, stored CRC32C, actual CRC32C) for each section where they differ."""
        return self._file.damaged_sections()

    @property
    def kv_cache_bytes_per_token(self) -> int:
        """The bytes that the keys and values of one token take in a sequence's KV cache, see `Sequence.nbytes`."""
        n_bytes: int = self._runtime.kv_cache_bytes_per_token
        return n_bytes

    def sequence(self) -> _engine.Sequence:
        """Return a new, empty sequence. Raises UsageError if the model is closed."""
        return _engine.Sequence(self)

    def engine(self) -> _engine.Engine:
        """Return a new engine, which advances many sequences of this model together."""
        return _engine.Engine(self)

    def generate(
        self,
        prompt: str | Iterable[int],
        *,
        max_tokens: int | None = None,
        stop: str | Iterable[str] = (),
        seed: int | None = None,
        logprobs: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        special: bool = False,
        lookup: bool | None = None,
        sampling: SamplingParams | None = None,
        **options: Unpack[SamplingKeywords],
    ) -> Generation:
        """Continue a text.

        Args:
            prompt: the text to continue, or its ids; empty for a new document.
            max_tokens: the maximum number of tokens to generate; None for as many as the context holds.
            stop: strings that end the text; they are not part of it.
            seed: of the random generator; None for one from the system, see `Generation.seed`.
            logprobs: how many of the most likely tokens to report at each position; 0 reports only the sampled token's
                log probability; see `Generation.logprobs` and `Generation.top_logprobs`.
            logit_bias: {id: number from -100 to 100}, added to the logits before everything else. Reported log
                probabilities are the model's own.
            special: encode the texts of special tokens in the prompt, such as `<|endoftext|>` or `<|user|>`, as those
                tokens; not for text that others have written.
            lookup: guess tokens from the text so far and check several at once (prompt lookup decoding); this does not
                change the text. None does so if it pays for this model.
            sampling: a `SamplingParams`; None for its defaults.
            options: override `sampling`: temperature, top_k, top_p, min_p, repetition_penalty, repeat_last_n,
                presence_penalty, frequency_penalty, no_repeat_ngram_size.

        Returns:
            A `Generation`: an iterator of pieces of text, each of whole characters. Its `text()` returns all the text.

        Raises:
            ContextFullError: the prompt has more tokens than the model has positions.
            UsageError: an argument is invalid.
        """
        if lookup is None:
            lookup = is_worth_it(self.weights_size)
        return Generation(
            self.sequence(),
            prompt_ids(self, prompt, special=special),
            sampling_with(sampling, options),
            max_tokens=max_tokens,
            stop=stop,
            seed=seed,
            logprobs=logprobs,
            logit_bias=logit_bias,
            lookup=lookup,
        )

    def generate_batch(
        self,
        prompts: Iterable[str | Iterable[int] | Mapping[str, Any]],
        *,
        max_tokens: int | None = None,
        stop: str | Iterable[str] = (),
        seed: int | None = None,
        logprobs: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        special: bool = False,
        batch_size: int = 16,
        sampling: SamplingParams | None = None,
        **options: Unpack[SamplingKeywords],
    ) -> BatchGeneration:
        """Continue several texts at once, several times faster than one after the other.

        Args:
            prompts: a list of prompts, each a text, its ids, or a dict with "prompt" and any of this method's other
                arguments except batch_size, which then apply to this prompt alone.
            batch_size: how many prompts run at a time.
            The others are those of `generate`.

        Returns:
            A `BatchGeneration`: an iterator of (index of the prompt, piece of text). The text of prompt i is that of
            `generate` with `seed + i`, unless its dict has its own seed.
        """
        from gpt2rt.batch import BatchGeneration, requests_of  # not needed before the first token

        defaults = {
            "max_tokens": max_tokens,
            "stop": stop,
            "logprobs": logprobs,
            "logit_bias": logit_bias,
            "special": special,
            "sampling": sampling_with(sampling, options),
        }
        return BatchGeneration(self, requests_of(self, prompts, seed, defaults), batch_size=batch_size)

    def score(self, text: str | Iterable[int], *, special: bool = False) -> list[float | None]:
        """Return the log probability (natural logarithm) of each token of a text, given all tokens before it.

        Args:
            text: a text, or its ids; at most as many tokens as the model has positions.
            special: as for `generate`.

        Returns:
            One float for each token; the first is None, as nothing is before it. Start the ids with
            `tokenizer.bos_token_id` to score the first token of a document.

        Raises:
            ContextFullError: the text has more tokens than the model has positions.
            VocabularyError: an id is out of range.
        """
        scores: list[float | None] = self.sequence().score(prompt_ids(self, text, "text", special=special))
        return scores

    def trace(
        self,
        text: str | Iterable[int],
        *,
        max_tokens: int = 0,
        seed: int | None = None,
        top: int = 10,
        ablate: Iterable[tuple[int, int | None] | int] = (),
        special: bool = False,
        progress: Callable[[int, int], object] | None = None,
        sampling: SamplingParams | None = None,
        **options: Unpack[SamplingKeywords],
    ) -> TextTrace:
        """Return what the model saw in a text: probabilities, attention, the residual stream, and a lens on each layer.

        The numbers are those of every other method, bit for bit. The attention takes 4 bytes for each head and pair of
        tokens: 2 MB for 60 tokens of GPT-2 124M, 600 MB for 1,024.

        Args:
            text: a text, or its ids; at least one token, and at most as many as the model has positions.
            max_tokens: the maximum number of tokens to sample after it, each with a record of how it was chosen.
            seed: of the random generator; None for one from the system. The sampled text is that of `generate`.
            top: how many of the most likely tokens to keep at each position, 1 to 32.
            ablate: parts of the model to leave out: (layer, head) sets a head's output to 0, and a layer alone, or
                (layer, None), skips all of the layer.
            special: as for `generate`.
            progress: called with the number of layers that are done, and of all.
            sampling, options: as for `generate`.

        Returns:
            A `TextTrace`.

        Raises:
            ContextFullError: the text has more tokens than the model has positions.
            UsageError: the text is empty, or an argument is invalid. VocabularyError: an id is out of range.
        """
        from gpt2rt.explain.trace import trace_text  # needs numpy

        return trace_text(
            self,
            text,
            max_tokens=max_tokens,
            seed=seed,
            sampling=sampling_with(sampling, options),
            top=top,
            ablate=ablate,
            special=special,
            progress=progress,
        )

    def chat(
        self, messages: Sequence[Mapping[str, str]], *, continue_final_message: bool = False, **options: Any
    ) -> Answer:
        """Answer the last message of a conversation.

        Args:
            messages: dicts {"role": "system" | "user" | "assistant", "content": text}; the last one is the user's. A
                system message may come first; it becomes the opening.
            continue_final_message: the last message is the assistant's; return the rest of it.
            options: as for `Conversation`.

        Returns:
            An `Answer`: an iterator of pieces of text.

        Raises:
            UsageError: the order of the messages or an argument is invalid.
            ContextFullError: the last message is too long.
        """
        from gpt2rt.chat import Conversation

        return Conversation.answer_to(self, messages, continue_final_message=continue_final_message, **options)

    def close(self) -> None:
        """Allow no new sequences. The file is unmapped when the model and its last sequence are gone."""
        self._is_closed = True

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        millions = self.hyperparameters.n_parameters / 1e6
        return f"<gpt2rt.Model {os.path.basename(self.path)}: {millions:.1f} M parameters, {self.weight_type}>"


def _reopen(path: str, n_threads: int | None, use_mmap: bool, isa: str | None, kv_type: str | None) -> Model:
    return Model(path, n_threads=n_threads, use_mmap=use_mmap, isa=isa, kv_type=kv_type)


def open_model(
    path: Path,
    *,
    n_threads: int | None = None,
    use_mmap: bool = True,
    isa: str | None = None,
    kv_type: str | None = None,
) -> Model:
    """Open a model file, in time that does not depend on its size.

    Args:
        path: a file written by `gpt2rt convert`.
        n_threads: threads of a forward pass, including the caller's; None for the environment variable
            GPT2RT_THREADS, or, without it, the smallest of CPU affinity, CPU quota and physical cores. If it is more
            than affinity and quota allow, a warning is issued and the allowed number is used.
        use_mmap: False reads the file into memory instead of mapping it.
        isa: the instruction set to use; None for the environment variable GPT2RT_ISA, or, without it, the best one
            available.
        kv_type: the type of keys and values in the KV cache; None for "f32" if the weights are f32, and "f16"
            otherwise. "int8" takes half the memory of "f16" and reads faster, which changes the logits a little.

    Raises:
        ModelFileError: the file is missing, damaged or truncated, or not a model file.
        UsageError: an argument is invalid.
    """
    if isinstance(path, str) and not os.path.exists(path):
        path = named_model(path) or path
    return Model(path, n_threads=n_threads, use_mmap=use_mmap, isa=isa, kv_type=kv_type)
