"""Scores: the log probability of each token given all tokens before it."""

import numpy as np
import pytest
import reference
from random_models import random_tensors, write_model

import gpt2rt
from gpt2rt import ContextFullError, VocabularyError
from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=261, n_ctx=300, n_embd=24, n_head=2, n_layer=2)
TENSORS = random_tensors(SHAPE)
TEXT = [(7 * i * i + 3 * i) % SHAPE.n_vocab for i in range(SHAPE.n_ctx)]


@pytest.fixture(scope="module", params=["f32", "int8"])
def model(request, tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("model") / "random.bin", SHAPE, TENSORS, request.param)
    return gpt2rt.open_model(path, n_threads=2)


@pytest.fixture(scope="module")
def scores(model):
    return model.score(TEXT)


def test_scores_are_the_log_softmax_of_the_preceding_logits(model, scores):
    sequence = model.sequence()
    sequence.append(TEXT, len(TEXT))
    expected = reference.log_softmax(sequence.all_logits)[np.arange(len(TEXT) - 1), TEXT[1:]]
    assert scores[0] is None
    assert scores[1:] == pytest.approx(expected, rel=1e-12)
    assert all(type(score) is float for score in scores[1:])


def test_scores_match_the_reference(tmp_path):
    model = gpt2rt.open_model(write_model(tmp_path / "f32.bin", SHAPE, TENSORS))
    logits = reference.logits(TENSORS, SHAPE.n_head, TEXT)
    expected = reference.log_softmax(logits)[np.arange(len(TEXT) - 1), TEXT[1:]]
    assert model.score(TEXT)[1:] == pytest.approx(expected, rel=1e-4)


def test_a_text_and_its_ids_have_the_same_scores(model):
    ids = model.tokenizer.encode("Once upon a time")
    assert model.score("Once upon a time") == model.score(ids) == model.score(iter(ids)) == model.score(np.array(ids))


def test_an_empty_text_has_no_scores_and_a_first_token_has_none(model):
    assert model.score("") == model.score([]) == []
    assert model.score([5]) == [None]


def test_invalid_text_to_score_is_refused(model):
    with pytest.raises(ContextFullError, match="301 more, but the model has 300 positions"):
        model.score([1] * 301)
    with pytest.raises(VocabularyError, match="token 261: out of range, expected 0 to 260"):
        model.score([1, 261])
    sequence = model.sequence()
    sequence.append(TEXT[:200])
    with pytest.raises(ContextFullError, match="200 tokens and 101 more"):
        sequence.score(TEXT[:101])
    assert sequence.tokens == TEXT[:200]


@pytest.mark.parametrize("split", [[1, 299], [299, 1], [63, 1, 64, 65, 107], [1] * 9 + [0, 291], [256, 44]], ids=str)
def test_scores_do_not_depend_on_the_split(model, scores, split):
    sequence, found = model.sequence(), []
    for n in split:
        found += sequence.score(TEXT[len(found) : len(found) + n])
    assert found == scores
    assert sequence.tokens == TEXT


@pytest.mark.parametrize("n", [1, 7, 250])
def test_scores_continue_after_tokens_that_were_not_scored(model, scores, n):
    sequence = model.sequence()
    sequence.append(TEXT[:n])
    assert sequence.score(TEXT[n : n + 20]) == scores[n : n + 20]
    sequence.append(TEXT[n + 20 : n + 25], 0)  # keeps no logits
    assert sequence.score(TEXT[n + 25 : n + 30]) == scores[n + 25 : n + 30]


def test_scores_continue_after_truncating(model, scores):
    sequence = model.sequence()
    sequence.append(TEXT[::-1][:100])
    sequence.truncate(0)
    assert sequence.score(TEXT[:90]) == scores[:90]
    sequence.score(TEXT[:20])
    sequence.truncate(70)
    assert sequence.score(TEXT[70:]) == scores[70:]


@pytest.mark.parametrize(("n_evaluated", "n_pending"), [(0, 1), (0, 100), (10, 1), (10, 70), (1, 2)])
def test_pending_ids_come_first_and_have_no_score(model, scores, n_evaluated, n_pending):
    sequence = model.sequence()
    sequence.append(TEXT[:n_evaluated])
    begin = n_evaluated + n_pending
    sequence.push(TEXT[n_evaluated:begin])
    assert sequence.score([]) == []
    assert sequence.pending == TEXT[n_evaluated:begin]
    assert sequence.score(TEXT[begin : begin + 9]) == scores[begin : begin + 9]
    assert sequence.tokens == TEXT[: begin + 9]
    assert sequence.pending == []


def test_a_sampled_token_is_evaluated_before_the_scored_text(model):
    sequence = model.sequence()
    sequence.push(TEXT[:10])
    sequence.set_sampling(gpt2rt.SamplingParams(), seed=1)
    (event,) = model.engine().step([sequence])
    expected = model.score(TEXT[:10] + event.tokens + TEXT[10:20])
    assert sequence.score(TEXT[10:20]) == expected[11:]


def test_the_state_after_score_equals_that_after_append(model):
    scored, appended = model.sequence(), model.sequence()
    scored.score(TEXT[:100])
    appended.append(TEXT[:100])
    assert (scored.logits == appended.logits).all()
    assert scored.fork().score(TEXT[100:120]) == appended.score(TEXT[100:120])
