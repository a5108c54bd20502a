"""After any interleaving of calls, every sequence equals a fresh one with the same tokens, seed and history."""

import numpy as np
import pytest
from expected_sequence import Expected, ExpectedEngine, assert_as_fresh, fresh
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from random_models import random_tensors, write_model

import gpt2rt
from gpt2rt._engine import Engine
from gpt2rt.errors import CancelledError, ContextFullError, Gpt2rtError, UsageError
from gpt2rt.modelfile import Hyperparameters

N_VOCAB = 260
SHAPES = {  # {n_ctx: ...}: short contexts fill up, long ones take several passes
    "f32": Hyperparameters(n_vocab=N_VOCAB, n_ctx=40, n_embd=64, n_head=2, n_layer=2),
    "int8": Hyperparameters(n_vocab=N_VOCAB, n_ctx=300, n_embd=64, n_head=4, n_layer=2),
}
MOST_SEQUENCES = 5

which = st.integers(0, MOST_SEQUENCES - 1)
ids = st.one_of(
    st.lists(st.integers(0, N_VOCAB - 1), max_size=4),
    st.builds(lambda a, b, n: [(a * i + b) % N_VOCAB for i in range(n)], which, which, st.integers(0, 300)),
)
sampling_params = st.builds(
    gpt2rt.SamplingParams,
    temperature=st.sampled_from([0.0, 0.0, 0.7, 3.0]),
    top_k=st.sampled_from([0, 2, 40]),
    top_p=st.sampled_from([1.0, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.0, -0.7]),
    no_repeat_ngram_size=st.sampled_from([0, 0, 0, 2]),
)
FORBID_REPETITION = gpt2rt.SamplingParams(no_repeat_ngram_size=1)

WRONG_CALLS = [  # (method, arguments, keywords)
    ("append", ["text"], {}),
    ("append", [5], {}),
    ("append", [[1, 2.0]], {}),
    ("append", [[1, True]], {}),
    ("append", [[1, N_VOCAB]], {}),
    ("append", [[1, -1]], {}),
    ("append", [[1, 1 << 80]], {}),
    ("append", [[1], -1], {}),
    ("append", [[1], "1"], {}),
    ("append", [[1] * 1000], {"trace": True}),
    ("push", [None], {}),
    ("push", [[N_VOCAB]], {}),
    ("push", [[0] * 1000], {}),
    ("score", [[-1]], {}),
    ("score", [b"ab"], {}),
    ("truncate", [-1], {}),
    ("truncate", [1000], {}),
    ("truncate", ["1"], {}),
    ("fork", [1000], {}),
    ("fork", ["1"], {}),
    ("guess", [[1] * 8], {}),
    ("guess", [[N_VOCAB]], {}),
    ("retract", [9], {}),
    ("retract", [-1], {}),
    ("set_sampling", [None], {"seed": -1}),
    ("set_sampling", [None], {"seed": 1 << 64}),
    ("set_sampling", [None], {"history": [N_VOCAB]}),
    ("set_sampling", [None], {"history": "text"}),
    ("set_sampling", [None], {"exempt": [1, "a"]}),
    ("set_sampling", [None], {"exempt": 5}),
    ("set_sampling", [None], {"exempt": [[1]]}),
    ("set_sampling", [None], {"stop_tokens": range(17)}),
    ("set_sampling", [None], {"logprobs": 33}),
    ("set_sampling", [None], {"prompt_logprobs": 33}),
    ("set_sampling", [None], {"prompt_logprobs": True}),
    ("set_sampling", [None], {"logit_bias": {N_VOCAB: 1.0}}),
    ("set_sampling", [None], {"logit_bias": {1: 101}, "history": [1], "exempt": [2]}),
    ("set_sampling", ["warm"], {"history": [1], "seed": 5}),
    ("set_sampling", [{"temperature": 1.0}], {}),
]


@pytest.fixture(scope="module", params=SHAPES)
def model(request, tmp_path_factory):
    """A random model."""
    shape = SHAPES[request.param]
    path = tmp_path_factory.mktemp("model") / "random.bin"
    write_model(path, shape, random_tensors(shape, seed=3), request.param)
    return gpt2rt.open_model(path, n_threads=1)


