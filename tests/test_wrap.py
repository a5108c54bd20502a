"""Text that is wrapped between words while it streams."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2rt.cli.terminal import printable
from gpt2rt.cli.wrap import WordWrapper, char_width, may_break, text_width

LETTERS = "ab.,-(é\u0301世。「界ｗ한😀"
TEXTS = st.lists(st.text(LETTERS, min_size=1, max_size=12), max_size=20).map(" ".join)


def wrapped(pieces, columns, column=0):
    """What is printed of pieces of text."""
    printed = []
    wrapper = WordWrapper(printed.append, columns, column)
    for piece in pieces:
        wrapper.write(piece)
    wrapper.end()
    return "".join(printed)


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("one two three", 7, "one two\nthree"),
        ("one two three", 6, "one\ntwo\nthree"),
        ("one  two", 5, "one\ntwo"),
        ("one\n  two three", 6, "one\n  two\nthree"),
        ("a\tb c", 9, "a\tb\nc"),
        # The terminal breaks the long word, after "incom", "prehe" and "nsibl".
        ("incomprehensible to me", 5, "incomprehensible to\nme"),
        ("世界世界", 5, "世界\n世界"),
        ("世界。", 4, "世\n界。"),
        ("世「界」", 7, "世\n「界」"),
        ("see 世界", 6, "see 世\n界"),
        ("한국어 문장", 10, "한국어 문\n장"),
        ("cafe\u0301s here", 5, "cafe\u0301s\nhere"),
        ("cafe\u0301 is", 7, "cafe\u0301 is"),
    ],
)
def test_lines_break_between_words(text, columns, expected):
    assert wrapped([text], columns) == expected


def test_a_word_is_held_back_until_it_is_known_to_fit():
    printed = []
    wrapper = WordWrapper(printed.append, 10, column=5)
    for piece in ("Hel", "lo", " wor", "ld"):
        wrapper.write(piece)
    assert printed == ["Hello"]
    wrapper.end()
    assert printed == ["Hello", "\nworld"]


def test_a_label_before_the_text_counts():
    assert wrapped(["one two"], 10, column=5) == "one\ntwo"


def test_without_a_width_the_text_passes_as_it_comes():
    printed = []
    wrapper = WordWrapper(printed.append, 0)
    wrapper.write("Hel")
    assert printed == ["Hel"]


@given(TEXTS, st.integers(1, 30), st.data())
def test_pieces_do_not_matter(text, columns, data):
    cut = data.draw(st.integers(0, len(text)))
    assert wrapped([text[:cut], text[cut:]], columns) == wrapped(text, columns) == wrapped([text], columns)


@given(TEXTS, st.integers(1, 30))
def test_nothing_but_a_space_is_lost_and_no_line_is_too_long(text, columns):
    printed = wrapped([text], columns)
    assert printed.replace("\n", "").replace(" ", "") == text.replace(" ", "")
    for line in printed.split("\n"):
        assert text_width(line) <= columns or any(text_width(word) > columns for word in unbroken(line))


def unbroken(line):
    """The parts of a line that may not be broken."""
    parts, base = [""], ""
    for char in line:
        if char == " " or (base and char_width(char) and may_break(base, char)):
            parts.append("")
        if char != " ":
            parts[-1] += char
        base = "" if char == " " else char if char_width(char) else base
    return parts


WIDTHS = {"a": 1, "é": 1, "\u0301": 0, "世": 2, "ｗ": 2, "한": 2, "\u1161": 0, "😀": 2, "\u200d": 0, "\ufffd": 1}


@pytest.mark.parametrize(("char", "width"), WIDTHS.items())
def test_widths(char, width):
    assert char_width(char) == width


def test_of_all_control_characters_only_tabs_and_line_breaks_reach_a_terminal():
    controls = [chr(i) for i in (*range(32), *range(127, 160))]
    for c in controls:
        assert printable(f"a{c}b") == (f"a{c}b" if c in "\t\n" else "a\ufffdb"), ascii(c)
    assert printable(" ~\u00a0é日") == " ~\u00a0é日"
