"""GGUF files, written by the gguf package: what they convert to, and each way to be malformed."""

import contextlib
import hashlib
import json
import struct

import numpy as np
import pytest
from checkpoints import SMALL, random_tensors, write_checkpoint

from gpt2rt.converter import convert
from gpt2rt.converter.gguf import GgufFile
from gpt2rt.converter.gguf_header import read_header
from gpt2rt.converter.source_file import SourceFile
from gpt2rt.errors import CheckpointError, Gpt2rtError, VocabularyError
from gpt2rt.model import open_model
from gpt2rt.modelfile import Hyperparameters, ModelFile

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")

WIDE = Hyperparameters(n_vocab=301, n_ctx=16, n_embd=64, n_head=4, n_layer=2)  # Q8_0 has blocks of 32
NAMES = {
    **{"wpe": "position_embd.weight", "wte": "token_embd.weight", "ln_f/g": "output_norm.weight"},
    **{"ln_f/b": "output_norm.bias"},
}
MODULES = {
    **{"ln_1": "attn_norm", "attn/c_attn": "attn_qkv", "attn/c_proj": "attn_output"},
    **{"ln_2": "ffn_norm", "mlp/c_fc": "ffn_up", "mlp/c_proj": "ffn_down"},
}
TYPES = {name: gguf.GGMLQuantizationType[name] for name in ("F32", "F16", "Q8_0", "Q4_0", "BF16")}


def gguf_tensors(hyperparameters):
    """Return {name in GGUF: f32 array} of the checkpoint with these hyperparameters, matrices as (n_out, n_in)."""
    tensors = {}
    for name, array in random_tensors(hyperparameters).items():
        short = name.removeprefix("model/")
        if short not in NAMES:
            layer, module, kind = short.split("/", 1)[0], short.split("/", 1)[1].rpartition("/")[0], short[-1]
            short = f"blk.{layer[1:]}.{MODULES[module]}.{'bias' if kind == 'b' else 'weight'}"
        else:
            short = NAMES[short]
        tensors[short] = np.ascontiguousarray(array[0].T if array.ndim == 3 else array)
    return tensors


