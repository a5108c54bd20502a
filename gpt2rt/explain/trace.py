"""TextTrace: a text as a model saw it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpt2rt import _engine
from gpt2rt._sampler import log_probabilities
from gpt2rt.arguments import whole_number
from gpt2rt.errors import ContextFullError, UsageError
from gpt2rt.explain.contributions import Contributions, contributions_of
from gpt2rt.explain.parts import Part, checked_part, mask_of
from gpt2rt.explain.sizes import Stage, stages_of
from gpt2rt.explain.steps import Step, sample_steps
from gpt2rt.generate import prompt_ids
from gpt2rt.sampling import MAX_SEED, SamplingParams, new_seed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.model import Model

Progress = Callable[[int, int], object]
MOST_TOP = 32  # that the engine finds


@dataclass(frozen=True)
class Lens:
    """The logit lens: what the model would say after each token if it ended after each layer.

    Row 0 is the embedding, row i what follows layer i - 1; the last row is the model's own output, bit for bit. The
    target of a position is the token that follows; of the last one, the most likely token.

    Attributes:
        targets: i64 (n_tokens,).
        logprobs: f64 (n_layer + 1, n_tokens): of the target.
        ranks: i64 (n_layer + 1, n_tokens): of the target; 0 is the most likely token.
        top_ids: i64 (n_layer + 1, n_tokens, n_top). top_logprobs: f64, the same shape; descending.
    """

    targets: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    ranks: NDArray[np.int64]
    top_ids: NDArray[np.int64]
    top_logprobs: NDArray[np.float64]


@dataclass(frozen=True)
class TextTrace:
    """A text as a model saw it. `n_tokens` is the number of its tokens, sampled ones included.

    Attributes:
        model: the `Model`.
        ids: the tokens, a list. pieces: their bytes, a list.
        n_prompt: how many tokens were given; the others were sampled.
        logprobs: f64 (n_tokens,): the log probability (natural logarithm) of each token given those before it; NaN for
            the first.
        lens: the `Lens`.
        steps: a `Step` for each sampled token.
        seed: of the random generator, None if nothing was sampled.
        ablated: the parts that were left out, a list of (layer, head), or (layer, None) for a skipped layer.
    """

    model: Model
    ids: list[int]
    pieces: list[bytes]
    n_prompt: int
    logprobs: NDArray[np.float64]
    lens: Lens
    steps: list[Step] = field(default_factory=list)
    seed: int | None = None
    ablated: list[Part] = field(default_factory=list)
    _pass: _engine.Trace = field(default=None, repr=False)  # type: ignore[assignment]

    @property
    def n_tokens(self) -> int:
        """The number of tokens."""
        return len(self.ids)

    @property
    def text(self) -> str:
        """The text of all tokens."""
        return self.model.tokenizer.decode(self.ids)

    @property
    def hidden(self) -> NDArray[np.float32]:
        """The residual stream before each layer and after the last one: f32 (n_layer + 1, n_tokens, n_embd)."""
        return self._pass.hidden

    @property
    def middle(self) -> NDArray[np.float32]:
        """The residual stream between each layer's attention and its MLP: f32 (n_layer, n_tokens, n_embd)."""
        return self._pass.middle

    @property
    def heads(self) -> NDArray[np.float32]:
        """What each head puts out, before the matrix attn.c_proj: f32 (n_layer, n_tokens, n_head, head_dim)."""
        return self._pass.heads

    @property
    def attention(self) -> NDArray[np.float32]:
        """How much each token (row) attends to each token (column): f32 (n_layer, n_head, n_tokens, n_tokens).

        It is 0 for later tokens. Most heads attend to the first token when they find nothing: a sink, see `sinks`.
        """
        return self._pass.attention

    @property
    def sinks(self) -> NDArray[np.float64]:
        """The share of each head's attention that goes to the first token: f64 (n_layer, n_head).

        It is the mean over all tokens but the first, which has no other choice; NaN if there are none.
        """
        if self.n_tokens == 1:
            return np.full(self.attention.shape[:2], math.nan)
        share: NDArray[np.float64] = self.attention[:, :, 1:, 0].mean(-1, dtype=np.float64)
        return share

    @property
    def sizes(self) -> list[Stage]:
        """The stages of the forward pass with their parameters, bytes and operations."""
        return stages_of(self.model, self.n_tokens)

    def top(self, position: int) -> list[tuple[int, float]]:
        """Return the most likely tokens after a position: a list of (id, log probability), descending."""
        at = self.checked_position(position)
        return list(zip(self.lens.top_ids[-1, at].tolist(), self.lens.top_logprobs[-1, at].tolist(), strict=True))

    def contributions(self, position: int = -1, token: int | None = None, against: int | None = None) -> Contributions:
        """Return what each part of the model adds to the logit of a token after a position.

        Args:
            position: an index of `ids`. token: an id; None for the target of `lens`.
            against: an id whose logit is subtracted, which shows why one was preferred to the other; None for none.

        Raises:
            UsageError: there is no such position or token.
        """
        at = self.checked_position(position)
        wanted = [int(self.lens.targets[at]) if token is None else self.checked_token(token)]
        other = None if against is None else [self.checked_token(against)]
        return contributions_of(self.model, self._pass, [at], wanted, other)

    def ablation(self, parts: Iterable[Part | int], token: int | None = None) -> dict[Part, float]:
        """Return how the log probability of a token after the text changes if a part is left out, for each part.

        Args:
            parts: (layer, head) each, or a layer; one is left out at a time, with those of `ablated`.
            token: an id; None for the most likely token.

        Raises:
            UsageError: there is no such part or token.
        """
        wanted = int(self.lens.targets[-1]) if token is None else self.checked_token(token)
        shape = self.model.hyperparameters
        base, found = self._logprob_without(self.ablated, wanted), {}
        for part in [checked_part(one, shape) for one in parts]:
            found[part] = self._logprob_without([*self.ablated, part], wanted) - base
        return found

    def _logprob_without(self, parts: list[Part], token: int) -> float:
        mask = mask_of(parts, self.model.hyperparameters)
        _, logits = _engine.run_ablated(self.model, self.ids, mask, trace=False)
        return log_probabilities(logits.data, [token])[0]

    def checked_position(self, position: int) -> int:
        """Return an index from 0 on. Raises UsageError if there is no such token."""
        at = position + self.n_tokens if isinstance(position, int) and position < 0 else position
        if not (isinstance(at, int) and 0 <= at < self.n_tokens):
            raise UsageError(f"position {position!r:.40}: unknown, the text has tokens 0 to {self.n_tokens - 1}")
        return at

    def checked_token(self, token: int) -> int:
        """Return an id. Raises UsageError if it is out of range."""
        return whole_number("token", token, 0, self.model.hyperparameters.n_vocab - 1)


