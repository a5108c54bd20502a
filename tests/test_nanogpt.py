"""Checkpoints of nanoGPT: what they convert to, where their vocabulary comes from, and what is refused."""

import numpy as np
import pytest
import reference
from checkpoints import SMALL, random_tensors, write_checkpoint
from hf_folder import TOKENS, assert_close
from pytorch_files import write
from trainer_files import linear, model_args, tensors_with, write_nanogpt

from gpt2rt.converter import convert
from gpt2rt.converter.nanogpt import NanoGptCheckpoint
from gpt2rt.errors import CheckpointError, UsageError, VocabularyError
from gpt2rt.model import open_model
from gpt2rt.modelfile import ModelFile

PADDED = 320  # n_vocab of a model with a padded vocabulary


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A folder with a vocabulary of SMALL's size, encoder.json and vocab.bpe."""
    folder = tmp_path_factory.mktemp("vocabulary") / "small"
    write_checkpoint(folder)
    return folder


def logits_of(source, vocabulary, tmp_path):
    convert(source, tmp_path / "x.bin", weight_type="f32", vocabulary=vocabulary, force=True)
    sequence = open_model(tmp_path / "x.bin", n_threads=1).sequence()
    sequence.append(TOKENS, n_logits=len(TOKENS))
    return np.stack([np.frombuffer(row, np.float32) for row in sequence.all_logits])


# --- what it converts to


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize("prefix", ["_orig_mod.transformer.", "transformer.", "module.transformer."])
def test_logits_match_the_tensors(vocabulary, tmp_path, prefix, is_legacy):
    path = write_nanogpt(tmp_path / "ckpt.pt", prefix=prefix, is_legacy=is_legacy)
    found = logits_of(path, vocabulary, tmp_path)
    assert_close(found, reference.logits(tensors_with(), SMALL.n_head, TOKENS))


def test_biases_that_are_left_out_are_zero(vocabulary, tmp_path):
    tensors = tensors_with(has_biases=False)
    path = write_nanogpt(tmp_path / "ckpt.pt", tensors, bias=False)
    zeros = {name: np.zeros_like(array) for name, array in tensors_with().items()}
    assert_close(logits_of(path, vocabulary, tmp_path), reference.logits(zeros | tensors, SMALL.n_head, TOKENS))


def test_a_padded_vocabulary_gets_names(vocabulary, tmp_path):
    tensors = tensors_with(PADDED)
    path = write_nanogpt(tmp_path / "ckpt.pt", tensors, vocab_size=PADDED)
    assert_close(logits_of(path, vocabulary, tmp_path), reference.logits(tensors, SMALL.n_head, TOKENS))
    tokenizer = open_model(tmp_path / "x.bin").tokenizer
    assert tokenizer.decode([SMALL.n_vocab, PADDED - 1]) == f"<|unused {SMALL.n_vocab}|><|unused {PADDED - 1}|>"


def test_masks_are_ignored(vocabulary, tmp_path):
    def edit(state, storages):
        mask = storages.tensor(np.tri(SMALL.n_ctx, dtype="<f4").reshape(1, 1, SMALL.n_ctx, SMALL.n_ctx))
        state["_orig_mod.transformer.h.0.attn.bias"] = mask

    path = write_nanogpt(tmp_path / "ckpt.pt", edit=edit)
    found = logits_of(path, vocabulary, tmp_path)
    assert_close(found, reference.logits(tensors_with(), SMALL.n_head, TOKENS))


def test_a_head_of_its_own_is_kept(vocabulary, tmp_path):
    head = tensors_with()["wte"] + 1

    def edit(state, storages):
        state["_orig_mod.lm_head.weight"] = storages.tensor(head)

    source = NanoGptCheckpoint(write_nanogpt(tmp_path / "ckpt.pt", edit=edit), vocabulary)
    assert not source.is_tied
    assert np.array_equal(source.tensor("lm_head"), head)


@pytest.mark.parametrize("weight_type", ["f16", "int8", "int4"])
def test_every_type_has_the_weights_of_the_same_tensorflow_checkpoint(vocabulary, tmp_path, weight_type):
    tensors = {name.removeprefix("model/"): array for name, array in random_tensors(SMALL).items()}
    tensors = {name: array[0] if array.ndim == 3 else array for name, array in tensors.items()}
    path = write_nanogpt(tmp_path / "ckpt.pt", tensors)
    weights = []
    for source, folder in ((vocabulary, None), (path, vocabulary)):
        convert(source, tmp_path / "x.bin", weight_type=weight_type, vocabulary=folder, force=True)
        weights.append(bytes(ModelFile(tmp_path / "x.bin").sections["weights"]))
    assert weights[0] == weights[1]


