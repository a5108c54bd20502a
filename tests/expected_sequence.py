"""The expected state of a sequence after any calls: a Python model of it, without a cache, for stateful tests."""

import itertools

from gpt2rt._engine import Engine
from gpt2rt._sampler import most_likely
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


def assert_scores_of_fresh(sequence):
    """Check that its recorded log probabilities equal those computed from the logits of a fresh sequence."""
    tokens = sequence.tokens
    logits = fresh(sequence, n_logits=len(tokens)).all_logits
    expected = sequence.model.sequence().score(tokens)
    for i, (logprob, top) in enumerate(zip(sequence.prompt_logprobs, sequence.prompt_top_logprobs, strict=True)):
        assert logprob in (None, expected[i])
        assert top is None or top == most_likely(logits[i - 1], len(top))
        assert top is None or dict(top).get(tokens[i], logprob) == logprob


class Expected:
    """A sequence and its expected state.

    Attributes:
        real: the `Sequence`.
        ids: the evaluated ids. pending: the pending ids.
        params, seed, history, exempt, stop, n_logprobs, bias, n_prompt_logprobs: the arguments of `set_sampling`.
        recorded: for the first ids, perhaps with a pending one, how many of the most likely tokens were recorded, or
            None.
        samples: since the seed, everything that determines each sampled token, and what the event reported for it.
        newest: the tokens of the last step, which can be retracted.
        guesses: the guesses that the next step may check.
        is_cancelled: whether the next call stops at once.
    """

    def __init__(self, real):
        self.real = real
        self.ids, self.pending = [], []
        self.params = self.seed = self.n_logprobs = self.n_prompt_logprobs = None
        self.recorded = []
        self.history, self.exempt, self.stop, self.samples = [], [], [], []
        self.bias = {}
        self.newest, self.guesses = [], []
        self.is_cancelled = False

    def fork(self, length=None):
        other = Expected(self.real.fork(length))
        for name in ("ids", "pending", "history", "exempt", "stop", "samples", "recorded"):
            setattr(other, name, list(getattr(self, name)))
        for name in ("params", "seed", "n_logprobs", "bias", "n_prompt_logprobs"):
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
        del self.recorded[len(self.ids) + len(self.pending) :]

    @property
    def evaluates_again(self):
        """Return whether a step evaluates the last token again, to score the pending one after it."""
        is_recorded = len(self.recorded) > len(self.ids)
        return self.n_prompt_logprobs is not None and bool(self.ids and self.pending) and not is_recorded

    def record_from(self, n_prompt_logprobs):
        """Record this many of the most likely tokens from now on, also for a pending token that has fewer."""
        self.n_prompt_logprobs = n_prompt_logprobs
        n, newest = len(self.ids), self.recorded[len(self.ids) :]
        if n_prompt_logprobs is not None and newest and (newest[0] is None or newest[0] < n_prompt_logprobs):
            del self.recorded[n:]

    def record(self, begin):
        """After a step that evaluated tokens, or sampled, from position `begin` on."""
        if self.n_prompt_logprobs is not None:
            for i in range(len(self.recorded), len(self.ids) + bool(self.pending)):
                self.recorded.append(None if i < max(1, begin) else self.n_prompt_logprobs)

    def guesses_in_reach(self):
        """Return the guesses that the next step checks."""
        is_due = self.params is not None and len(self.pending) == 1 and not self.evaluates_again
        return self.guesses[: max(0, self.room)] if is_due else []

    def sample(self, event):
        """Record the tokens of a step that sampled after all pending tokens were evaluated."""
        tokens, guesses, begin = event.tokens, self.guesses_in_reach(), len(self.ids)
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
        self.record(begin)

    def retract(self, n):
        kept = self.newest[: len(self.newest) - n]
        if n:
            begin = len(self.ids) - len(self.newest) + 1
            self.ids = self.ids[: begin + max(0, len(kept) - 1)]
            self.pending = kept[-1:]
            del self.history[len(self.history) - n :], self.samples[len(self.samples) - n :]
            del self.recorded[len(self.ids) + len(self.pending) :]
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
        recorded = [*self.recorded, *[None] * len(self.ids)][: len(self.ids)]
        assert [logprob is not None for logprob in real.prompt_logprobs] == [n is not None for n in recorded]
        assert [top and len(top) for top in real.prompt_top_logprobs] == [n or None for n in recorded]

    def check_scores(self):
        """Check that all recorded log probabilities are those of a fresh sequence."""
        if not self.ids:
            return
        assert_scores_of_fresh(self.real)

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
    MOST_SCORED = 64  # rows of prompts whose log probabilities are recorded

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
            if len(one.pending) + one.evaluates_again > 1:
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
                begin = len(one.ids)
                one.change(one.ids + one.pending)
                one.record(begin)

    def _check_prompts(self, prompts, decoded, read_again):
        """Check that prompts share the rows left over by decoding sequences and by last tokens that are read again."""
        waiting, evaluated, again = [0, 0], [0, 0], 0  # rows of prompts that are not scored, and of those that are
        for one, event in prompts:
            is_scored, extra, begin = one.n_prompt_logprobs is not None, one.evaluates_again, len(one.ids)
            waiting[is_scored] += len(one.pending) + extra
            again += extra
            n = len(one.real) - len(one.ids)
            if event is not None or n == len(one.pending):
                evaluated[is_scored] += len(one.pending) + extra
                self._finish(one, event)
            elif n:
                evaluated[is_scored] += n + extra
                ids = one.ids + one.pending
                one.change(ids[: len(one.ids) + n], ids[len(one.ids) + n :])
                one.record(begin)
        assert evaluated[True] <= self.MOST_SCORED
        wanted = waiting[False] + min(waiting[True], self.MOST_SCORED)
        most = self.MOST_MIXED if decoded else self.MOST
        least = self.MOST_MIXED if decoded or read_again else self.MOST
        unused = 1 if again else 0  # one row is no use to a prompt whose last token is evaluated again
        assert min(wanted, least - decoded - read_again) - unused <= sum(evaluated) <= min(wanted, most - decoded)
