"""Sequences of ended texts, whose first tokens a new prompt need not evaluate again."""

import pytest
from random_models import random_tensors, write_model

import gpt2rt
from gpt2rt.modelfile import Hyperparameters
from gpt2rt.prefix_cache import LEAST_SHARED, MOST_LOST, Kept, PrefixCache

SHAPE = Hyperparameters(n_vocab=257, n_ctx=160, n_embd=16, n_head=2, n_layer=1)
IDS = [(7 * i * i + 3 * i) % 127 for i in range(SHAPE.n_ctx)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("model") / "random.bin", SHAPE, random_tensors(SHAPE))
    return gpt2rt.open_model(path, n_threads=1)


def sequence(model, ids):
    made = model.sequence()
    made.append(ids)
    return made


def cache_of(model, *texts, most=None):
    """A cache to which sequences of these ids were given, and these sequences."""
    cache, sequences = PrefixCache(most), [sequence(model, ids) for ids in texts]
    for one in sequences:
        cache.keep(one, None)
    return cache, sequences


def test_the_newest_sequences_are_kept_up_to_a_number(model):
    texts = [[i, *IDS[:20]] for i in range(3)]
    cache, sequences = cache_of(model, *texts, most=2)
    assert len(cache) == 2
    assert cache.n_bytes == sum(one.nbytes for one in sequences[1:])
    assert len(cache.sequence_for(model, [*texts[0], 1], None)) == 0
    assert cache.sequence_for(model, [*texts[1], 1], None) is sequences[1]


@pytest.mark.parametrize(("n", "n_kept"), [(LEAST_SHARED - 1, 0), (LEAST_SHARED, 1)])
def test_a_sequence_too_short_to_be_of_use_is_not_kept(model, n, n_kept):
    assert len(cache_of(model, IDS[:n])[0]) == n_kept


def test_pending_tokens_are_not_kept(model):
    one = sequence(model, IDS[:20])
    one.push([1, 2])
    cache = PrefixCache()
    cache.keep(one, None)
    assert cache.sequence_for(model, [*IDS[:20], 1, 2], None).pending == []


@pytest.mark.parametrize("n_shared", [LEAST_SHARED - 1, LEAST_SHARED, 20])
def test_the_shared_tokens_need_not_be_evaluated_again(model, n_shared):
    cache, _ = cache_of(model, IDS[:20])
    prompt = [*IDS[:n_shared], 200, 201]
    found = cache.sequence_for(model, prompt, None)
    assert found.tokens == (prompt[:n_shared] if n_shared >= LEAST_SHARED else [])


def test_the_last_token_of_a_prompt_is_evaluated(model):
    cache, _ = cache_of(model, IDS[:40])
    assert cache.sequence_for(model, IDS[:30], None).tokens == IDS[:29]


def test_the_sequence_that_shares_most_is_chosen(model):
    cache, _ = cache_of(model, IDS[:20], IDS[:30], [*IDS[:25], 200])
    assert cache.sequence_for(model, IDS[:40], None).tokens == IDS[:30]


@pytest.mark.parametrize("n_lost", [0, MOST_LOST, MOST_LOST + 1])
def test_a_sequence_is_taken_if_it_loses_little_and_copied_otherwise(model, n_lost):
    cache, (kept,) = cache_of(model, IDS[: 20 + n_lost])
    n_bytes = cache.n_bytes
    found = cache.sequence_for(model, [*IDS[:20], 200], None)
    assert found.tokens == IDS[:20]
    if n_lost <= MOST_LOST:
        assert found is kept
        assert (len(cache), cache.n_bytes) == (0, 0)
    else:
        assert kept.tokens == IDS[: 20 + n_lost]
        assert (len(cache), cache.n_bytes) == (1, n_bytes)


def test_the_least_recently_used_is_dropped_first(model):
    texts = [[i, *IDS[:100]] for i in range(3)]
    cache, sequences = cache_of(model, *texts)
    cache.sequence_for(model, [*texts[0][:20], 200], None)  # a copy: the sequence is now the most recently used
    cache.shrink(2 * sequences[0].nbytes)
    assert len(cache) == 2
    assert cache.sequence_for(model, [*texts[0], 1], None) is sequences[0]
    assert len(cache.sequence_for(model, [*texts[1], 1], None)) == 0
    cache.shrink(-1)
    assert (len(cache), cache.n_bytes) == (0, 0)


def test_a_sequence_in_use_is_copied(model):
    running = Kept(sequence(model, IDS[:30]), None)
    found = PrefixCache().sequence_for(model, IDS[:40], None, [running])
    assert found is not running.sequence
    assert found.tokens == running.sequence.tokens == IDS[:30]


@pytest.mark.parametrize("n_top", [None, 0, 3])
def test_prompts_share_tokens_only_with_those_that_report_the_same(model, n_top):
    cache = PrefixCache()
    cache.keep(sequence(model, IDS[:20]), 3)
    assert len(cache.sequence_for(model, IDS[:30], n_top)) == (20 if n_top == 3 else 0)


def test_models_share_nothing(model):
    cache, _ = cache_of(model, IDS[:20])
    assert len(cache.sequence_for(gpt2rt.open_model(model.path, n_threads=1), IDS[:30], None)) == 0
