"""Hugging Face folders, written by safetensors, tokenizers and transformers: read, exported, downloaded."""

import contextlib
import hashlib
import json
import shutil

import numpy as np
import pytest
import reference
from checkpoints import SMALL
from hf_folder import TOKENS, assert_close, logits, named, tensors_of, write_config

from gpt2rt.converter import convert
from gpt2rt.converter.export import export
from gpt2rt.errors import CheckpointError, Gpt2rtError, ModelFileError, UsageError, VocabularyError
from gpt2rt.model import open_model
from gpt2rt.modelfile import ModelFile

safetensors = pytest.importorskip("safetensors.numpy", reason="the extra `huggingface` is not installed")


@pytest.fixture
def whole(folder):
    """The same folder with weights."""
    safetensors.save_file(named(tensors_of()), folder / "model.safetensors")
    return folder


# --- weights


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_logits_match_the_tensors(folder, tmp_path, prefix):
    tensors = tensors_of()
    safetensors.save_file(named(tensors, prefix), folder / "model.safetensors")
    assert_close(logits(folder, tmp_path), reference.logits(tensors, SMALL.n_head, TOKENS))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_tensors_are_read_exactly(folder, tmp_path, dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    tensors = {name: array.astype(dtype) for name, array in tensors_of().items()}
    safetensors.save_file(named(tensors), folder / "model.safetensors")
    rounded = {name: array.astype(np.float32) for name, array in tensors.items()}
    assert_close(logits(folder, tmp_path), reference.logits(rounded, SMALL.n_head, TOKENS))


def test_shards_and_mask_buffers_are_read(folder, tmp_path):
    state = list(named(tensors_of()).items())
    state.append(("transformer.h.0.attn.bias", np.ones((1, 1, 17, 17), np.uint8)))
    state.append(("transformer.h.1.attn.masked_bias", np.full((1,), -1e4, np.float32)))
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for i, name in enumerate(names):
        safetensors.save_file(dict(state[i::3]), folder / name)
    index = {"weight_map": {key: names[i % 3] for i, (key, _) in enumerate(state)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_close(logits(folder, tmp_path), reference.logits(tensors_of(), SMALL.n_head, TOKENS))


@pytest.mark.parametrize("weight_type", ["f32", "f16", "int8", "int4"])
def test_separate_head_is_used(folder, tmp_path, weight_type):
    tensors = tensors_of()
    head = tensors["wte"][::-1].copy()
    safetensors.save_file({**named(tensors), "lm_head.weight": head}, folder / "model.safetensors")
    found = logits(folder, tmp_path, weight_type)
    # The logits of the tied model with its rows reversed, as in the head.
    (tmp_path / "tied").mkdir()
    for name in ("config.json", "vocab.json", "merges.txt"):
        shutil.copy(folder / name, tmp_path / "tied" / name)
    safetensors.save_file(named(tensors), tmp_path / "tied" / "model.safetensors")
    assert np.array_equal(found, logits(tmp_path / "tied", tmp_path, weight_type)[:, ::-1])


def test_head_that_equals_the_embedding_is_not_stored(folder, tmp_path):
    tensors = tensors_of()
    safetensors.save_file({**named(tensors), "lm_head.weight": tensors["wte"].copy()}, folder / "model.safetensors")
    convert(folder, tmp_path / "x.bin")
    assert ModelFile(tmp_path / "x.bin").is_tied


def test_a_folder_without_a_tokenizer_says_how_to_save_one(folder, tmp_path):
    safetensors.save_file(named(tensors_of()), folder / "model.safetensors")
    (folder / "vocab.json").unlink()
    with pytest.raises(VocabularyError, match=r"no tokenizer in it, .* \(tokenizer\.save_pretrained\(folder\) "):
        convert(folder, tmp_path / "x.bin")


def test_the_file_records_its_source(whole, tmp_path):
    (whole / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\ntags:\n- x\n---\n# A model\n")
    write_config(whole, task_specific_params={"conversational": {"max_length": 1000}})
    convert(whole, tmp_path / "x.bin")
    metadata = ModelFile(tmp_path / "x.bin").metadata
    digest = hashlib.sha256((whole / "model.safetensors").read_bytes()).hexdigest()
    assert (metadata["name"], metadata["source"]) == ("small", "Hugging Face folder small")
    assert (metadata["licence"], metadata["source_sha256"]) == ("apache-2.0", digest)
    assert metadata["chat"] == {"format": "dialogpt"}


def test_the_path_of_a_weight_file_selects_its_folder(whole, tmp_path):
    convert(whole / "model.safetensors", tmp_path / "x.bin")
    assert ModelFile(tmp_path / "x.bin").metadata["name"] == "small"


# --- unsupported models


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', expected gpt2"),
        ({"model_type": "left out"}, "no model_type"),
        ({"activation_function": "relu"}, "activation_function is 'relu', expected gelu_new"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06, expected 1e-05"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, expected False"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, expected True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"n_inner": 95}, "n_inner is 95, expected 4 times n_embd"),
        ({"n_head": 5}, "n_embd is 24, expected a multiple of n_head, which is 5"),
        ({"n_layer": "2"}, "n_layer is '2', expected an integer"),
        ({"vocab_size": -1}, "n_vocab is -1"),
        ({"n_layer": 3}, r"tensor 'h.2.ln_1.weight' is missing"),
        ({"n_layer": 1}, r"unexpected tensor 'h.1.attn.c_attn.bias' for a GPT-2"),
        ({"n_positions": 16}, r"'wpe.weight' has shape \[17, 24\], expected \[16, 24\] from config.json"),
    ],
)
def test_other_models_are_refused_by_name(whole, tmp_path, changes, message):
    write_config(whole, **changes)
    with pytest.raises(CheckpointError, match=message):
        convert(whole, tmp_path / "x.bin")
    assert not (tmp_path / "x.bin").exists()


@pytest.mark.parametrize("changes", [{"reorder_and_upcast_attn": True}, {"n_inner": 96}, {"n_ctx": 5}])
def test_settings_without_effect_are_accepted(whole, tmp_path, changes):
    write_config(whole, **changes)
    convert(whole, tmp_path / "x.bin")


def test_other_types_are_refused(folder, tmp_path):
    state = named(tensors_of())
    state["transformer.wte.weight"] = state["transformer.wte.weight"].astype(np.float64)
    safetensors.save_file(state, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"tensor 'transformer.wte.weight' is of type F64, expected F32, F16, BF16"
    ):
        convert(folder, tmp_path / "x.bin")


def test_folder_without_weights_is_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"has config.json but no model.safetensors"):
        convert(folder, tmp_path / "x.bin")


