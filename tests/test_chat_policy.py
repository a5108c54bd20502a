"""The policy of a chat, in C: what it decides is what the reference in plain Python decides."""

import collections
import sys
import unicodedata

import expected_chat as expected
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from token_tables import tokenizer_with

from gpt2rt._chat import (
    MAX_DRAFTS,
    ChatFormat,
    ReplyText,
    check_templates,
    clean,
    earlier_answers,
    kept_answer,
    prompt_of,
    words_of,
)
from gpt2rt._tokenizer import TextStream
from gpt2rt.errors import ContextFullError, UsageError

Turn = collections.namedtuple("Turn", "user answer tokens")

PARTS = [b"<s>", b"</s>", b" Bot", b"Bot:", b"the ", "é".encode(), "🙂".encode()[:2], "🙂".encode()[2:], b"\n\n", b"ab"]
TOKENIZERS = [  # bytes, then PARTS; the special ones are <s> and </s>
    tokenizer_with(PARTS),
    tokenizer_with(PARTS, special=[256, 257], bos=256, eos=[257, 264]),
    tokenizer_with(PARTS, special=[256, 257], flags=3, bos=256, eos=[257]),
]
tokenizers = st.sampled_from(TOKENIZERS)

# Letters, marks of the formats, and all kinds of characters that Python treats differently.
PIECES = [
    *("User", "Bot", "Sam", "Emma", "Bot:", "\nUser:", "<s>", "</s>", "{user}", "{bot}", "{opening}"),
    *(" ", "  ", "\n", "\r\n", "\r", "\t", "\x0b", "\x1c", "\x1f"),
    *("\x85", "\xa0", "\u2028", "\u3000", "\u200b", "\ufeff"),
    *("'", '"', "\\", "_", ":", ".", "!", "\0", "\x1b", "\x7f", "\xad", "\ue000", "\U000e0001", "\U0010ffff"),
    *("é", "ß", "İ", "ŉ", "Σς", "ﬃ", "²", "Ⅷ", "½", "日本", "🙂", "e\u0301", "\ud83d", "\ude42", "\udfff\ud800"),
]
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.characters(), st.text("aA b", max_size=4)), max_size=8).map(
    "".join
)


def outcome(function, *arguments):
    """Return the result of a call, or the message of what it raises."""
    try:
        return function(*arguments)
    except UsageError as error:
        return str(error)


HAS_NEWER = tuple(map(int, unicodedata.unidata_version.split("."))) > (16, 0, 0)


def is_name(name):
    return "user_name" not in str(outcome(ChatFormat, TOKENIZERS[0], 64, {}, {"user_name": name, "opening": ""}))


def is_known(text):
    """Return whether all characters are assigned both in Unicode 16.0, of C's tables, and in the running Python's."""
    return not any(unicodedata.category(c) == "Cn" or (HAS_NEWER and c.isprintable() and not is_name(c)) for c in text)


# --- texts


@pytest.mark.parametrize("function", [words_of, clean])
@given(text=texts)
def test_words_and_lines_are_those_of_python(function, text):
    known = "".join(filter(is_known, text))
    assert function(known) == getattr(expected, function.__name__)(known)


every_character = pytest.mark.parametrize(
    "characters", [range(0x10000), pytest.param(range(sys.maxunicode + 1), marks=pytest.mark.slow)], ids=len
)


def assigned_of(characters):
    """Return those that are assigned in Unicode 16.0, which C's tables have, and in the running Python's version."""
    return [c for c in map(chr, characters) if is_known(c)]


@every_character
def test_every_assigned_character_has_the_words_that_python_has(characters):
    different = [c for c in assigned_of(characters) if words_of(f"a{c}b") != expected.words_of(f"a{c}b")]
    assert different == []


@every_character
def test_every_character_is_white_space_as_in_python(characters):
    different = [c for c in map(chr, characters) if clean(f"a{c}b{c}") != expected.clean(f"a{c}b{c}")]
    assert different == []


@every_character
def test_every_assigned_character_is_printable_as_in_python(characters):
    candidates = [c for c in assigned_of(characters) if unicodedata.category(c) != "Zs"]
    different = [c for c in candidates if is_name(c) != (c.isprintable() and c != ":")]
    assert different == []


# --- formats

