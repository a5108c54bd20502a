"""The sampler: compared with numpy and with known distributions, and the same samples everywhere."""

import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2rt._sampler import Sampler, exp_of
from gpt2rt.errors import Gpt2rtError, UsageError, VocabularyError
from gpt2rt.sampling import SamplingParams

# From the generator and the search in a cumulative sum, written in plain Python.
GOLDEN = [416, 759, 903, 980, 997, 934, 917, 959, 931, 865, 904, 695]
PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}  # the model's own distribution


def reference(logits, temperature=0.8, top_k=40, top_p=0.95, min_p=0.0):
    """Return {id: probability} of the candidates: sort everything, apply one filter after the other, in float64."""
    order = np.lexsort((np.arange(len(logits)), -logits.astype(np.float64)))  # greatest first, then lowest id
    order = order[np.isfinite(logits[order])]
    if top_k:
        order = order[:top_k]
    weights = np.exp((logits[order].astype(np.float64) - float(logits[order[0]])) / temperature)
    if top_p < 1:
        kept = int(np.searchsorted(np.cumsum(weights), top_p * weights.sum())) + 1
        order, weights = order[:kept], weights[:kept]
    kept = weights >= min_p
    return dict(zip(order[kept].tolist(), (weights[kept] / weights[kept].sum()).tolist(), strict=True))


def random_logits(n, seed=0, scale=3.0):
    return (np.random.default_rng(seed).standard_normal(n) * scale).astype(np.float32)


def draws(sampler, logits, n):
    content = logits.tobytes()
    return [sampler.sample(content) for _ in range(n)]


@pytest.mark.parametrize("n_vocab", [1, 2, 3, 31, 32, 33, 63, 64, 65, 1000, 4096, 50257])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 0},
        {"top_k": 1},
        {"top_k": 3, "top_p": 0.5},
        {"top_k": 0, "top_p": 0.9, "temperature": 1.5},
        {"top_k": 0, "top_p": 1.0, "min_p": 0.05},
        {"top_k": 500, "top_p": 0.99, "min_p": 0.01},
        {"top_k": 40, "top_p": 0.0},
        PLAIN,
    ],
    ids=str,
)
def test_candidates_and_probabilities_match_a_full_sort(n_vocab, options):
    logits = random_logits(n_vocab)
    expected = reference(logits, **options)
    found = Sampler(SamplingParams(**options), 0).candidates(logits)
    assert dict(found).keys() == expected.keys()
    assert dict(found) == pytest.approx(expected, rel=1e-12)
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)


@given(
    logits=st.lists(st.sampled_from([-math.inf, -2.0, -0.0, 0.0, 0.5, 1.0, 7.0]), min_size=1, max_size=300),
    top_k=st.integers(0, 310),
    top_p=st.sampled_from([0.0, 0.3, 0.77, 1.0]),
)
def test_candidates_are_exact_among_tied_logits(logits, top_k, top_p):
    logits = np.array([*logits, 0.25], np.float32)
    expected = reference(logits, top_k=top_k, top_p=top_p)
    found = dict(Sampler(SamplingParams(top_k=top_k, top_p=top_p), 0).candidates(logits))
    # If a sum of equal weights meets top_p exactly, the order of addition can change the result by one candidate.
    assert len(found.keys() ^ expected.keys()) <= (1 if 0 < top_p < 1 else 0)


@pytest.mark.parametrize("order", ["rising", "falling", "equal", "organ pipe"])
def test_a_worst_case_order_is_still_exact(order):
    n = 5000
    logits = np.arange(n, dtype=np.float32) / 1000
    logits = {
        "rising": logits,
        "falling": logits[::-1].copy(),
        "equal": np.zeros(n, np.float32),
        "organ pipe": np.concatenate([logits[::2], logits[1::2][::-1]]),
    }[order]
    found = Sampler(SamplingParams(top_k=0, top_p=0.9), 0).candidates(logits)
    assert abs(len(found) - len(reference(logits, top_k=0, top_p=0.9))) <= 1


