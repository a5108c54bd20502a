"""Repositories of the Hugging Face Hub, from a local server: which files are downloaded, and what they convert to."""

import json

import pytest
from hf_folder import named, tensors_of, write_config
from hub_server import Hub, LocalHub

from gpt2rt.converter import convert
from gpt2rt.errors import UsageError
from gpt2rt.modelfile import ModelFile

safetensors = pytest.importorskip("safetensors.numpy", reason="the extra `huggingface` is not installed")
pytest.importorskip("huggingface_hub", reason="the extra `huggingface` is not installed")

TOKENIZER = ["config.json", "merges.txt", "vocab.json"]
UNUSED = ("flax_model.msgpack", "tf_model.h5", "model.fp16.safetensors", "pytorch_model.bin.old", "training_args.bin")


@pytest.fixture
def folder(folder):
    """The repository's files: a configuration, a tokenizer, and files that are never wanted."""
    for name in UNUSED:
        (folder / name).write_bytes(b"not wanted")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"not wanted")
    return folder


@pytest.fixture
def hub(folder, tmp_path):
    hub = LocalHub(folder, tmp_path)
    yield hub
    hub.close()


def write_weights(folder, name="model.safetensors"):
    safetensors.save_file(named(tensors_of()), folder / name)


def write_shards(folder, last="model-00002-of-00002.safetensors"):
    """Write two shards; the index names the second one `last`."""
    state = list(named(tensors_of()).items())
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for i, name in enumerate(names):
        safetensors.save_file(dict(state[i::2]), folder / name)
    index = {"weight_map": {key: [names[0], last][i % 2] for i, (key, _) in enumerate(state)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return names


def assert_converted(done, folder, tmp_path):
    """Check that the command wrote the model of the folder."""
    assert done.returncode == 0, done.stderr
    file = ModelFile(tmp_path / "small-f32.bin")
    convert(folder, tmp_path / "direct.bin", weight_type="f32", force=True)
    assert file.sections["weights"] == ModelFile(tmp_path / "direct.bin").sections["weights"]
    assert file.metadata["source"] == f"Hugging Face OWNER/small at {Hub.COMMIT}"


def failure(done):
    """Return the one sentence with which the command failed."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_only_the_safetensors_file_and_what_belongs_to_it_are_downloaded(hub, folder, tmp_path):
    write_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(b"not wanted")
    (folder / "generation_config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert_converted(hub.convert("hf:OWNER/small@main", "--type", "f32"), folder, tmp_path)
    assert hub.fetched == sorted([*TOKENIZER, "README.md", "generation_config.json", "model.safetensors"])
    assert ModelFile(tmp_path / "small-f32.bin").metadata["licence"] == "mit"


def test_of_shards_those_in_the_index_are_downloaded(hub, folder, tmp_path):
    names = write_shards(folder)
    (folder / "model-00003-of-00003.safetensors").write_bytes(b"not wanted")
    assert_converted(hub.convert("hf:OWNER/small", "--type", "f32"), folder, tmp_path)
    assert hub.fetched == sorted([*TOKENIZER, "model.safetensors.index.json", *names])


def test_a_shard_that_the_repository_lacks_is_named(hub, folder):
    write_shards(folder, last="model-00009-of-00009.safetensors")
    message = failure(hub.convert("hf:OWNER/small"))
    assert "its model.safetensors.index.json lists model-00009-of-00009.safetensors, which is not in the" in message
    assert not any(name.endswith(".safetensors") for name in hub.fetched)


def test_without_safetensors_the_pytorch_file_is_downloaded(hub, folder):
    (folder / "pytorch_model.bin").write_bytes(b"of PyTorch")
    (folder / "small.F16.gguf").write_bytes(b"not wanted")
    hub.convert("hf:OWNER/small", "--type", "f32")
    assert hub.fetched == [*TOKENIZER[:2], "pytorch_model.bin", "vocab.json"]


def test_weights_of_another_model_are_not_downloaded(hub, folder):
    write_weights(folder)
    write_config(folder, model_type="llama")
    assert "model_type is 'llama', expected gpt2" in failure(hub.convert("hf:OWNER/small"))
    assert "model.safetensors" not in hub.fetched


def test_of_gguf_files_the_one_of_the_best_type_is_converted_and_named(hub, folder, tmp_path, checkpoint):
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    from test_gguf import write_gguf

    for name in (*TOKENIZER, *UNUSED):
        (folder / name).unlink()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    for name in ("small.BF16.gguf", "small.Q4_K_M.gguf", "small.Q8_0.gguf", "a.gguf"):
        (folder / name).write_bytes(b"not wanted")
    write_gguf(folder / "small.F16.gguf", checkpoint, kind="F16")
    done = hub.convert("hf:OWNER/small", "--type", "f32")
    assert done.returncode == 0, done.stderr
    assert hub.fetched == ["README.md", "small.F16.gguf"]
    assert "so its GGUF file small.F16.gguf, one of 5, is read)\n" in done.stderr
    convert(folder / "small.F16.gguf", tmp_path / "direct.bin", weight_type="f32")
    made, direct = ModelFile(tmp_path / "small-f32.bin"), ModelFile(tmp_path / "direct.bin")
    assert made.sections["weights"] == direct.sections["weights"]


def test_gguf_files_that_can_not_be_read_are_listed(hub, folder):
    for name in (*TOKENIZER, *UNUSED):
        (folder / name).unlink()
    (folder / "small.Q4_K_M.gguf").write_bytes(b"not wanted")
    (folder / "small-IQ2_XS.gguf").write_bytes(b"not wanted")
    message = failure(hub.convert("hf:OWNER/small"))
    assert message == (
        "gpt2rt: hf:OWNER/small: no GPT-2 model in the repository, expected config.json with model.safetensors or"
        " pytorch_model.bin, or a GGUF file of type F32, F16, BF16 or Q8_0; found onnx/model.onnx, small-IQ2_XS.gguf,"
        " small.Q4_K_M.gguf"
    )
    assert hub.fetched == []


def test_a_repository_without_weights_lists_what_is_there(hub):
    message = failure(hub.convert("hf:OWNER/small"))
    assert "found flax_model.msgpack, model.fp16.safetensors, onnx/model.onnx, pytorch_model.bin.old" in message
    assert "incomplete" not in message


def test_an_adapter_is_refused_by_name(hub, folder):
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"not wanted")
    assert "(an adapter: merge it into its model," in failure(hub.convert("hf:OWNER/small"))


@pytest.mark.parametrize("is_sharded", [False, True])
def test_what_the_cache_has_is_converted_without_the_hub(hub, folder, tmp_path, is_sharded):
    (write_shards if is_sharded else write_weights)(folder)
    assert hub.convert("hf:OWNER/small", "--type", "f16").returncode == 0
    assert_converted(hub.convert("hf:OWNER/small", "--type", "f32", HF_HUB_OFFLINE="1"), folder, tmp_path)


@pytest.mark.slow  # huggingface_hub retries for seconds
def test_what_the_cache_has_is_converted_when_the_hub_does_not_answer(hub, folder, tmp_path):
    write_weights(folder)
    assert hub.convert("hf:OWNER/small", "--type", "f16").returncode == 0
    hub.close()
    assert_converted(hub.convert("hf:OWNER/small", "--type", "f32"), folder, tmp_path)


def test_a_missing_revision_is_reported_in_one_line(hub, folder):
    write_weights(folder)
    message = failure(hub.convert("hf:OWNER/small@v2"))
    assert message.startswith("gpt2rt: hf:OWNER/small@v2: download failed: RevisionNotFoundError: ")


def test_a_cache_without_the_weights_says_that_the_hub_is_offline(hub, folder):
    write_weights(folder)
    write_config(folder, model_type="llama")  # so that the configuration alone is downloaded
    hub.convert("hf:OWNER/small")
    message = failure(hub.convert("hf:OWNER/small", HF_HUB_OFFLINE="1"))
    assert message.startswith("gpt2rt: hf:OWNER/small: download failed: OfflineModeIsEnabled: ")


def test_a_missing_repository_is_reported_in_one_line(hub):
    message = failure(hub.convert("hf:OWNER/other"))
    assert message.startswith("gpt2rt: hf:OWNER/other: download failed: RepositoryNotFoundError: ")


@pytest.mark.parametrize("name", ["hf:", "hf:a/b/c", "hf:/x", "hf:a b", "hf:a/b@"])
def test_an_invalid_name_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="expected hf:OWNER/NAME"):
        convert(name, tmp_path / "x.bin")
