"""Session: the tokens of one sequence and what the network knows of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gpt2rt._kernels import RunState, accept_together
from gpt2rt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import numpy as np

    from gpt2rt.model import Model


class Session:
    """The tokens so far and their KV cache, over a model that any number of sessions share.

    The logits depend on the file and the tokens alone: not on how the tokens were split over calls, on rewinding,
    forking, threads or the processor. A session is used by one thread at a time.
    """

    def __init__(self, model: Model, *, _state: RunState | None = None, _tokens: Iterable[int] = ()):
        self.model = model
        self._state = _state or RunState(model._weights, model._team)
        self._tokens = list(_tokens)

    @property
    def tokens(self) -> list[int]:
        """The ids accepted so far, a copy."""
        return self._tokens[:]

    def __len__(self) -> int:
        """Number of tokens accepted so far."""
        return len(self._tokens)

    @property
    def n_ctx(self) -> int:
        """The most tokens that a session can hold: the model has no more positions."""
        n_ctx: int = self.model.hyperparameters.n_ctx
        return n_ctx

    def accept(self, tokens: Iterable[int], *, n_logits: int = 1) -> None:
        """Reads tokens, behind those that were accepted before; `logits` are then those behind the last one.

        Args:
            tokens: ids.
            n_logits: of how many of these tokens, the last ones, to keep the logits for `logits_back`.

        Raises:
            ContextFullError: more tokens than positions are left; nothing was accepted.
            VocabularyError: an id is out of range; nothing was accepted.
        """
        accept_all([self], [tokens], n_logits=n_logits)

    def rewind(self, n: int) -> None:
        """Forgets the last n tokens. Raises UsageError where there are fewer."""
        if not 0 <= n <= len(self):
            raise UsageError(f"rewind: got {n} tokens, the session has {len(self)}")
        self._state.rewind(len(self) - n)
        del self._tokens[len(self) - n :]

    def fork(self) -> Session:
        """An independent session with the same tokens; costs a copy of the KV cache."""
        return Session(self.model, _state=self._state.fork(), _tokens=self._tokens)

    @property
    def logits_view(self) -> bytes:
        """The logits behind the last token, f32 (n_vocab,), as bytes: for whoever does without numpy.

        Raises:
            UsageError: the session is empty.
        """
        if not self._tokens:
            raise UsageError("logits: the session is empty, accept tokens first")
        if not self._state.n_logits:  # after rewinding; reading the last token again gives the same bits
            last = self._tokens.pop()
            self._state.rewind(len(self))
            self.accept([last])
        return self._state.logits()

    def logits_back(self, n: int) -> bytes:
        """The logits behind the token that is n before the last one, as `logits_view`.

        Raises:
            UsageError: `accept` was not told to keep them, or they are gone since.
        """
        return self._state.logits(n)

    @property
    def logits(self) -> np.ndarray:
        """The logits behind the last token: a numpy array of f32 (n_vocab,), a copy. Raises as `logits_view`."""
        import numpy as np  # only who asks for arrays needs it

        return np.frombuffer(bytearray(self.logits_view), np.float32)


def accept_all(sessions: Sequence[Session], tokens: Sequence[Iterable[int]], *, n_logits: int = 1) -> None:
    """Reads tokens in several sessions of one model at once, faster than one after the other; the logits are the same.

    Args:
        sessions: distinct ones.
        tokens: ids for each.
        n_logits: as for `Session.accept`.

    Raises:
        ContextFullError, VocabularyError: as `Session.accept`; nothing was accepted by any.
    """
    ids = [[int(token) for token in sequence] for sequence in tokens]
    pairs = [pair for pair in zip(sessions, ids, strict=True) if pair[1]]
    if not pairs:
        return
    try:
        accept_together([session._state for session, _ in pairs], [sequence for _, sequence in pairs], n_logits)
    finally:  # Ctrl-C leaves whole passes accepted
        for session, sequence in pairs:
            session._tokens += sequence[: session._state.length - len(session)]
