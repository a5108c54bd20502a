"""The index of TensorFlow checkpoints: malformed, truncated, with flipped bits, and fuzzed."""

import pytest
from checkpoints import (
    INDEX_MAGIC,
    block_bytes,
    entry_message,
    field,
    header_message,
    index_bytes,
    varint,
    with_trailer,
    write_checkpoint,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2rt.converter.checkpoint_index import read_index
from gpt2rt.errors import CheckpointError


@pytest.fixture
def folder(tmp_path):
    """A valid checkpoint."""
    write_checkpoint(tmp_path / "small")
    return tmp_path / "small"


def refusal(path, content):
    """Return the message with which an index is refused, or None. Any other exception fails the test."""
    path.write_bytes(content)
    try:
        read_index(path)
    except CheckpointError as error:
        return str(error)
    return None


ENTRY = entry_message((2, 3), 0, 24, 0)
MALFORMED = {
    "empty": (b"", "0 bytes, expected at least 48"),
    "no_table": (bytes(100), "magic number 0000000000000000"),
    "big_endian": (index_bytes({b"a": ENTRY}, header=header_message(endianness=1)), "big-endian machine"),
    "later_version": (
        index_bytes({b"a": ENTRY}, header=header_message(min_consumer=2)),
        "requires a reader of version 2",
    ),
    "no_shards": (index_bytes({b"a": ENTRY}, header=header_message(n_shards=0)), "0 data files"),
    "shards_beyond_names": (index_bytes({}, header=header_message(n_shards=10**6)), "1000000 data files"),
    "negative_shards": (index_bytes({}, header=header_message(n_shards=-1)), "data files, expected 1 to 99999"),
    "name_no_utf8": (index_bytes({b"a\xff": ENTRY}), "a tensor name is not UTF-8"),
    "long_name": (index_bytes({b"a" * 1025: ENTRY}), "an entry extends past the end of its block"),
    "unknown_rank": (index_bytes({b"a": field(2, field(3, 1))}), "rank is unknown"),
    "negative_dimension": (index_bytes({b"a": entry_message((-1,), 0, 4, 0)}), "a negative dimension"),
    "many_dimensions": (index_bytes({b"a": entry_message((1,) * 17, 0, 4, 0)}), "or more than 16 dimensions"),
    "long_number": (index_bytes({b"a": b"\x08" + b"\xff" * 10 + b"\x01"}), "more than 64 bits"),
    "sixty_five_bits": (index_bytes({b"a": b"\x08" + b"\xff" * 9 + b"\x02"}), "more than 64 bits"),
    "cut_number": (index_bytes({b"a": b"\x08\xff"}), "a number is truncated"),
    "cut_message": (index_bytes({b"a": b"\x12\x7f"}), "a message is truncated"),
    "cut_fixed": (index_bytes({b"a": b"\x35\0\0"}), "a message is truncated"),
    "group": (index_bytes({b"a": b"\x0b"}), "a field of wire type 3"),
    "wrong_wire_type": (index_bytes({b"a": field(1, b"x")}), "field 1 has wire type 2, expected 0"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_index_is_refused(tmp_path, case):
    content, message = MALFORMED[case]
    assert message in refusal(tmp_path / "x.index", content)


def test_a_dimension_without_a_size_is_0(tmp_path):
    (tmp_path / "x.index").write_bytes(index_bytes({b"a": entry_message((), 0, 0, 0) + field(2, field(2, b""))}))
    assert "shape=(0,)" in repr(read_index(tmp_path / "x.index"))


def table(block, handles=None):
    """Return an index of one block and the index block that points to it."""
    index = block_bytes({b"z": varint(0) + varint(len(block))}) if handles is None else handles
    return with_trailer(block) + tail(len(block) + 5, index)


def tail(offset, index):
    """Return the end of an index from `offset` on: an empty metaindex, the index block, the footer."""
    metaindex = block_bytes({})
    footer = varint(offset) + varint(len(metaindex)) + varint(offset + len(metaindex) + 5) + varint(len(index))
    return with_trailer(metaindex) + with_trailer(index) + footer.ljust(40, b"\0") + INDEX_MAGIC


MALFORMED_TABLES = {
    "no_header": (table(block_bytes({b"a": ENTRY})), "its first key is b'a'"),
    "no_entries": (table(block_bytes({})), "it has no header"),
    "unordered": (table(block_bytes({b"": header_message(), b"b": ENTRY, b"a": ENTRY})), "keys are not in order"),
    "restarts": (table(b"\xff\xff\xff\xff"), "too short for its restart points"),
    "tiny_block": (table(b"\0\0"), "a block of 2 bytes"),
    "shares_too_much": (
        table(varint(5) + varint(0) * 2 + bytes(4) + b"\1\0\0\0"),
        "an entry extends past the end of its block",
    ),
    "value_too_long": (
        table(varint(0) * 2 + varint(2**40) + bytes(4) + b"\1\0\0\0"),
        "an entry extends past the end of its block",
    ),
    "handle_beyond": (table(block_bytes({}), block_bytes({b"z": varint(0) + varint(2**62)})), "a block ends at byte"),
    "handle_cut": (table(block_bytes({}), block_bytes({b"z": b"\0"})), "a number is truncated"),
    "same_block_twice": (
        table(
            block_bytes({b"": header_message()}),
            block_bytes(dict.fromkeys((b"y", b"z"), varint(0) + varint(len(block_bytes({b"": header_message()}))))),
        ),
        "keys are not in order",
    ),
}


@pytest.mark.parametrize("case", MALFORMED_TABLES)
def test_malformed_table_is_refused(tmp_path, case):
    content, message = MALFORMED_TABLES[case]
    assert message in refusal(tmp_path / "x.index", content)


def test_unknown_compression_is_left_to_tensorflow(tmp_path):
    content = with_trailer(b"\0" * 4, kind=7) + tail(9, block_bytes({b"z": varint(0) + varint(4)}))
    assert "compressed" in refusal(tmp_path / "x.index", content)


def test_index_cut_anywhere_is_refused(folder, tmp_path):
    content = (folder / "model.ckpt.index").read_bytes()
    for length in range(len(content)):
        assert refusal(tmp_path / "x.index", content[:length]), length


def test_flipped_bit_anywhere_in_the_index_is_refused(folder, tmp_path):
    content = (folder / "model.ckpt.index").read_bytes()
    padding = range(len(content[:-8].rstrip(b"\0")), len(content) - 8)  # of the footer, which is never read
    for offset in range(len(content)):
        damaged = bytearray(content)
        damaged[offset] ^= 1 << offset % 8
        assert refusal(tmp_path / "x.index", damaged) or offset in padding, offset


def test_overlong_index_is_refused(tmp_path):
    with (tmp_path / "x.index").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match=r"1099511627776 bytes, expected at most"):
        read_index(tmp_path / "x.index")


@settings(deadline=None, max_examples=500)
@given(data=st.data())
def test_fuzzed_index_with_valid_checksums_raises_only_checkpoint_errors(tmp_path_factory, data):
    """Bytes are changed before the blocks get their checksums, so that the code after the checksum test is reached."""
    messages = {b"": header_message(2), b"model/h0/w": entry_message((1, 2, 3), 0, 24, 5), b"model/wte": ENTRY}
    block = bytearray(block_bytes(messages))
    handles = bytearray(block_bytes({b"z": varint(0) + varint(len(block))}))
    for target in (block, handles):
        for _ in range(data.draw(st.integers(0, 4))):
            target[data.draw(st.integers(0, len(target) - 1))] = data.draw(st.integers(0, 255))
    refusal(tmp_path_factory.getbasetemp() / "fuzz.index", table(bytes(block), bytes(handles)))


@settings(deadline=None)
@given(
    messages=st.dictionaries(st.binary(min_size=1, max_size=8), st.binary(max_size=40), max_size=5), header=st.binary()
)
def test_random_messages_raise_only_checkpoint_errors(tmp_path_factory, messages, header):
    refusal(tmp_path_factory.getbasetemp() / "random.index", index_bytes(messages, header=header))