def test_samples_follow_the_distribution():
    logits = np.log(np.array([0.5, 0.2, 0.15, 0.1, 0.04, 0.01])).astype(np.float32)
    n = 60_000
    counts = np.bincount(draws(Sampler(SamplingParams(**PLAIN), 12345), logits, n), minlength=6)
    expected = n * np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum()
    assert ((counts - expected) ** 2 / expected).sum() < 20.5  # chi-square, 5 degrees of freedom, p = 0.001


@pytest.mark.slow
def test_samples_over_a_large_vocabulary_follow_the_distribution():
    logits = random_logits(4096, scale=1.0)
    n = 40_000
    weights = np.exp(logits.astype(np.float64))
    groups = np.arange(4096) % 16  # 16 sums of probability
    expected = n * np.bincount(groups, weights) / weights.sum()
    counts = np.bincount(groups[draws(Sampler(SamplingParams(**PLAIN), 99), logits, n)], minlength=16)
    assert ((counts - expected) ** 2 / expected).sum() < 37.7  # 15 degrees of freedom, p = 0.001


def test_a_seed_gives_these_samples_on_every_machine():
    sampler = Sampler(SamplingParams(temperature=1.0, top_k=0, top_p=1.0), 42)
    logits = np.arange(1000, dtype=np.float32) / 256
    assert draws(sampler, logits, 12) == GOLDEN


# For golden_logits: 12 tokens sampled one after the other, token 3 exempt; then of the candidates: the first id and its
# probability, their number, and the last one's probability. From a separate, earlier implementation.
GOLDENS = [
    # options, seed, n_vocab, history, tokens, candidates
    (
        {},
        1,
        50257,
        [],
        [27053, 7270, 18607, 30151, 41281, 19497, 30903, 10292, 19835, 32828, 45131, 21208],
        (23692, "0x1.b81929a762c4fp-6", 38, "0x1.a577547e6519dp-6"),
    ),
    (
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
        2,
        50257,
        [],
        [4375, 37518, 10279, 37210, 35299, 13103, 32864, 11211, 30141, 37886, 37976, 18814],
        (35236, "0x1.5747c5f545611p-11", 50257, "0x1.323067818b0f2p-57"),
    ),
    (
        {"temperature": 3.7, "top_k": 0, "top_p": 0.9},
        3,
        50257,
        [],
        [42277, 34712, 22447, 46340, 26901, 23547, 44331, 36489, 33624, 12384, 44700, 36713],
        (13659, "0x1.8e5360ccdb7e6p-13", 13381, "0x1.429d4e347308fp-16"),
    ),
    (
        {"temperature": 5.0, "top_k": 1000, "top_p": 1.0, "min_p": 0.02},
        (1 << 64) - 1,
        4096,
        [],
        [2614, 2853, 3826, 3915, 1533, 3129, 1707, 3041, 2989, 2186, 1231, 561],
        (4079, "0x1.eeaabeb883bf7p-10", 1000, "0x1.bd647c778234dp-12"),
    ),
    (
        {"temperature": 0.0},
        4,
        997,
        [],
        [964, 984, 936, 957, 977, 929, 466, 970, 991, 942, 963, 984],
        (984, "0x1.0000000000000p+0", 1, "0x1.0000000000000p+0"),
    ),
    (
        {"temperature": 8.0, "repetition_penalty": 1.3, "repeat_last_n": 5},
        5,
        1000,
        [7, 8],
        [708, 385, 268, 979, 516, 468, 764, 993, 942, 963, 503, 659],
        (935, "0x1.c76056a5011ffp-6", 38, "0x1.9500ca8349ff4p-6"),
    ),
    (
        {"temperature": 8.0, "top_k": 0, "top_p": 0.5, "repetition_penalty": 1.1, "no_repeat_ngram_size": 2},
        6,
        40,
        [1, 2, 3, 1],
        [1, 12, 19, 32, 1, 4, 25, 8, 8, 27, 38, 1],
        (0, "0x1.320006993e5edp-3", 10, "0x1.20198dbadc796p-4"),
    ),
    (
        {"temperature": 20.0, "top_k": 3, "no_repeat_ngram_size": 3},
        7,
        12,
        [0, 1, 2, 0, 1],
        [3, 0, 2, 2, 2, 3, 0, 0, 1, 0, 1, 4],
        (0, "0x1.5d47dfe93d382p-2", 3, "0x1.4d725fa10ff04p-2"),
    ),
]


