"""f32 logits over full contexts, compared with a forward pass in TensorFlow and with transformers."""

import numpy as np
import pytest
from conftest import shared
from random_models import random_tensors, write_model
from transformers_model import transformers_model

from gpt2rt import open_model
from gpt2rt.converter import convert
from gpt2rt.modelfile import Hyperparameters

pytestmark = pytest.mark.slow

TOLERANCE = 1e-4  # relative to the largest logit, since f32 sums are in another order
SHAPES = [
    Hyperparameters(n_vocab=257, n_ctx=17, n_embd=48, n_head=1, n_layer=2),
    Hyperparameters(n_vocab=300, n_ctx=1, n_embd=5, n_head=5, n_layer=1),
    Hyperparameters(n_vocab=1001, n_ctx=130, n_embd=120, n_head=3, n_layer=5),
]


def tensorflow_logits(t, n_head, tokens):
    """Return f32 logits (T, n_vocab) of ids (T,); t is {name: array} as in the checkpoint, without `model/`."""
    tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")  # takes seconds

    t = {name: tf.constant(array) for name, array in t.items()}
    n_tokens = len(tokens)

    def norm(x, name):
        mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
        return tf.nn.batch_normalization(x, mean, variance, t[f"{name}/b"], t[f"{name}/g"], 1e-5)

    def conv1d(x, name):  # (T, n_in) -> (T, n_out)
        return tf.nn.bias_add(tf.matmul(x, t[f"{name}/w"][0]), t[f"{name}/b"])

    def heads(x):  # (T, E) -> (H, T, E / H)
        return tf.transpose(tf.reshape(x, (n_tokens, n_head, -1)), (1, 0, 2))

    def attention(x, name):
        q, k, v = map(heads, tf.split(conv1d(x, f"{name}/c_attn"), 3, axis=-1))
        scores = tf.matmul(q, k, transpose_b=True) / tf.sqrt(float(q.shape[-1]))
        mask = tf.linalg.band_part(tf.ones((n_tokens, n_tokens)), -1, 0)
        out = tf.matmul(tf.nn.softmax(scores * mask - 1e10 * (1 - mask)), v)  # (H, T, E / H)
        return conv1d(tf.reshape(tf.transpose(out, (1, 0, 2)), (n_tokens, -1)), f"{name}/c_proj")

    x = tf.gather(t["wte"], tokens) + t["wpe"][:n_tokens]  # (T, E)
    layer = 0
    while (h := f"h{layer}") + "/ln_1/g" in t:
        x += attention(norm(x, f"{h}/ln_1"), f"{h}/attn")
        x += conv1d(tf.nn.gelu(conv1d(norm(x, f"{h}/ln_2"), f"{h}/mlp/c_fc"), approximate=True), f"{h}/mlp/c_proj")
        layer += 1
    return tf.matmul(norm(x, "ln_f"), t["wte"], transpose_b=True).numpy()


def transformers_logits(t, n_head, tokens):
    """Return the same, from transformers' GPT2LMHeadModel."""
    model, torch = transformers_model(t, n_head)
    with torch.no_grad():
        return model(torch.tensor([list(tokens)])).logits[0].numpy()


def own_logits(path, tokens):
    """Return the same, from our model file."""
    sequence = open_model(path).sequence()
    sequence.append(tokens, n_logits=len(tokens))
    rows = sequence.all_logits
    return np.stack([np.frombuffer(row, np.float32) for row in rows])


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def random_model(request, tmp_path_factory):
    """Return (path, tensors, n_head, tokens of a full context) of a random model."""
    tensors = random_tensors(request.param, seed=3)
    path = write_model(tmp_path_factory.mktemp("random") / "model.bin", request.param, tensors)
    tokens = np.random.default_rng(4).integers(request.param.n_vocab, size=request.param.n_ctx).tolist()
    return path, tensors, request.param.n_head, tokens


@pytest.fixture(scope="module")
def bundled_model(tmp_path_factory):
    """Return the same for the bundled model's checkpoint, read by TensorFlow, with text like its training text."""
    tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")

    folder = shared("talk")
    path = tmp_path_factory.mktemp("bundled") / "model.bin"
    convert(folder, path, weight_type="f32")
    reader = tf.train.load_checkpoint(str(folder))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
    tensors = {name.removeprefix("model/"): reader.get_tensor(name) for name in names}
    model = open_model(path)
    tokens = model.tokenizer.encode("User: Hello!\nBot: Hi there! What would you like to talk about?\n" * 50)
    return path, tensors, model.hyperparameters.n_head, tokens[: model.hyperparameters.n_ctx]


@pytest.mark.parametrize("other", [tensorflow_logits, transformers_logits])
def test_logits_of_random_models_equal_those_of(other, random_model):
    path, tensors, n_head, tokens = random_model
    assert_close(own_logits(path, tokens), other(tensors, n_head, tokens))


@pytest.mark.parametrize("other", [tensorflow_logits, transformers_logits])
def test_logits_of_the_bundled_model_equal_those_of(other, bundled_model):
    path, tensors, n_head, tokens = bundled_model
    assert len(tokens) == 512
    assert_close(own_logits(path, tokens), other(tensors, n_head, tokens))
