"""Log probabilities recorded by steps: those of `score` and of the logits, bit for bit, in any mix of sequences."""

import itertools

import numpy as np
import pytest
from expected_sequence import assert_as_fresh, assert_scores_of_fresh
from random_models import random_tensors, write_model

from gpt2rt import SamplingParams, UsageError, open_model
from gpt2rt._engine import Runtime
from gpt2rt._sampler import log_probabilities, most_likely
from gpt2rt.generate import Continuation, Generation, run_together
from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=261, n_ctx=300, n_embd=32, n_head=2, n_layer=2)
TEXT = [(7 * i * i + 3 * i) % SHAPE.n_vocab for i in range(SHAPE.n_ctx)]
OTHER = [(5 * i * i + i + 1) % SHAPE.n_vocab for i in range(SHAPE.n_ctx)]
SCORED_ROWS = 64  # most rows of a step whose log probabilities are recorded


@pytest.fixture(scope="module", params=["f32", "int8"])
def model(request, tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("model") / "random.bin", SHAPE, random_tensors(SHAPE), request.param)
    model = open_model(path, n_threads=1)
    model._runtime = Runtime(model._runtime.weights, 2)
    return model


@pytest.fixture(scope="module")
def scores(model):
    return model.score(TEXT)


def prepared(model, tokens, n=0, params=None, **options):
    """Return a sequence with these pending tokens that records n of the most likely ones."""
    sequence = model.sequence()
    sequence.set_sampling(params, prompt_logprobs=n, **options)
    sequence.push(tokens)
    return sequence


def evaluate(*sequences):
    """Step sequences that do not sample until nothing is pending; return the number of steps."""
    engine = sequences[0].model.engine()
    for steps in itertools.count():
        if not any(sequence.pending for sequence in sequences):
            return steps
        assert engine.step(sequences) == []


@pytest.mark.parametrize("n", [0, 1, 5, 32])
def test_recorded_log_probabilities_equal_scores_and_logits(model, scores, n):
    sequence = prepared(model, TEXT, n)
    evaluate(sequence)
    logits = model.sequence()
    logits.append(TEXT, len(TEXT))
    assert sequence.prompt_logprobs == scores
    top = sequence.prompt_top_logprobs
    if n == 0:
        assert top == [None] * len(TEXT)
        return
    assert top == [None, *(most_likely(row, n) for row in logits.all_logits[:-1])]
    for token, logprob, likely in zip(TEXT[1:], sequence.prompt_logprobs[1:], top[1:], strict=True):
        assert dict(likely).get(token, logprob) == logprob


def test_nothing_is_recorded_unless_requested(model):
    sequence = model.sequence()
    assert (sequence.prompt_logprobs, sequence.prompt_top_logprobs) == ([], [])
    sequence.set_sampling(None)
    sequence.push(TEXT[:9])
    evaluate(sequence)
    assert sequence.prompt_logprobs == sequence.prompt_top_logprobs == [None] * 9
    one = prepared(model, TEXT[:1], 3)
    evaluate(one)
    assert one.prompt_logprobs == one.prompt_top_logprobs == [None]


@pytest.mark.parametrize("split", [[1, 299], [299, 1], [63, 1, 64, 65, 107], [1] * 9 + [0, 291], [128, 172]], ids=str)
def test_recorded_values_do_not_depend_on_the_split(model, scores, split):
    sequence, begin = prepared(model, [], 2), 0
    for n in split:
        sequence.push(TEXT[begin : begin + n])
        evaluate(sequence)
        begin += n
    assert sequence.prompt_logprobs == scores
    assert_scores_of_fresh(sequence)