def golden_logits(n, seed):
    """Return logits from -16 to 16, computed from integers only, so the same on every machine."""
    x = np.arange(n, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(seed) * np.uint64(40503)
    x = ((x % np.uint64(1 << 32)) * np.uint64(2246822519) + np.uint64(3266489917)) % np.uint64(1 << 32)
    x ^= x >> np.uint64(15)
    return (x >> np.uint64(12)).astype(np.float32) / np.float32(32768) - np.float32(16)


@pytest.mark.parametrize(("options", "seed", "n_vocab", "history", "tokens", "last"), GOLDENS)
def test_these_options_give_these_tokens_on_every_machine(options, seed, n_vocab, history, tokens, last):
    sampler, history = Sampler(SamplingParams(**options), seed, [3]), list(history)
    for step, token in enumerate(tokens):
        # The vocabulary of 12 has the same logits at every step, so that only the forbidden tokens change.
        logits = golden_logits(n_vocab, 5 if n_vocab == 12 else seed % 1000 + step)
        assert sampler.sample(logits, history) == token
        history.append(token)
    found = sampler.candidates(logits, history)
    assert (found[0][0], found[0][1].hex(), len(found), found[-1][1].hex()) == last


def test_the_same_seed_gives_the_same_samples_and_another_seed_does_not():
    logits = random_logits(1000)
    first, again, other = (draws(Sampler(SamplingParams(), seed), logits, 50) for seed in (7, 7, 8))
    assert first == again != other


@pytest.mark.parametrize("seed", [-1, 1 << 64, 1.5, "7", True, np.True_, np.float64(3), None])
def test_an_invalid_seed_is_refused(seed):
    with pytest.raises(UsageError, match=r"seed: got .*, expected a whole number from 0 to 18446744073709551615"):
        Sampler(SamplingParams(), seed)


@pytest.mark.parametrize("seed", [np.int8(7), np.uint64(7), np.int64(7)], ids=repr)
def test_a_seed_may_be_a_numpy_integer(seed):
    sampler, logits = Sampler(SamplingParams(), seed), random_logits(1000)
    assert type(sampler.seed) is int
    assert draws(sampler, logits, 20) == draws(Sampler(SamplingParams(), 7), logits, 20)


def test_temperature_zero_takes_the_greatest_logit_and_the_lowest_id_among_ties():
    logits = random_logits(50257)
    logits[[4000, 99, 50256]] = 20
    assert draws(Sampler(SamplingParams(temperature=0), 1), logits, 3) == [99] * 3


def test_the_logits_are_not_changed_and_may_be_bytes_or_an_array():
    logits = random_logits(300)
    before = logits.copy()
    params = SamplingParams(repetition_penalty=1.3)
    assert Sampler(params, 5).sample(logits, [1, 2]) == Sampler(params, 5).sample(logits.tobytes(), [1, 2])
    assert (logits == before).all()


@pytest.mark.parametrize(
    "logits", [np.zeros(4, np.float64), np.zeros(4, np.int32), b"", b"123", np.zeros(0, np.float32)], ids=repr
)
def test_logits_that_are_not_f32_are_refused(logits):
    with pytest.raises(UsageError, match=r"logits: got \d+ bytes of .*, expected f32"):
        Sampler(SamplingParams(), 1).sample(logits)


@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf], ids=["nan", "-nan", "inf"])
@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("place", [0, 70, 99])
def test_logits_that_are_not_finite_are_refused(value, temperature, place):
    logits = random_logits(100)
    logits[place] = np.copysign(np.float32(value), value)
    with pytest.raises(Gpt2rtError, match="logits are not finite"):
        Sampler(SamplingParams(temperature=temperature), 1).sample(logits)


