"""The end of the context: prompts that fill it, exactly or nearly, alone and in a batch."""

import pytest
from random_models import random_tensors, write_model

import gpt2rt
from gpt2rt.errors import ContextFullError
from gpt2rt.generate import Generation
from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=257, n_ctx=40, n_embd=16, n_head=2, n_layer=1)
SAMPLING = gpt2rt.SamplingParams(temperature=1.5)
IDS = [(7 * i * i + 3 * i) % 128 for i in range(SHAPE.n_ctx + 1)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("model") / "random.bin", SHAPE, random_tensors(SHAPE))
    return gpt2rt.open_model(path, n_threads=1)


@pytest.mark.parametrize("lookup", [False, True])
@pytest.mark.parametrize("n_free", [0, 1, 2, 7])
def test_every_position_is_used_and_one_token_follows_the_last(model, n_free, lookup):
    sequence = model.sequence()
    generation = Generation(sequence, IDS[: SHAPE.n_ctx - n_free], SAMPLING, seed=3, lookup=lookup)
    generation.text()
    assert generation.finish_reason == "length"
    assert len(sequence) == SHAPE.n_ctx
    assert len(generation.tokens) == n_free + 1
    assert sequence.tokens + sequence.pending == IDS[: SHAPE.n_ctx - n_free] + generation.tokens


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_batch_at_the_end_of_the_context_gives_the_same_texts(model, batch_size):
    prompts = [IDS[: SHAPE.n_ctx - n_free] for n_free in (0, 3, 1, 30, 0, 2, 5, 1)]
    batch = model.generate_batch(prompts, seed=None, sampling=SAMPLING, batch_size=batch_size)
    texts = [""] * len(prompts)
    for i, piece in batch:
        texts[i] += piece
    for i, (prompt, continuation) in enumerate(zip(prompts, batch.continuations, strict=True)):
        generation = Generation(model.sequence(), prompt, SAMPLING, seed=batch.seeds[i])
        assert generation.text() == texts[i]
        assert continuation.tokens == generation.tokens
        assert continuation.finish_reason == generation.finish_reason == "length"


def test_a_prompt_with_one_token_too_many_is_refused(model):
    for refused in (
        lambda: Generation(model.sequence(), IDS, SAMPLING),
        lambda: model.generate_batch([IDS[:3], IDS], sampling=SAMPLING),
    ):
        with pytest.raises(ContextFullError, match="41 tokens, but the model has 40 positions"):
            refused()
