"""The two files of a vocabulary: how they are read, and one case for each way to be malformed."""

import json
import re
import struct

import pytest
from vocabularies import END_OF_TEXT, tokenizer_of, tokenizers, write_vocabulary

from gpt2rt._tokenizer import Tokenizer
from gpt2rt.converter.vocabulary import Vocabulary, byte_characters, max_file, max_units
from gpt2rt.errors import VocabularyError
from gpt2rt.modelfile.vocabulary import build_merge_slots, vocabulary_tables

MERGES = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the"), (b"\xc3", b"\xa9")]


@pytest.fixture
def paths(tmp_path):
    """A small valid vocabulary: 256 bytes, MERGES, `<|endoftext|>`."""
    return write_vocabulary(tmp_path, MERGES)


def refused(paths, sentence):
    """Check that the files are refused with this message; {encoder} and {merges} stand for the paths."""
    encoder, merges = paths
    with pytest.raises(VocabularyError) as caught:
        Vocabulary.read(encoder, merges)
    assert re.fullmatch(
        sentence.format(encoder=re.escape(str(encoder)), merges=re.escape(str(merges))), str(caught.value)
    )


def edit(paths, change):
    """Replace the ids of encoder.json, a dict, by the result of a function."""
    ids = json.loads(paths[0].read_text(encoding="utf-8"))
    changed = change(ids)
    paths[0].write_text(json.dumps(ids if changed is None else changed), encoding="utf-8")


def append(paths, line):
    with paths[1].open("a", encoding="utf-8", newline="") as file:
        file.write(line)


# --- valid vocabularies --------------------------------------------------------------------------------------------


def test_byte_characters_match_tokenizers():
    characters = byte_characters()
    ByteLevel = tokenizers.pre_tokenizers.ByteLevel  # noqa: N806 (a class)
    assert sorted(characters) == sorted(ByteLevel.alphabet())
    for byte in range(128):
        shown = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(chr(byte))
        assert characters[byte] == shown[0][0]


def test_a_complete_vocabulary_is_read(paths):
    vocabulary = Vocabulary.read(*paths)
    assert vocabulary.n_vocab == 261
    assert vocabulary.tokens == [
        *(bytes([b]) for b in range(256)),
        b"th",
        b"the",
        b" the",
        "é".encode(),
        b"<|endoftext|>",
    ]
    assert vocabulary.byte_tokens == list(range(256))
    assert vocabulary.special_tokens == [260]
    assert vocabulary.merges == [(116, 104, 256), (256, 101, 257), (32, 257, 258), (0xC3, 0xA9, 259)]


def test_paths_may_be_strings(paths):
    assert Vocabulary.read(*map(str, paths)).n_vocab == 261


def test_openai_and_bundled_vocabularies_are_read(openai_vocabulary, talk_vocabulary):
    for paths, n_vocab in ((openai_vocabulary, 50257), (talk_vocabulary, 4096)):
        vocabulary = Vocabulary.read(*paths)
        assert vocabulary.n_vocab == n_vocab
        assert len(vocabulary.merges) == n_vocab - 257
        assert vocabulary.special_tokens == [n_vocab - 1]
        assert vocabulary.tokens[-1] == b"<|endoftext|>"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("version", ["#version: 0.2", "#version: 0.2 - Trained by `huggingface/tokenizers`", None])
@pytest.mark.parametrize("last", [True, False])
def test_line_endings_and_the_version_line_do_not_matter(paths, end, version, last):
    expected = Vocabulary.read(*paths).merges
    lines = paths[1].read_text(encoding="utf-8").splitlines()[1:]
    text = end.join([*([version] if version else []), *lines]) + (end if last else "")
    paths[1].write_bytes(text.encode())
    assert Vocabulary.read(*paths).merges == expected


def test_a_first_merge_of_number_signs_is_not_a_version_line(paths):
    edit(paths, lambda ids: ids | {"##": len(ids)})
    paths[1].write_text("# #\n" + "".join(paths[1].read_text(encoding="utf-8").splitlines(True)[1:]), encoding="utf-8")
    vocabulary = Vocabulary.read(*paths)
    assert vocabulary.merges[0] == (35, 35, 261)


@pytest.mark.parametrize("text", ["", "\n", "#version: 0.2", "#version: 0.2\n"])
def test_a_vocabulary_may_have_no_merges(paths, text):
    edit(paths, lambda ids: {token: i for token, i in ids.items() if i < 256})
    paths[1].write_text(text, encoding="utf-8")
    vocabulary = Vocabulary.read(*paths)
    assert (vocabulary.n_vocab, vocabulary.merges, vocabulary.special_tokens) == (256, [], [])


