"""Guessed tokens and batches: faster ways to the very same text."""

import json
import subprocess
import sys

import pytest
from demo import DEMO, demo_model

from gpt2rt import ContextFullError, UsageError
from gpt2rt.batch import BatchGeneration
from gpt2rt.generate import Generation
from gpt2rt.lookup import LONGEST_PAUSE, MOST_GUESSES, PromptLookup
from gpt2rt.sampling import SamplingParams

REPETITIVE = "The red cat sat on the red mat. The blue cat sat on the blue mat. The red cat sat on the"
PROMPTS = ["Once upon a time", "User: Hello!\nBot:", "", REPETITIVE, "I like", "The"]


@pytest.fixture(scope="module")
def model():
    return demo_model()


# --- guessing


@pytest.mark.parametrize("temperature", [0, 0.3, 1.0])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("stop", [(), ("e b",)])
def test_text_tokens_and_end_are_the_same_with_and_without_guesses(model, prompt, temperature, stop):
    results = []
    for lookup in (True, False):
        generation = model.generate(prompt, max_tokens=150, temperature=temperature, seed=5, stop=stop, lookup=lookup)
        results.append(("".join(generation), generation.tokens, generation.finish_reason))
    assert results[0] == results[1]


def test_the_context_ends_both_at_the_same_token(model):
    results = []
    for lookup in (True, False):
        generation = model.generate(REPETITIVE, temperature=0, lookup=lookup)
        results.append(("".join(generation), generation.tokens, generation.finish_reason))
    assert results[0] == results[1]


def passes(session):
    """Counts how often the session runs its network."""
    calls, accept = [], session.accept

    def counted(tokens, **options):
        calls.append(tokens)
        accept(tokens, **options)

    session.accept = counted
    return calls


def test_repetitive_text_takes_fewer_passes(model):
    session, plain = model.session(), model.session()
    calls = passes(session)
    tokens = model.tokenizer.encode("The cat sat on the mat. The cat sat on")  # greedy, it soon repeats itself
    generation = Generation(session, tokens, SamplingParams(temperature=0), max_tokens=100, lookup=True)
    list(generation)
    assert len(generation.tokens) == 100
    assert len(calls) < 50
    list(Generation(plain, tokens, SamplingParams(temperature=0), max_tokens=100, lookup=False))
    assert session.tokens == plain.tokens


def test_a_model_that_fits_in_caches_guesses_only_when_told(model):
    session = model.session()
    calls = passes(session)
    list(Generation(session, model.tokenizer.encode("She said"), SamplingParams(temperature=0), max_tokens=50))
    assert {len(tokens) for tokens in calls[1:]} == {1}


def test_a_session_holds_no_guesses_while_the_text_is_read(model):
    session = model.session()
    tokens = model.tokenizer.encode("Once upon a time")
    generation = Generation(session, tokens, SamplingParams(temperature=0), max_tokens=100, lookup=True)
    for _ in generation:
        known = tokens + generation.tokens
        assert session.tokens == known[: len(session)]


def test_guesses_are_what_followed_the_same_words():
    lookup = PromptLookup()
    assert lookup.guess([1, 2, 3, 4, 5, 6, 7, 8, 9], 100) == []
    tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4]
    assert lookup.guess(tokens, 100) == [5, 6, 7, 8, 9][:MOST_GUESSES]
    assert lookup.guess(tokens, 2) == [5, 6]
    assert lookup.guess(tokens, 0) == []


def test_wrong_guesses_are_followed_by_ever_longer_rests():
    lookup, tokens, guesses = PromptLookup(), [1, 2, 3] * 4, 0
    for _ in range(4 * LONGEST_PAUSE):
        if lookup.guess(tokens, 4):
            guesses += 1
            lookup.learn(0)
    assert guesses < 12


# --- batches


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_each_text_of_a_batch_is_that_of_its_prompt_alone(model, batch_size):
    options = {"max_tokens": 40, "temperature": 0.9}
    texts = [""] * len(PROMPTS)
    generation = model.generate_batch(PROMPTS, seed=11, batch_size=batch_size, **options)
    for i, piece in generation:
        texts[i] += piece
    for i, prompt in enumerate(PROMPTS):
        alone = model.generate(prompt, seed=11 + i, **options)
        assert texts[i] == "".join(alone)
        assert generation.continuations[i].tokens == alone.tokens
        assert generation.continuations[i].finish_reason == alone.finish_reason


def test_a_batch_of_nothing_is_nothing(model):
    assert list(model.generate_batch([])) == []


def test_a_prompt_longer_than_the_context_is_refused_by_its_number(model):
    with pytest.raises(ContextFullError, match=r"prompt 2: \d+ tokens, the model has 512 positions"):
        model.generate_batch(["a", "a b " * 600])


@pytest.mark.parametrize("batch_size", [0, -1, 257, 1.5])
def test_an_impossible_batch_size_is_refused(model, batch_size):
    with pytest.raises(UsageError, match=r"batch_size: got .*, expected 1 to 256"):
        BatchGeneration(model, [[1]], SamplingParams(), batch_size=batch_size)


def test_the_command_line_continues_every_line(model, tmp_path):
    (tmp_path / "prompts.txt").write_text("Once upon a time\nI like\n", encoding="utf-8")
    arguments = ["generate", str(DEMO), "--prompts", str(tmp_path / "prompts.txt"), "-n", "20", "--seed", "4"]
    result = subprocess.run(
        [sys.executable, "-m", "gpt2rt", *arguments], capture_output=True, encoding="utf-8", check=True
    )
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["prompt"] for line in lines] == ["Once upon a time", "I like"]
    for i, line in enumerate(lines):
        assert line["text"] == "".join(model.generate(line["prompt"], max_tokens=20, seed=4 + i))
    assert result.stderr.startswith("seed 4; 2 texts, ")
