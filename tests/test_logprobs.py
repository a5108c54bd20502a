"""Log probabilities: compared with numpy in float64, and the same bits everywhere."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2rt._sampler import log_probabilities, most_likely
from gpt2rt.errors import Gpt2rtError, UsageError, VocabularyError

# Of logits i / 256, tokens 0, 500, 998 and 999.
GOLDEN = ["-0x1.2dbb9eadb02e6p+3", "-0x1.de773d5b605cdp+2", "-0x1.61f73d5b605cdp+2", "-0x1.61b73d5b605cdp+2"]


def random_logits(n, seed=0, scale=3.0):
    return (np.random.default_rng(seed).standard_normal(n) * scale - 35).astype(np.float32)


def reference(logits):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


@pytest.mark.parametrize("n_vocab", [1, 2, 7, 8, 9, 15, 63, 64, 65, 1000, 50257])
@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0, 1000.0])
def test_log_probabilities_match_numpy(n_vocab, scale):
    logits = random_logits(n_vocab, scale=scale)
    found = log_probabilities(logits, range(n_vocab))
    np.testing.assert_allclose(found, reference(logits), rtol=1e-14, atol=1e-14)


@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=40))
def test_log_probabilities_of_any_finite_logits_match_numpy(logits):
    logits = np.array(logits, np.float32)
    found = log_probabilities(logits, range(len(logits)))
    np.testing.assert_allclose(found, reference(logits), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("n_vocab", range(2, 300, 7))
def test_equal_logits_have_the_log_probability_of_a_uniform_distribution(n_vocab):
    (found,) = log_probabilities(np.full(n_vocab, -3, np.float32), [0])
    assert abs(found / -math.log(n_vocab) - 1) < 5e-16


def test_these_logits_have_these_log_probabilities_on_every_machine():
    logits = np.arange(1000, dtype=np.float32) / 256
    assert [x.hex() for x in log_probabilities(logits, [0, 500, 998, 999])] == GOLDEN
    assert [(token, x.hex()) for token, x in most_likely(logits, 2)] == [(999, GOLDEN[3]), (998, GOLDEN[2])]


def test_a_forbidden_token_has_the_log_probability_minus_infinity():
    logits = np.array([0, -math.inf, 0], np.float32)
    assert log_probabilities(logits, [1, 0]) == [-math.inf, pytest.approx(-math.log(2))]
    assert [token for token, _ in most_likely(logits, 3)] == [0, 2, 1]


@pytest.mark.parametrize("n_vocab", [1, 5, 64, 65, 1000, 50257])
@pytest.mark.parametrize("k", [1, 2, 5, 20, 700, 50257])
def test_the_most_likely_tokens_match_a_full_sort(n_vocab, k):
    logits, k = random_logits(n_vocab, seed=k), min(k, n_vocab)
    order = np.lexsort((np.arange(n_vocab), -logits))[:k].tolist()
    assert most_likely(logits, k) == list(zip(order, log_probabilities(logits, order), strict=True))


@given(
    logits=st.lists(st.sampled_from([-math.inf, -2.0, -0.0, 0.0, 1.0]), min_size=1, max_size=300),
    k=st.integers(1, 300),
)
def test_the_lower_id_comes_first_among_ties(logits, k):
    logits = np.array([*logits, 0.5], np.float32)
    k = min(k, len(logits))
    order = np.lexsort((np.arange(len(logits)), -logits))[:k].tolist()
    assert [token for token, _ in most_likely(logits, k)] == order


@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf], ids=["nan", "-nan", "inf"])
def test_logits_that_are_not_finite_are_refused(value):
    logits = random_logits(100)
    logits[70] = np.copysign(np.float32(value), value)
    with pytest.raises(Gpt2rtError, match="logits are not finite"):
        log_probabilities(logits, [0])
    with pytest.raises(Gpt2rtError, match="logits are not finite"):
        most_likely(logits, 3)


def test_logits_that_are_all_minus_infinity_are_refused():
    logits = np.full(100, -math.inf, np.float32)
    with pytest.raises(Gpt2rtError, match="all tokens are forbidden"):
        log_probabilities(logits, [0])
    with pytest.raises(Gpt2rtError, match="all tokens are forbidden"):
        most_likely(logits, 3)


@pytest.mark.parametrize("token", [-1, 4, 1 << 40])
def test_a_token_outside_the_vocabulary_is_refused(token):
    with pytest.raises(VocabularyError, match=r"token .*: out of range, expected 0 to 3"):
        log_probabilities(np.zeros(4, np.float32), [0, token])


@pytest.mark.parametrize("k", [-1, 0, 5, 1 << 70, True])
def test_an_invalid_number_of_tokens_is_refused(k):
    with pytest.raises(UsageError, match=r"k: got .*, expected a whole number from 1 to 4"):
        most_likely(np.zeros(4, np.float32), k)


def test_logits_may_be_bytes_at_an_odd_address():
    logits = random_logits(100)
    odd = memoryview(b"." + logits.tobytes())[1:]
    assert log_probabilities(odd, [5]) == log_probabilities(logits, [5])
    assert most_likely(odd, 3) == most_likely(logits, 3)
