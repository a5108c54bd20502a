"""Generation: what a text consists of, what ends it, and how many forward passes it takes."""

import itertools

import numpy as np
import pytest
from demo import demo_model
from random_models import random_tensors, write_model

from gpt2rt.errors import ContextFullError, UsageError
from gpt2rt.generate import Generation
from gpt2rt.model import open_model
from gpt2rt.modelfile import Hyperparameters
from gpt2rt.sampling import SamplingParams

STORY = "Once upon a time"


@pytest.fixture
def model():
    return demo_model()


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory):
    """A random model whose 256 tokens are the bytes: its output is seldom UTF-8, and has no end-of-text token."""
    h = Hyperparameters(n_vocab=256, n_ctx=64, n_embd=32, n_head=2, n_layer=1)
    path = write_model(tmp_path_factory.mktemp("model") / "bytes.bin", h, random_tensors(h))
    return open_model(path, n_threads=1)


def text_of(model, **options):
    return "".join(model.generate(STORY, **{"max_tokens": 60, "seed": 3, **options}))


def test_greedy_answer_is_the_one_published_for_the_model(model):
    generation = model.generate("User: Good morning!\nBot:", max_tokens=9, temperature=0)
    assert "".join(generation) == " Good morning! Did you sleep well?\n"
    assert generation.tokens == [638, 972, 0, 933, 278, 1141, 604, 30, 198]


def test_the_same_seed_gives_the_same_text_and_another_seed_does_not(model):
    assert text_of(model) == text_of(model) != text_of(model, seed=6)


def test_a_seed_from_the_system_reproduces_the_text(model):
    generation = model.generate(STORY, max_tokens=30)
    assert "".join(generation) == text_of(model, max_tokens=30, seed=generation.seed)


def test_pieces_are_whole_characters_even_if_tokens_are_not(byte_model):
    generation = byte_model.generate("é", seed=1, temperature=2.0, top_k=0)
    pieces = list(generation)
    assert all(pieces)
    assert "".join(pieces) == byte_model.tokenizer.decode(generation.tokens)


def test_text_is_complete_however_much_was_iterated_over(model):
    pieces = list(model.generate(STORY, max_tokens=20, seed=3))
    for n in (0, 1, 5, len(pieces)):
        generation = model.generate(STORY, max_tokens=20, seed=3)
        assert list(itertools.islice(generation, n)) == pieces[:n]
        assert generation.text() == "".join(pieces) == generation.text()
        assert list(generation) == []


def test_text_after_close_is_what_was_read(model):
    generation = model.generate(STORY, max_tokens=20, seed=3)
    first = next(generation)
    generation.close()
    assert generation.text() == first


@pytest.mark.parametrize("kind", [list, tuple, iter, np.array, lambda ids: np.array(ids, np.uint16)])
def test_a_prompt_may_be_ids(model, kind):
    ids = model.tokenizer.encode(STORY)
    generation = model.generate(kind(ids), max_tokens=60, seed=3)
    assert generation.text() == text_of(model)
    assert generation.n_prompt_tokens == len(ids)
    assert generation.sequence.tokens[: len(ids)] == ids


@pytest.mark.parametrize("prompt", ["", [], iter([]), np.array([], np.int64)])
def test_an_empty_prompt_of_any_type_begins_a_document(model, prompt):
    generation = model.generate(prompt, max_tokens=5, seed=1)
    assert generation.text() == model.generate([model.tokenizer.bos_token_id], max_tokens=5, seed=1).text()


def test_keywords_override_a_sampling_params_object(model):
    warm = SamplingParams(temperature=1.5, top_k=7)
    expected = text_of(model, temperature=1.5, top_k=7)
    assert text_of(model, sampling=warm) == expected
    assert text_of(model, sampling=SamplingParams(temperature=1.5), top_k=7) == expected
    assert text_of(model, sampling=warm.replace(top_k=1), top_k=7) == expected
    assert text_of(model, sampling=None) == text_of(model, sampling=SamplingParams()) == text_of(model) != expected
    assert warm == SamplingParams(temperature=1.5, top_k=7)


def test_max_tokens_ends_the_text(model):
    generation = model.generate(STORY, max_tokens=7, seed=1)
    assert generation.finish_reason is None
    list(generation)
    assert (generation.finish_reason, generation.n_tokens) == ("length", 7)


