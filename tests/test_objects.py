"""No Python object crashes the process: those that were not constructed, those that lie, and those that call back."""

import pathlib
import subprocess
import sys

import pytest
from random_models import random_tensors, write_model
from token_tables import tokenizer_with

import gpt2rt
from gpt2rt import _engine, _sampler, _tokenizer
from gpt2rt.errors import Gpt2rtError, UsageError, VocabularyError
from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=257, n_ctx=64, n_embd=16, n_head=2, n_layer=1)
PROGRAM = pathlib.Path(__file__).with_name("hostile_calls.py")


class LyingInt(int):
    """Is within any range."""

    def __le__(self, _):
        return True

    __lt__ = __ge__ = __gt__ = __le__


class LyingText(str):
    """Seems short."""

    __slots__ = ()

    def __len__(self):
        return 3


class LyingFloat(float):
    def __le__(self, _):
        return True

    __ge__ = __le__


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "random.bin", SHAPE, random_tensors(SHAPE))


@pytest.fixture(scope="module")
def model(path):
    return gpt2rt.open_model(path, n_threads=1)


@pytest.mark.parametrize(
    ("seed", "calls"), [(1, 3000), *(pytest.param(seed, 10_000, marks=pytest.mark.slow) for seed in range(2, 6))]
)
def test_no_call_of_a_compiled_module_crashes(path, seed, calls):
    command = [sys.executable, PROGRAM, path, str(seed), str(calls)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 15  # classes


OUT_OF_RANGE = [LyingInt(10**7), LyingInt(-1), LyingInt(1 << 70)]


@pytest.mark.parametrize("token", OUT_OF_RANGE)
def test_an_id_that_claims_to_be_in_range_is_refused(model, token):
    sequence = model.sequence()
    sequence.append([1, 2])
    logits = sequence.logits.tobytes()
    penalties = gpt2rt.SamplingParams(repetition_penalty=2, presence_penalty=1)
    for call in (
        lambda: sequence.append([token]),
        lambda: sequence.push([token]),
        lambda: sequence.score([token]),
        lambda: sequence.next_logprob(token),
        lambda: sequence.guess([token]),
        lambda: sequence.set_sampling(penalties, history=[token]),
        lambda: sequence.set_sampling(penalties, exempt=[token]),
        lambda: sequence.set_sampling(penalties, logit_bias={token: 1.0}),
        lambda: _sampler.Sampler(penalties, 1).sample(logits, [token]),
        lambda: _sampler.log_probabilities(logits, [token]),
        lambda: model.tokenizer.decode([token]),
        lambda: _tokenizer.StreamDecoder(model.tokenizer).feed(token),
    ):
        with pytest.raises(VocabularyError, match="out of range"):
            call()


@pytest.mark.parametrize("number", OUT_OF_RANGE)
def test_a_count_that_claims_to_be_in_range_is_refused(model, number):
    sequence = model.sequence()
    sequence.append([1, 2])
    for call in (
        lambda: sequence.truncate(number),
        lambda: sequence.fork(number),
        lambda: sequence.retract(number),
        lambda: sequence.set_sampling(gpt2rt.SamplingParams(), logprobs=number),
        lambda: gpt2rt.SamplingParams(top_k=number),
        lambda: gpt2rt.SamplingParams(temperature=LyingFloat(float(number))),
        lambda: _sampler.most_likely(bytes(4 * 257), number),
    ):
        with pytest.raises(UsageError):
            call()


def test_a_stop_string_that_claims_to_be_short_is_refused():
    with pytest.raises(UsageError, match="expected text of 1 to"):
        _tokenizer.StopStrings(LyingText("x" * 100_000))


def test_a_list_that_shrinks_while_it_is_read_is_read_as_it_was():
    tokens = []

    class Shrink:
        def __index__(self):
            tokens.clear()
            return 65

    tokens += [Shrink(), *[66] * 1000]
    stream = _tokenizer.TextStream(tokenizer_with([]))
    assert stream.accept(tokens, False) == ("A" + "B" * 1000, 1001)


def test_a_history_that_changes_while_it_is_read_is_read_as_it_was():
    history = []

    class Shrink:
        def __index__(self):
            history.clear()
            return 0

    sampler = _sampler.Sampler(gpt2rt.SamplingParams(temperature=0, presence_penalty=1), 1)
    history += [Shrink(), *range(1, 256)]
    assert sampler.sample(bytes(4 * 257), history) == 256  # the only one that is not penalized


def test_what_only_fork_may_say_of_a_sequence_can_not_be_said_by_others(model):
    source = model.sequence()
    source.append([1, 2, 3])
    with pytest.raises(TypeError):
        _engine.Sequence(model, _copied=source)
    empty = _engine.Sequence(model, _copied=_engine.Copied.__new__(_engine.Copied))
    assert empty.tokens == []


@pytest.mark.parametrize("n_threads", [0, -1])
def test_a_runtime_has_at_least_one_thread(model, n_threads):
    with pytest.raises(UsageError, match="n_threads: got"):
        _engine.Runtime(model._runtime.weights, n_threads)


def test_none_is_no_sequence(model):
    for sequences in ([None], [model.sequence(), None]):
        with pytest.raises(Gpt2rtError, match="got None, expected sequences"):
            _engine.step_together(sequences)
