"""Batches: several texts generated at once, each independent of the others; and steps of many sequences."""

import json
import subprocess
import sys

import numpy as np
import pytest
from demo import DEMO, demo_model
from random_models import random_tensors, write_model

from gpt2rt import ContextFullError, SamplingParams, UsageError, VocabularyError, open_model
from gpt2rt.modelfile import Hyperparameters

REPETITIVE = "The red cat sat on the red mat. The blue cat sat on the blue mat. The red cat sat on the"
PROMPTS = ["Once upon a time", "User: Hello!\nBot:", "", REPETITIVE, "I like", "The"]
ROWS = 256  # of a pass


@pytest.fixture(scope="module")
def model():
    return demo_model()


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    """A random model whose tokens include all bytes."""
    h = Hyperparameters(n_vocab=257, n_ctx=1100, n_embd=16, n_head=2, n_layer=1)
    return open_model(write_model(tmp_path_factory.mktemp("model") / "bytes.bin", h, random_tensors(h)), n_threads=1)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_each_text_of_a_batch_equals_that_of_its_prompt_alone(model, batch_size):
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


def test_an_empty_batch_yields_nothing(model):
    assert list(model.generate_batch([])) == []


def test_a_prompt_longer_than_the_context_is_refused_with_its_number(model):
    with pytest.raises(ContextFullError, match=r"prompt 2: \d+ tokens, but the model has 512 positions"):
        model.generate_batch(["a", "a b " * 600])


@pytest.mark.parametrize("batch_size", [0, -1, 257, 1.5])
def test_an_invalid_batch_size_is_refused(model, batch_size):
    with pytest.raises(UsageError, match=r"batch_size: got .*, expected a whole number from 1 to 256"):
        model.generate_batch(["a"], batch_size=batch_size)


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


REQUESTS = [
    "Once upon a time",
    {"prompt": "I like", "seed": 9},
    {"prompt": [100, 200, 300], "temperature": 0.2, "top_k": 5},
    {"prompt": np.array([100, 200]), "max_tokens": 3, "logprobs": 2},
    {"prompt": "The", "sampling": SamplingParams(temperature=0.0), "stop": [" t", "he"]},
    {"prompt": "The", "sampling": SamplingParams(temperature=5.0), "temperature": 0.1, "logprobs": 0},
    {"prompt": "User: Hello!\nBot:", "stop": "\n", "seed": None, "repetition_penalty": 1.3},
    {"prompt": "The", "logit_bias": {11: 100.0, 13: -100}},
    {"prompt": "", "max_tokens": 1},
]


def alone(model, i, request, **common):
    """Return the generation of a request by itself, read to its end."""
    options = dict(request) if isinstance(request, dict) else {"prompt": request}
    if options.get("seed") is None:
        options["seed"] = 40 + i
    generation = model.generate(options.pop("prompt"), **{**common, **options})
    generation.text()
    return generation


@pytest.mark.parametrize("batch_size", [3, 16])
def test_each_prompt_may_have_its_own_arguments(model, batch_size):
    common = {"max_tokens": 20, "stop": ["."], "sampling": SamplingParams(temperature=0.9, top_p=0.8)}
    batch = model.generate_batch(REQUESTS, seed=40, batch_size=batch_size, top_k=30, **common)
    texts = [""] * len(REQUESTS)
    for i, piece in batch:
        texts[i] += piece
    common["sampling"] = common["sampling"].replace(top_k=30)
    for i, request in enumerate(REQUESTS):
        expected, found = alone(model, i, request, **common), batch.continuations[i]
        assert texts[i] == expected.text()
        assert found.tokens == expected.tokens
        assert found.finish_reason == expected.finish_reason
        assert found.logprobs == expected.logprobs
        assert found.top_logprobs == expected.top_logprobs
        assert found.seed == batch.seeds[i] == expected.seed
        assert len(found.logprobs) == (len(found.tokens) if i in (3, 5) else 0)


def test_all_prompts_report_logprobs(model):
    batch = model.generate_batch(["Once", {"prompt": "I", "logprobs": None}], seed=1, max_tokens=4, logprobs=3)
    list(batch)
    first, second = batch.continuations
    assert [len(top) for top in first.top_logprobs] == [3] * 4
    assert (second.logprobs, second.top_logprobs) == ([], [])


def test_stop_strings_may_come_from_an_iterator(model):
    expected = [alone(model, i, prompt, max_tokens=30, stop=["e"]).text() for i, prompt in enumerate(["Once", "I"])]
    texts = ["", ""]
    for i, piece in model.generate_batch(iter(["Once", "I"]), seed=40, max_tokens=30, stop=iter(["e"])):
        texts[i] += piece
    assert texts == expected