def test_a_full_context_ends_the_text(byte_model):
    sequence = byte_model.sequence()
    generation = Generation(sequence, byte_model.tokenizer.encode("abc"), SamplingParams(), seed=1)
    list(generation)
    assert (generation.finish_reason, len(sequence)) == ("length", 64)
    assert generation.n_tokens == 64 - 3 + 1  # the last token needs no position


def test_end_of_text_ends_the_text_and_is_not_part_of_it(model):
    generation = model.generate("User: Bye!\nBot:", seed=2)
    text = "".join(generation)
    assert generation.finish_reason == "stop"
    assert model.tokenizer.bos_token_id not in generation.tokens
    assert text == model.tokenizer.decode(generation.tokens)


def test_the_last_token_costs_no_forward_pass(model):
    sequence, prompt = model.sequence(), model.tokenizer.encode(STORY)
    generation = Generation(sequence, prompt, SamplingParams(), max_tokens=5, seed=1)
    list(generation)
    assert sequence.tokens == prompt + generation.tokens[:-1]


@pytest.mark.parametrize("start", [0, 3, 20, 41])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_a_stop_string_ends_the_text_before_it(model, start, length):
    whole = text_of(model)
    stop = whole[start : start + length]
    generation = model.generate(STORY, max_tokens=60, seed=3, stop=[stop, "never said"])
    assert "".join(generation) == whole[: whole.index(stop)]
    assert generation.finish_reason == "stop"


def test_text_that_only_begins_like_a_stop_string_is_kept(model):
    whole = text_of(model)
    assert text_of(model, stop=[whole[-3:] + "~~~~"]) == whole


def test_an_empty_prompt_begins_a_document(model):
    sequence = model.sequence()
    list(Generation(sequence, [], SamplingParams(), max_tokens=2, seed=1))
    assert sequence.tokens[0] == model.tokenizer.bos_token_id


def test_an_empty_prompt_continues_after_the_tokens_of_the_sequence(model):
    sequence = model.sequence()
    sequence.append(model.tokenizer.encode(STORY))
    assert "".join(Generation(sequence, [], SamplingParams(), max_tokens=60, seed=3)) == text_of(model)


def test_an_empty_prompt_without_an_end_of_text_is_refused(byte_model):
    with pytest.raises(UsageError, match=r"prompt: it is empty, and the vocabulary has no token to start with"):
        byte_model.generate("")


def test_a_prompt_longer_than_the_context_is_refused_before_any_work(byte_model):
    sequence = byte_model.sequence()
    sequence.append([1, 2, 3])
    with pytest.raises(
        ContextFullError, match=r"prompt: 62 tokens, but the model has 64 positions, 3 of them in use \(shorten it\)"
    ):
        Generation(sequence, [1] * 62, SamplingParams())
    assert sequence.tokens == [1, 2, 3]


def test_the_penalty_leaves_the_prompt_alone(model):
    # The first token after the prompt is sampled from the same candidates, whatever the penalty.
    assert text_of(model, max_tokens=1, repetition_penalty=50.0) == text_of(model, max_tokens=1)
    assert text_of(model, repetition_penalty=50.0) != text_of(model)


def test_forbidden_ngrams_are_not_repeated(model):
    generation = model.generate(STORY, max_tokens=300, seed=6, temperature=0.5, no_repeat_ngram_size=3)
    list(generation)
    ngrams = list(zip(generation.tokens, generation.tokens[1:], generation.tokens[2:], strict=False))
    assert len(set(ngrams)) == len(ngrams) > 50


def test_close_ends_the_generation_early(model):
    generation = model.generate(STORY, seed=1)
    next(generation)
    generation.close()
    assert list(generation) == []


@pytest.mark.parametrize("max_tokens", [0, -1, 1.5, "3"])
def test_an_invalid_number_of_tokens_is_refused(model, max_tokens):
    with pytest.raises(UsageError, match=r"max_tokens: got .*, expected a whole number from 1"):
        model.generate(STORY, max_tokens=max_tokens)


@pytest.mark.parametrize("stop", [[""], ["x" * 257], [7]])
def test_an_empty_or_overlong_stop_string_is_refused(model, stop):
    with pytest.raises(UsageError, match=r"stop: got .*, expected text of 1 to 256 characters"):
        model.generate(STORY, stop=stop)


def test_too_many_stop_strings_are_refused(model):
    with pytest.raises(UsageError, match="stop: got 65 strings, expected at most 64"):
        model.generate(STORY, stop=["x"] * 65)