def test_end_of_text_is_the_first_special_token(tmp_path):
    vocabulary = Vocabulary.read(*write_vocabulary(tmp_path, MERGES, special=("<pad>", END_OF_TEXT, "<|user|>")))
    assert [vocabulary.tokens[token] for token in vocabulary.special_tokens] == [
        b"<|endoftext|>",
        b"<pad>",
        b"<|user|>",
    ]


def test_a_merged_end_of_text_is_not_a_special_token(tmp_path):
    text = END_OF_TEXT.encode()
    merges = [(text[:n], text[n : n + 1]) for n in range(1, len(text))]
    vocabulary = Vocabulary.read(*write_vocabulary(tmp_path, merges, special=()))
    assert vocabulary.special_tokens == []
    assert tokenizer_of(vocabulary).bos_token_id is None
    assert tokenizer_of(vocabulary).encode(END_OF_TEXT, special=True) != [vocabulary.n_vocab - 1]


def test_a_special_token_may_be_written_as_plain_text(tmp_path):
    special = ("<two words>", "<日本>", "<café>", "Ġthing")
    vocabulary = Vocabulary.read(*write_vocabulary(tmp_path, MERGES, special=special))
    assert vocabulary.tokens[-4:] == [b"<two words>", "<日本>".encode(), "<café>".encode(), b" thing"]


def test_the_vocabulary_section_holds_the_tables_of_the_tokenizer(paths, tmp_path):
    vocabulary = Vocabulary.read(*paths)
    section = vocabulary.section()
    counts = struct.unpack_from("<5I", section)
    assert counts == (4, 16, 1, sum(map(len, vocabulary.tokens)), 4)
    layout = vocabulary_tables(vocabulary.n_vocab, counts)
    tables = {name: section[offset : offset + length] for name, offset, length in layout}
    tokenizer = Tokenizer(tables, vocabulary.n_vocab)
    assert tokenizer.problems() == []
    assert tokenizer.encode(f"the thé the{END_OF_TEXT}", special=True) == [257, 32, 256, 259, 258, 260]


def test_a_wrong_number_of_merge_slots_is_refused():
    for n_slots in (0, 7, 24):
        with pytest.raises(ValueError, match=f"^{n_slots} slots for 8 merges: expected a power of two"):
            build_merge_slots([(i, i, i) for i in range(8)], n_slots)
    table = build_merge_slots([(i, 0, i) for i in range(8)], 16)
    assert sorted(merge[2] for merge in struct.iter_unpack("<4I", table) if merge[0] != 0xFFFFFFFF) == list(range(8))


# --- encoder.json --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["encoder", "merges"])
def test_a_missing_file_is_refused(paths, which):
    paths[which == "merges"].unlink()
    refused(paths, f"{{{which}}}: can't be read: No such file or directory")


@pytest.mark.parametrize("which", ["encoder", "merges"])
def test_a_folder_in_place_of_a_file_is_refused(paths, which):
    path = paths[which == "merges"]
    path.unlink()
    path.mkdir()
    refused(paths, f"{{{which}}}: can't be read: .+")


@pytest.mark.parametrize("which", ["encoder", "merges"])
def test_bytes_that_are_not_utf8_are_refused(paths, which):
    path = paths[which == "merges"]
    content = path.read_bytes()
    path.write_bytes(content[:7] + b"\xff" + content[7:])
    refused(paths, rf"{{{which}}}: byte 7 is not UTF-8 \(damaged download\?\)")


