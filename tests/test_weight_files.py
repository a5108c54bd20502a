"""Weights of Hugging Face folders as tools leave them: named files, heads, other names, tensors that are saved once."""

import json

import numpy as np
import pytest
import reference
from checkpoints import SMALL
from click.testing import CliRunner
from hf_folder import TOKENS, assert_close, logits, named, tensors_of, write_config

from gpt2rt.cli import group
from gpt2rt.converter import convert
from gpt2rt.errors import CheckpointError
from gpt2rt.modelfile import ModelFile

safetensors = pytest.importorskip("safetensors.numpy", reason="the extra `huggingface` is not installed")

HEAD = "lm_head.weight"
EMBEDDING = "transformer.wte.weight"
EXTRA = {  # heads for other tasks, as trl and transformers name them
    "v_head.summary.weight": (1, 24),
    "v_head.summary.bias": (1,),
    "score.weight": (2, 24),
    "multiple_choice_head.summary.weight": (1, 24),
}


def save(path, seed=0, **more):
    """Write the weights of a seed and other tensors; return the path."""
    safetensors.save_file(named(tensors_of(seed)) | more, path)
    return path


def save_shards(folder, seed=0, stem="model"):
    """Write two shards and their index; return the paths of all three."""
    state = list(named(tensors_of(seed)).items())
    shards = [folder / f"{stem}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for i, path in enumerate(shards):
        safetensors.save_file(dict(state[i::2]), path)
    index = folder / f"{stem}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: shards[i % 2].name for i, (key, _) in enumerate(state)}}))
    return [*shards, index]


def expected(seed=0, **changes):
    return reference.logits(tensors_of(seed) | changes, SMALL.n_head, TOKENS)


# --- a named file is that file


@pytest.mark.parametrize("name", ["best.safetensors", "model.fp16.safetensors", "step-00100-of-run.safetensors"])
def test_a_named_file_is_converted_and_names_the_output(folder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    save(folder / "model.safetensors", seed=1)
    assert_close(logits(save(folder / name, seed=2), tmp_path), expected(seed=2))
    stem = name.removesuffix(".safetensors")
    assert convert(folder / name, weight_type="f32").path == f"small-{stem}-f32.bin"
    metadata = ModelFile(f"small-{stem}-f32.bin").metadata
    assert (metadata["name"], metadata["source"]) == (f"small-{stem}", f"Hugging Face folder small, file {name}")
    assert convert(folder / "model.safetensors", weight_type="f32").path == "small-f32.bin"


def test_a_named_file_needs_no_default_file_next_to_it(folder, tmp_path):
    assert_close(logits(save(folder / "best.safetensors"), tmp_path), expected())


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("stem", ["model", "model.fp16"])
def test_a_named_shard_or_index_stands_for_the_whole_model(folder, tmp_path, monkeypatch, stem, part):
    monkeypatch.chdir(tmp_path)
    save_shards(folder, 1)
    path = save_shards(folder, 2, stem)[part]
    assert_close(logits(path, tmp_path), expected(seed=2))
    assert convert(path, weight_type="f32").path == ("small-f32.bin" if stem == "model" else f"small-{stem}-f32.bin")


def test_a_damaged_index_does_not_concern_another_file(folder, tmp_path):
    (folder / "model.safetensors.index.json").write_text("{")
    assert_close(logits(save(folder / "best.safetensors"), tmp_path), expected())


def test_a_shard_without_an_index_is_refused(folder, tmp_path):
    shard, _, index = save_shards(folder)
    index.unlink()
    with pytest.raises(CheckpointError, match=r"one of 2 files, which need an index, expected model\.safetensors\.ind"):
        convert(shard, tmp_path / "x.bin")


def test_a_single_shard_without_an_index_is_read(folder, tmp_path):
    assert_close(logits(save(folder / "model-00001-of-00001.safetensors"), tmp_path), expected())


def test_a_named_file_without_a_config_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"x\.safetensors: no config\.json in its folder"):
        convert(save(tmp_path / "x.safetensors"), tmp_path / "x.bin")


@pytest.mark.parametrize("name", ["best.bin", "pytorch_model.bin", "step.pt", "step.pth"])
def test_a_named_pytorch_file_is_not_replaced_by_its_neighbor(folder, tmp_path, name):
    save(folder / "model.safetensors")
    (folder / name).write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(CheckpointError, match=name):
        convert(folder / name, tmp_path / "x.bin")


def test_a_folder_with_files_of_other_names_says_to_name_one(folder, tmp_path):
    for name in ("best.safetensors", "last.safetensors"):
        save(folder / name)
    message = (
        r"no model\.safetensors or pytorch_model\.bin \(to convert another file, .*;"
        r" here are 'best\.safetensors', 'last\.safetensors'\)"
    )
    with pytest.raises(CheckpointError, match=message):
        convert(folder, tmp_path / "x.bin")


# --- the output head


def test_an_untied_config_without_a_head_is_refused(folder, tmp_path):
    save(folder / "model.safetensors")
    write_config(folder, tie_word_embeddings=False)
    message = r"config\.json: tie_word_embeddings is false, .* but the weights have no lm_head\.weight \(save the model"
    with pytest.raises(CheckpointError, match=message):
        convert(folder, tmp_path / "x.bin")
    assert not (tmp_path / "x.bin").exists()


@pytest.mark.parametrize("tied", ["left out", True])
def test_a_tied_config_with_another_head_is_noted(folder, tmp_path, tied):
    head = tensors_of()["wte"][::-1].copy()
    save(folder / "model.safetensors", **{HEAD: head})
    write_config(folder, tie_word_embeddings=tied)
    result = convert(folder, tmp_path / "x.bin")
    (note,) = result.notes
    assert "the token embedding is the output head" in note
    assert "a different lm_head.weight, which is used" in note
    assert not ModelFile(tmp_path / "x.bin").is_tied


@pytest.mark.parametrize(("tied", "head"), [(True, None), (True, "same"), (False, "same"), (False, "other")])
def test_what_the_config_says_of_the_head_needs_no_note(folder, tmp_path, tied, head):
    embedding = tensors_of()["wte"]
    more = {} if head is None else {HEAD: embedding.copy() if head == "same" else embedding[::-1].copy()}
    save(folder / "model.safetensors", **more)
    write_config(folder, tie_word_embeddings=tied)
    assert convert(folder, tmp_path / "x.bin").notes == []
    assert ModelFile(tmp_path / "x.bin").is_tied == (head != "other")


def test_a_setting_that_is_not_true_or_false_is_refused(folder, tmp_path):
    save(folder / "model.safetensors")
    write_config(folder, tie_word_embeddings="no")
    with pytest.raises(CheckpointError, match="tie_word_embeddings is 'no', expected true or false"):
        convert(folder, tmp_path / "x.bin")


# --- names of tensors


@pytest.mark.parametrize("metadata", [{"format": "pt", EMBEDDING: HEAD}, None])
def test_a_tied_tensor_that_is_saved_as_the_head_is_the_embedding_too(folder, tmp_path, metadata):
    state = named(tensors_of())
    state[HEAD] = state.pop(EMBEDDING)
    safetensors.save_file(state, folder / "model.safetensors", metadata)
    assert_close(logits(folder, tmp_path), expected())
    assert ModelFile(tmp_path / "x.bin").is_tied


def test_any_tensor_can_be_saved_under_another_name(folder, tmp_path):
    state = named(tensors_of())
    last = "transformer.h.1.ln_2.weight"
    state["transformer.ln_f.weight"] = state.pop(last)
    safetensors.save_file(state, folder / "model.safetensors", {last: "transformer.ln_f.weight"})
    ln_f = state["transformer.ln_f.weight"]
    assert_close(logits(folder, tmp_path), expected(**{"h1/ln_2/g": ln_f, "ln_f/g": ln_f}))


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name.removeprefix('transformer.')}",
        lambda name: name.replace("transformer.", "transformer._orig_mod.").replace(".attn.", "._orig_mod.attn."),
    ],
)
def test_the_names_of_wrapping_modules_are_left_out(folder, tmp_path, rename):
    head = tensors_of()["wte"][::-1].copy()
    state = {rename(name): array for name, array in {**named(tensors_of()), HEAD: head}.items()}
    safetensors.save_file(state, folder / "model.safetensors")
    write_config(folder, tie_word_embeddings=False)
    assert_close(logits(folder, tmp_path), expected()[:, ::-1])