def trace_text(
    model: Model,
    text: str | Iterable[int],
    *,
    max_tokens: int = 0,
    seed: int | None = None,
    sampling: SamplingParams,
    top: int = 10,
    ablate: Iterable[Part | int] = (),
    special: bool = False,
    progress: Progress | None = None,
) -> TextTrace:
    """Return what the model saw in a text; `Model.trace` documents the arguments and errors."""
    shape = model.hyperparameters
    whole_number("max_tokens", max_tokens, 0)
    n_top = min(whole_number("top", top, 1, MOST_TOP), shape.n_vocab)
    ablated = [checked_part(part, shape) for part in ablate]
    if ablated and max_tokens:
        raise UsageError("ablate: a text can't be sampled without parts of the model (trace the sampled text)")
    ids = prompt_ids(model, text, "text", special=special)
    if not ids:
        raise UsageError("text: got an empty text, expected at least one token")
    if len(ids) > shape.n_ctx:
        raise ContextFullError(f"text: {len(ids)} tokens, the model has {shape.n_ctx} positions (shorten it)")
    n_prompt, steps = len(ids), []
    if max_tokens:
        seed = new_seed() if seed is None else whole_number("seed", seed, 0, MAX_SEED)
        steps = sample_steps(model, ids, max_tokens, sampling, seed, n_top)
        ids = [*ids, *(step.token for step in steps)][: shape.n_ctx]
    recorded, logits = _engine.run_ablated(model, ids, mask_of(ablated, shape))
    assert recorded is not None
    lens = _lens(model, recorded.hidden, [*ids[1:], int(np.argmax(logits))], n_top, progress)
    return TextTrace(
        model=model,
        ids=ids,
        pieces=[model.tokenizer.token_bytes(token) for token in ids],
        n_prompt=n_prompt,
        logprobs=np.concatenate([[math.nan], lens.logprobs[-1, :-1]]),
        lens=lens,
        steps=steps,
        seed=seed if max_tokens else None,
        ablated=ablated,
        _pass=recorded,
    )


def _lens(
    model: Model, hidden: NDArray[np.float32], targets: Sequence[int], n_top: int, progress: Progress | None
) -> Lens:
    """Return the lens of a residual stream (n_layer + 1, n_tokens, n_embd)."""
    found = []
    for done, rows in enumerate(hidden):
        if progress:
            progress(done, len(hidden))
        found.append(_engine.logit_lens(model, rows, targets, n_top))
    if progress:
        progress(len(hidden), len(hidden))
    tops = np.array([[row[2] for row in layer] for layer in found])  # (n_layer + 1, n_tokens, n_top, 2)
    return Lens(
        targets=np.array(targets),
        logprobs=np.array([[row[0] for row in layer] for layer in found]),
        ranks=np.array([[row[1] for row in layer] for layer in found]),
        top_ids=tops[..., 0].astype(np.int64),
        top_logprobs=tops[..., 1],
    )