class Interleaving(RuleBasedStateMachine):
    """Calls on several sequences of a model, and on an engine that steps any of them."""

    model = None  # set by the subclass that a test makes

    @initialize()
    def begin(self):
        self.engine = ExpectedEngine(self.model)
        self.all = []
        for seed in range(2):
            self.new()
            self.push(seed, [1, 2, 3])
            self.set_sampling(seed, gpt2rt.SamplingParams(), seed, None, None, None, 1, None, 2)

    def one(self, i):
        return self.all[i % len(self.all)]

    def evaluates(self, one, tokens, call):
        """Call a method that evaluates all pending tokens and these; return its result, or None if it must refuse."""
        if len(tokens) > one.room:
            with pytest.raises(ContextFullError):
                call()
            return None
        if one.is_cancelled and one.pending + tokens:
            with pytest.raises(CancelledError):
                call()
            one.is_cancelled = False
            return None
        result = call()
        if one.pending + tokens:
            one.change(one.ids + one.pending + tokens)
        return result

    @rule()
    def new(self):
        if len(self.all) < MOST_SEQUENCES:
            self.all.append(Expected(self.model.sequence()))

    @rule(i=which, dropped=st.sampled_from([None, None, 0, 1, 3, 1000]))
    def fork(self, i, dropped):
        one = self.one(i)
        fork = one.fork(None if dropped is None else max(0, len(one.ids) - dropped))
        if len(self.all) < MOST_SEQUENCES:
            self.all.append(fork)
        else:
            self.all[i] = fork

    @rule(i=which, tokens=ids, n_logits=st.sampled_from([0, 1, 1, 3, 1000]), trace=st.booleans())
    def append(self, i, tokens, n_logits, trace):
        one = self.one(i)
        n = len(one.pending) + len(tokens)
        result = self.evaluates(one, tokens, lambda: one.real.append(tokens, n_logits, trace=trace))
        if result is not None:
            h = self.model.hyperparameters
            assert result.hidden.shape == (h.n_layer + 1, n, h.n_embd)
            assert result.attention.shape == (h.n_layer, h.n_head, n, len(one.ids))
        if len(one.ids) and n and n_logits and result is not None:
            assert one.real.n_logits == min(n, n_logits)

    @rule(i=which, tokens=ids)
    def score(self, i, tokens):
        one = self.one(i)
        before = one.ids + one.pending
        if not tokens and one.room >= 0:
            assert one.real.score([]) == []  # evaluates nothing
            return
        scores = self.evaluates(one, tokens, lambda: one.real.score(tokens))
        if scores is not None:
            assert scores == self.model.sequence().score(before + tokens)[len(before) :]

    @rule(i=which, tokens=ids)
    def push(self, i, tokens):
        one = self.one(i)
        if len(tokens) > one.room:
            with pytest.raises(ContextFullError):
                one.real.push(tokens)
            return
        one.real.push(tokens)
        one.change(one.ids, one.pending + tokens)

    @rule(i=which, left=st.integers(0, 3), params=st.none() | sampling_params)
    def fill(self, i, left, params):
        """Leave a few positions, and decode until the context is full."""
        self.set_sampling(i, params, None, None, None, None, None, None, self.one(i).n_prompt_logprobs)
        self.push(i, [(3 * at) % N_VOCAB for at in range(self.one(i).room - left)])
        for _ in range(left + 3):
            self.guess(i, None)
            self.engine.step([self.one(i)])
            self.one(i).check()

    @rule(i=which, dropped=st.sampled_from([0, 1, 2, 3, 17, 1000]))
    def truncate(self, i, dropped):
        one = self.one(i)
        length = max(0, len(one.ids) - dropped)
        one.real.truncate(length)
        one.change(one.ids[:length])

    @rule(
        i=which,
        params=st.none() | sampling_params,
        seed=st.none() | st.integers(0, 9),
        history=st.none() | st.lists(st.integers(0, N_VOCAB - 1), max_size=5),
        exempt=st.none() | st.lists(st.integers(0, N_VOCAB - 1), max_size=3),
        stop=st.none() | st.lists(st.integers(0, N_VOCAB - 1), max_size=16),
        logprobs=st.sampled_from([None, None, 0, 3]),
        bias=st.none() | st.dictionaries(st.integers(0, N_VOCAB - 1), st.floats(-100, 100, width=32), max_size=3),
        prompt_logprobs=st.sampled_from([None, None, 0, 3]),
    )
    def set_sampling(self, i, params, seed, history, exempt, stop, logprobs, bias, prompt_logprobs):
        one = self.one(i)
        one.real.set_sampling(
            params,
            seed=seed,
            history=history,
            exempt=exempt,
            stop_tokens=stop,
            logprobs=logprobs,
            logit_bias=bias,
            prompt_logprobs=prompt_logprobs,
        )
        one.record_from(prompt_logprobs)
        if seed is not None or one.seed is None:
            one.samples = []
            one.seed = one.real.seed if seed is None else seed
        one.params, one.n_logprobs = params, logprobs
        one.history = one.history if history is None else list(history)
        one.exempt = one.exempt if exempt is None else list(exempt)
        one.stop = one.stop if stop is None else list(stop)
        one.bias = one.bias if bias is None else bias
        one.newest, one.guesses = [], []

    @rule(i=which, n_left=st.sampled_from([0, 1]))
    def forbid_all_but(self, i, n_left):
        """Forbid all tokens except n_left: none in the history may be sampled again."""
        one = self.one(i)
        history = list(range(N_VOCAB - n_left))
        one.real.set_sampling(FORBID_REPETITION, history=history, exempt=[], prompt_logprobs=one.n_prompt_logprobs)
        if one.seed is None:
            one.seed = one.real.seed
        one.params, one.n_logprobs, one.history, one.exempt = FORBID_REPETITION, None, history, []
        one.newest, one.guesses = [], []

    def continuation(self, one):
        """Return the next ids of greedy decoding, at most as many as can be guessed."""
        context, found = one.ids + one.pending, []
        if context and one.room > 0:
            ahead = fresh(one.real, context)
            while len(found) < min(7, one.room):
                found.append(int(ahead.logits.argmax()))
                ahead.append(found[-1:])
        return found

    @rule(i=which, wrong=st.sampled_from([None, 0, 2]))
    def guess(self, i, wrong):
        """Guess the next tokens of greedy decoding, one of them wrong."""
        one = self.one(i)
        guesses = [5 if at == wrong else token for at, token in enumerate(self.continuation(one))]
        one.real.guess(guesses)
        one.guesses = guesses

    @rule(i=which)
    def guess_what_makes_no_sense(self, i):
        one = self.one(i)
        one.real.guess(range(7))
        one.guesses = list(range(7))

    @rule(chosen=st.lists(which, unique=True, max_size=MOST_SEQUENCES), times=st.integers(1, 3))
    def step(self, chosen, times):
        batch = [self.all[i] for i in chosen if i < len(self.all)]
        for _ in range(times):
            self.engine.step(batch)

    @rule(
        i=which,
        params=st.none() | sampling_params,
        stop=st.none() | st.integers(0, 3),
        wrong=st.sampled_from([None, 1, 3]),
        n=st.integers(0, 5),
        m=st.integers(0, 2),
    )
    def decode_ahead(self, i, params, stop, wrong, n, m):
        """Step with guesses, perhaps with a stop token among them; retract some of the sampled tokens, in two parts."""
        if params is not None:
            stops = None if stop is None else self.continuation(self.one(i))[stop : stop + 1]
            self.set_sampling(i, params, None, None, None, stops, None, None, self.one(i).n_prompt_logprobs)
        self.guess(i, wrong)
        self.engine.step([self.one(i)])
        self.retract(i, n)
        self.one(i).check()
        self.retract(i, m)

    @rule(i=which, n=st.integers(0, 2))
    def retract(self, i, n):
        one = self.one(i)
        with pytest.raises(UsageError):
            one.real.retract(len(one.newest) + 1)
        n = min(n, len(one.newest))
        one.real.retract(n)
        one.retract(n)

    @rule(i=which)
    def cancel(self, i):
        one = self.one(i)
        one.real.cancel()
        one.is_cancelled = True

    @rule()
    def cancel_the_engine(self):
        self.engine.real.cancel()
        self.engine.is_cancelled = True

    @rule(i=which, wrong=st.sampled_from(WRONG_CALLS))
    def wrong_call(self, i, wrong):
        method, arguments, keywords = wrong
        with pytest.raises(Gpt2rtError):
            getattr(self.one(i).real, method)(*arguments, **keywords)

    @rule(i=which)
    def wrong_step(self, i):
        real = self.one(i).real
        other = gpt2rt.open_model(self.model.path, n_threads=1).sequence()
        for batch in ([real, real], [real, None], [real, other]):
            with pytest.raises(UsageError):
                self.engine.real.step(batch)

    @rule(i=which)
    def read(self, i):
        one = self.one(i)
        assert_as_fresh(one.real)
        one.check_samples()
        one.check_scores()

    @invariant()
    def all_are_as_expected(self):
        for one in getattr(self, "all", []):
            one.check()

    def teardown(self):
        for one in getattr(self, "all", []):
            assert_as_fresh(one.real)
            one.check_samples()
            one.check_scores()