@pytest.mark.parametrize("name", ["../small/x.safetensors", "/etc/passwd", "x.bin", "a/b.safetensors", ""])
def test_an_index_may_only_name_files_in_its_folder(folder, tmp_path, name):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": name}}))
    with pytest.raises(CheckpointError, match=r"file name .* is not one in this folder"):
        convert(folder, tmp_path / "x.bin")


def test_a_missing_shard_is_named(folder, tmp_path):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"wte.weight": "a.safetensors"}}')
    with pytest.raises(CheckpointError, match=r"a.safetensors is missing"):
        convert(folder, tmp_path / "x.bin")


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_raise_only_gpt2rt_errors(whole, tmp_path, seed):
    generator = np.random.default_rng(seed)
    name = ["model.safetensors", "config.json", "vocab.json", "merges.txt"][seed % 4]
    content = bytearray((whole / name).read_bytes())
    head = min(len(content), 3000)
    if seed % 8 < 4:
        for position in generator.integers(0, head, 3):
            content[position] = generator.integers(0, 256)
    else:
        del content[generator.integers(0, len(content)) :]
    (whole / name).write_bytes(content)
    with contextlib.suppress(Gpt2rtError):
        convert(whole, tmp_path / "x.bin")


def test_the_error_for_another_folder_lists_what_is_accepted(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    message = r"no GPT-2 model found, expected OpenAI's files .* or a Hugging Face folder .*; found notes.txt"
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path, tmp_path / "x.bin")


# --- vocabularies


def test_missing_tokens_get_names(whole, tmp_path):
    tensors = tensors_of()
    tensors["wte"] = np.vstack([tensors["wte"], tensors["wte"][:3]])
    safetensors.save_file(named(tensors), whole / "model.safetensors")
    write_config(whole, vocab_size=304)
    (whole / "added_tokens.json").write_text('{"<|user|>": 301}')
    (whole / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": {"302": {"content": "<bot é>", "special": True}}})
    )
    convert(whole, tmp_path / "x.bin")
    tokenizer = open_model(tmp_path / "x.bin").tokenizer
    assert tokenizer.encode("<|user|><bot é>", special=True) == [301, 302]
    assert tokenizer.decode([301, 302, 303]) == "<|user|><bot é><|unused 303|>"