def test_the_folder_names_the_model(vocabulary, tmp_path, monkeypatch, cli):
    write_nanogpt(tmp_path / "out-owt" / "ckpt.pt")
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("convert", "out-owt", "--vocabulary", vocabulary)
    assert (code, out.partition(":")[0]) == (0, "out-owt-int8.bin")
    assert "nanoGPT trains with the exact GELU" in err
    metadata = ModelFile("out-owt-int8.bin").metadata
    assert (metadata["name"], metadata["source"]) == ("out-owt", "nanoGPT checkpoint out-owt/ckpt.pt")


# --- the vocabulary


def as_hugging_face(folder, vocabulary):
    folder.mkdir()
    (folder / "vocab.json").write_bytes((vocabulary / "encoder.json").read_bytes())
    (folder / "merges.txt").write_bytes((vocabulary / "vocab.bpe").read_bytes())
    return folder


def test_a_vocabulary_of_transformers_is_the_same(vocabulary, tmp_path):
    path = write_nanogpt(tmp_path / "ckpt.pt", tensors_with(PADDED), vocab_size=PADDED)
    sections = []
    for folder in (vocabulary, as_hugging_face(tmp_path / "hf", vocabulary)):
        convert(path, tmp_path / "x.bin", vocabulary=folder, force=True)
        sections.append(bytes(ModelFile(tmp_path / "x.bin").sections["vocabulary"]))
    assert sections[0] == sections[1]


def test_a_missing_vocabulary_says_where_to_get_it(tmp_path):
    with pytest.raises(VocabularyError, match=r"has no vocabulary \(.*--vocabulary models/124M after gpt2rt download"):
        convert(write_nanogpt(tmp_path / "ckpt.pt"), tmp_path / "x.bin")


@pytest.mark.parametrize("content", ["nothing", "a file"])
def test_a_folder_without_a_vocabulary_is_refused(tmp_path, content):
    path, folder = write_nanogpt(tmp_path / "ckpt.pt"), tmp_path / "v"
    folder.touch() if content == "a file" else folder.mkdir()
    message = r"v: no vocabulary in it, expected encoder\.json" if content == "nothing" else r"v: not a folder"
    with pytest.raises(VocabularyError, match=message):
        convert(path, tmp_path / "x.bin", vocabulary=folder)


def test_a_larger_vocabulary_is_refused(vocabulary, tmp_path):
    tensors = tensors_with()
    tensors["wte"] = tensors["wte"][:300]
    path = write_nanogpt(tmp_path / "ckpt.pt", tensors, vocab_size=300)
    with pytest.raises(VocabularyError, match=r"301 tokens, expected at most the model's 300"):
        convert(path, tmp_path / "x.bin", vocabulary=vocabulary)


def test_a_source_with_a_vocabulary_takes_no_other(vocabulary, tmp_path, cli):
    with pytest.raises(UsageError, match=r"not allowed for .*, which has a vocabulary of its own"):
        convert(vocabulary, tmp_path / "x.bin", vocabulary=vocabulary)
    assert cli("convert", vocabulary, "-o", tmp_path / "x.bin", "--vocabulary", vocabulary)[0] == 2


@pytest.mark.parametrize("vocab_size", [65, 256])
def test_a_model_of_characters_is_refused(vocabulary, tmp_path, vocab_size):
    path = write_nanogpt(tmp_path / "ckpt.pt", vocab_size=vocab_size)
    with pytest.raises(CheckpointError, match=rf"vocab_size is {vocab_size}, so its tokens are characters \(meta\.pkl"):
        convert(path, tmp_path / "x.bin", vocabulary=vocabulary)


def test_a_vocabulary_of_characters_is_refused_by_name(vocabulary, tmp_path):
    path = write_nanogpt(tmp_path / "ckpt.pt")
    (tmp_path / "meta.pkl").write_bytes(b"\x80\x04}.")
    with pytest.raises(CheckpointError, match=r"meta\.pkl: the vocabulary of a data set of characters"):
        convert(path, tmp_path / "x.bin", vocabulary=vocabulary)


