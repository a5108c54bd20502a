"""Model: a mapped file, its tokenizer, and the threads that run it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from gpt2rt import _engine
from gpt2rt._kernels import Weights
from gpt2rt._tokenizer import Tokenizer
from gpt2rt.arguments import whole_number
from gpt2rt.errors import UsageError
from gpt2rt.generate import Generation, prompt_ids
from gpt2rt.lookup import is_worth_it
from gpt2rt.modelfile import WEIGHT_TYPES, Hyperparameters, ModelFile
from gpt2rt.sampling import SamplingParams, sampling_with
from gpt2rt.threads import default_threads, most_threads

MAX_THREADS = 256
THREADS_VARIABLE = "GPT2RT_THREADS"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Unpack

    from gpt2rt.batch import BatchGeneration
    from gpt2rt.chat import Answer
    from gpt2rt.modelfile.reader import Metadata, Path
    from gpt2rt.sampling import SamplingKeywords


def number_of_threads(n_threads: int | None) -> int:
    """Return how many threads to run: what was asked for, else GPT2RT_THREADS, else `default_threads()`.

    Warns where that is more than this machine allows, and returns what it allows.

    Raises:
        UsageError: it is no number of threads.
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
    """A model that is ready to run. Immutable: any number of sequences and threads share it.

    A pickled model is its path and options: whoever unpickles it opens the file again.

    Attributes:
        path: the file.
        hyperparameters: n_vocab, n_ctx, n_embd, n_head, n_layer.
        weight_type: "f32", "f16", "int8" or "int4".
        group_size: inputs that share a scale, 0 for float types.
        tokenizer: its `Tokenizer`.
    """

    hyperparameters: Hyperparameters

    def __init__(self, path: Path, *, n_threads: int | None = None, use_mmap: bool = True, isa: str | None = None):
        """See `open_model`."""
        if not (isa is None or isinstance(isa, str)):
            raise UsageError(f"isa: got {isa!r:.80}, expected the name of an instruction set or None")
        self._options = (n_threads, use_mmap, isa)
        threads = number_of_threads(n_threads)
        self._file = ModelFile(path, use_mmap)
        self.path = self._file.path
        self.hyperparameters = self._file.hyperparameters
        self.weight_type = self._file.weight_type
        self.group_size = self._file.group_size
        weights = Weights(
            self._file.sections["weights"],
            self.hyperparameters,
            WEIGHT_TYPES.index(self.weight_type),
            self.group_size,
            [tensor.offset for tensor in self._file.tensors],
            isa,
        )
        self._runtime = _engine.Runtime(weights, threads)
        self._is_closed = False
        self.tokenizer = Tokenizer(self._file.vocabulary(), self.hyperparameters.n_vocab)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (os.path.abspath(self.path), *self._options)

    @property
    def n_threads(self) -> int:
        """Threads of a forward pass, the caller included."""
        return self._runtime.n_threads

    @property
    def isa(self) -> str:
        """The instruction set that the kernels use."""
        return self._runtime.weights.isa

    @property
    def metadata(self) -> Metadata:
        """What the file says of itself (docs/format.md). Raises ModelFileError where that is damaged."""
        return self._file.metadata

    @property
    def weights_size(self) -> int:
        """Bytes of weights that a token reads."""
        return len(self._file.sections["weights"])

    def sequence(self) -> _engine.Sequence:
        """Return a new, empty sequence. Raises UsageError where the model was closed."""
        return _engine.Sequence(self)

    def engine(self) -> _engine.Engine:
        """Return a new engine, which moves many sequences of this model on together."""
        return _engine.Engine(self)

    def generate(
        self,
        prompt: str | Iterable[int],
        *,
        max_tokens: int | None = None,
        stop: str | Iterable[str] = (),
        seed: int | None = None,
        logprobs: int | None = None,
        lookup: bool | None = None,
        sampling: SamplingParams | None = None,
        **options: Unpack[SamplingKeywords],
    ) -> Generation:
        """Continue a text: an iterator of pieces of text, each of whole characters; its `text()` is the whole text.

        Args:
            prompt: the text to continue, or its ids; empty for a new document.
            max_tokens: at most so many tokens; None for as many as the context holds.
            stop: strings that end the text; they are not part of it.
            seed: of the random generator; None for one from the system, see `Generation.seed`.
            logprobs: how many of the most likely tokens to report for each one, 0 for the sampled one's log probability
                alone; see `Generation.logprobs` and `Generation.top_logprobs`.
            lookup: guess tokens from the text so far and check them together (prompt lookup decoding); the text is the
                same without. None does so where it pays.
            sampling: a `SamplingParams`; None for its defaults.
            options: change what `sampling` says: temperature, top_k, top_p, min_p, repetition_penalty, repeat_last_n,
                no_repeat_ngram_size.

        Raises:
            ContextFullError: the prompt has more tokens than the model has positions.
            UsageError: an argument.
        """
        if lookup is None:
            lookup = is_worth_it(self.weights_size)
        return Generation(
            self.sequence(),
            prompt_ids(self, prompt),
            sampling_with(sampling, options),
            max_tokens=max_tokens,
            stop=stop,
            seed=seed,
            logprobs=logprobs,
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
        batch_size: int = 16,
        sampling: SamplingParams | None = None,
        **options: Unpack[SamplingKeywords],
    ) -> BatchGeneration:
        """Continue several texts at once, several times faster than one after the other: a `BatchGeneration`.

        Args:
            prompts: for each a text, its ids, or a dict with "prompt" and any of this method's other arguments but
                batch_size, for this prompt alone.
            batch_size: how many run at a time.
            The others are those of `generate`.

        Returns:
            An iterator of (index of the prompt, piece of text). The text of prompt i is that of `generate` with
            `seed + i`, unless its dict has a seed of its own.
        """
        from gpt2rt.batch import BatchGeneration, requests_of  # not needed on the way to the first token

        defaults = {
            "max_tokens": max_tokens,
            "stop": stop,
            "logprobs": logprobs,
            "sampling": sampling_with(sampling, options),
        }
        return BatchGeneration(self, requests_of(self, prompts, seed, defaults), batch_size=batch_size)

    def score(self, text: str | Iterable[int]) -> list[float | None]:
        """Return the log probability (natural logarithm) of each token of a text after all tokens before it.

        Args:
            text: a text, or its ids; at most as many as the model has positions.

        Returns:
            One for each token; the first is None: nothing is before it. Begin with `tokenizer.end_of_text` to score the
            first token of a document.

        Raises:
            ContextFullError: it has more tokens than the model has positions. VocabularyError: an id is out of range.
        """
        scores: list[float | None] = self.sequence().score(prompt_ids(self, text, "text"))
        return scores

    def chat(self, messages: Sequence[Mapping[str, str]], **options: Any) -> Answer:
        """Answer a conversation that is given as a whole: an iterator of pieces of text, see `Answer`.

        Args:
            messages: {"role": "system" | "user" | "assistant", "content": text} each, the last one a user's; a system
                message may come first, and becomes the opening.
            options: as for `Conversation`.

        Raises:
            UsageError: messages in another order, or an argument. ContextFullError: the last message is too long.
        """
        from gpt2rt.chat import Conversation

        return Conversation.answer_to(self, messages, **options)

    def close(self) -> None:
        """Make no new sequences from here on. The mapping ends when the model and its last sequence are gone."""
        self._is_closed = True

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        millions = self.hyperparameters.n_parameters / 1e6
        return f"<gpt2rt.Model {os.path.basename(self.path)}: {millions:.1f} M parameters, {self.weight_type}>"


def _reopen(path: str, n_threads: int | None, use_mmap: bool, isa: str | None) -> Model:
    return Model(path, n_threads=n_threads, use_mmap=use_mmap, isa=isa)


def open_model(path: Path, *, n_threads: int | None = None, use_mmap: bool = True, isa: str | None = None) -> Model:
    """Open a model file, in a time that does not depend on its size.

    Args:
        path: a file that `gpt2rt convert` wrote.
        n_threads: of a forward pass, the caller included; None for GPT2RT_THREADS of the environment, else for the
            least of CPU affinity, CPU quota and physical cores. More than affinity and quota allow is reported in a
            warning, and as many as they allow are used.
        use_mmap: False reads the file into memory, for file systems that map badly.
        isa: the instruction set to use; None for GPT2RT_ISA of the environment, else the best one here.

    Raises:
        ModelFileError: the file is no model file, damaged or cut short.
        UsageError: n_threads or isa can't be used.
    """
    return Model(path, n_threads=n_threads, use_mmap=use_mmap, isa=isa)
