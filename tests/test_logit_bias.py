"""Logit bias: what a sequence samples with it is what the sampler chooses from the biased logits."""

import numpy as np
import pytest
from random_models import random_tensors, write_model

from gpt2rt import SamplingParams, UsageError, VocabularyError, open_model
from gpt2rt._sampler import Sampler, log_probabilities
from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=260, n_ctx=64, n_embd=32, n_head=2, n_layer=2)
PROMPT = [7, 1, 42]
BIAS = {9: 3.5, 200: -100, 17: 0.1, 259: 12.25, 0: -2}
OPTIONS = [
    {},
    {"temperature": 0.0},
    {"temperature": 1.3, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.4},
    {"temperature": 2.0, "min_p": 0.01, "repetition_penalty": 0.8, "no_repeat_ngram_size": 2},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("model") / "random.bin", SHAPE, random_tensors(SHAPE, seed=5))
    return open_model(path, n_threads=1)


def biased(logits, bias):
    result = logits.copy()
    for token, value in bias.items():
        result[token] += np.float32(value)
    return result


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("bias", [{}, BIAS, {5: 100.0}, {token: -token / 3 for token in range(260)}], ids=len)
def test_a_bias_is_added_before_all_options(model, options, bias):
    generation = model.generate(PROMPT, max_tokens=20, seed=3, sampling=SamplingParams(**options), logit_bias=bias)
    generation.text()
    sampler, sequence = Sampler(SamplingParams(**options), 3), model.sequence()
    sequence.append(PROMPT)
    for i, token in enumerate(generation.tokens):
        assert sampler.sample(biased(sequence.logits, bias), generation.tokens[:i]) == token
        sequence.append([token])


def test_a_large_bias_forces_a_token_and_a_small_one_bans_it(model):
    forced = model.generate(PROMPT, max_tokens=10, logit_bias={65: 100})
    assert forced.text() == "A" * 10
    banned = model.generate(PROMPT, max_tokens=10, logit_bias={token: -100 for token in range(260) if token != 66})
    assert banned.text() == "B" * 10


def test_reported_log_probabilities_are_the_models_own(model):
    generation = model.generate(PROMPT, max_tokens=10, seed=1, logprobs=3, logit_bias=BIAS)
    generation.text()
    sequence = model.sequence()
    sequence.append(PROMPT)
    for token, logprob, top in zip(generation.tokens, generation.logprobs, generation.top_logprobs, strict=True):
        assert [logprob] == log_probabilities(sequence.logits, [token])
        assert [p for _, p in top] == log_probabilities(sequence.logits, [likely for likely, _ in top])
        sequence.append([token])


def next_token(sequence, **options):
    """Return the token that a fork samples."""
    fork = sequence.fork()
    fork.set_sampling(SamplingParams(temperature=0), **options)
    (event,) = sequence.model.engine().step([fork])
    return event.tokens[0]


def test_none_keeps_the_bias_and_an_empty_dict_clears_it(model):
    sequence = model.sequence()
    sequence.append(PROMPT)
    plain = next_token(sequence)
    other = (plain + 1) % SHAPE.n_vocab
    sequence.set_sampling(None, logit_bias={other: 100})
    assert next_token(sequence) == next_token(sequence, logit_bias=None) == other
    assert next_token(sequence, logit_bias={}) == plain
    assert next_token(sequence.fork(1), logit_bias={other: 0}) != other
    assert next_token(sequence, logit_bias={plain: -1}) != other


def test_a_fork_has_its_own_bias(model):
    sequence = model.sequence()
    sequence.append(PROMPT)
    sequence.set_sampling(None, logit_bias={65: 100})
    fork = sequence.fork()
    sequence.set_sampling(None, logit_bias={66: 100})
    assert (next_token(sequence), next_token(fork)) == (66, 65)
    del sequence
    assert next_token(fork) == 65


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ([1, 2], r"logit_bias: got \[1, 2\], expected a dict \{id: bias\}"),
        ("text", "logit_bias: got 'text', expected a dict"),
        ({1: 100.5}, r"logit_bias of token 1: got 100.5, expected a number from -100.0 to 100.0"),
        ({2: 0, 1: float("nan")}, "logit_bias of token 1: got nan, expected a number"),
        ({3: "1"}, "logit_bias of token 3: got '1', expected a number"),
        ({"3": 1}, "tokens: got an item '3', expected ids"),
    ],
    ids=str,
)
def test_an_invalid_bias_is_refused_and_changes_nothing(model, bias, message):
    sequence = model.sequence()
    sequence.append(PROMPT)
    sequence.set_sampling(None, logit_bias={65: 100})
    with pytest.raises(UsageError, match=message):
        sequence.set_sampling(None, logit_bias=bias, history=[1])
    assert (next_token(sequence), sequence.history) == (65, [])
    with pytest.raises(UsageError, match=message):
        model.generate(PROMPT, logit_bias=bias)
    with pytest.raises(UsageError, match=rf"prompt 2: {message}"):
        model.generate_batch([PROMPT, {"prompt": PROMPT, "logit_bias": bias}])


@pytest.mark.parametrize("token", [-1, 260, 1 << 40])
def test_a_bias_of_a_token_outside_the_vocabulary_is_refused(model, token):
    with pytest.raises(VocabularyError, match=r"token .*: out of range, expected 0 to 259"):
        model.generate(PROMPT, logit_bias={token: 1})


def test_sequences_of_a_batch_do_not_inherit_a_bias(model):
    prompts = [{"prompt": PROMPT, "logit_bias": {65: 100}}, PROMPT, PROMPT]
    batch = model.generate_batch(prompts, max_tokens=5, seed=1, batch_size=1)
    list(batch)
    alone = model.generate(PROMPT, max_tokens=5, seed=2)
    alone.text()
    assert batch.continuations[0].tokens == [65] * 5
    assert batch.continuations[1].tokens == alone.tokens
    everywhere = model.generate_batch(
        [PROMPT, {"prompt": PROMPT, "logit_bias": {}}], max_tokens=5, logit_bias={66: 100}
    )
    list(everywhere)
    assert everywhere.continuations[0].tokens == [66] * 5
    assert everywhere.continuations[1].tokens != [66] * 5