# --- not a GPT-2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"use_rmsnorm": True}, "model_args has 'use_rmsnorm', which nanoGPT does not have"),
        ({"1": 1}, "model_args has '1', which nanoGPT does not have"),
        ({"n_layer": "left out"}, "n_layer in model_args is not an integer"),
        ({"n_layer": 2.0}, "n_layer in model_args is not an integer"),
        ({"n_layer": 0}, "n_layer is 0, expected 1 to"),
        ({"n_layer": 10**100}, "a size in model_args is not a 64-bit integer"),
        ({"n_layer": 3}, r"tensor 'h\.2\.ln_1\.weight' is missing"),
        ({"n_layer": 1}, r"unexpected tensor 'h\.1\.ln_1\.weight'"),
        ({"block_size": 18}, r"tensor 'wpe\.weight' has shape \[17, 24\], expected \[18, 24\] from model_args"),
        ({"bias": 1}, "bias in model_args is not true or false"),
        ({"bias": False}, r"unexpected tensor 'ln_f\.bias' for nanoGPT's model_args"),
    ],
)
def test_another_model_is_refused_by_name(tmp_path, args, message):
    with pytest.raises(CheckpointError, match=rf"ckpt\.pt: .*{message}"):
        NanoGptCheckpoint(write_nanogpt(tmp_path / "ckpt.pt", **args))


def test_matrices_as_in_transformers_are_refused(tmp_path):
    def edit(state, storages):
        name = "_orig_mod.transformer.h.0.mlp.c_fc.weight"
        state[name] = storages.tensor(tensors_with()["h0/mlp/c_fc/w"])

    path = write_nanogpt(tmp_path / "ckpt.pt", edit=edit)
    with pytest.raises(CheckpointError, match=r"c_fc\.weight' has shape \[24, 96\], expected \[96, 24\]"):
        NanoGptCheckpoint(path)


def test_an_absurd_key_is_refused(tmp_path):
    huge = 10**5000  # Python refuses to print such a number
    model = {"model": {huge: 1}, "model_args": model_args()}
    for value, what in (
        (model, "a key that is a int"),
        ({**model, "model_args": {huge: 1}}, "has a key that is a int"),
    ):
        with pytest.raises(CheckpointError, match=what):
            NanoGptCheckpoint(write(tmp_path / "ckpt.pt", lambda storages, value=value: value))


@pytest.mark.parametrize("value", [{"epoch": 3}, {"model": {}, "model_args": 1}, {"model": 1, "model_args": {}}])
def test_another_checkpoint_is_refused(tmp_path, value):
    path = write(tmp_path / "last.ckpt", lambda storages: value)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: no model and model_args in it, .* no config\.json"):
        convert(path, tmp_path / "x.bin")


# --- PyTorch itself


def torch_logits(torch, model, args, tokens, approximate):
    """Return the logits (T, n_vocab) of a state dict of nanoGPT, computed as in its model.py."""
    functional = torch.nn.functional
    size = args["n_embd"]

    def norm(x, name):
        return functional.layer_norm(x, (size,), model[f"{name}.weight"], model.get(f"{name}.bias"), 1e-5)

    def linear(x, name):
        return functional.linear(x, model[f"{name}.weight"], model.get(f"{name}.bias"))

    def heads(x):
        return x.view(len(tokens), args["n_head"], -1).transpose(0, 1)

    x = model["transformer.wte.weight"][tokens] + model["transformer.wpe.weight"][: len(tokens)]
    for layer in range(args["n_layer"]):
        h = f"transformer.h.{layer}"
        q, k, v = map(heads, linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn").split(size, dim=1))
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + linear(out.transpose(0, 1).reshape(len(tokens), size), f"{h}.attn.c_proj")
        hidden = functional.gelu(linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc"), approximate=approximate)
        x = x + linear(hidden, f"{h}.mlp.c_proj")
    return functional.linear(norm(x, "transformer.ln_f"), model["lm_head.weight"]).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
def test_logits_of_a_saved_model_equal_those_of_pytorch(vocabulary, tmp_path, bias):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    args = model_args(bias=bias, vocab_size=PADDED)
    tensors = linear(tensors_with(PADDED, bias), "transformer.")
    model = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}
    model["lm_head.weight"] = model["transformer.wte.weight"]
    state = {f"_orig_mod.{name}": tensor for name, tensor in model.items()}
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))]).state_dict()
    saved = {
        "model": state,
        "optimizer": optimizer,
        "model_args": args,
        "iter_num": 5,
        "best_val_loss": torch.tensor(3.0),
    }
    torch.save({**saved, "config": {"dataset": "openwebtext"}}, tmp_path / "ckpt.pt")
    found = logits_of(tmp_path / "ckpt.pt", vocabulary, tmp_path)
    assert_close(found, torch_logits(torch, model, args, TOKENS, "tanh"))
    exact = torch_logits(torch, model, args, TOKENS, "none")
    assert 0 < np.abs(found - exact).max() < 0.01 * np.abs(exact).max()
