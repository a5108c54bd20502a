"""Prompt lookup: guessed tokens make the same text faster."""

import pytest
from demo import demo_model

from gpt2rt._engine import step_together
from gpt2rt.generate import Continuation, Generation, run_together
from gpt2rt.lookup import LONGEST_PAUSE, MOST_GUESSES, PromptLookup
from gpt2rt.sampling import SamplingParams

REPETITIVE = "The red cat sat on the red mat. The blue cat sat on the blue mat. The red cat sat on the"
PROMPTS = ["Once upon a time", "User: Hello!\nBot:", "", REPETITIVE, "I like", "The"]


@pytest.fixture(scope="module")
def model():
    return demo_model()


@pytest.mark.parametrize("temperature", [0, 1.0, pytest.param(0.3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("stop", [(), ("e b",)])
def test_text_tokens_and_end_are_the_same_with_and_without_guesses(model, prompt, temperature, stop):
    results = []
    for lookup in (True, False):
        generation = model.generate(prompt, max_tokens=150, temperature=temperature, seed=5, stop=stop, lookup=lookup)
        results.append(("".join(generation), generation.tokens, generation.finish_reason))
    assert results[0] == results[1]


def test_the_context_ends_the_text_at_the_same_token_with_and_without_guesses(model):
    results = []
    for lookup in (True, False):
        generation = model.generate(REPETITIVE, temperature=0, lookup=lookup)
        results.append(("".join(generation), generation.tokens, generation.finish_reason))
    assert results[0] == results[1]


def passes(model, prompt, **options):
    """Continue a prompt; return the continuation, and the number of tokens sampled by each step."""
    continuation = Continuation(model.sequence(), prompt, SamplingParams(temperature=0), **options)
    sampled = []

    def step(sequences):
        (event,) = step_together(sequences)
        sampled.append(len(event.tokens))
        return [event]

    for _ in run_together([continuation], step):
        pass
    return continuation, sampled


def test_repetitive_text_takes_fewer_forward_passes(model):
    prompt = model.tokenizer.encode("The cat sat on the mat. The cat sat on")  # greedy decoding soon repeats itself
    guessed, sampled = passes(model, prompt, max_tokens=100, lookup=True)
    plain, one_by_one = passes(model, prompt, max_tokens=100)
    assert len(sampled) < 50
    assert one_by_one == [1] * 100
    assert guessed.tokens == plain.tokens
    assert guessed.sequence.tokens == plain.sequence.tokens


def test_a_model_that_fits_in_caches_guesses_only_on_request(model, monkeypatch):
    seen = []
    monkeypatch.setattr(PromptLookup, "guess", lambda *_: seen.append(1) or [])
    model.generate("She said", max_tokens=20).text()
    assert not seen
    model.generate("She said", max_tokens=20, lookup=True).text()
    assert seen


def test_a_sequence_holds_no_guesses_while_the_text_is_read(model):
    tokens = model.tokenizer.encode("Once upon a time")
    generation = model.generate("Once upon a time", temperature=0, max_tokens=100, lookup=True)
    for _ in generation:
        known = tokens + generation.tokens
        assert generation.sequence.tokens == known[: len(generation.sequence)]
    assert len(generation.tokens) == 100


@pytest.mark.parametrize("stop", ["mat", ". The"])
def test_a_stop_string_among_guessed_tokens_leaves_the_sequence_as_without_guesses(model, stop):
    found = []
    for lookup in (True, False):
        generation = model.generate(REPETITIVE, temperature=0.01, seed=3, stop=stop, max_tokens=60, lookup=lookup)
        generation.text()
        sequence = generation.sequence
        sequence.set_sampling(SamplingParams(temperature=2.0))  # the next tokens depend on the generator's state
        found.append((sequence.tokens, sequence.pending, sequence.history, model_continues(sequence)))
    assert found[0] == found[1]


def model_continues(sequence):
    return Generation(sequence, [], SamplingParams(temperature=2.0), max_tokens=12).text()


def test_guesses_are_what_followed_the_same_ngram():
    lookup = PromptLookup()
    assert lookup.guess([1, 2, 3, 4, 5, 6, 7, 8, 9], 100) == []
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4]
    assert lookup.guess(tokens, 100) == [5, 6, 7, 8, 9][:MOST_GUESSES]
    assert lookup.guess(tokens, 2) == [5, 6]
    assert lookup.guess(tokens, 0) == []


def test_pauses_after_wrong_guesses_double():
    lookup, tokens, guesses = PromptLookup(), [1, 2, 3] * 4, 0
    for _ in range(4 * LONGEST_PAUSE):
        if lookup.guess(tokens, 4):
            guesses += 1
            lookup.learn(0)
    assert guesses < 12