def test_a_tensor_with_and_without_a_wrapper_is_refused(folder, tmp_path):
    save(folder / "model.safetensors", **{f"module.{EMBEDDING}": tensors_of()["wte"]})
    with pytest.raises(CheckpointError, match=r"tensor '(module\.)?transformer\.wte\.weight' appears twice"):
        convert(folder, tmp_path / "x.bin")


def test_heads_for_other_tasks_are_ignored_with_a_note(folder, tmp_path):
    extra = {name: np.ones(shape, np.float64) for name, shape in EXTRA.items()}
    save(folder / "model.safetensors", **extra)
    assert_close(logits(folder, tmp_path), expected())
    done = CliRunner().invoke(group, ["convert", str(folder), "-o", str(tmp_path / "y.bin"), "--no-quality-report"])
    assert done.exit_code == 0
    note = "(tensors of heads for other tasks are ignored: multiple_choice_head.*, score.*, v_head.*)\n"
    assert done.stderr == note
    assert note not in done.stdout


@pytest.mark.parametrize("name", ["v_heads.weight", "transformer.h.0.extra.weight", "lm_head.bias", "scorer.weight"])
def test_any_other_tensor_is_refused(folder, tmp_path, name):
    save(folder / "model.safetensors", **{name: np.ones(3, np.float32)})
    with pytest.raises(CheckpointError, match="unexpected tensor"):
        convert(folder, tmp_path / "x.bin")