@pytest.mark.parametrize("n_decoding", [130, 300])
def test_no_sequence_waits_forever_in_a_large_batch(model, n_decoding):
    engine, decoding = Engine(model), []
    for seed in range(n_decoding):
        sequence = model.sequence()
        sequence.push([seed % N_VOCAB])
        sequence.set_sampling(gpt2rt.SamplingParams(), seed=seed)
        decoding.append(sequence)
    prompts = [model.sequence() for _ in range(3)]
    for prompt in prompts:
        prompt.push(range(35))
    for _ in range(6):
        engine.step(prompts + decoding)
    assert [len(prompt) for prompt in prompts] == [35] * 3
    steps = [len(sequence) for sequence in decoding]
    assert min(steps) >= 4
    assert max(steps) - min(steps) <= 1
    for sequence in (*prompts, decoding[0], decoding[-1]):
        assert_as_fresh(sequence)


@pytest.fixture(scope="module")
def damaged_model(tmp_path_factory):
    """A model that computes NaN from position 20 on."""
    tensors = random_tensors(SHAPES["f32"])
    tensors["wpe"][20] = np.nan
    path = tmp_path_factory.mktemp("model") / "damaged.bin"
    return gpt2rt.open_model(write_model(path, SHAPES["f32"], tensors), n_threads=1)


