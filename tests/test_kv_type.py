"""The KV cache in int8: close to the reference, the same bits everywhere, and half the memory."""

import json

import numpy as np
import pytest
import reference
from demo import DEMO, demo_model
from random_models import ISAS, open_sequence, random_tensors, write_model

import gpt2rt
from gpt2rt.errors import UsageError
from gpt2rt.modelfile import Hyperparameters

KV_TYPES = ["f32", "f16", "int8"]

# Heads of 48, 10, 7 and 64 dimensions: tiles have 16, and an integer product takes four. The last cache grows twice.
SHAPES = [
    Hyperparameters(n_vocab=257, n_ctx=17, n_embd=48, n_head=1, n_layer=1),
    Hyperparameters(n_vocab=256, n_ctx=33, n_embd=30, n_head=3, n_layer=2),
    Hyperparameters(n_vocab=263, n_ctx=40, n_embd=7, n_head=1, n_layer=1),
    Hyperparameters(n_vocab=272, n_ctx=200, n_embd=128, n_head=2, n_layer=2),
]


def tokens_for(shape):
    return np.random.default_rng(1).integers(0, shape.n_vocab, shape.n_ctx).tolist()


def accepted(sequence, tokens):
    sequence.append(tokens)
    return sequence.logits


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def shape(request):
    return request.param


@pytest.fixture(scope="module")
def path(shape, tmp_path_factory):
    """A model in f32, so that the cache is all that is quantized."""
    return write_model(tmp_path_factory.mktemp("kv") / "f32.bin", shape, random_tensors(shape))


def test_logits_stay_close_to_the_reference_at_every_position(shape, path):
    tokens = tokens_for(shape)
    expected = reference.logits(random_tensors(shape), shape.n_head, tokens)
    sequence = open_sequence(path, kv_type="int8")
    for position, token in enumerate(tokens):
        error = np.abs(accepted(sequence, [token]) - expected[position]).max()
        assert 0 < error <= 2e-2 * np.abs(expected[position]).max()


def test_logits_have_the_same_bits_on_every_instruction_set(shape, path):
    tokens = tokens_for(shape)
    assert len({accepted(open_sequence(path, isa, kv_type="int8"), tokens).tobytes() for isa in ISAS}) == 1


def test_traced_attention_weights_sum_to_one_and_do_not_change_the_logits(shape, path):
    tokens = tokens_for(shape)
    sequence = open_sequence(path, kv_type="int8")
    weights = sequence.append(tokens, trace=True).attention
    assert np.abs(weights.sum(axis=-1) - 1).max() < 1e-5
    assert not np.triu(weights, 1).any()
    assert sequence.logits.tobytes() == accepted(open_sequence(path, kv_type="int8"), tokens).tobytes()


@pytest.mark.parametrize("scale", [0, 1e-30, 1e-6, 1e30])
def test_keys_and_values_of_any_size_give_the_same_bits(scale, tmp_path):
    # At 1e-6 their scales are subnormal as f16; at 1e30 they are above the largest f16.
    shape = SHAPES[1]
    tensors, tokens = random_tensors(shape), tokens_for(shape)
    for name, values in tensors.items():
        if "c_attn" in name:
            values[..., shape.n_embd :] *= scale
    path = write_model(tmp_path / "m.bin", shape, tensors)
    results = {accepted(open_sequence(path, isa, kv_type="int8"), tokens).tobytes() for isa in ISAS}
    assert len(results) == 1
    assert np.isfinite(np.frombuffer(results.pop(), np.float32)).all()


def test_what_a_truncated_text_left_in_the_cache_changes_nothing(tmp_path):
    shape = SHAPES[3]
    path = write_model(tmp_path / "m.bin", shape, random_tensors(shape))
    tokens = tokens_for(shape)
    sequence = open_sequence(path, kv_type="int8")
    sequence.append(tokens[::-1])
    for length in (150, 65, 3, 0):
        sequence.truncate(0)
        sequence.append(tokens[:150])
        sequence.truncate(length)
        expected = accepted(open_sequence(path, kv_type="int8"), tokens[: length + 1]).tobytes()
        assert accepted(sequence, tokens[length : length + 1]).tobytes() == expected
        assert sequence.fork().logits.tobytes() == expected


@pytest.mark.parametrize(
    ("weight_type", "kv_type", "expected"),
    [("f32", None, "f32"), ("int8", None, "f16"), ("f16", None, "f16"), ("f32", "f16", "f16"), ("int8", "f32", "f32")],
)
def test_the_default_type_follows_the_weights(weight_type, kv_type, expected, tmp_path):
    path = write_model(tmp_path / "m.bin", SHAPES[0], random_tensors(SHAPES[0]), weight_type)
    assert gpt2rt.open_model(path, kv_type=kv_type).kv_type == expected


def test_another_type_of_cache_has_other_logits():
    demo_model()
    found = {accepted(gpt2rt.open_model(DEMO, kv_type=kind).sequence(), range(300)).tobytes() for kind in KV_TYPES}
    assert len(found) == len(KV_TYPES)


def test_int8_takes_little_more_than_half_of_f16():
    demo_model()
    half, quarter = (gpt2rt.open_model(DEMO, kv_type=kind).kv_cache_bytes_per_token for kind in ("f16", "int8"))
    assert 0.5 < quarter / half < 0.54


def test_the_size_of_a_sequence_in_int8_has_the_whole_cache(tmp_path):
    shape = SHAPES[3]
    path = write_model(tmp_path / "m.bin", shape, random_tensors(shape))
    model = gpt2rt.open_model(path, kv_type="int8")
    sequence = model.sequence()
    empty = sequence.nbytes
    sequence.append(tokens_for(shape)[:64], 0)
    assert sequence.nbytes == empty + 64 * model.kv_cache_bytes_per_token


@pytest.mark.parametrize("bad", ["int4", "", 8, b"int8"], ids=repr)
def test_an_unknown_type_is_refused(bad):
    with pytest.raises(UsageError, match=r"kv_type: got .*, expected one of f16, f32, int8 or None"):
        gpt2rt.open_model(DEMO, kv_type=bad)


# --- the command line


def test_a_file_can_be_compared_with_itself(cli, tmp_path):
    demo_model()
    text = tmp_path / "text.txt"
    text.write_text("The old man looked at the sea, and the sea looked back at him. " * 8)
    code, out, err = cli("perplexity", DEMO, text, "--kv-type", "int8", "--against", DEMO, "--json")
    assert (code, err) == (0, "")
    assert 0 < json.loads(out)["texts"][0]["against"]["mean_kl"] < 5e-3


def test_every_command_that_runs_a_model_has_the_option(cli):
    for command in ("generate", "chat", "next", "serve", "bench", "perplexity"):
        code, out, _ = cli(command, "--help")
        assert code == 0
        assert "--kv-type [int8|f16|f32]" in out


def test_info_prints_the_size_in_int8(cli):
    demo_model()
    _, out, _ = cli("info", DEMO)
    assert "7.9 MB for 512 tokens, 4.2 MB in int8" in out


def test_another_type_has_another_fingerprint():
    served_model = pytest.importorskip("gpt2rt.serve.served_model")
    demo_model()
    prints = [served_model.ServedModel("demo", gpt2rt.open_model(DEMO, kv_type=kind)).fingerprint for kind in KV_TYPES]
    assert prints == [f"{prints[1]}-f32", prints[1], f"{prints[1]}-int8"]