def test_more_tokens_than_rows_are_refused(whole, tmp_path):
    (whole / "added_tokens.json").write_text('{"<|user|>": 301}')
    with pytest.raises(VocabularyError, match=r"token '<\|user\|>' has id 301, expected 0 to 300"):
        convert(whole, tmp_path / "x.bin")


def test_tokenizer_json_is_read(tmp_path, folder):
    tokenizers = pytest.importorskip("tokenizers")
    (folder / "vocab.json").rename(tmp_path / "vocab.json")
    (folder / "merges.txt").rename(tmp_path / "merges.txt")
    theirs = tokenizers.ByteLevelBPETokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    theirs.add_special_tokens(["<|endoftext|>", "<|user|>"])
    theirs.save(str(folder / "tokenizer.json"))
    tensors = tensors_of()
    tensors["wte"] = np.vstack([tensors["wte"], tensors["wte"][:1]])
    safetensors.save_file(named(tensors), folder / "model.safetensors")
    write_config(folder, vocab_size=302)
    convert(folder, tmp_path / "x.bin")
    tokenizer = open_model(tmp_path / "x.bin").tokenizer
    text = "Hello there, it's 1987!\n\n<|user|>  naïve 🙂<|endoftext|>"
    assert tokenizer.encode(text, special=True) == theirs.encode(text).ids


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"type": "Unigram", "vocab": []}},
        {"model": {"type": "BPE", "vocab": {}, "merges": []}, "pre_tokenizer": {"type": "Whitespace"}},
        {"model": {"vocab": {}, "merges": []}, "pre_tokenizer": {"type": "ByteLevel"}, "normalizer": {"type": "NFC"}},
        {"model": {"vocab": {}}, "pre_tokenizer": {"type": "ByteLevel"}},
        {"model": {"vocab": {}, "merges": []}, "pre_tokenizer": {"type": "ByteLevel"}, "added_tokens": [1]},
        {"model": {"vocab": {"a": [0]}, "merges": []}, "pre_tokenizer": {"type": "ByteLevel"}},
        [],
    ],
)
def test_other_tokenizers_are_refused(whole, tmp_path, content):
    (whole / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(VocabularyError, match=r"tokenizer.json: "):
        convert(whole, tmp_path / "x.bin")


# --- requantization and export


@pytest.mark.parametrize("weight_type", ["f32", "f16", "int8", "int4"])
def test_requantized_weights_equal_those_converted_from_the_checkpoint(checkpoint, tmp_path, weight_type):
    chat = {"format": "plain", "user_name": "Me"}
    convert(checkpoint, tmp_path / "f32.bin", weight_type="f32", chat=chat, licence="free", name="small")
    convert(tmp_path / "f32.bin", tmp_path / "made.bin", weight_type=weight_type)
    convert(checkpoint, tmp_path / "direct.bin", weight_type=weight_type)
    made, direct = ModelFile(tmp_path / "made.bin"), ModelFile(tmp_path / "direct.bin")
    for name in ("weights", "vocabulary"):
        assert made.sections[name] == direct.sections[name]
    assert (made.metadata["chat"], made.metadata["licence"], made.metadata["name"]) == (chat, "free", "small")


def test_requantizing_a_quantized_file_is_refused(checkpoint, tmp_path):
    convert(checkpoint, tmp_path / "int8.bin")
    with pytest.raises(CheckpointError, match="its weights are already quantized to int8, expected f32 or f16"):
        convert(tmp_path / "int8.bin", tmp_path / "int4.bin", weight_type="int4")


def test_requantizing_a_damaged_file_is_refused(checkpoint, tmp_path):
    convert(checkpoint, tmp_path / "f32.bin", weight_type="f32")
    content = bytearray((tmp_path / "f32.bin").read_bytes())
    content[-100] ^= 1
    (tmp_path / "f32.bin").write_bytes(content)
    with pytest.raises(Gpt2rtError, match="section 'weights' is damaged"):
        convert(tmp_path / "f32.bin", tmp_path / "int4.bin", weight_type="int4")


@pytest.mark.parametrize("weight_type", ["f32", "f16"])
def test_exported_folders_convert_back_to_the_same_file(checkpoint, tmp_path, weight_type):
    convert(checkpoint, tmp_path / "a.bin", weight_type=weight_type)
    export(tmp_path / "a.bin", tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "b.bin", weight_type=weight_type)
    a, b = ModelFile(tmp_path / "a.bin"), ModelFile(tmp_path / "b.bin")
    for name in ("weights", "vocabulary"):
        assert a.sections[name] == b.sections[name]


def test_export_with_a_separate_head_converts_back_from_shards(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("gpt2rt.converter.export.SHARD", 10_000)
    tensors = tensors_of()
    head = tensors["wte"][::-1].copy()
    safetensors.save_file({**named(tensors), "lm_head.weight": head}, folder / "model.safetensors")
    expected = logits(folder, tmp_path)
    export(tmp_path / "x.bin", tmp_path / "folder")
    assert len(list((tmp_path / "folder").glob("*.safetensors"))) > 3
    assert np.array_equal(logits(tmp_path / "folder", tmp_path), expected)


def test_exported_shards_are_numbered_small_and_in_an_index(checkpoint, tmp_path, monkeypatch):
    convert(checkpoint, tmp_path / "x.bin", weight_type="f32")
    monkeypatch.setattr("gpt2rt.converter.export.SHARD", 20_000)
    export(tmp_path / "x.bin", tmp_path / "out")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    found = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(found) > 1
    assert found == [f"model-{i + 1:05}-of-{len(found):05}.safetensors" for i in range(len(found))]
    sizes = []
    for name in found:
        tensors = safetensors.load_file(tmp_path / "out" / name)
        assert {key for key, file in index["weight_map"].items() if file == name} == tensors.keys()
        sizes.append(sum(tensor.nbytes for tensor in tensors.values()))
        assert sizes[-1] <= 20_000 or len(tensors) == 1
    assert index["metadata"]["total_size"] == sum(sizes)


def test_export_writes_a_complete_folder_or_none(checkpoint, tmp_path, monkeypatch):
    convert(checkpoint, tmp_path / "a.bin", weight_type="f32")
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="already exists"):
        export(tmp_path / "a.bin", tmp_path / "there")
    with pytest.raises(UsageError, match="can't write there"):
        export(tmp_path / "a.bin", tmp_path / "missing" / "folder")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(ModelFileError, match="folder: can't be written: No space left"):
        export(tmp_path / "a.bin", tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "there"]


# --- transformers


@pytest.mark.slow
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(257, 17, 48, 1, 2), (301, 33, 40, 5, 3)])
def test_logits_equal_those_of_transformers(folder, tmp_path, shape, dtype, is_tied):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    n_vocab, n_ctx, n_embd, n_head, n_layer = shape
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=n_vocab,
        n_positions=n_ctx,
        n_embd=n_embd,
        n_head=n_head,
        n_layer=n_layer,
        tie_word_embeddings=is_tied,
    )
    config.initializer_range = 0.2
    model = transformers.GPT2LMHeadModel(config).eval().to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "saved", max_shard_size="50KB")
    ids = json.loads((folder / "vocab.json").read_text())
    kept = {text: token for text, token in ids.items() if token < min(n_vocab, 256)}
    (tmp_path / "saved" / "vocab.json").write_text(json.dumps(kept))
    (tmp_path / "saved" / "merges.txt").write_text("#version: 0.2\n")
    convert(tmp_path / "saved", tmp_path / "x.bin", weight_type="f32")
    tokens = np.random.default_rng(1).integers(n_vocab, size=n_ctx).tolist()
    sequence = open_model(tmp_path / "x.bin", n_threads=1).sequence()
    sequence.append(tokens)
    with torch.no_grad():
        expected = model.float()(torch.tensor([tokens])).logits[0, -1].numpy()
    assert_close(sequence.logits, expected)


@pytest.mark.slow
def test_transformers_loads_an_exported_folder(checkpoint, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    convert(checkpoint, tmp_path / "a.bin", weight_type="f32")
    export(tmp_path / "a.bin", tmp_path / "folder")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "folder").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    ours = open_model(tmp_path / "a.bin", n_threads=1)
    text = "Hello there,\n it's 1987!<|endoftext|>"
    assert tokenizer(text)["input_ids"] == ours.tokenizer.encode(text, special=True)
    sequence = ours.sequence()
    sequence.append(TOKENS)
    with torch.no_grad():
        expected = model(torch.tensor([TOKENS])).logits[0, -1].numpy()
    assert_close(sequence.logits, expected)


def test_the_quality_report_of_a_model_with_its_own_head_matches_its_source(folder, tmp_path):
    tensors = tensors_of()
    head = tensors["wte"][::-1].copy()
    safetensors.save_file({**named(tensors), "lm_head.weight": head}, folder / "model.safetensors")
    quality = convert(folder, tmp_path / "x.bin", weight_type="f32", quality_text="Some text to measure on.").quality
    assert quality["mean_kl"] < 1e-7
    assert quality["loss"] == pytest.approx(quality["source_loss"], rel=1e-5)
