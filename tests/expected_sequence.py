"""The expected state of a sequence after any calls: a Python model of it, without a cache, for stateful tests."""

import itertools

from gpt2rt._engine import Engine
from gpt2rt.errors import CancelledError, ContextFullError, Gpt2rtError, UsageError


def fresh(sequence, ids=None, n_logits=1):
    """Return a fresh sequence that has evaluated the same tokens."""
    made = sequence.model.sequence()
    made.append(sequence.tokens if ids is None else ids, n_logits)
    return made


def assert_as_fresh(sequence):
    """Check that its logits equal those of a fresh sequence with the same tokens, bit for bit."""
    tokens = sequence.tokens
    assert len(sequence) == len(tokens)
    if not tokens:
        return
    expected = fresh(sequence, n_logits=max(1, sequence.n_logits))
    if sequence.n_logits:
        assert sequence.all_logits.tobytes() == expected.all_logits.tobytes()
    assert sequence.logits.tobytes() == expected.logits.tobytes()


class Expected:
    """A sequence and its expected state.

    Attributes:
        real: the `Sequence`.
        ids: the evaluated ids. pending: the pending ids.
        params, seed, history, exempt, stop, n_logprobs, bias: the arguments of `set_sampling`.
        samples: since the seed, everything that determines each sampled token, and what the event reported for it.
        newest: the tokens of the last step, which can be retracted.
        guesses: the guesses that the next step may check.
        is_cancelled: whether the next call stops at once.
    """

    def __init__(self, real):
        self.real = real
        self.ids, self.pending = [], []
        self.params = self.seed = self.n_logprobs = None
        self.history, self.exempt, self.stop, self.samples = [], [], [], []
        self.bias = {}
        self.newest, self.guesses = [], []
        self.is_cancelled = False

    def fork(self, length=None):
        other = Expected(self.real.fork(length))
        for name in ("ids", "pending", "history", "exempt", "stop", "samples"):
            setattr(other, name, list(getattr(self, name)))
        for name in ("params", "seed", "n_logprobs", "bias"):
            setattr(other, name, getattr(self, name))
        if length is not None:
            other.change(self.ids[:length])
        return other

    @property
    def room(self):
        return self.real.n_ctx - len(self.ids) - len(self.pending)

    @property
    def is_forbidden(self):
        """Return whether all tokens are forbidden."""
        return (
            self.params is not None
            and self.params.no_repeat_ngram_size == 1
            and len({*self.history} - {*self.exempt}) == self.real.model.hyperparameters.n_vocab
        )

    def change(self, ids, pending=()):
        """Record a change, after which nothing can be retracted and no guess is left."""
        self.ids, self.pending = list(ids), list(pending)
        self.newest, self.guesses = [], []

    def guesses_in_reach(self):
        """Return the guesses that the next step checks."""
        is_due = self.params is not None and len(self.pending) == 1
        return self.guesses[: max(0, self.room)] if is_due else []

    def sample(self, event):
        """Record the tokens of a step that sampled after all pending tokens were evaluated."""
        tokens, guesses = event.tokens, self.guesses_in_reach()
        assert tokens
        assert tokens[:-1] == guesses[: len(tokens) - 1]
        assert not {*tokens[:-1]} & {*self.stop}
        self.change(self.ids + self.pending)
        logprobs = event.logprobs or [None] * len(tokens)
        top = event.top_logprobs or [None] * len(tokens)
        for token, logprob, likely in zip(tokens, logprobs, top, strict=True):
            settings = (self.params, list(self.history), list(self.exempt), self.n_logprobs, self.bias)
            self.samples.append((self.ids + self.newest, settings, token, logprob, likely))
            self.newest.append(token)
            self.history.append(token)
        if len(tokens) <= len(guesses) and tokens[-1] == guesses[len(tokens) - 1]:
            assert tokens[-1] in self.stop or self.is_forbidden  # otherwise the next one should have been sampled too
        self.ids += tokens[:-1]
        self.pending = tokens[-1:]

    def retract(self, n):
        kept = self.newest[: len(self.newest) - n]
        if n:
            begin = len(self.ids) - len(self.newest) + 1
            self.ids = self.ids[: begin + max(0, len(kept) - 1)]
            self.pending = kept[-1:]
            del self.history[len(self.history) - n :], self.samples[len(self.samples) - n :]
        self.newest = kept

    def check(self):
        """Compare all readable state except the logits."""
        real = self.real
        assert real.tokens == self.ids
        assert real.pending == self.pending
        assert len(real) == len(self.ids)
        assert real.n_logits <= len(self.ids)
        assert (real.sampling, real.seed) == (self.params, self.seed)
        assert real.history == self.history

    def check_samples(self):
        """Check that a fresh sequence, stepped alone and without guesses, samples the same tokens."""
        if not self.samples:
            return
        alone, engine = self.real.model.sequence(), Engine(self.real.model)
        alone.set_sampling(None, seed=self.seed)
        for context, (params, history, exempt, n_logprobs, bias), token, logprob, likely in self.samples:
            alone.truncate(0)
            alone.push(context)
            alone.set_sampling(params, history=history, exempt=exempt, logprobs=n_logprobs, logit_bias=bias)
            event = next(filter(None, (engine.step([alone]) for _ in itertools.count())))[0]
            assert event.tokens == [token]
            assert (event.logprobs or [None]) == [logprob]
            assert (event.top_logprobs or [None]) == [likely]


