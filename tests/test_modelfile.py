"""The model file: one named case for each way to be malformed."""

import itertools
import os
import struct
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model_file import METADATA, NUMBERS, SECTIONS, section, vocabulary, write

from gpt2rt import modelfile
from gpt2rt._modelfile import crc32c
from gpt2rt.errors import ModelFileError
from gpt2rt.modelfile import Hyperparameters, ModelFile, slots_for

UNSIGNED = {4: "<I", 8: "<Q"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a valid file."""
    return write(tmp_path_factory.mktemp("sound") / "small.bin").read_bytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "small.bin"


def with_checksum(content):
    """Return the file with a valid checksum of its header."""
    content = bytearray(content)
    struct.pack_into("<I", content, 4092, crc32c(bytes(content[:4092])))
    return content


def header_field(offset, value, size=4):
    """Return a case: a field of the header has another value, and the header has a valid checksum."""

    def apply(content):
        content = bytearray(content)
        struct.pack_into(UNSIGNED[size], content, offset, value)
        return with_checksum(content)

    return apply


def refusal(path, content, use_mmap=True):
    """Return the message with which opening refuses the content. Any other exception fails the test."""
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as raised:
        ModelFile(path, use_mmap=use_mmap)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# Valid files


@pytest.mark.parametrize(
    ("weight_type", "group_size"), [("f32", 0), ("f16", 0), ("int8", 16), ("int8", 256), ("int4", 32)]
)
@pytest.mark.parametrize("use_mmap", [True, False])
def test_written_file_opens(path, weight_type, group_size, use_mmap):
    write(path, weight_type=weight_type, group_size=group_size)
    model = ModelFile(path, use_mmap=use_mmap)
    assert (model.hyperparameters, model.weight_type, model.group_size) == (NUMBERS, weight_type, group_size)
    assert model.metadata == METADATA
    assert model.size == path.stat().st_size
    assert list(model.damaged_sections()) == []
    assert model.nonzero_padding() is None
    assert bytes(model.vocabulary()["token_bytes"]) == b"abcdef"
    for number, tensor in enumerate(model.tensors):
        content = model.sections["weights"][tensor.offset : tensor.offset + tensor.length]
        assert bytes(content) == bytes([number + 1]) * tensor.length


def test_layout_matches_the_format_page(sound):
    assert sound[:8] == b"\x89GPT2RT\n"
    fields = struct.unpack_from("<IIQIIIIIIII", sound, 8)
    assert fields == (2, 4096, len(sound), 40, 5, 24, 3, 2, 2, 16, 0)
    position = 4096
    for name in SECTIONS:
        offset, length = section(sound, name)
        assert offset == position
        assert offset % 4096 == 0
        assert struct.unpack_from("<II", sound, 64 + 24 * SECTIONS.index(name) + 16) == (
            crc32c(sound[offset : offset + length]),
            0,
        )
        position = -(-(offset + length) // 4096) * 4096
    assert offset + length == len(sound)


def test_sections_are_read_only(path):
    model = ModelFile(write(path))
    assert all(view.readonly for view in model.sections.values())


@pytest.mark.parametrize(
    ("weight_type", "group_size", "n_out", "n_in", "expected"),
    [
        ("f32", 0, 1, 1, 64),
        ("f32", 0, 17, 3, 2 * 192),
        ("f16", 0, 16, 1, 64),
        ("f16", 0, 16, 3, 128),
        ("int8", 64, 16, 64, 64 + 1024),
        ("int8", 64, 16, 65, 64 + 2048),
        ("int8", 32, 50257, 768, 3142 * (768 + 12288)),
        ("int4", 32, 15, 32, 64 + 256),
    ],
)
def test_length_of_a_matrix(weight_type, group_size, n_out, n_in, expected):
    assert modelfile.matrix_length(n_out, n_in, weight_type, group_size) == expected


def test_number_of_parameters_matches_the_release():
    assert Hyperparameters(50257, 1024, 768, 12, 12).n_parameters == 124_439_808
    assert Hyperparameters(50257, 1024, 1600, 25, 48).n_parameters == 1_557_611_200


def test_tensors_start_at_cache_lines():
    table = modelfile.tensor_table(Hyperparameters(50257, 1023, 770, 11, 3), "int8", 128)
    assert all(tensor.offset % 64 == 0 for tensor in table)
    assert all(one.offset + one.length == two.offset for one, two in itertools.pairwise(table))


@pytest.mark.parametrize("n_merges", [0, 1, 7, 8, 9, 50000, 65536])
def test_merge_slots_are_a_power_of_two_and_at_most_half_full(n_merges):
    slots = slots_for(n_merges)
    assert slots & (slots - 1) == 0
    assert slots >= max(16, 2 * n_merges)
    assert slots == 16 or slots // 2 < 2 * n_merges


# Truncated and extended files


def test_file_truncated_at_any_boundary_is_refused(path, sound):
    boundaries = {0, 1, 7, 8, 63, 64, 136, 4092, 4095, 4096}
    for name in SECTIONS:
        offset, length = section(sound, name)
        boundaries |= {offset, offset + 1, offset + length - 1, offset + length}
    for length in sorted(boundaries - {len(sound)}):
        assert refusal(path, sound[:length])


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_file_truncated_anywhere_is_refused(tmp_path_factory, sound, data):
    length = data.draw(st.integers(0, len(sound) - 1))
    assert refusal(tmp_path_factory.getbasetemp() / "cut.bin", sound[:length])


def test_file_truncated_by_one_byte_is_reported(path, sound):
    message = refusal(path, sound[:-1])
    assert message == f"{len(sound) - 1} bytes, expected {len(sound)} from its header (truncated download?)"


def test_empty_file_is_refused(path):
    assert refusal(path, b"").startswith("not a gpt2rt model file (it is 0 bytes long")


def test_file_truncated_in_the_header_is_reported(path, sound):
    assert refusal(path, sound[:100]) == "100 bytes, expected a header of 4096 (truncated? copy or convert again)"


def test_file_with_an_appended_byte_is_reported(path, sound):
    assert refusal(path, sound + b"\0").endswith(f"expected {len(sound)} from its header (something was appended?)")


def test_bytes_after_the_weights_are_refused(path, sound):
    grown = header_field(16, len(sound) + 3, 8)(sound) + b"abc"
    assert refusal(path, grown) == "3 bytes after the last section, expected 0"


# The header


def test_flipped_bit_anywhere_in_the_header_is_refused(path, sound):
    for offset in (*range(0, 200), *range(200, 4092, 97), *range(4092, 4096)):
        damaged = bytearray(sound)
        damaged[offset] ^= 1 << offset % 8
        message = refusal(path, damaged)
        expected = (
            "not a gpt2rt" if offset < 8 else "format version" if offset < 12 else "the header is damaged: checksum"
        )
        assert expected in message


HEADERS = {
    "magic": (lambda content: b"GGUF" + content[4:], r"not a gpt2rt model file"),
    "text": (lambda content: b"#!/bin/sh\n" * 500, r"not a gpt2rt model file"),
    "future_version": (header_field(8, 3), "format version 3, this gpt2rt reads versions 1 and 2 (install a newer"),
    "past_version": (
        header_field(8, 0),
        "format version 0, this gpt2rt reads versions 1 and 2 (convert the checkpoint again)",
    ),
    "header_size": (header_field(12, 8192), "header size 8192 and flags 0x0, expected 4096 and 0 or 1"),
    "flags": (header_field(52, 2), "header size 4096 and flags 0x2, expected 4096 and 0 or 1"),
    "file_size_huge": (
        header_field(16, 2**64 - 1, 8),
        "expected 18446744073709551615 from its header (truncated download?)",
    ),
    "file_size_0": (header_field(16, 0, 8), "expected 0 from its header (something was appended?)"),
    "n_vocab_0": (header_field(24, 0), "n_vocab is 0, expected 1 to 1048576"),
    "n_vocab_huge": (header_field(24, 2**32 - 1), "n_vocab is 4294967295, expected 1 to 1048576"),
    "n_ctx_0": (header_field(28, 0), "n_ctx is 0, expected 1 to 65536"),
    "n_ctx_huge": (header_field(28, 2**16 + 1), "n_ctx is 65537, expected 1 to 65536"),
    "n_embd_0": (header_field(32, 0), "n_embd is 0, expected 1 to 16384"),
    "n_embd_huge": (header_field(32, 2**31), "n_embd is 2147483648, expected 1 to 16384"),
    "n_head_0": (header_field(36, 0), "n_head is 0, expected 1 to 1024"),
    "n_head_huge": (header_field(36, 1025), "n_head is 1025, expected 1 to 1024"),
    "n_head_no_divisor": (header_field(36, 5), "n_embd is 24, expected a multiple of n_head, which is 5"),
    "n_layer_0": (header_field(40, 0), "n_layer is 0, expected 1 to 1024"),
    "n_layer_huge": (header_field(40, 2**32 - 1), "n_layer is 4294967295, expected 1 to 1024"),
    "n_layer_other": (header_field(40, 3), "section 'weights' has"),
    "n_layer_at_limit": (header_field(40, 1024), "section 'weights' has"),
    "n_ctx_other": (header_field(28, 6), "section 'weights' has"),
    "n_vocab_other": (header_field(24, 100), "section 'vocabulary' has"),
    "weight_type": (header_field(44, 4), "weight type 4, expected one of 0 to 3"),
    "weight_type_other": (header_field(44, 3), "section 'weights' has"),
    "group_size_0": (header_field(48, 0), "group size 0, expected one of (16, 32, 64, 128, 256)"),
    "group_size_48": (header_field(48, 48), "group size 48, expected one of (16, 32, 64, 128, 256)"),
    "group_size_huge": (header_field(48, 2**32 - 1), "group size 4294967295, expected one of"),
    "group_size_other": (header_field(48, 32), "section 'weights' has"),
    "group_size_of_f32": (header_field(44, 0), "group size 16, expected 0 for f32"),
    "metadata_offset": (header_field(64, 8192, 8), "section 'metadata' starts at byte 8192, expected 4096"),
    "metadata_in_header": (header_field(64, 0, 8), "section 'metadata' starts at byte 0, expected 4096"),
    "metadata_reserved": (header_field(84, 1), "section 'metadata' starts at byte 4096, expected 4096"),
    "metadata_length_huge": (header_field(72, 2**64 - 1, 8), "section 'metadata' ends at byte 18446744073709555711"),
    "metadata_length_wraps": (
        header_field(72, 2**64 - 4096, 8),
        "section 'metadata' ends at byte 18446744073709551616",
    ),
    "metadata_length_0": (header_field(72, 0, 8), "section 'vocabulary' starts at byte 8192, expected 4096"),
    "vocabulary_offset_huge": (
        header_field(88, 2**64 - 4096, 8),
        "section 'vocabulary' starts at byte 18446744073709547520",
    ),
    "vocabulary_length_huge": (header_field(96, 2**63, 8), "section 'vocabulary' ends at byte 9223372036854784000"),
    "vocabulary_length_less": (header_field(96, 63, 8), "section 'vocabulary' has 63 bytes, expected at least 64"),
    "weights_length_huge": (header_field(120, 2**64 - 1, 8), "section 'weights' ends at byte"),
    "weights_length_less": (header_field(120, 64, 8), "bytes after the last section, expected 0"),
    "weights_length_0": (header_field(120, 0, 8), "bytes after the last section, expected 0"),
}


@pytest.mark.parametrize("use_mmap", [True, False])
@pytest.mark.parametrize("case", HEADERS)
def test_malformed_header_is_refused(path, sound, case, use_mmap):
    damage, message = HEADERS[case]
    assert message in refusal(path, damage(sound), use_mmap)


@settings(deadline=None, max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(8, 34), st.integers(0, 2**32 - 1) | st.integers(0, 300)), max_size=4))
def test_fuzzed_header_with_a_valid_checksum_is_refused_or_valid(tmp_path_factory, sound, changes):
    content = bytearray(sound)
    for word, value in changes:
        struct.pack_into("<I", content, 4 * word, value)
    path = tmp_path_factory.getbasetemp() / "fuzz.bin"
    path.write_bytes(with_checksum(content))
    try:
        model = ModelFile(path)
    except ModelFileError:
        return
    assert list(model.vocabulary())
    list(model.damaged_sections())


# The vocabulary's counts


def vocabulary_field(offset, value):
    def apply(content):
        content = bytearray(content)
        struct.pack_into("<I", content, section(content, "vocabulary")[0] + offset, value)
        return content

    return apply


VOCABULARIES = {
    "merges_above_tokens": vocabulary_field(0, 41),
    "merges_huge": vocabulary_field(0, 2**32 - 1),
    "slots_not_by_rule": vocabulary_field(4, 32),
    "slots_huge": vocabulary_field(4, 2**31),
    "slots_0": vocabulary_field(4, 0),
    "special_above_tokens": vocabulary_field(8, 41),
    "special_huge": vocabulary_field(8, 2**32 - 1),
    "bytes_huge": vocabulary_field(12, 2**28 + 1),
}


@pytest.mark.parametrize("case", VOCABULARIES)
def test_malformed_counts_of_the_vocabulary_are_refused(path, sound, case):
    message = refusal(path, VOCABULARIES[case](sound))
    assert message.startswith("invalid vocabulary header for 40 tokens: ")


@pytest.mark.parametrize(("offset", "value"), [(8, 40), (12, 5), (12, 2**28)])
def test_vocabulary_whose_length_contradicts_its_counts_is_refused(path, sound, offset, value):
    assert "section 'vocabulary' has" in refusal(path, vocabulary_field(offset, value)(sound))


def assembled(metadata, vocabulary):
    """Return a file whose header is valid for these first two sections."""
    content, table = bytearray(4096), []
    for body in (metadata, vocabulary, b"w"):
        content = content.ljust(-(-len(content) // 4096) * 4096, b"\0")
        table += [struct.pack("<QQII", len(content), len(body), crc32c(body), 0)]
        content += body
    struct.pack_into("<8sIIQIIIIIIII", content, 0, b"\x89GPT2RT\n", 1, 4096, len(content), *NUMBERS, 2, 16, 0)
    content[64 : 64 + 72] = b"".join(table)
    return with_checksum(content)


def test_metadata_beyond_its_limit_is_refused(path):
    content = assembled(b" " * ((1 << 20) + 1), vocabulary())
    assert refusal(path, content) == "metadata of 1048577 bytes, expected at most 1048576"


@pytest.mark.parametrize("length", [0, 15, 63])
def test_vocabulary_without_a_header_is_refused(path, length):
    message = refusal(path, assembled(b"{}", bytes(length)))
    assert message == f"section 'vocabulary' has {length} bytes, expected at least 64"


# Damage that only verification finds


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_flipped_byte_in_a_section_is_found_and_named(path, sound, name, where):
    offset, length = section(sound, name)
    damaged = bytearray(sound)
    # Not the counts at the start of the vocabulary: opening refuses those.
    damaged[max(offset + 20, offset + int(where * (length - 1)))] ^= 0x40
    path.write_bytes(damaged)
    (found,) = ModelFile(path).damaged_sections()
    assert found == (name, crc32c(sound[offset : offset + length]), crc32c(damaged[offset : offset + length]))


def test_padding_that_is_not_zero_is_found(path, sound):
    ends = [sum(section(sound, name)) for name in SECTIONS[:2]]
    gaps = [offset for offset in ends if offset % 4096]
    assert gaps
    for offset in gaps:
        damaged = bytearray(sound)
        damaged[offset] = 1
        path.write_bytes(damaged)
        assert ModelFile(path).nonzero_padding() == offset


@pytest.mark.parametrize("offset", [56, 63, 136, 4091])
def test_reserved_bytes_of_the_header_that_are_not_zero_are_found(path, sound, offset):
    damaged = bytearray(sound)
    damaged[offset] = 1
    path.write_bytes(with_checksum(damaged))
    assert ModelFile(path).nonzero_padding() == offset


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "section 'metadata' is not valid JSON"),
        (b"\xff", "section 'metadata' is not valid JSON"),
        (b"[" * 9000, "section 'metadata' is not valid JSON"),
        (b"9" * 9000, "section 'metadata' is not valid JSON"),
        (b"[1]", "section 'metadata' contains a list, expected a JSON object"),
    ],
)
def test_metadata_that_is_not_an_object_is_refused_on_access(path, content, message):
    write(path, metadata={"x": "y" * 10_000})
    damaged = bytearray(path.read_bytes())
    offset, length = section(damaged, "metadata")
    damaged[offset : offset + length] = content.ljust(length)
    path.write_bytes(damaged)
    model = ModelFile(path)
    with pytest.raises(ModelFileError, match=message.replace("[", r"\[")):
        _ = model.metadata


# Not a regular file


def test_folder_is_refused(tmp_path):
    with pytest.raises(ModelFileError, match="is a folder, expected a model file"):
        ModelFile(tmp_path)


def test_missing_file_is_refused(path):
    with pytest.raises(ModelFileError, match="no such file"):
        ModelFile(path)


def test_path_with_a_nul_is_refused():
    with pytest.raises(ModelFileError, match="can't be opened"):
        ModelFile("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes there")
def test_pipe_is_refused_without_waiting(path):
    os.mkfifo(path)
    with pytest.raises(ModelFileError, match="is a pipe"):
        ModelFile(path)


@pytest.mark.skipif(sys.platform == "win32" or not hasattr(os, "getuid") or os.getuid() == 0, reason="root reads all")
def test_unreadable_file_is_refused(path):
    write(path)
    path.chmod(0)
    with pytest.raises(ModelFileError, match="can't be opened: Permission denied"):
        ModelFile(path)
