"""Penalties: which logits they change, and by how much."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sampler import PLAIN, random_logits, reference

from gpt2rt._sampler import Sampler
from gpt2rt.errors import Gpt2rtError
from gpt2rt.sampling import SamplingParams


def test_the_penalty_divides_positive_and_multiplies_negative_logits_once():
    logits = np.array([2.0, -1.0, 0.5, 3.0], np.float32)
    sampler = Sampler(SamplingParams(**PLAIN, repetition_penalty=2.0), 0)
    expected = reference(np.array([1.0, -2.0, 0.5, 3.0], np.float32), **PLAIN)
    assert dict(sampler.candidates(logits, [0, 1, 1, 0])) == pytest.approx(expected)


def test_the_penalty_applies_only_to_its_window():
    logits = np.array([2.0, 2.0, 2.0], np.float32)
    sampler = Sampler(SamplingParams(**PLAIN, repetition_penalty=2.0, repeat_last_n=2), 0)
    found = dict(sampler.candidates(logits, [0, 1, 2]))
    assert found[0] > found[1] == found[2]


def test_exempt_tokens_are_neither_penalized_nor_forbidden():
    params = SamplingParams(**PLAIN, repetition_penalty=2.0, no_repeat_ngram_size=2)
    found = dict(Sampler(params, 0, exempt=[2]).candidates(np.ones(4, np.float32), [1, 2, 1]))
    assert found[2] == found[0] == found[3] > found[1]


def test_presence_and_frequency_penalties_count_the_whole_history():
    logits = np.array([2.0, -1.0, 0.5, 3.0, 0.0], np.float32)
    params = SamplingParams(**PLAIN, presence_penalty=0.25, frequency_penalty=0.5, repeat_last_n=1)
    expected = reference(np.array([2.0 - 1.25, -1.0 - 0.75, 0.5, 3.0, 0.0 - 1.75], np.float32), **PLAIN)
    assert dict(Sampler(params, 0).candidates(logits, [4, 0, 0, 1, 4, 4])) == pytest.approx(expected, rel=1e-12)
    assert dict(Sampler(params, 0).candidates(logits)) == pytest.approx(reference(logits, **PLAIN), rel=1e-12)


def test_negative_penalties_make_generated_tokens_more_likely():
    for options in ({"presence_penalty": -1.0}, {"frequency_penalty": -1.0}):
        found = dict(Sampler(SamplingParams(**PLAIN, **options), 0).candidates(np.ones(3, np.float32), [1]))
        assert found[1] == pytest.approx(found[0] * math.e)
        assert found[0] == found[2]


@given(
    history=st.lists(st.integers(0, 39), max_size=100),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    repetition=st.sampled_from([1.0, 1.5]),
    exempt=st.lists(st.integers(0, 39), max_size=5),
)
def test_penalties_apply_one_after_the_other_to_tokens_that_are_not_exempt(
    history, presence, frequency, repetition, exempt
):
    logits = random_logits(40)
    expected = logits.copy()
    for token in {*history} - {*exempt}:
        if token in history[-64:]:
            expected[token] = (
                expected[token] / np.float32(repetition)
                if expected[token] > 0
                else (expected[token] * np.float32(repetition))
            )
        expected[token] = float(expected[token]) - (history.count(token) * frequency + presence)
    penalties = {"repetition_penalty": repetition, "presence_penalty": presence, "frequency_penalty": frequency}
    found = Sampler(SamplingParams(**PLAIN, **penalties), 0, exempt).candidates(logits, history)
    assert found == Sampler(SamplingParams(**PLAIN), 0).candidates(expected)


def test_forbidden_ngrams_are_forbidden_after_negative_penalties():
    params = SamplingParams(**PLAIN, presence_penalty=-2.0, frequency_penalty=-2.0, no_repeat_ngram_size=1)
    assert set(dict(Sampler(params, 0).candidates(np.zeros(4, np.float32), [1, 1, 2]))) == {0, 3}


@pytest.mark.parametrize("options", [{"repetition_penalty": 2.0}, {"presence_penalty": 1}], ids=str)
def test_a_penalty_does_not_outlive_its_history(options):
    sampler, logits = Sampler(SamplingParams(**PLAIN, **options), 0), np.ones(6, np.float32)
    for history in ([1, 2], [2, 3, 3], [], [4]):
        found = dict(sampler.candidates(logits, history))
        assert {token for token, p in found.items() if p < max(found.values())} == set(history)


def test_a_penalty_does_not_outlive_refused_logits():
    sampler = Sampler(SamplingParams(**PLAIN, repetition_penalty=2.0), 0)
    with pytest.raises(Gpt2rtError, match="not finite"):
        sampler.sample(np.full(4, math.nan, np.float32), [1, 2])
    found = dict(sampler.candidates(np.ones(4, np.float32), [2]))
    assert found[2] < found[0] == found[1] == found[3]