def test_minus_infinity_forbids_a_token():
    logits = np.full(100, -math.inf, np.float32)
    logits[[17, 60]] = 0
    assert set(draws(Sampler(SamplingParams(**PLAIN), 1), logits, 100)) == {17, 60}


@pytest.mark.parametrize("temperature", [0, 1])
def test_forbidding_every_token_is_reported(temperature):
    with pytest.raises(Gpt2rtError, match="all tokens are forbidden"):
        Sampler(SamplingParams(temperature=temperature), 1).sample(np.full(100, -math.inf, np.float32))


@pytest.mark.parametrize(
    ("n", "history", "forbidden"),
    [
        (1, [5, 6], {5, 6}),
        (2, [5, 6, 5], {6}),
        (2, [5, 6, 5, 7, 5], {6, 7}),
        (3, [1, 2, 3, 1, 2], {3}),
        (3, [1, 2, 3, 2], set()),
        (4, [1, 2, 3], set()),
        (2, [5, 5], {5}),
    ],
)
def test_no_repeat_ngram_forbids_what_followed_before(n, history, forbidden):
    found = dict(
        Sampler(SamplingParams(**PLAIN, no_repeat_ngram_size=n), 0).candidates(np.zeros(8, np.float32), history)
    )
    assert set(range(8)) - found.keys() == forbidden


@pytest.mark.parametrize(
    "options",
    [{"repetition_penalty": 1.1}, {"presence_penalty": 1}, {"frequency_penalty": 1}, {"no_repeat_ngram_size": 1}],
    ids=str,
)
@pytest.mark.parametrize("token", [-1, 4, 1 << 40])
def test_a_history_of_other_tokens_is_refused(options, token):
    with pytest.raises(VocabularyError, match=r"out of range, expected 0 to 3"):
        Sampler(SamplingParams(**options), 0).sample(np.zeros(4, np.float32), [token, 1])


def test_the_next_sample_after_a_refused_history_is_correct():
    sampler = Sampler(SamplingParams(**PLAIN, repetition_penalty=2.0), 0)
    with pytest.raises(VocabularyError):
        sampler.sample(np.ones(4, np.float32), [1, 99])
    found = dict(sampler.candidates(np.ones(4, np.float32), [1]))
    assert found[1] < found[0]


def test_refused_logits_take_no_random_number():
    logits = random_logits(500)
    steady, refused = Sampler(SamplingParams(), 3), Sampler(SamplingParams(), 3)
    for bad in (math.inf, -math.inf, math.nan):
        with pytest.raises(Gpt2rtError):
            refused.sample(np.full(500, bad, np.float32))
    assert draws(steady, logits, 20) == draws(refused, logits, 20)


OPTIONS_OF_HISTORY = [{"repetition_penalty": 2.0}, {"frequency_penalty": 1.5}, {"no_repeat_ngram_size": 2}]


