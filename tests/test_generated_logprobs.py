"""Log probabilities of generated tokens match the logits of a fresh sequence at that point, in float64."""

import numpy as np
import pytest
import reference
from demo import demo_model
from random_models import random_tensors, write_model

from gpt2rt import SamplingParams, UsageError, open_model
from gpt2rt.generate import Generation
from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=258, n_ctx=64, n_embd=32, n_head=2, n_layer=2)
PROMPT = "What is it?"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random model in which tokens i and i + 129 have the same logits."""
    tensors = random_tensors(SHAPE, seed=4)
    tensors["wte"][129:] = tensors["wte"][:129]
    path = write_model(tmp_path_factory.mktemp("model") / "ties.bin", SHAPE, tensors)
    return open_model(path, n_threads=1)


def assert_logprobs_of_fresh_sequences(model, prompt, found, n_top):
    """Compare with log softmax of the logits before each token."""
    assert len(found.logprobs) == len(found.tokens)
    assert len(found.top_logprobs) == (len(found.tokens) if n_top else 0)
    for i, token in enumerate(found.tokens):
        fresh = model.sequence()
        fresh.append(prompt + found.tokens[:i])
        expected = reference.log_softmax(fresh.logits)
        assert found.logprobs[i] == pytest.approx(expected[token], rel=1e-12)
        if n_top:
            order = np.lexsort((np.arange(len(expected)), -fresh.logits))[:n_top]  # lower ids first among ties
            ids, values = zip(*found.top_logprobs[i], strict=True)
            assert ids == tuple(order)
            assert values == pytest.approx(expected[order], rel=1e-12)


@pytest.mark.parametrize("n_top", [0, 1, 5, 32])
@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(),
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=3.0, top_k=0, top_p=1.0, repetition_penalty=1.5, no_repeat_ngram_size=2),
        SamplingParams(presence_penalty=1.0, frequency_penalty=0.5),
    ],
    ids=["default", "greedy", "repetition", "presence"],
)
def test_logprobs_are_the_models_own_whatever_the_sampling_options(model, n_top, sampling):
    generation = model.generate(PROMPT, sampling=sampling, max_tokens=12, seed=2, logprobs=n_top)
    generation.text()
    assert_logprobs_of_fresh_sequences(model, list(PROMPT.encode()), generation, n_top)


def test_tied_tokens_are_reported_with_the_lower_id_first(model):
    generation = model.generate(PROMPT, max_tokens=5, seed=2, logprobs=6)
    generation.text()
    for top in generation.top_logprobs:
        for (low, one), (high, other) in zip(top[::2], top[1::2], strict=True):
            assert (high - low, other) == (129, one)


def test_a_batch_reports_the_same_logprobs(model):
    prompts = [PROMPT, "a", [200, 100, 3]]
    batch = model.generate_batch(prompts, max_tokens=8, seed=5, logprobs=4)
    list(batch)
    for prompt, found in zip(prompts, batch.continuations, strict=True):
        ids = list(prompt.encode()) if isinstance(prompt, str) else prompt
        assert_logprobs_of_fresh_sequences(model, ids, found, 4)


@pytest.mark.parametrize("logprobs", [0, 7, 32])
def test_logprobs_change_no_token(model, logprobs):
    plain = model.generate(PROMPT, max_tokens=30, seed=3)
    asked = model.generate(PROMPT, max_tokens=30, seed=3, logprobs=logprobs)
    assert asked.text() == plain.text()
    assert asked.tokens == plain.tokens
    assert (plain.logprobs, plain.top_logprobs) == ([], [])


def test_logprobs_are_the_same_with_guessed_tokens():
    model, found = demo_model(), []
    for lookup in (True, False):
        generation = model.generate("She said", max_tokens=100, temperature=0, logprobs=3, lookup=lookup)
        generation.text()
        found.append((generation.tokens, generation.logprobs, generation.top_logprobs))
    assert found[0] == found[1]
    assert len(found[0][1]) == len(found[0][2]) == 100


def test_a_stop_string_ends_logprobs_together_with_the_tokens():
    model = demo_model()
    for lookup in (True, False):
        generation = model.generate("She said", max_tokens=60, temperature=0, stop="the", logprobs=2, lookup=lookup)
        generation.text()
        assert len(generation.logprobs) == len(generation.top_logprobs) == len(generation.tokens) > 0


def test_more_logprobs_than_the_vocabulary_has_tokens_are_refused(tmp_path):
    model = open_model(write_model(tmp_path / "m.bin", SHAPE, random_tensors(SHAPE)), n_threads=1)
    with pytest.raises(UsageError, match="logprobs: got 33, expected a whole number from 0 to 32"):
        model.generate(PROMPT, logprobs=33)


def test_logprobs_equal_the_scores_of_the_text(model):
    sequence, prompt = model.sequence(), list(PROMPT.encode())
    generation = Generation(sequence, prompt, SamplingParams(), seed=1, max_tokens=20, logprobs=0)
    generation.text()
    assert model.score(prompt + generation.tokens)[len(prompt) :] == generation.logprobs