def test_seeds_wrap_around_after_the_largest(model):
    assert model.generate_batch(["a", "b"], seed=(1 << 64) - 1).seeds == [(1 << 64) - 1, 0]


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({}, UsageError, 'prompt 2: no "prompt", expected text or token ids'),
        ({"text": "x"}, UsageError, "prompt 2: unknown name 'text', expected any of prompt, seed, max_tokens, stop, "),
        ({"prompt": "x", "batch_size": 3}, UsageError, "prompt 2: unknown name 'batch_size', expected any of prompt, "),
        ({"prompt": "x", 5: 3}, UsageError, "prompt 2: unknown name 5, expected any of prompt, "),
        ({"prompt": None}, UsageError, "prompt 2: got None, expected text or token ids"),
        ({"prompt": {"prompt": "x"}}, UsageError, "prompt 2: got {'prompt': 'x'}, expected text or token ids"),
        (5, UsageError, "prompt 2: got 5, expected text or token ids"),
        (b"x", UsageError, "prompt 2: got b'x', expected text or token ids"),
        ([1, 2.0], UsageError, "prompt 2: tokens: got an item 2.0, expected ids"),
        ([1, 8192], VocabularyError, "prompt 2: token 8192: out of range, expected 0 to 8191"),
        ([1] * 513, ContextFullError, "prompt 2: 513 tokens, but the model has 512 positions"),
        ({"prompt": "x", "temperature": "hot"}, UsageError, "prompt 2: temperature: got 'hot', expected a number"),
        ({"prompt": "x", "sampling": {"top_k": 1}}, UsageError, "prompt 2: sampling: got {'top_k': 1}, expected a Sam"),
        ({"prompt": "x", "max_tokens": True}, UsageError, "prompt 2: max_tokens: got True, expected a whole number"),
        ({"prompt": "x", "logprobs": 33}, UsageError, "prompt 2: logprobs: got 33, expected a whole number from 0 to"),
        ({"prompt": "x", "seed": -1}, UsageError, "prompt 2: seed: got -1, expected a whole number from 0 to"),
        ({"prompt": "x", "stop": None}, UsageError, "prompt 2: stop: got None, expected a string or a list of"),
    ],
    ids=repr,
)
def test_an_error_in_a_prompt_names_its_number(model, request_, error, message):
    with pytest.raises(error) as caught:
        model.generate_batch(["a", request_, "b"])
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("prompts", ["Once", b"Once", {"prompt": "Once"}, 5, None])
def test_prompts_that_are_not_a_list_are_refused(model, prompts):
    with pytest.raises(UsageError, match=r"prompts: got .*, expected a list of prompts"):
        model.generate_batch(prompts)


# --- steps of the engine


def decoding(model, n):
    """Return sequences that sample from their second step on at the latest."""
    sequences = [model.sequence() for _ in range(n)]
    for i, sequence in enumerate(sequences):
        sequence.push([i % 256])
        sequence.set_sampling(SamplingParams(temperature=2.0), seed=i)
    return sequences


def sampled_by(steps, engine, sequences):
    """Return {sequence: the tokens it sampled in this many steps}."""
    found = {sequence: [] for sequence in sequences}
    for _ in range(steps):
        for event in engine.step(sequences):
            assert event.error is None
            found[event.sequence] += event.tokens
    return found


def test_more_sequences_than_rows_take_turns(small_model):
    sequences = decoding(small_model, 2 * ROWS + 88)
    found = sampled_by(12, small_model.engine(), sequences)
    counts = [len(tokens) for tokens in found.values()]
    assert sum(counts) == 12 * ROWS
    assert max(counts) - min(counts) <= 1
    for i in (0, ROWS, len(sequences) - 1):
        tokens = found[sequences[i]]
        text = small_model.generate([i % 256], temperature=2.0, top_k=40, seed=i, max_tokens=len(tokens))
        text.text()
        assert text.tokens == tokens[: text.n_tokens]


@pytest.mark.parametrize("n", [1, 100, ROWS, ROWS + 50])
def test_a_long_prompt_is_evaluated_however_many_sequences_decode(small_model, n):
    sequences, engine = decoding(small_model, n), small_model.engine()
    sampled_by(2, engine, sequences)
    prompt = small_model.sequence()
    prompt.push([7] * 1000)
    prompt.set_sampling(SamplingParams(), seed=1)
    steps = 0
    while not prompt.history:
        before = len(prompt)
        events = engine.step([prompt, *sequences])
        assert len(prompt) - before >= min(32, 1000 - before)
        if n <= 224:  # each has a row besides the prompt's
            assert {event.sequence for event in events} >= set(sequences)
        steps += 1
    assert steps <= 32
    fresh = small_model.sequence()
    fresh.append([7] * 1000)
    prompt.truncate(1000)
    assert (prompt.logits == fresh.logits).all()


def test_no_prompt_waits_forever(small_model):
    engine, long = small_model.engine(), [small_model.sequence() for _ in range(3)]
    for sequence in long:
        sequence.set_sampling(None)
        sequence.push([5] * 1000)
    short = small_model.sequence()
    short.set_sampling(SamplingParams(), seed=1)
    short.push([1, 2, 3])
    for _ in range(4 * len(long) + 1):
        for sequence in long:  # they are stepped again and again
            if not sequence.pending:
                sequence.truncate(0)
                sequence.push([5] * 1000)
        engine.step([*long, short])
    assert short.history


def test_long_and_short_prompts_in_a_batch_equal_each_alone(small_model):
    prompts = [[7] * 700, "ab", [9, 8] * 300, "c", "defg"]
    batch = small_model.generate_batch(prompts, seed=3, max_tokens=12, batch_size=4)
    list(batch)
    for i, prompt in enumerate(prompts):
        expected = small_model.generate(prompt, seed=3 + i, max_tokens=12)
        expected.text()
        assert batch.continuations[i].tokens == expected.tokens