def test_a_step_scores_at_most_64_rows(model):
    alone = prepared(model, TEXT)
    assert evaluate(alone) == -(-len(TEXT) // SCORED_ROWS)
    several = [prepared(model, TEXT[:n]) for n in (10, 50, 100)]
    plain = prepared(model, TEXT, None)
    model.engine().step([*several, plain])
    assert sum(len(sequence) for sequence in several) == SCORED_ROWS
    assert len(plain) == 256 - SCORED_ROWS  # takes what they leave
    evaluate(*several, plain)
    for sequence in several:
        assert_scores_of_fresh(sequence)


def test_recording_changes_no_logit_and_no_sampled_token(model):
    found = []
    for n in (None, 0, 7):
        sequences = [
            prepared(model, TEXT[:70], n, SamplingParams(), seed=1, logprobs=2),
            prepared(model, OTHER[:3], n, SamplingParams(temperature=0), seed=1),
            prepared(model, OTHER[:130], n),
        ]
        engine, events = model.engine(), {sequence: [] for sequence in sequences}
        for _ in range(12):
            for event in engine.step(sequences):
                events[event.sequence].append((event.tokens, event.logprobs, event.top_logprobs))
        found.append(([events[sequence][:8] for sequence in sequences], sequences[2].logits.tobytes()))
        for sequence in sequences:
            assert_as_fresh(sequence)
    assert [len(one) for one in found[0][0]] == [8, 8, 0]
    assert found[1] == found[2] == found[0]


def test_any_mix_of_sequences_records_the_same(model):
    recording = [
        prepared(model, TEXT[:150], 3),
        prepared(model, OTHER[:2], 0, SamplingParams(), seed=1),
        prepared(model, OTHER[:90], 32, SamplingParams(), seed=2, logprobs=1),
        prepared(model, TEXT[:1], 2, SamplingParams(), seed=3),
    ]
    others = [
        prepared(model, TEXT, None),
        prepared(model, OTHER[:5], None, SamplingParams(), seed=4, logprobs=3),
        prepared(model, OTHER[:100], None, SamplingParams(), seed=5),
    ]
    engine = model.engine()
    for i in range(15):
        engine.step([*others[i % 2 :], *recording] if i % 3 else [*recording[::-1], *others])
    for sequence in recording:
        assert None not in sequence.prompt_logprobs[1:]
        assert_scores_of_fresh(sequence)
    for sequence in others:
        assert set(sequence.prompt_logprobs) == {None}


@pytest.mark.parametrize("length", range(41))
@pytest.mark.parametrize("rest", [1, 2, 30])
def test_a_truncated_sequence_continues_with_correct_values(model, length, rest):
    sequence = prepared(model, TEXT[:40], 2)
    evaluate(sequence)
    before = sequence.prompt_logprobs, sequence.prompt_top_logprobs
    sequence.truncate(length)
    assert (sequence.prompt_logprobs, sequence.prompt_top_logprobs) == (before[0][:length], before[1][:length])
    sequence.push(OTHER[:rest])
    evaluate(sequence)
    assert sequence.prompt_logprobs == model.score(TEXT[:length] + OTHER[:rest])
    assert_scores_of_fresh(sequence)
    assert_as_fresh(sequence)


@pytest.mark.parametrize("stop_after", [1, 2, 3])
@pytest.mark.parametrize("length", [0, 1, 30, 63, 64])
def test_a_prompt_cut_short_continues_with_correct_values(model, stop_after, length):
    sequence, engine = prepared(model, TEXT[:250], 1), model.engine()
    for _ in range(stop_after):
        engine.step([sequence])
    assert len(sequence) == stop_after * SCORED_ROWS
    sequence.truncate(length)
    sequence.push(OTHER[:100])
    evaluate(sequence)
    assert sequence.prompt_logprobs == model.score(TEXT[:length] + OTHER[:100])
    assert_scores_of_fresh(sequence)


@pytest.mark.parametrize("length", [None, 0, 1, 17, 39, 40])
def test_forks_have_the_values_of_their_tokens(model, length):
    sequence = prepared(model, TEXT[:40], 2)
    evaluate(sequence)
    sequence.push(TEXT[40:42])
    fork = sequence.fork(length)
    n = 40 if length is None else length
    assert fork.prompt_logprobs == sequence.prompt_logprobs[:n]
    assert fork.prompt_top_logprobs == sequence.prompt_top_logprobs[:n]
    fork.push(OTHER[:9])
    evaluate(sequence, fork)
    for one in (sequence, fork):
        assert None not in one.prompt_logprobs[1:]
        assert_scores_of_fresh(one)


def test_a_fork_in_the_middle_of_a_prompt_continues_with_correct_values(model):
    sequence = prepared(model, TEXT, 1)
    model.engine().step([sequence])
    fork = sequence.fork()
    evaluate(sequence, fork)
    assert fork.prompt_logprobs == sequence.prompt_logprobs == model.score(TEXT)


def test_evaluated_sampled_tokens_are_recorded_as_events_report_them(model):
    sequence = prepared(model, TEXT[:20], 3, SamplingParams(temperature=1.5), seed=1, logprobs=5)
    engine, logprobs, top = model.engine(), [], []
    for _ in range(10):
        (event,) = engine.step([sequence])
        logprobs += event.logprobs
        top += event.top_logprobs
    assert sequence.prompt_logprobs[20:] == logprobs[:-1]  # the last one is pending
    assert sequence.prompt_top_logprobs[20:] == [likely[:3] for likely in top[:-1]]
    assert all(len(likely) == 5 for likely in top)
    assert_scores_of_fresh(sequence)


def test_guessed_and_retracted_tokens_are_recorded_correctly(model):
    ahead = prepared(model, TEXT[:20], None, SamplingParams(temperature=0))
    engine = model.engine()
    expected = [engine.step([ahead])[0].tokens[0] for _ in range(8)]
    for retracted in range(6):
        sequence = prepared(model, TEXT[:20], 2, SamplingParams(temperature=0))
        engine.step([sequence])
        sequence.guess(expected[1:5])
        (event,) = engine.step([sequence])
        assert event.tokens == expected[1:6]
        sequence.retract(min(retracted, 5))
        assert_scores_of_fresh(sequence)
        assert None not in sequence.prompt_logprobs[1:]
        sequence.push(OTHER[:3])
        sequence.set_sampling(None, prompt_logprobs=2)
        evaluate(sequence)
        assert None not in sequence.prompt_logprobs[1:]
        assert_scores_of_fresh(sequence)


def test_tokens_evaluated_otherwise_have_none(model, scores):
    sequence = model.sequence()
    sequence.append(TEXT[:10])
    sequence.set_sampling(None, prompt_logprobs=1)
    sequence.push(TEXT[10:30])
    evaluate(sequence)
    sequence.append(TEXT[30:35])
    sequence.score(TEXT[35:40])
    sequence.push(TEXT[40:50])
    evaluate(sequence)
    sequence.set_sampling(None)
    sequence.push(TEXT[50:60])
    evaluate(sequence)
    sequence.set_sampling(None, prompt_logprobs=0)
    sequence.push(TEXT[60:61])
    evaluate(sequence)
    recorded = [*range(10, 30), *range(40, 50), 60]
    assert sequence.prompt_logprobs == [scores[i] if i in recorded else None for i in range(61)]
    assert [i for i, top in enumerate(sequence.prompt_top_logprobs) if top] == recorded[:-1]
    assert_scores_of_fresh(sequence)


def test_a_pending_token_is_recorded_again_if_more_is_requested(model):
    sequence = prepared(model, TEXT[:20], 0, SamplingParams(), seed=1)
    engine = model.engine()
    for n in (0, 4, 2, None):  # while a sampled token is pending that was recorded with the number before
        engine.step([sequence])
        sequence.set_sampling(SamplingParams(), prompt_logprobs=n)
    engine.step([sequence])
    sequence.set_sampling(None, prompt_logprobs=3)
    evaluate(sequence)
    assert [top and len(top) for top in sequence.prompt_top_logprobs[20:]] == [None, 4, 4, 2, 3]
    assert None not in sequence.prompt_logprobs[20:]
    assert_scores_of_fresh(sequence)


def test_a_cancelled_step_records_nothing(model):
    sequence, engine = prepared(model, TEXT[:100], 1), model.engine()
    engine.step([sequence])
    before = sequence.prompt_logprobs
    sequence.cancel()
    (event,) = engine.step([sequence])
    assert event.error is not None
    assert sequence.prompt_logprobs == before
    evaluate(sequence)
    assert_scores_of_fresh(sequence)


def test_a_generation_records_its_prompt(model):
    prompt = "What is it?"
    sequence = model.sequence()
    generation = Generation(sequence, prompt, SamplingParams(), max_tokens=9, seed=1, logprobs=2, prompt_logprobs=2)
    generation.text()
    ids = list(prompt.encode())
    assert sequence.tokens == ids + generation.tokens[:-1]
    assert sequence.prompt_logprobs == model.score(ids) + generation.logprobs[:-1]
    assert sequence.prompt_top_logprobs[len(ids) :] == generation.top_logprobs[:-1]
    plain = Continuation(model.sequence(), prompt, SamplingParams(), max_tokens=9, seed=1)
    assert "".join(piece for _, piece in run_together([plain])) == generation.text()


def test_prompt_lookup_records_the_same(model):
    found = []
    for lookup in (True, False):
        sequence, prompt = model.sequence(), TEXT[:20] * 4
        generation = Generation(
            sequence, prompt, SamplingParams(temperature=0), max_tokens=60, prompt_logprobs=1, lookup=lookup
        )
        generation.text()
        found.append((sequence.prompt_logprobs[:130], sequence.prompt_top_logprobs[:130]))
        assert None not in found[-1][0][1:]
    assert found[0] == found[1]


def test_a_full_context_is_recorded_to_its_end(model):
    sequence = prepared(model, TEXT[:290], 1, SamplingParams(), seed=1)
    engine = model.engine()
    while len(sequence) < SHAPE.n_ctx:
        engine.step([sequence])
    assert len(sequence.prompt_logprobs) == SHAPE.n_ctx
    assert None not in sequence.prompt_logprobs[1:]
    assert_scores_of_fresh(sequence)


@pytest.mark.parametrize("n", [-1, 33, 1.0, "1", True])
def test_an_invalid_number_of_log_probabilities_is_refused(model, n):
    with pytest.raises(UsageError, match=r"prompt_logprobs: got .*, expected a whole number from 0 to 32"):
        model.sequence().set_sampling(None, prompt_logprobs=n)


def test_logits_that_are_not_finite_are_recorded_as_nan(tmp_path):
    tensors = random_tensors(SHAPE)
    tensors["wpe"][20] = np.nan
    model = open_model(write_model(tmp_path / "damaged.bin", SHAPE, tensors), n_threads=1)
    sequence = prepared(model, TEXT[:30], 2)
    evaluate(sequence)
    assert np.isnan(sequence.prompt_logprobs[21:]).all()
    assert sequence.prompt_top_logprobs[21:] == [None] * 9
    assert np.isfinite(sequence.prompt_logprobs[1:21]).all()
    sequence.truncate(20)
    assert_scores_of_fresh(sequence)


def test_the_size_of_a_sequence_counts_what_it_records(model):
    sequence = prepared(model, TEXT[:100], None)
    evaluate(sequence)
    recording = prepared(model, TEXT[:100], 0)
    evaluate(recording)
    assert recording.nbytes > sequence.nbytes + 100 * 32 * (8 + 4)


def test_values_of_a_prompt_of_one_pending_token_are_those_of_the_last_logits(model):
    sequence = model.sequence()
    sequence.append(TEXT[:10])
    expected = log_probabilities(sequence.logits, [TEXT[10]])
    sequence.set_sampling(SamplingParams(), prompt_logprobs=0)
    sequence.push(TEXT[10:11])
    (event,) = model.engine().step([sequence])
    assert len(event.tokens) == 1
    assert sequence.prompt_logprobs[10:] == expected
