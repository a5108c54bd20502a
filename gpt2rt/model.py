"""Model: a mapped file and the kernels over it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from gpt2rt._kernels import ThreadTeam, Weights
from gpt2rt._tokenizer import Tokenizer
from gpt2rt.errors import UsageError
from gpt2rt.generate import Generation
from gpt2rt.modelfile import WEIGHT_TYPES, Hyperparameters, ModelFile
from gpt2rt.sampling import SamplingParams
from gpt2rt.session import Session
from gpt2rt.threads import default_threads, most_threads

MAX_THREADS = 256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Unpack

    from gpt2rt.batch import BatchGeneration
    from gpt2rt.modelfile.reader import Metadata, Path
    from gpt2rt.sampling import SamplingKeywords


class Model:
    """A model that is ready to run. Immutable: any number of sessions and threads share it.

    Attributes:
        path: the file.
        hyperparameters: n_vocab, n_ctx, n_embd, n_head, n_layer.
        weight_type: "f32", "f16", "int8" or "int4".
        group_size: inputs that share a scale, 0 for float types.
        tokenizer: its `Tokenizer`.
    """

    hyperparameters: Hyperparameters

    def __init__(self, path: Path, *, threads: int | None = None, use_mmap: bool = True, isa: str | None = None):
        """See `open_model`."""
        if threads is None:
            threads = default_threads()
        if not 1 <= threads <= MAX_THREADS:
            raise UsageError(f"threads: got {threads}, expected 1 to {MAX_THREADS}")
        self._file = ModelFile(path, use_mmap)
        self.path = self._file.path
        self.hyperparameters = self._file.hyperparameters
        self.weight_type = self._file.weight_type
        self.group_size = self._file.group_size
        self._weights = Weights(
            self._file.sections["weights"],
            self.hyperparameters,
            WEIGHT_TYPES.index(self.weight_type),
            self.group_size,
            [tensor.offset for tensor in self._file.tensors],
            isa,
        )
        self._team = ThreadTeam(min(threads, most_threads()))
        self._is_closed = False
        self.tokenizer = Tokenizer(self._file.vocabulary(), self.hyperparameters.n_vocab)

    @property
    def threads(self) -> int:
        """Threads of a forward pass, the caller included."""
        return self._team.n_threads

    @property
    def isa(self) -> str:
        """The instruction set that the kernels use."""
        return self._weights.isa

    @property
    def metadata(self) -> Metadata:
        """What the file says of itself (docs/format.md). Raises ModelFileError where that is damaged."""
        return self._file.metadata

    @property
    def weights_size(self) -> int:
        """Bytes of weights that a token reads."""
        return len(self._file.sections["weights"])

    def session(self) -> Session:
        """A new, empty session. Raises UsageError where the model was closed."""
        if self._is_closed:
            raise UsageError(f"{self.path}: the model was closed (open it again)")
        return Session(self)

    def generate(
        self,
        prompt: str,
        *,
        max_tokens: int | None = None,
        stop: Iterable[str] = (),
        seed: int | None = None,
        lookup: bool | None = None,
        **sampling: Unpack[SamplingKeywords],
    ) -> Generation:
        """Continues a text: an iterator of pieces of text, each of whole characters.

        Args:
            prompt: the text to go on from; empty for a new document.
            max_tokens: at most so many tokens; None for as many as the context holds.
            stop: strings that end the text; they are not part of it.
            seed: of the random generator; drawn where it is None, see `Generation.seed`.
            lookup: guess tokens from the text so far and check them together; the text is the same without. None does
                so where it pays.
            sampling: as for `SamplingParams`.

        Raises:
            ContextFullError: the prompt has more tokens than the model has positions.
            UsageError: an argument.
        """
        tokens, params = self.tokenizer.encode(prompt), SamplingParams(**sampling)
        return Generation(self.session(), tokens, params, max_tokens=max_tokens, stop=stop, seed=seed, lookup=lookup)

    def generate_batch(
        self,
        prompts: Iterable[str],
        *,
        max_tokens: int | None = None,
        stop: Iterable[str] = (),
        seed: int | None = None,
        batch_size: int = 16,
        **sampling: Unpack[SamplingKeywords],
    ) -> BatchGeneration:
        """Continues several texts at once, several times faster than one after the other: a `BatchGeneration`.

        Args:
            prompts: texts.
            batch_size: how many run at a time. The others are those of `generate`.

        Returns:
            An iterator of (index of the prompt, piece of text). The text of prompt i is that of `generate` with
            `seed + i`.
        """
        from gpt2rt.batch import BatchGeneration  # not needed on the way to the first token

        tokens, params = [self.tokenizer.encode(prompt) for prompt in prompts], SamplingParams(**sampling)
        return BatchGeneration(self, tokens, params, max_tokens=max_tokens, stop=stop, seed=seed, batch_size=batch_size)

    def close(self) -> None:
        """Makes no new sessions from here on. The mapping ends when the model and its last session are gone."""
        self._is_closed = True

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        millions = self.hyperparameters.n_parameters / 1e6
        return f"<gpt2rt.Model {os.path.basename(self.path)}: {millions:.1f} M parameters, {self.weight_type}>"


def open_model(path: Path, *, threads: int | None = None, use_mmap: bool = True, isa: str | None = None) -> Model:
    """Opens a model file, in a time that does not depend on its size.

    Args:
        path: a file that `gpt2rt convert` wrote.
        threads: of a forward pass, the caller included, at most: never more than affinity and CPU quota allow. None
            for the least of these and the physical cores.
        use_mmap: False reads the file into memory, for file systems that map badly.
        isa: the instruction set to use; None for GPT2RT_ISA of the environment, else the best one here.

    Raises:
        ModelFileError: the file is none of ours, damaged or cut short.
        UsageError: threads or isa can't be used.
    """
    return Model(path, threads=threads, use_mmap=use_mmap, isa=isa)