settings = st.fixed_dictionaries(
    {},
    optional={
        "format": st.sampled_from([*expected.FORMATS, "alpaca"]),
        "user_name": st.one_of(texts, st.sampled_from(["Ann", "Bot", "x" * 40, "x" * 41, "ä" * 40])),
        "bot_name": st.one_of(texts, st.sampled_from(["Tom", "User"])),
        "opening": texts,
        "template": st.one_of(texts, st.builds("{}{{user}}{}{{bot}}{}".format, texts, texts, texts)),
        "opening_template": st.one_of(texts, st.builds("{}{{opening}}{}".format, texts, texts)),
    },
)
OPTIONS = ("format", "user_name", "bot_name", "opening")
ATTRIBUTES = (
    *("name", "user_name", "bot_name", "opening", "stop", "opening_tokens", "closing_tokens", "exempt"),
    *("turns_kept", "is_talk", "is_scene"),
)


@given(
    tokenizer=tokenizers,
    n_ctx=st.sampled_from([8, 128, 512, 1024, 4096]),
    own=settings,
    given_options=settings,
    text=texts,
)
@example(
    TOKENIZERS[1], 4096, {"format": "template", "template": "<s>{user}</s><s>{bot}</s> "}, {"opening": "x<s>"}, "y"
)
@example(TOKENIZERS[0], 4096, {"format": "template", "template": "\n{user}\t{bot}\n"}, {}, " y ")
@example(TOKENIZERS[1], 64, {"format": "dialogpt", "opening": "a\r\n\nb\r\r\nc\r"}, {}, "y")
def test_a_format_is_that_of_the_reference(tokenizer, n_ctx, own, given_options, text):
    options = {key: given_options[key] for key in OPTIONS if key in given_options}
    if not is_known("".join([*own.values(), *options.values()])):
        return
    found = outcome(ChatFormat, tokenizer, n_ctx, own, options)
    wanted = outcome(expected.chat_format, tokenizer, n_ctx, own, options)
    if isinstance(wanted, str):
        assert found == wanted
        return
    assert {name: getattr(found, name) for name in ATTRIBUTES} == {name: getattr(wanted, name) for name in ATTRIBUTES}
    assert found.clean(text) == wanted.clean(text)
    assert outcome(found.prompt, text) == outcome(wanted.prompt, text)
    assert found.answer(text) == wanted.answer(text)


@pytest.mark.parametrize("length", [65536, 65537])
def test_an_opening_has_at_most_65536_characters(length):
    arguments = TOKENIZERS[0], 64, {}, {"format": "raw", "opening": "é" * length}
    found = outcome(ChatFormat, *arguments)
    assert (found == "opening: expected text of at most 65536 characters") == (length > 65536)


@given(template=texts, opening_template=texts)
@example("{user}{bot}", "{opening}")
@example("{bot}{user}{bot}", "{opening}{opening}")
def test_a_template_is_refused_as_the_reference_does(template, opening_template):
    def check(template, opening_template):
        expected.template_parts(template, "{user}", "{bot}", name="template")
        expected.template_parts(opening_template, "{opening}", name="opening_template")

    if is_known(template + opening_template):
        assert outcome(check_templates, template, opening_template) == outcome(check, template, opening_template)


# --- conversations

tokens = st.lists(st.one_of(st.integers(256, 255 + len(PARTS)), st.sampled_from(b"abU\n:\xc3\xa9\xf0\x9f\x99\xed\xa0")))
turns = st.lists(st.builds(Turn, texts, texts, tokens), max_size=12)


@given(
    tokenizer=tokenizers,
    format=st.sampled_from(["plain", "dialogpt", "raw"]),
    turns=turns,
    message=texts,
    n_ctx=st.sampled_from([16, 64, 256, 1024]),
    max_tokens=st.integers(1, 300),
)
def test_the_turns_that_are_dropped_are_those_of_the_reference(tokenizer, format, turns, message, n_ctx, max_tokens):
    if format == "dialogpt" and not tokenizer.eos_token_ids:
        return
    chat = ChatFormat(tokenizer, n_ctx, {}, {"format": format, "opening": "Hi"})
    wanted = expected.prompt_of(chat, turns, message, n_ctx, max_tokens)
    if wanted is None:
        with pytest.raises(ContextFullError, match=r"^message: \d+ tokens, the context has room for \d+ \(shorten it"):
            prompt_of(chat, turns, message, n_ctx, max_tokens)
    else:
        assert prompt_of(chat, turns, message, n_ctx, max_tokens) == wanted