def test_truncate_removes_values_that_are_not_finite(damaged_model):
    sequence = damaged_model.sequence()
    sequence.append(range(30))
    assert np.isnan(sequence.logits).all()
    sequence.truncate(18)
    assert np.isfinite(sequence.logits).all()
    assert_as_fresh(sequence)
    sequence.append([7])
    assert_as_fresh(sequence)
    assert_as_fresh(sequence.fork())


def test_a_sequence_that_cannot_sample_changes_neither_itself_nor_others(damaged_model):
    damaged, other = (Expected(damaged_model.sequence()) for _ in range(2))
    engine = Engine(damaged_model)
    for one, n in ((damaged, 18), (other, 3)):
        one.real.push(range(n))
        one.change([], range(n))
        one.real.set_sampling(FORBID_REPETITION, seed=1)
        one.params, one.seed = FORBID_REPETITION, 1
    for _ in range(6):
        for event in engine.step([damaged.real, other.real]):
            if event.error is None:
                {damaged.real: damaged, other.real: other}[event.sequence].sample(event)
            else:
                assert event.sequence is damaged.real
                assert "logits are not finite" in str(event.error)
        damaged.check()
        other.check()
    assert (len(damaged.ids), len(damaged.pending)) == (20, 1)
    assert len(other.ids) == 8
    for one in (damaged, other):
        assert_as_fresh(one.real)
        one.check_samples()


def run(model, examples, steps):
    machine = type("Interleaving", (Interleaving,), {"model": model})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_interleaving_of_calls_leaves_sequences_like_fresh_ones(model):
    run(model, examples=100, steps=40)


@pytest.mark.slow
def test_many_interleavings_of_calls_leave_sequences_like_fresh_ones(model):
    run(model, examples=1000, steps=60)
