"""Published figures of OpenAI's GPT-2 124M, checked if GPT2RT_124M names the folder of the real checkpoint."""

import lzma
import os

import numpy as np
import pytest
from conftest import shared

from gpt2rt import open_model
from gpt2rt.converter import convert

pytestmark = pytest.mark.real_weights

# Greedy continuations: picoGPT's README, and the test of GPT-2 in transformers.
TURING = "Alan Turing theorized that computers would one day become"
TURING_IDS = [36235, 39141, 18765, 1143, 326, 9061, 561, 530, 1110, 1716]
TURING_NEXT = [
    *(262, 749, 3665, 8217, 319, 262, 5440, 13, 198, 198, 464, 3644, 318, 257, 4572, 326, 460, 1620, 3716, 16765, 11),
    *(290, 340, 460, 1620, 777, 16765, 287, 257, 835, 326, 318, 845, 2092, 284, 262, 1692, 3632, 13, 198),
]
DOG_IDS = [464, 3290]
DOG_NEXT = [373, 1043, 287, 257, 2214, 1474, 262, 16246, 286, 2688, 290, 2688, 27262, 13, 198, 198, 464, 3290]

# The most likely next token and its logit: poloclub/transformer-explainer, in f32 elsewhere, so about 1e-2.
NEXT = [
    ("Data visualization empowers users to", 38350, -135.913162),
    ("Artificial Intelligence is transforming the", 835, -100.878525),
    ("As the spaceship was approaching the", 5440, -92.863647),
    ("On the deserted planet they discovered a", 6283, -89.018585),
    ("IEEE VIS conference highlights the", 6817, -93.250969),
]


@pytest.fixture(scope="module")
def checkpoint():
    folder = os.environ.get("GPT2RT_124M")
    if not folder:
        pytest.skip("GPT2RT_124M names no folder of OpenAI's 124M checkpoint")
    return folder


@pytest.fixture(scope="module", params=["f32", "int8"])
def model(request, checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / f"124M-{request.param}.bin"
    convert(checkpoint, path, weight_type=request.param)
    return open_model(path)


@pytest.fixture(scope="module")
def f32(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("real") / "124M.bin"
    convert(checkpoint, path, weight_type="f32")
    return open_model(path)


def greedy(model, tokens, n):
    sequence = model.sequence()
    sequence.append(tokens)
    for _ in range(n):
        sequence.append([int(sequence.logits.argmax())])
    return sequence.tokens[len(tokens) :]


def test_prompts_have_the_published_ids(model):
    assert model.tokenizer.encode(TURING) == TURING_IDS
    assert model.tokenizer.encode("The dog") == DOG_IDS


def test_greedy_continuations_are_the_published_ones(f32):
    assert greedy(f32, TURING_IDS, len(TURING_NEXT)) == TURING_NEXT
    assert greedy(f32, DOG_IDS, len(DOG_NEXT)) == DOG_NEXT


@pytest.mark.parametrize(("prompt", "token", "logit"), NEXT)
def test_next_tokens_and_their_logits_are_the_published_ones(f32, prompt, token, logit):
    sequence = f32.sequence()
    sequence.append(f32.tokenizer.encode(prompt))
    assert sequence.logits.argmax() == token
    assert abs(sequence.logits[token] - logit) < 1e-2


def test_all_logits_are_the_published_ones(f32):
    published = np.load(shared("gpt2", "reference_logits.npz"))
    for i in range(len(NEXT)):
        sequence = f32.sequence()
        sequence.append(published[f"ids{i}"])
        assert np.abs(sequence.logits - published[f"logits{i}"]).max() < 2e-2


def shakespeare_tokens(tokenizer, text):
    """Tokenize tinyshakespeare as llm.c does: <|endoftext|> before the text and after every blank line."""
    parts = text.split("\n\n")
    tokens = []
    for i, part in enumerate(parts):
        tokens += [tokenizer.bos_token_id, *tokenizer.encode(part + "\n\n" * (i < len(parts) - 1))]
    return tokens


def mean_loss(model, tokens, n_rows=4, n_tokens=64):
    losses = []
    for row in range(n_rows):
        sequence, begin = model.sequence(), row * n_tokens
        for i in range(begin, begin + n_tokens):
            sequence.append([tokens[i]])
            logits = sequence.logits.astype(np.float64)
            losses.append(np.logaddexp.reduce(logits) - logits[tokens[i + 1]])
    return np.mean(losses)


def test_loss_of_the_first_validation_batch_is_that_of_llm_c(model):
    text = lzma.decompress(shared("text", "eval", "tinyshakespeare.txt.xz").read_bytes()).decode()
    tokens = shakespeare_tokens(model.tokenizer, text)
    assert len(tokens) == 338_028
    assert abs(mean_loss(model, tokens) - 5.270007) < (1e-3 if model.weight_type == "f32" else 2e-2)