class Reentrant:
    """A history that uses the sampler, with another vocabulary and other parameters, while the sampler reads it."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __len__(self):
        return 3

    def __getitem__(self, i):
        if i >= 3:
            raise IndexError
        params = self.sampler.params
        self.sampler.use(SamplingParams(temperature=0, repetition_penalty=3.0, no_repeat_ngram_size=2))
        self.sampler.sample(np.ones(1000 * (i + 1), np.float32), [5] * 10)
        self.sampler.use(params)
        return 1


@pytest.mark.parametrize("options", OPTIONS_OF_HISTORY, ids=str)
def test_a_history_may_use_the_sampler_while_it_is_read(options):
    sampler, logits = Sampler(SamplingParams(**PLAIN, **options), 0), random_logits(50)
    assert sampler.candidates(logits, Reentrant(sampler)) == sampler.candidates(logits, [1, 1, 1])


@pytest.mark.parametrize("options", OPTIONS_OF_HISTORY, ids=str)
def test_a_history_may_change_while_it_is_read(options):
    class Clearing:
        def __index__(self):
            history.clear()
            return 2

    history = [2, *[2] * 50, Clearing(), *[2] * 50]
    sampler, logits = Sampler(SamplingParams(**PLAIN, **options), 0), random_logits(50)
    assert sampler.candidates(logits, history) == sampler.candidates(logits, [2] * 102)
    assert history == []


@pytest.mark.parametrize("options", OPTIONS_OF_HISTORY, ids=str)
@pytest.mark.parametrize("history", [[1.0], ["1"], [None], 5, [[1]]], ids=repr)
def test_a_history_without_ids_is_refused(options, history):
    with pytest.raises(TypeError):
        Sampler(SamplingParams(**options), 0).sample(np.zeros(4, np.float32), history)


def test_a_history_may_be_an_array():
    sampler, logits = Sampler(SamplingParams(**PLAIN, repetition_penalty=2.0), 0), random_logits(50)
    assert sampler.candidates(logits, np.array([1, 2, 3], np.uint16)) == sampler.candidates(logits, [1, 2, 3])


def test_a_long_history_that_repeats_itself_is_cheap():
    sampler, logits = Sampler(SamplingParams(no_repeat_ngram_size=512), 0), random_logits(50)
    begin = time.process_time()
    assert 1 not in dict(sampler.candidates(logits, [1] * 1024))
    assert time.process_time() - begin < 0.1  # takes about 0.1 ms


@pytest.mark.parametrize("exempt", [[-1], [1 << 31], [1 << 70]], ids=str)
def test_exempt_ids_out_of_range_are_refused(exempt):
    with pytest.raises(VocabularyError, match="out of range, expected 0 to"):
        Sampler(SamplingParams(), 0, exempt)


def test_exempt_ids_may_come_in_any_order():
    params = SamplingParams(**PLAIN, repetition_penalty=2.0)
    exempt = [40, 3, np.int64(17), 3, 29, 0, 8]
    found = dict(Sampler(params, 0, exempt).candidates(np.ones(50, np.float32), list(range(50))))
    assert {token for token, p in found.items() if p == max(found.values())} == set(exempt)


def test_a_sampler_requires_its_arguments():
    with pytest.raises(TypeError):
        Sampler.__new__(Sampler)


def test_use_changes_the_parameters_and_keeps_the_generator():
    logits = random_logits(500)
    steady, changed = Sampler(SamplingParams(), 3), Sampler(SamplingParams(temperature=2.0), 3)
    draws(steady, logits, 5)
    draws(changed, logits, 5)
    changed.use(SamplingParams())
    assert draws(steady, logits, 20) == draws(changed, logits, 20)


def test_one_sampler_accepts_vocabularies_of_different_sizes():
    sampler = Sampler(SamplingParams(temperature=0), 3)
    for n in (10, 5000, 3, 64):
        assert sampler.sample(np.arange(n, dtype=np.float32)) == n - 1


def test_a_sampler_shared_by_threads_stays_consistent():
    sampler, logits = Sampler(SamplingParams(), 3), random_logits(2000)
    expected = draws(Sampler(SamplingParams(), 3), logits, 800)
    found = []
    threads = [threading.Thread(target=lambda: found.extend(draws(sampler, logits, 200))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(expected)  # each random number is used once


def test_exp_matches_libm():
    x = -np.concatenate([np.linspace(0, 1, 4001), np.geomspace(1e-300, 708, 4001)])
    worst = max(abs(exp_of(value) / math.exp(value) - 1) for value in x)
    assert worst < 5e-16
    assert exp_of(0.0) == 1
    assert exp_of(-709.0) == exp_of(-math.inf) == 0
