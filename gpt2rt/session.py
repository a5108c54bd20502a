"""Session: the tokens of one sequence and what the network knows of them."""

from __future__ import annotations

from collections.abc import Iterable

from gpt2rt._kernels import RunState
from gpt2rt.errors import UsageError


class Session:
    """The tokens so far and their KV cache, over a model that any number of sessions share.

    The logits depend on the file and the tokens alone: not on how the tokens were split over calls, on rewinding,
    forking, threads or the processor. A session is used by one thread at a time.
    """

    def __init__(self, model, *, _state=None, _tokens=()):
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
        return self.model.hyperparameters.n_ctx

    def accept(self, tokens: Iterable[int]) -> None:
        """Reads tokens, behind those that were accepted before; `logits` are then those behind the last one.

        Args:
            tokens: ids.

        Raises:
            ContextFullError: more tokens than positions are left; nothing was accepted.
            VocabularyError: an id is out of range; nothing was accepted.
        """
        tokens = [int(token) for token in tokens]
        try:
            self._state.accept(tokens)
        finally:  # Ctrl-C leaves whole passes accepted
            self._tokens += tokens[: self._state.length - len(self._tokens)]

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
            last = self._tokens[-1]
            self._state.rewind(len(self) - 1)
            try:
                self._state.accept([last])
            except BaseException:
                del self._tokens[self._state.length :]
                raise
        return self._state.logits()

    @property
    def logits(self):
        """The logits behind the last token: a numpy array of f32 (n_vocab,), a copy. Raises as `logits_view`."""
        import numpy as np  # only who asks for arrays needs it

        return np.frombuffer(bytearray(self.logits_view), np.float32)
