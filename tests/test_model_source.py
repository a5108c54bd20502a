"""Model files as sources, to requantize and to export, including files that can't be trusted."""

import json
import struct

import numpy as np
import pytest
from checkpoints import write_checkpoint
from vocabularies import write_vocabulary

from gpt2rt.converter import convert
from gpt2rt.converter.export import export
from gpt2rt.errors import CheckpointError, ModelFileError
from gpt2rt.modelfile import ModelFile
from gpt2rt.modelfile.vocabulary import vocabulary_section
from gpt2rt.modelfile.writer import Writer

pytest.importorskip("safetensors", reason="the extra `huggingface` is not installed")

EMPTY = 0xFFFFFFFF  # the left token of an empty slot


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A valid f32 file."""
    folder = tmp_path_factory.mktemp("sound")
    write_checkpoint(folder / "small")
    convert(folder / "small", folder / "sound.bin", weight_type="f32")
    return folder / "sound.bin"


@pytest.fixture
def rewritten(sound, tmp_path, monkeypatch):
    """rewritten(edit=None, **metadata) writes `sound` with changed tables and metadata to x.bin in this folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def write(edit=None, **metadata):
        file = ModelFile(sound)
        tables = {name: bytearray(table) for name, table in file.vocabulary().items()}
        if edit:
            edit(tables)
        n_merges = struct.unpack_from("<I", file.sections["vocabulary"])[0]
        section = vocabulary_section(file.hyperparameters.n_vocab, n_merges, tables)
        with Writer("x.bin", file.hyperparameters, "f32", 0, {**file.metadata, **metadata}, section, True) as writer:
            for tensor in writer.tensors:
                writer.write_tensor([file.sections["weights"][tensor.offset : tensor.offset + tensor.length]])
        return tmp_path / "here"

    return write


def both(tmp_path):
    """The two operations on a file, requantize and export."""
    return {
        "requantize": lambda: convert("x.bin", weight_type="f16"),
        "export": lambda: export("x.bin", tmp_path / "here" / "folder"),
    }


# --- metadata


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("../outside", "..-outside-f16.bin"),
        ("/etc/x", "-etc-x-f16.bin"),
        ("c:\\x", "c--x-f16.bin"),
        ("GPT-2 124M", "GPT-2 124M-f16.bin"),
        (None, "x-f16.bin"),
    ],
)
def test_the_name_in_a_file_gives_an_output_in_the_current_folder(rewritten, name, file):
    folder = rewritten(name=name)
    assert convert("x.bin", weight_type="f16").path == file
    assert sorted(path.name for path in folder.iterdir()) == sorted([file, "x.bin"])
    assert ModelFile(file).metadata["name"] == (name or "x")


@pytest.mark.parametrize("what", ["requantize", "export"])
@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"name": 5}, "metadata 'name' is 5, expected a line of text"),
        ({"name": "a\x1b[2J"}, "metadata 'name' is"),
        ({"name": "x" * 201}, "metadata 'name' is"),
        ({"licence": {"a": 1}}, "metadata 'licence' is {'a': 1}, expected a line of text"),
        ({"chat": [1]}, "metadata 'chat' is a list, expected an object"),
    ],
)
def test_metadata_that_is_not_text_is_refused(rewritten, tmp_path, what, metadata, message):
    folder = rewritten(**metadata)
    with pytest.raises(ModelFileError, match=rf"x\.bin: {message}"):
        both(tmp_path)[what]()
    assert [path.name for path in folder.iterdir()] == ["x.bin"]


def test_the_recorded_source_does_not_grow_without_limit(rewritten):
    rewritten(source="x" * 100_000)
    convert("x.bin", "y.bin", weight_type="f16")
    assert len(ModelFile("y.bin").metadata["source"]) < 500


# --- vocabularies


def offsets_fall(tables):
    struct.pack_into("<I", tables["token_offsets"], 20, 1_000_000)


def special_token_beyond_the_last(tables):
    struct.pack_into("<I", tables["special_tokens"], 0, 9999)


def merge_of_a_token_beyond_the_last(tables):
    slots = np.frombuffer(tables["merge_slots"], "<u4").reshape(-1, 4).copy()
    slots[np.flatnonzero(slots[:, 0] != EMPTY)[0], 3] = 5000
    tables["merge_slots"][:] = slots.tobytes()


def bytes_of_other_tokens(tables):
    tables["token_bytes"][:] = b"\xff" * len(tables["token_bytes"])


@pytest.mark.parametrize("what", ["requantize", "export"])
@pytest.mark.parametrize(
    "edit", [offsets_fall, special_token_beyond_the_last, merge_of_a_token_beyond_the_last, bytes_of_other_tokens]
)
def test_invalid_vocabulary_is_refused(rewritten, tmp_path, what, edit):
    folder = rewritten(edit)
    with pytest.raises(ModelFileError, match=r"x\.bin: vocabulary: "):
        both(tmp_path)[what]()
    assert [path.name for path in folder.iterdir()] == ["x.bin"]


def converted_with(sound, folder, special, merges=()):
    """Return a file with another vocabulary of 301 tokens."""
    filler = [f"<|{i}|>" for i in range(301 - 256 - len(merges) - len(special))]
    write_vocabulary(sound.parent / "small", merges, (*special, *filler))
    convert(sound.parent / "small", folder / "a.bin", weight_type="f32")
    return ModelFile(folder / "a.bin").sections["vocabulary"]


@pytest.mark.parametrize(
    "special", [("<|user|>", "<bot é>", "a b"), ("naïve", "東京", "🙂"), ("\ufeff", "\t\n", "\u2028")]
)
def test_special_tokens_survive_export(sound, tmp_path, special):
    section = converted_with(sound, tmp_path, special)
    export(tmp_path / "a.bin", tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "b.bin", weight_type="f32")
    assert ModelFile(tmp_path / "b.bin").sections["vocabulary"] == section


def test_vocabulary_that_would_not_survive_export_is_refused(rewritten, tmp_path):
    def edit(
        tables,
    ):  # the last token, which is special, becomes Ġ: in the tokenizer's files that is the text of a space
        offsets, text = tables["token_offsets"], "Ġ".encode()
        (begin,) = struct.unpack_from("<I", offsets, len(offsets) - 8)
        tables["token_bytes"][begin:] = text
        struct.pack_into("<I", offsets, len(offsets) - 4, begin + len(text))

    rewritten(edit)
    with pytest.raises(CheckpointError, match=r"can't be represented in vocab\.json and merges\.txt"):
        export("x.bin", tmp_path / "here" / "folder")


def test_exported_config_matches_the_file(rewritten, tmp_path):
    folder = rewritten(chat={"format": "dialogpt"})
    export("x.bin", tmp_path / "here" / "folder")
    config = json.loads((folder / "folder" / "config.json").read_text())
    assert (config["model_type"], config["vocab_size"], config["n_positions"]) == ("gpt2", 301, 17)
    convert("folder", "y.bin", weight_type="f32")
    assert ModelFile("y.bin").metadata["chat"] == {"format": "dialogpt"}
