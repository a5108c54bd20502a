"""Stop strings: what is passed on, when, and which string ends the text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from token_tables import tokenizer_with

from gpt2rt._tokenizer import StopStrings, TextStream
from gpt2rt.errors import UsageError

ALPHABETS = st.sampled_from(["ab", "abc", "é€🙂a", "\ud83d\ude42🙂\udfff", "\0\x7f\x80\u07ff\u0800\uffff"])


@st.composite
def pieces_and_stops(draw):
    alphabet = draw(ALPHABETS)
    stops = draw(st.lists(st.text(alphabet, min_size=1, max_size=5), max_size=4))
    parts = st.one_of(st.text(alphabet, max_size=6), *([st.sampled_from(stops)] if stops else []))
    return draw(st.lists(parts, max_size=8)), stops


def ended(text, stops):
    """Return (text before the stop string that ends first, the longest of those; that string or None)."""
    complete = [(text.index(one) + len(one), text.index(one), one) for one in stops if one in text]
    return (text[: min(complete)[1]], min(complete)[2]) if complete else (text, None)


def held_back(text, stops):
    """Return how many characters at the end of a text may become part of a stop string."""
    return max((n for one in stops for n in range(1, len(one)) if text.endswith(one[:n])), default=0)


@given(pieces_and_stops())
@example((["aab"], ["b", "aab", "ab"]))
@example((["a", "a", "b"], ["aaab", "ab"]))
@example((["abab", "c"], ["ababd", "babc"]))
def test_all_text_before_a_stop_string_is_passed_on_as_soon_as_it_is_certain(case):
    pieces, stops = case
    filtered, text, passed = StopStrings(stops), "", ""
    for piece in pieces:
        text += piece
        passed += filtered.feed(piece)
        before, found = ended(text, stops)
        assert filtered.found == found
        if found is None:
            assert passed == text[: len(text) - held_back(text, stops)]
        else:
            assert passed == before
            text = before  # the rest is ignored, whatever follows
            assert filtered.feed("ab") == filtered.finish() == ""
            break
    assert passed + filtered.finish() == ended(text, stops)[0]


def test_after_the_end_another_text_begins():
    filtered = StopStrings("abc")
    assert [filtered.feed("xab"), filtered.finish(), filtered.feed("c")] == ["x", "ab", "c"]
    repeated = StopStrings("aa")
    assert [repeated.feed("xa"), repeated.finish(), repeated.feed("a"), repeated.finish()] == ["x", "a", "", "a"]
    assert filtered.found is repeated.found is None


@pytest.mark.parametrize("character", ["a", "é", "€", "🙂"])
def test_the_most_and_the_longest_stop_strings_are_found(character):
    stops = [chr(ord("A") + i) + character * 255 for i in range(64)]
    for stop in stops[::9]:
        filtered = StopStrings(stops)
        assert "".join(map(filtered.feed, f"text {stop[:-1]}B{stop} more")) == f"text {stop[:-1]}B"
        assert filtered.found == stop
    held = StopStrings(stops)
    assert held.feed("x" + stops[5][:-1]) == "x"
    assert held.finish() == stops[5][:-1]


@pytest.mark.parametrize("size", [254, 255, 256, 257, 100_000])
def test_a_piece_may_have_any_length(size):
    filtered = StopStrings(["ab", "~~"])
    assert filtered.feed("xa" * size) == "xa" * (size - 1) + "x"
    assert filtered.feed("c" * size) == "a" + "c" * size
    assert filtered.feed("é" * size + "ab") == "é" * size


def test_text_passes_through_unchanged_without_stop_strings():
    piece = "any text"
    assert StopStrings().feed(piece) is piece


def test_stop_strings_may_be_one_or_an_iterator():
    for stop in ("b", iter("bc"), {"b": 1}):
        assert StopStrings(stop).feed("abc") == "a"


@pytest.mark.parametrize("stop", [[""], ["x" * 257], [7], [b"x"], b"x"])
def test_an_empty_or_overlong_stop_string_is_refused(stop):
    with pytest.raises(UsageError, match=r"^stop: got .*, expected text of 1 to 256 characters$"):
        StopStrings(stop)


def test_what_is_not_a_list_of_stop_strings_is_refused():
    with pytest.raises(UsageError, match=r"^stop: got 7, expected a string or a list of strings$"):
        StopStrings(7)
    with pytest.raises(UsageError, match=r"^stop: got 65 strings, expected at most 64$"):
        StopStrings(["x"] * 65)


@pytest.mark.parametrize("piece", [None, b"text", 7])
def test_only_text_can_be_fed(piece):
    for stops in ((), "a"):
        with pytest.raises(TypeError):
            StopStrings(stops).feed(piece)


@pytest.mark.parametrize("stop", [("b",), ("b", "x"), ("x", "b")])
def test_a_text_ends_with_the_token_that_completes_a_stop_string(stop):
    stream = TextStream(tokenizer_with([]), stop)
    assert stream.accept(list(b"abcd"), False) == ("a", 2)
    assert (stream.finish_reason, stream.n_tokens) == ("stop", 2)