class ExpectedEngine:
    """An engine, and the expected effect of its steps.

    Attributes:
        real: the `Engine`.
        is_cancelled: whether the next step stops at once.
    """

    MOST, MOST_MIXED = 256, 128  # rows of a pass, and of a pass with decoding sequences

    def __init__(self, model):
        self.real = Engine(model)
        self.is_cancelled = False

    def step(self, batch):
        """Step these `Expected` together, and compare the results."""
        try:
            events = {event.sequence: event for event in self.real.step([one.real for one in batch])}
        except CancelledError:
            assert self.is_cancelled
            self.is_cancelled = False
            return
        assert not self.is_cancelled
        decoded, read_again, prompts = 0, 0, []
        for one in batch:
            event = events.pop(one.real, None)
            problem = self._problem(one)
            if problem is not None:
                assert type(event.error) is problem, event
                assert event.tokens == []
                one.is_cancelled = False
                continue
            if len(one.pending) > 1:
                prompts.append((one, event))
                continue
            decoded += len(one.pending) + len(one.guesses_in_reach())
            read_again += not one.pending
            self._finish(one, event)
        assert not events
        self._check_prompts(prompts, decoded, read_again)

    @staticmethod
    def _problem(one):
        """Return the type of error that its event must have, or None."""
        if one.is_cancelled:
            return CancelledError
        if not one.ids and not one.pending:
            return UsageError
        return ContextFullError if one.room < 0 else None

    @staticmethod
    def _finish(one, event):
        """Check a sequence whose pending tokens were all evaluated."""
        if one.is_forbidden:
            assert type(event.error) is Gpt2rtError
            assert event.tokens == []
        elif one.params is not None:
            assert event.error is None
            one.sample(event)
        else:
            assert event is None
            if one.pending:
                one.change(one.ids + one.pending)

    def _check_prompts(self, prompts, decoded, read_again):
        """Check that prompts share the rows left over by decoding sequences and by last tokens that are read again."""
        waiting = sum(len(one.pending) for one, _ in prompts)
        evaluated = 0
        for one, event in prompts:
            n = len(one.real) - len(one.ids)
            if event is not None or n == len(one.pending):
                evaluated += len(one.pending)
                self._finish(one, event)
            elif n:
                evaluated += n
                ids = one.ids + one.pending
                one.change(ids[: len(one.ids) + n], ids[len(one.ids) + n :])
        most = self.MOST_MIXED if decoded else self.MOST
        least = self.MOST_MIXED if decoded or read_again else self.MOST
        assert min(waiting, least - decoded - read_again) <= evaluated <= min(waiting, most - decoded)