@given(format=st.sampled_from(["plain", "raw"]), turns=turns, replaced=st.one_of(st.none(), texts), message=texts)
@example("plain", [], None, "One two, three")
@example("plain", [], None, "One two, three - FOUR")
def test_the_earlier_answers_are_those_of_the_reference(format, turns, replaced, message):
    if is_known(message + (replaced or "") + "".join(turn.answer for turn in turns)):
        chat = ChatFormat(TOKENIZERS[0], 64, {}, {"format": format, "opening": ""})
        assert earlier_answers(chat, turns, replaced, message) == expected.earlier_answers(
            chat, turns, replaced, message
        )


stops = st.lists(st.sampled_from(["\n", "Bot:", "User:", "b", "é", "e a", "🙂", "\ud83d", "\ufffdb"]), max_size=3)


@given(tokenizers, tokens, stops, st.booleans(), st.booleans())
@example(TOKENIZERS[0], [*b"ab", 257, 259, *b" x"], ["t:"], False, True)
@example(TOKENIZERS[0], [*b" a", 262], [], True, True)
@example(TOKENIZERS[0], [*b"a\xf0\x9f\nb", 260], ["e"], True, False)
@example(TOKENIZERS[0], [*b"a \xf0\x9fb", 260], ["\ufffdb"], False, False)
def test_what_remains_of_an_answer_is_what_the_reference_keeps(tokenizer, sampled, stop, is_interrupted, is_stripped):
    arguments = tokenizer, sampled, stop, is_interrupted, is_stripped
    assert kept_answer(*arguments) == expected.kept_answer(*arguments)


# --- what is sampled

steps = st.lists(st.tuples(tokens.filter(bool), st.sampled_from([False, False, False, True])), max_size=6)


@given(tokenizers, stops, st.one_of(st.none(), st.integers(1, 12)), steps)
def test_a_stream_ends_where_the_reference_does(tokenizer, stop, max_tokens, steps):
    stream = TextStream(tokenizer, stop, max_tokens)
    for (ids, is_full), (piece, n_used, reason, n_tokens) in zip(
        steps, expected.stream(tokenizer, stop, max_tokens, steps), strict=False
    ):
        assert stream.accept(ids, is_full) == (piece, n_used)
        assert (stream.finish_reason, stream.n_tokens) == (reason, n_tokens)


def test_a_stream_takes_many_tokens_at_once():
    stream = TextStream(TOKENIZERS[0], "b")
    assert stream.accept([*b"a" * 1000, *b"bc"], False) == ("a" * 1000, 1001)
    assert stream.finish_reason == "stop"


answers = st.sampled_from(["Hi there", "Hi", "hi, THERE!", "Hello", " Hi you", "", " ", "!!", "Straße", "STRASSE 5"])
drafts = st.lists(
    st.tuples(st.lists(st.one_of(answers, st.text("hi t", max_size=2)), min_size=1, max_size=4), st.just("stop")),
    min_size=MAX_DRAFTS,
    max_size=MAX_DRAFTS,
)


@given(st.booleans(), st.sampled_from([0.0, 0.3, 0.7, 1.0, 3.0]), st.sets(answers.map(expected.words_of)), drafts)
@example(True, 0.7, {""}, [(["."], "stop")] * MAX_DRAFTS)
@example(True, 0.7, {"hi there"}, [(["Hi", " the", "re"], "length")] * 3 + [([" Hi ", "you "], "stop")] * 2)
def test_a_reply_is_that_of_the_reference(is_talk, temperature, earlier, drafts):
    returned, temperatures, reason = expected.reply(is_talk, temperature, earlier, drafts)
    text = ReplyText(is_talk, temperature, earlier)
    found, found_temperatures = [], []
    for pieces, draft_reason in drafts:
        found_temperatures.append(text.temperature)
        for i, piece in enumerate(pieces):
            found.append(text.accept(piece, draft_reason if i == len(pieces) - 1 else None))
        if text.finish_reason:
            break
    assert (found, found_temperatures, text.finish_reason) == (returned, temperatures, reason)