# --- transformers


def their_logits(folder):
    """Return the logits (T, n_vocab) of the folder in transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0].numpy()


def new_model(**config):
    """Return a random model of transformers."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"n_embd": SMALL.n_embd, "n_head": SMALL.n_head, "n_layer": SMALL.n_layer, "n_positions": SMALL.n_ctx}
    settings = transformers.GPT2Config(vocab_size=SMALL.n_vocab, initializer_range=0.2, **shape, **config)
    return transformers.GPT2LMHeadModel(settings).eval()


@pytest.mark.slow
def test_a_tied_config_with_another_head_gives_the_logits_of_transformers(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("before version 5, transformers ignores this head")
    safetensors.save_file(
        named(tensors_of()) | {HEAD: tensors_of()["wte"][::-1].copy()}, folder / "model.safetensors", {"format": "pt"}
    )
    assert_close(logits(folder, tmp_path), their_logits(folder))


@pytest.mark.slow
@pytest.mark.parametrize("is_compiled", [False, True])
def test_files_of_save_model_give_the_logits_of_transformers(folder, tmp_path, is_compiled):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_model

    model = new_model()
    wrapped = torch.nn.Sequential()
    wrapped.add_module("_orig_mod" if is_compiled else "module", model)
    save_model(wrapped, folder / "model.safetensors")
    with safetensors_open(folder / "model.safetensors") as file:
        assert len([name for name in file.keys() if name.endswith((HEAD, "wte.weight"))]) == 1  # noqa: SIM118
    with torch.no_grad():
        theirs = model(torch.tensor([TOKENS])).logits[0].numpy()
    assert_close(logits(folder, tmp_path), theirs)


@pytest.mark.slow
def test_a_model_with_two_heads_gives_the_logits_of_transformers(folder, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.GPT2DoubleHeadsModel(new_model(num_labels=1).config).eval()
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "model.safetensors").rename(folder / "model.safetensors")
    with torch.no_grad():
        theirs = model(torch.tensor([TOKENS])).logits[0].numpy()
    assert_close(logits(folder, tmp_path), theirs)
    assert convert(folder, tmp_path / "y.bin").notes


def safetensors_open(path):
    from safetensors import safe_open

    return safe_open(path, framework="numpy")
