"""UTF-8 in parts: the text that comes out, and when, is that of Python's incremental decoder."""

import codecs
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_tables import tokenizer_with

from gpt2rt._tokenizer import StreamDecoder

# The first and the last byte of each range that a decoder has to tell apart.
EDGES = bytes.fromhex("007f 808f 909f a0bf c0c1 c2df e0 e1ec ed eeef f0 f1f3 f4 f5ff")
FIRSTS = bytes.fromhex("7f 80 90 a0 bf c1 c2 e0 e1 ed ee f0 f1 f4 ff")


def stream_of(parts):
    """Return a decoder of tokens whose bytes are `parts`; their ids are from 256 on."""
    return StreamDecoder(tokenizer_with(parts))


def assert_same_text(parts, stream, tokens):
    expected = codecs.getincrementaldecoder("utf-8")("replace")
    for part, token in zip(parts, tokens, strict=True):
        assert stream.feed(256 + token) == expected.decode(part), parts
    assert stream.finish() == expected.decode(b"", True), parts


def pieces(content):
    """Return the parts of long bytes, as a token has at most 1,024; none is a multiple of a character."""
    return [content[at : at + 1021] for at in range(0, len(content), 1021)]


def splits(sequence):
    """Yield every way to split a sequence into parts."""
    for cuts in itertools.product((False, True), repeat=len(sequence) - 1):
        at = [0, *(i + 1 for i, is_cut in enumerate(cuts) if is_cut), len(sequence)]
        yield [sequence[a:b] for a, b in itertools.pairwise(at)]


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_every_sequence_of_ranges_in_every_split_is_decoded_as_in_python(length):
    tokens = [bytes(token) for n in range(1, length + 1) for token in itertools.product(FIRSTS, repeat=n)]
    stream, number = stream_of(tokens), {token: i for i, token in enumerate(tokens)}
    for sequence in itertools.product(FIRSTS, repeat=length):
        for parts in splits(bytes(sequence)):
            assert_same_text(parts, stream, [number[part] for part in parts])


@pytest.mark.parametrize("end", [b"", b"\n", b"\xbf", b"\xc3"])
def test_every_sequence_of_the_edges_of_ranges_is_decoded_as_in_python(end):
    parts = pieces(b"".join(bytes(sequence) + end for sequence in itertools.product(EDGES, repeat=4)))
    assert_same_text(parts, stream_of(parts), range(len(parts)))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(256))
def test_every_sequence_of_three_bytes_is_decoded_as_in_python(first):
    parts = pieces(b"".join(bytes([first, *rest]) + b"\n" for rest in itertools.product(range(256), repeat=2)))
    assert_same_text(parts, stream_of(parts), range(len(parts)))


@pytest.mark.parametrize("first", [0, 0x10000])
def test_every_character_is_passed_through(first):
    text = "".join(chr(c) for c in range(first, 0x110000 if first else 0x10000) if not 0xD800 <= c < 0xE000)
    parts = pieces(text.encode())
    stream = stream_of(parts)
    assert "".join(stream.feed(256 + i) for i in range(len(parts))) == text
    assert stream.finish() == ""


BYTES = st.one_of(
    st.sampled_from(EDGES).map(lambda byte: bytes([byte])), st.characters(codec="utf-8").map(str.encode), st.binary()
)


@given(content=st.lists(BYTES, max_size=12).map(b"".join), cuts=st.lists(st.integers(0, 40), max_size=8))
def test_any_bytes_in_any_split_are_decoded_as_in_python(content, cuts):
    at = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    parts = [content[a:b] for a, b in itertools.pairwise(at)]
    assert_same_text(parts, stream_of(parts), range(len(parts)))
    stream = stream_of(parts)
    assert "".join([*map(stream.feed, range(256, 256 + len(parts))), stream.finish()]) == content.decode(
        "utf-8", "replace"
    )


@pytest.mark.parametrize("size", [0, 1, 82, 83, 84, 85, 1000])
def test_a_token_of_any_length_is_decoded(size):
    for content in (b"\xff" * size, b"a" * size, b"\xe2\x82" + b"\xac" * size):
        assert_same_text([b"\xf0\x9f\x99", content], stream_of([b"\xf0\x9f\x99", content]), [0, 1])