@pytest.mark.parametrize("content", ["", "{", '{"a": 1', "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "<!doctype html>"])
def test_an_encoder_that_is_not_json_is_refused(paths, content):
    paths[0].write_text(content, encoding="utf-8")
    refused(paths, r"{encoder}: not valid JSON: .+ \(damaged download\?\)")


@pytest.mark.parametrize(("content", "kind"), [("[]", "list"), ("7", "int"), ("null", "NoneType"), ('"a"', "str")])
def test_an_encoder_that_is_not_an_object_is_refused(paths, content, kind):
    paths[0].write_text(content, encoding="utf-8")
    refused(paths, f"{{encoder}}: contains a {kind}, expected an object of tokens and their ids")


def test_an_empty_encoder_is_refused(paths):
    paths[0].write_text("{}", encoding="utf-8")
    refused(paths, "{encoder}: 0 tokens, expected 1 to 1048576")


def test_too_many_tokens_are_refused(paths, monkeypatch):
    monkeypatch.setattr("gpt2rt.converter.vocabulary.MAX_N_VOCAB", 260)
    refused(paths, "{encoder}: 261 tokens, expected 1 to 260")


def test_a_large_vocabulary_is_read_if_the_weights_have_as_many_tokens(paths):
    ids = {text: i for i, text in enumerate((*byte_characters(), *map(str, range(10, 360_000))))}
    paths[0].write_text(json.dumps(ids), encoding="utf-8")
    refused(paths, "{encoder}: not valid JSON: too many values .*")
    with pytest.raises(VocabularyError, match="line 2 merges"):
        Vocabulary.read(*paths, len(ids))


def test_a_gap_in_the_ids_is_refused(paths):
    edit(paths, lambda ids: ids | {END_OF_TEXT: 261})
    refused(paths, r"{encoder}: token '<\|endoftext\|>' has id 261, expected 0 to 260 for 261 tokens")


@pytest.mark.parametrize("token", [-1, 1.0, "1", None, True, [], 10**30])
def test_an_invalid_id_is_refused(paths, token):
    edit(paths, lambda ids: ids | {"th": token})
    refused(paths, rf"{{encoder}}: token 'th' has id {re.escape(repr(token))}, expected 0 to 260 for 261 tokens")


def test_a_duplicate_id_is_refused(paths):
    edit(paths, lambda ids: ids | {"the": ids["th"]})
    refused(paths, "{encoder}: tokens 'th' and 'the' both have id 256")


def test_a_duplicate_token_is_refused(paths):
    text = paths[0].read_text(encoding="utf-8")
    paths[0].write_text(text[:-1] + ', "th": 261}', encoding="utf-8")
    refused(paths, "{encoder}: token 'th' appears twice")


def test_a_byte_without_a_token_is_refused(paths):
    edit(paths, lambda ids: {"missing" if token == "Ġ" else token: i for token, i in ids.items()})
    refused(paths, "{encoder}: byte 32 has no token, expected one named 'Ġ'")


def test_an_empty_token_is_refused(paths):
    edit(paths, lambda ids: ids | {"": len(ids)})
    refused(paths, "{encoder}: token 261 is empty, expected at least one byte")


def test_a_token_that_is_not_unicode_text_is_refused(paths):
    edit(paths, lambda ids: ids | {"\ud800": len(ids)})
    refused(paths, r"{encoder}: token 261 is '\\ud800', which is not valid Unicode")


def test_too_many_bytes_are_refused(paths, monkeypatch):
    monkeypatch.setattr("gpt2rt.converter.vocabulary.MAX_TOKEN_BYTES", 279)
    refused(paths, "{encoder}: 280 bytes of tokens, expected at most 279")


# --- vocab.bpe -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["th", "t h e", "t  h", " t", "t ", "", "t\th", "t\u2028h"])
def test_a_malformed_line_is_refused(paths, line):
    append(paths, f"{line}\nt h\n")
    refused(paths, rf"{{merges}}: line 6 is {re.escape(repr(line))}, expected two tokens with a space between them")


def test_a_merge_of_an_unknown_token_is_refused(paths):
    append(paths, "the re\n")
    refused(
        paths,
        r"{merges}: line 6 merges 'the' and 're', but 're' is not a token \(files from different vocabularies\?\)",
    )


def test_a_merge_into_an_unknown_token_is_refused(paths):
    append(paths, "the r\n")
    refused(
        paths,
        r"{merges}: line 6 merges 'the' and 'r', but 'ther' is not a token \(files from different vocabularies\?\)",
    )


def test_a_duplicate_merge_is_refused(paths):
    append(paths, "th e\n")
    refused(paths, "{merges}: line 6 is the same merge as line 3")


def test_more_merges_than_tokens_are_refused(tmp_path):
    parts = [b"a" * n for n in range(1, 41)]
    paths = write_vocabulary(tmp_path, [(left, right) for left in parts for right in parts if len(left + right) <= 40])
    refused(paths, "{merges}: 780 merges, expected at most 296, the number of tokens")


def test_files_of_two_vocabularies_are_refused(openai_vocabulary, talk_vocabulary):
    refused(
        (talk_vocabulary[0], openai_vocabulary[1]),
        r"{merges}: line \d+ merges .+ is not a token \(files from different .+",
    )


@pytest.mark.parametrize("n_vocab", [1, 50_257, 100_000, 500_000])
def test_the_limits_of_a_vocabularys_files_leave_room_for_its_tokens(n_vocab):
    assert 9 * n_vocab < max_units(n_vocab) < 16 * max(50_257, n_vocab)  # a token and its merge have at most 9
    assert 70 * n_vocab < max_file(n_vocab) < 150 * max(1 << 17, n_vocab)  # bytes; GPT-2's with white space have 70