def write_gguf(
    path, folder, hyperparameters=SMALL, kind="F32", tensors=None, kinds=None, edit=None, split=None, **metadata
):
    """Write a file with the vocabulary of the checkpoint in `folder`.

    Args:
        kind: type of the matrices. kinds: {tensor: another type}. edit: called with the writer.
        split: arguments of the writer that split the file.
        metadata: values that differ from GPT-2's; None leaves a key out.
    """
    encoder = json.loads((folder / "encoder.json").read_text("utf-8"))
    values = {
        "n_ctx": hyperparameters.n_ctx,
        "n_embd": hyperparameters.n_embd,
        "n_head": hyperparameters.n_head,
        "n_layer": hyperparameters.n_layer,
        "epsilon": 1e-5,
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": list(encoder),
        "merges": (folder / "vocab.bpe").read_text("utf-8").splitlines()[1:],
        "architecture": "gpt2",
        "license": "MIT",
        **metadata,
    }
    writer = gguf.GGUFWriter(path, values["architecture"], **(split or {}))
    add = {
        **{"n_ctx": writer.add_context_length, "n_embd": writer.add_embedding_length, "n_head": writer.add_head_count},
        **{
            "n_layer": writer.add_block_count,
            "epsilon": writer.add_layer_norm_eps,
            "model": writer.add_tokenizer_model,
        },
        **{"pre": writer.add_tokenizer_pre, "tokens": writer.add_token_list, "merges": writer.add_token_merges},
    }
    for key, method in add.items():
        if values[key] is not None:
            method(values[key])
    if values["tokens"]:
        writer.add_token_types([3 if token == "<|endoftext|>" else 1 for token in values["tokens"]])
    writer.add_license(values["license"])
    if edit:
        edit(writer)
    for name, array in (gguf_tensors(hyperparameters) if tensors is None else tensors).items():
        is_matrix = array.ndim == 2 and name != "position_embd.weight"
        tensor_kind = TYPES[(kinds or {}).get(name, kind if is_matrix else "F32")]
        writer.add_tensor(name, gguf.quants.quantize(array, tensor_kind), raw_dtype=tensor_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of `SMALL` shapes with the weights and vocabulary of the files."""
    folder = tmp_path_factory.mktemp("gguf") / "small"
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def sound(folder):
    return write_gguf(folder.parent / "sound.gguf", folder).read_bytes()


def sections(source, output, weight_type):
    convert(source, output, weight_type=weight_type)
    model = ModelFile(output)
    return {name: bytes(model.sections[name]) for name in ("vocabulary", "weights")}


# Conversion


@pytest.mark.parametrize("weight_type", ["f32", "f16", "int8", "int4"])
def test_f32_file_converts_to_the_same_bits_as_the_checkpoint(folder, tmp_path, weight_type):
    direct = sections(folder, tmp_path / "direct.bin", weight_type)
    path = write_gguf(tmp_path / "x.gguf", folder)
    assert sections(path, tmp_path / "gguf.bin", weight_type) == direct


def test_f16_file_converts_to_the_same_bits_as_the_checkpoint_in_f16(folder, tmp_path):
    direct = sections(folder, tmp_path / "direct.bin", "f16")
    path = write_gguf(tmp_path / "x.gguf", folder, kind="F16")
    assert sections(path, tmp_path / "gguf.bin", "f16") == direct


def test_q8_0_file_gives_nearly_the_same_logits(tmp_path):
    write_checkpoint(tmp_path / "wide", WIDE)
    write_gguf(tmp_path / "x.gguf", tmp_path / "wide", WIDE, kind="Q8_0")
    logits = []
    for source in ("wide", "x.gguf"):
        convert(tmp_path / source, tmp_path / f"{source}.bin", weight_type="f32")
        with open_model(tmp_path / f"{source}.bin") as model:
            sequence = model.sequence()
            sequence.append([7, 2, 300, 41])
            logits.append(sequence.logits.copy())
    direct, quantized = logits
    assert 0 < np.abs(quantized - direct).max() < 0.1 * direct.std()


def test_bf16_file_is_read_exactly(folder, tmp_path):
    tensors = gguf_tensors(SMALL)
    path = write_gguf(
        tmp_path / "x.gguf", folder, kind="BF16", tensors=tensors | {"output.weight": tensors["token_embd.weight"]}
    )
    found = GgufFile(path)
    for name, in_file in (("wte", "token_embd.weight"), ("h1/mlp/c_fc/w", "blk.1.ffn_up.weight")):
        bits = tensors[in_file].view(np.uint32)
        rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)  # to nearest, ties to even
        assert np.array_equal(found.tensor(name), rounded if name == "wte" else rounded.T)
    assert found.is_tied


# Split files


@pytest.fixture
def parts(folder, tmp_path):
    """The parts of a file of three, with about a third of the tensors each."""
    n_tensors = -(-len(gguf_tensors(SMALL)) // 3)
    write_gguf(tmp_path / "x.gguf", folder, split={"split_max_tensors": n_tensors})
    return [tmp_path / f"x-0000{i}-of-00003.gguf" for i in (1, 2, 3)]


@pytest.mark.parametrize("part", [0, 1, 2])
def test_any_part_of_a_split_file_stands_for_the_whole(folder, parts, tmp_path, monkeypatch, part):
    monkeypatch.chdir(tmp_path)
    direct = sections(folder, tmp_path / "direct.bin", "f32")
    assert convert(parts[part], weight_type="f32").path == "x-f32.bin"
    model = ModelFile("x-f32.bin")
    assert {name: bytes(model.sections[name]) for name in direct} == direct
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()
    assert model.metadata["source_sha256"] == digest


def test_first_part_may_have_only_the_metadata(folder, tmp_path):
    write_gguf(tmp_path / "x.gguf", folder, split={"split_max_tensors": 20, "small_first_shard": True})
    path = tmp_path / "x-00002-of-00003.gguf"
    assert sections(path, tmp_path / "x.bin", "f32") == sections(folder, tmp_path / "direct.bin", "f32")


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_missing_part_is_named(parts, tmp_path, missing):
    parts[missing].unlink()
    message = rf"{parts[missing].name}: missing, expected all 3 parts of the split file in one folder"
    with pytest.raises(CheckpointError, match=message):
        convert(parts[(missing + 1) % 3], tmp_path / "x.bin")


def test_part_with_another_name_is_refused(parts, tmp_path):
    parts[1].rename(tmp_path / "second.gguf")
    with pytest.raises(
        CheckpointError, match=r"one of 3 parts of a split file, expected a name like second-00001-of-00"
    ):
        convert(tmp_path / "second.gguf", tmp_path / "x.bin")


def test_part_in_the_place_of_another_is_refused(parts, tmp_path):
    parts[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(
        CheckpointError, match=r"x-00003-of-00003\.gguf: split\.no and split\.count are 1 and 3, expected 2"
    ):
        convert(parts[0], tmp_path / "x.bin")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda content: content.replace(b"blk.1.ffn_up.bias", b"blk.0.ffn_up.bias"), "is in another part as well"),
        (lambda content: with_value(content, b"split.count", struct.pack("<IH", 2, 0)), "one of 0 parts"),
        (lambda content: with_value(content, b"split.count", struct.pack("<IH", 2, 4)), "one of 4 parts"),
        (lambda content: with_value(content, b"split.tensors.count", struct.pack("<Ii", 5, 9)), "is 9, but the parts"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(parts, tmp_path, edit, message):
    for path in parts:
        path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        convert(parts[0], tmp_path / "x.bin")


@pytest.mark.parametrize("seed", range(6))
def test_damaged_part_raises_only_gpt2rt_errors(parts, seed):
    generator, path = np.random.default_rng(seed), parts[seed % 3]
    sound = path.read_bytes()
    for _ in range(10):
        content = bytearray(sound)
        for position in generator.integers(0, 1000, 3):
            content[position] = generator.integers(256)
        path.write_bytes(content)
        with contextlib.suppress(Gpt2rtError):
            GgufFile(parts[0]).vocabulary()


def with_value(content, key, value):
    """Return the file with another value, of the same length, for a key."""
    begin = content.index(key) + len(key)
    return content[:begin] + value + content[begin + len(value) :]


def test_file_records_its_source(folder, tmp_path):
    path = write_gguf(tmp_path / "my model.gguf", folder)
    convert(path, tmp_path / "x.bin")
    metadata = ModelFile(tmp_path / "x.bin").metadata
    assert (metadata["name"], metadata["source"]) == ("my model", "GGUF file my model.gguf")
    assert metadata["licence"] == "MIT"


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [("x" * 200, True), ("x" * 201, False), ("MIT\n", False)],
    ids=["200", "201", "\\n"],
)
def test_a_license_is_a_short_line_of_text_or_none(folder, tmp_path, text, is_kept):
    found = GgufFile(write_gguf(tmp_path / "x.gguf", folder, license=text)).licence
    assert found == (text if is_kept else None)


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_head_that_is_the_embedding_is_accepted(tmp_path, kind):
    write_checkpoint(tmp_path / "wide", WIDE)
    tensors = gguf_tensors(WIDE)
    tensors["output.weight"] = tensors["token_embd.weight"]
    GgufFile(write_gguf(tmp_path / "x.gguf", tmp_path / "wide", WIDE, kind=kind, tensors=tensors))


def test_other_alignment_is_read(folder, tmp_path):
    write_gguf(tmp_path / "x.gguf", folder, edit=lambda writer: writer.add_custom_alignment(256))
    direct = sections(folder, tmp_path / "direct.bin", "f32")
    assert sections(tmp_path / "x.gguf", tmp_path / "gguf.bin", "f32") == direct


@pytest.mark.parametrize(
    ("kind", "layout", "value"),
    [
        *[(0, "B", 255), (1, "b", -128), (2, "H", 65_535), (3, "h", -32_768), (4, "I", 2**32 - 1), (5, "i", -(2**31))],
        *[(6, "f", -1.5), (7, "?", True), (10, "Q", 2**64 - 1), (11, "q", -(2**63)), (12, "d", 1e300)],
    ],
)
def test_a_value_of_each_type_is_read_from_the_metadata(tmp_path, kind, layout, value):
    content = struct.pack(f"<{layout}", value)
    keys = struct.pack("<Q1sI", 1, b"a", kind) + content
    keys += struct.pack("<Q1sIIQ", 1, b"b", 9, kind, 2) + 2 * content
    (tmp_path / "x.gguf").write_bytes(head(0, 2, keys))
    metadata, _ = read_header(SourceFile(tmp_path / "x.gguf"))
    assert metadata == {"a": value, "b": [value, value]}
    assert type(metadata["a"]) is type(value)


@pytest.mark.parametrize("pre", [None, "default"])
def test_file_without_a_pre_tokenizer_is_accepted(folder, tmp_path, pre):
    GgufFile(write_gguf(tmp_path / "x.gguf", folder, pre=pre))


# Not a GPT-2


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"architecture": "llama"}, "general.architecture is 'llama', expected 'gpt2'"),
        ({"model": "llama"}, "tokenizer.ggml.model is 'llama', expected 'gpt2'"),
        ({"model": None}, "no tokenizer.ggml.model, expected a str"),
        ({"pre": "llama-bpe"}, "tokenizer.ggml.pre is 'llama-bpe', expected 'gpt-2'"),
        ({"epsilon": 1e-6}, "gpt2.attention.layer_norm_epsilon is 1e-06, expected 1e-05"),
        ({"epsilon": float("nan")}, "gpt2.attention.layer_norm_epsilon is nan"),
        ({"n_head": 5}, "n_embd"),
        ({"n_layer": 3}, "tensor 'blk.2.attn_norm.weight' is missing"),
        ({"n_layer": 1}, "unexpected tensor 'blk.1.*' for a GPT-2"),
        ({"n_layer": 0}, "n_layer"),
        ({"n_ctx": 18}, r"tensor 'position_embd.weight' has shape \[17, 24\], expected \[18, 24\] from the metadata"),
        ({"n_ctx": None}, "no gpt2.context_length, expected a int"),
        ({"merges": None}, "no tokenizer.ggml.merges, expected a list"),
        ({"tokens": ["a", "b"]}, "n_vocab|token_embd"),
        ({"merges": [1, 2]}, "tokenizer.ggml.merges must contain only strings"),
    ],
)
def test_other_model_is_refused_by_name(folder, tmp_path, metadata, message):
    path = write_gguf(tmp_path / "x.gguf", folder, **metadata)
    with pytest.raises(CheckpointError, match=rf"x\.gguf: .*({message})"):
        GgufFile(path)


def test_separate_head_is_kept(folder, tmp_path):
    tensors = gguf_tensors(SMALL)
    tensors["output.weight"] = tensors["token_embd.weight"] + 1
    path = write_gguf(tmp_path / "x.gguf", folder, tensors=tensors)
    convert(path, tmp_path / "x.bin", weight_type="f32")
    assert not ModelFile(tmp_path / "x.bin").is_tied
    head = GgufFile(path).tensor("lm_head")
    assert np.array_equal(head, tensors["output.weight"])


@pytest.mark.parametrize("kind", ["Q4_0"])
def test_other_type_is_refused(tmp_path, kind):
    write_checkpoint(tmp_path / "wide", WIDE)
    path = write_gguf(tmp_path / "x.gguf", tmp_path / "wide", WIDE, kinds={"blk.1.ffn_up.weight": kind})
    with pytest.raises(CheckpointError, match=rf"tensor 'blk\.1\.ffn_up\.weight' is of type {kind}, expected F32, F16"):
        GgufFile(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tokens, merges: tokens.__setitem__(1, tokens[0]), "tokens 0 and 1 are both '!'"),
        (lambda tokens, merges: tokens.__setitem__(1, "new"), "byte 34 has no token"),
        (lambda tokens, merges: merges.__setitem__(3, "ab"), "merge 3 is 'ab', expected two tokens"),
        (lambda tokens, merges: merges.__setitem__(3, merges[2]), "merge 3 is the same merge as merge 2"),
        (
            lambda tokens, merges: merges.__setitem__(3, "! qqqq"),
            "merge 3 merges '!' and 'qqqq', but 'qqqq' is not a token",
        ),
    ],
)
def test_malformed_vocabulary_is_refused(folder, tmp_path, edit, message):
    tokens = list(json.loads((folder / "encoder.json").read_text("utf-8")))
    merges = (folder / "vocab.bpe").read_text("utf-8").splitlines()[1:]
    edit(tokens, merges)
    path = write_gguf(tmp_path / "x.gguf", folder, tokens=tokens, merges=merges)
    with pytest.raises(VocabularyError, match=rf"x\.gguf: {message}"):
        convert(path, tmp_path / "x.bin")


# Malformed files

KEY = struct.pack("<Q", 1) + b"k"
HUGE = struct.pack("<Q", 2**62)


def head(n_tensors, n_keys, rest=b"", version=3):
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + rest


def tensor(n_dims=1, dims=(32,), kind=0, offset=0):
    return KEY + struct.pack(f"<I{len(dims)}QIQ", n_dims, *dims, kind, offset)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GGUF", "its header ends at byte 8 or later, but the file has 4"),
        (head(0, 0, version=1), "version 1, expected 2 or 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "version 50331648, expected 2 or 3 in little-endian order"),
        (head(2**62, 0), f"{2**62} tensors, expected at most"),
        (head(0, 2**62), f"{2**62} keys, expected at most"),
        (head(0, 1, HUGE), "bytes of a key, expected at most"),
        (head(0, 1, struct.pack("<Q", 99) + b"k"), "its header ends at byte"),
        (head(0, 1, KEY + struct.pack("<I", 8) + HUGE), "bytes of a string, expected at most"),
        (head(0, 1, KEY + struct.pack("<I", 99)), "a value is of unknown type 99"),
        (head(0, 1, KEY + struct.pack("<II", 9, 4) + HUGE), "more array items, expected at most"),
        (head(0, 1, KEY + struct.pack("<IIQ", 9, 4, 1000)), "its header ends at byte"),
        (head(0, 1, KEY + struct.pack("<IIQ", 9, 9, 1)), "an array has items of unknown type 9"),
        (head(0, 1, KEY + struct.pack("<IIQ", 9, 8, 1) + HUGE), "bytes of a string, expected at most"),
        (head(1, 0, tensor(5, (1,) * 5)), "tensor 'k' has 5 dimensions, expected at most 4"),
        (head(1, 0, tensor(4, (2**32,) * 4)), "tensor 'k' ends at byte"),
        (head(1, 0, tensor(1, (33,), kind=8)), "tensor 'k' of Q8_0 has rows of 33, expected a multiple of 32"),
        (head(1, 0, tensor(offset=2**63)), "tensor 'k' ends at byte"),
        (head(1, 0, tensor(offset=7)), "tensor 'k' is at byte 7, expected a multiple of 32"),
        (head(0, 2, 2 * (KEY + struct.pack("<IB", 0, 1))), "key 'k' appears twice"),
        (head(0, 1, struct.pack("<Q", 1) + b"\xff" + struct.pack("<IB", 0, 1)), "a text is not UTF-8: "),
        (head(0, 1, KEY + struct.pack("<IQ", 8, 1) + b"\xff"), "a text is not UTF-8: "),
        (head(0, 0), "no general.architecture, expected a str"),
    ],
)
def test_malformed_file_is_refused(tmp_path, content, message):
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"x\.gguf: .*{message}"):
        convert(tmp_path / "x.gguf", tmp_path / "x.bin")


@pytest.mark.parametrize("alignment", [0, 3, 2**31])
def test_absurd_alignment_is_refused(folder, tmp_path, alignment):
    def edit(writer):
        writer.add_uint32("general.alignment", alignment)

    path = write_gguf(tmp_path / "x.gguf", folder, edit=edit)
    with pytest.raises(CheckpointError, match=rf"general\.alignment is {alignment}, expected a power of two"):
        GgufFile(path)


def test_truncated_file_is_refused_wherever_it_is_cut(sound, tmp_path):
    path = tmp_path / "x.gguf"
    for length in [*range(0, 200, 7), *range(200, len(sound), len(sound) // 40), len(sound) - 32]:
        path.write_bytes(sound[:length])
        with pytest.raises(CheckpointError, match=r"x\.gguf: "):
            GgufFile(path)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_header_raises_only_gpt2rt_errors(sound, tmp_path, seed):
    generator, path = np.random.default_rng(seed), tmp_path / "x.gguf"
    n_head = sound.index(b"output_norm.bias") + 1000
    for _ in range(10):
        content = bytearray(sound)
        for position in generator.integers(0, n_head, 3):
            content[position] = generator.integers(256)
        path.write_bytes(content)
        try:
            GgufFile(path).vocabulary()
        except Gpt2rtError as error:
            assert "x.gguf" in str(error)  # noqa: PT017 (valid by chance is fine too)
