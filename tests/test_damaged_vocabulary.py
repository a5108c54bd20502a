"""Damaged vocabularies: refused on use or found by `problems`, and nothing worse."""

import contextlib
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vocabularies import END_OF_TEXT, Tokenizers

from gpt2rt._tokenizer import Tokenizer
from gpt2rt.errors import VocabularyError

TEXT = "the naïve café don't 12345 \n\n 日本 " + "-=" * 40 + END_OF_TEXT


@pytest.fixture(scope="module")
def trained(trained_vocabulary):
    return Tokenizers(*trained_vocabulary)


def changed(trained, name, word, value):
    """Return a tokenizer with one u32 of a table of the trained vocabulary changed; a negative `word` counts back."""
    tables = {table: bytearray(content) for table, content in trained.vocabulary.tables().items()}
    struct.pack_into("<I", tables[name], 4 * word if word >= 0 else len(tables[name]) + 4 * word, value)
    return Tokenizer(tables, trained.vocabulary.n_vocab)


def slot_of(trained, left, right):
    """Return the slot of a merge of two bytes, and the merge."""
    slots = struct.iter_unpack("<4I", trained.vocabulary.tables()["merge_slots"])
    pair = trained.vocabulary.byte_tokens[left], trained.vocabulary.byte_tokens[right]
    return next((slot, merge) for slot, merge in enumerate(slots) if merge[:2] == pair)


def test_no_more_problems_are_listed_than_requested(trained):
    tables = trained.vocabulary.tables()
    tables["byte_tokens"] = b"\xff" * 1024
    tokenizer = Tokenizer(tables, trained.vocabulary.n_vocab)
    assert len(tokenizer.problems()) == 100
    assert tokenizer.problems(3) == [f"byte {i}: has token 4294967295, expected at most 599" for i in range(3)]


@pytest.mark.parametrize(
    "name", ["token_offsets", "byte_tokens", "special_tokens", "controls", "merge_slots", "token_bytes"]
)
def test_a_table_of_the_wrong_length_is_refused(trained, name):
    tables = trained.vocabulary.tables()
    tables[name] += b"\0"
    if name == "token_bytes":  # any length is possible; the offsets then don't match it
        assert "the last token ends at byte" in Tokenizer(tables, trained.vocabulary.n_vocab).problems()[0]
        return
    with pytest.raises(VocabularyError, match=rf"^vocabulary: table '{name}' has \d+ bytes, expected "):
        Tokenizer(tables, trained.vocabulary.n_vocab)


@pytest.mark.parametrize("n_slots", [0, 3, 24])
def test_a_number_of_slots_that_is_not_a_power_of_two_is_refused(trained, n_slots):
    tables = trained.vocabulary.tables() | {"merge_slots": bytes(16 * n_slots)}
    with pytest.raises(VocabularyError, match=r"'merge_slots' has \d+ bytes, expected 16 times a power of two$"):
        Tokenizer(tables, trained.vocabulary.n_vocab)


@pytest.mark.parametrize("n_vocab", [-1, 0, 599, 601, 2**32 - 1, 2**32 + 599, 2**70])
def test_a_wrong_number_of_tokens_is_refused(trained, n_vocab):
    with pytest.raises(VocabularyError, match="'token_offsets' has 2404 bytes"):
        Tokenizer(trained.vocabulary.tables(), n_vocab)


def test_descending_offsets_are_refused_at_use_and_found(trained):
    tokenizer = changed(trained, "token_offsets", 500, 0)
    with pytest.raises(VocabularyError, match=r"^token 499: is at bytes \d+ to 0, expected ascending"):
        tokenizer.token_bytes(499)
    assert tokenizer.problems()[0].startswith("token offset 500 is 0, expected ")


def test_offsets_beyond_the_bytes_are_refused_at_use_and_found(trained):
    tokenizer = changed(trained, "token_offsets", -1, 0xFFFFFFFF)
    with pytest.raises(VocabularyError, match=r"^token 599: is at bytes \d+ to 4294967295"):
        tokenizer.decode([0, 599])
    assert tokenizer.problems()[0].startswith("token offset 600 is 4294967295, expected ")


def test_a_first_offset_that_is_not_zero_is_found(trained):
    assert changed(trained, "token_offsets", 0, 1).problems()[0] == "token offset 0 is 1, expected 0 to 0"


def test_a_byte_without_a_token_is_refused_at_use_and_found(trained):
    tokenizer = changed(trained, "byte_tokens", ord("q"), 600)
    with pytest.raises(VocabularyError, match=r"^vocabulary: byte 113 has token 600, expected at most 599"):
        tokenizer.encode("q")
    assert "byte 113: has token 600, expected at most 599" in tokenizer.problems()


def test_a_byte_of_another_token_is_found(trained):
    token = trained.vocabulary.byte_tokens[ord("r")]
    tokenizer = changed(trained, "byte_tokens", ord("q"), token)
    assert f"byte 113: has token {token}, which is b'r'" in tokenizer.problems()


def test_a_special_token_out_of_range_is_refused_at_use_and_found(trained):
    tokenizer = changed(trained, "special_tokens", 0, 600)
    with pytest.raises(VocabularyError, match=r"^token 600: out of range"):
        tokenizer.encode("text", special=True)
    assert "special token 0: is token 600, expected at most 599" in tokenizer.problems()


def test_a_special_token_that_is_a_byte_or_merged_is_found(trained):
    tokenizer = changed(trained, "special_tokens", 0, 300)
    assert tokenizer.problems() == [
        "special token 0: is token 300, which is a byte, made by a merge, or listed twice",
    ]


def test_a_merged_token_out_of_range_is_refused_at_use_and_found(trained):
    slot, (left, right, _, _) = slot_of(trained, *b"in")
    tokenizer = changed(trained, "merge_slots", 4 * slot + 3, 600)
    with pytest.raises(VocabularyError, match=r"^vocabulary: the table of merges is full or has a bad token"):
        tokenizer.encode("in")
    expected = f"merge of tokens {left} and {right}: makes token 600, expected all three to be at most 599"
    assert expected in tokenizer.problems()


def test_a_rank_out_of_range_is_refused_at_use_and_found(trained):
    slot, (left, right, _, _) = slot_of(trained, *b"in")
    for rank in (0xFFFFFFFF, 0xFFFFFFFE, 4096):
        tokenizer = changed(trained, "merge_slots", 4 * slot + 2, rank)
        for text in ("in", "in" * 40):
            with pytest.raises(VocabularyError, match=r"^vocabulary: the table of merges"):
                tokenizer.encode(text)
        assert any(f"merge of tokens {left} and {right}: has rank {rank}" in p for p in tokenizer.problems())


def test_a_duplicate_rank_and_a_missing_one_are_found(trained):
    slot, _ = slot_of(trained, *b"in")
    n_merges = len(trained.vocabulary.merges)
    assert any("expected a unique one below" in p for p in changed(trained, "merge_slots", 4 * slot + 2, 40).problems())
    expected = f"a merge has rank {n_merges}, expected ranks below {n_merges}, the number of merges"
    assert expected in changed(trained, "merge_slots", 4 * slot + 2, n_merges).problems()


def test_a_merge_of_other_bytes_is_found(trained):
    slot, (left, right, _, _) = slot_of(trained, *b"in")
    token = trained.vocabulary.byte_tokens[ord("x")]
    tokenizer = changed(trained, "merge_slots", 4 * slot + 3, token)
    expected = f"merge of tokens {left} and {right}: makes token {token}, b'x', expected b'in'"
    assert expected in tokenizer.problems()


def test_a_merge_in_the_wrong_slot_is_found(trained):
    tables = trained.vocabulary.tables()
    slots = list(struct.iter_unpack("<4I", tables["merge_slots"]))
    empty = (0xFFFFFFFF,) * 4
    slot, merge = slot_of(trained, *b"in")
    far = (slot + len(slots) // 2) % len(slots)
    far = next(i % len(slots) for i in range(far, far + len(slots)) if slots[i % len(slots)] == empty)
    slots[slot], slots[far] = empty, merge
    tables["merge_slots"] = b"".join(struct.pack("<4I", *entry) for entry in slots)
    tokenizer = Tokenizer(tables, trained.vocabulary.n_vocab)
    found = tokenizer.problems()
    assert any(f"merge of tokens {merge[0]} and {merge[1]}: is in slot {far}, where a search" in p for p in found)


def test_a_duplicate_merge_is_found(trained):
    tables = trained.vocabulary.tables()
    slots = list(struct.iter_unpack("<4I", tables["merge_slots"]))
    slot, merge = slot_of(trained, *b"in")
    while slots[slot % len(slots)][0] != 0xFFFFFFFF:
        slot += 1
    slots[slot % len(slots)] = merge
    tables["merge_slots"] = b"".join(struct.pack("<4I", *entry) for entry in slots)
    found = Tokenizer(tables, trained.vocabulary.n_vocab).problems()
    assert f"merge of tokens {merge[0]} and {merge[1]}: appears twice" in found


def test_a_search_in_a_table_without_an_empty_slot_ends(trained):
    tables = trained.vocabulary.tables()
    tables["merge_slots"] = struct.pack("<4I", 2000, 2000, 0, 0) * (len(tables["merge_slots"]) // 16)
    tokenizer = Tokenizer(tables, trained.vocabulary.n_vocab)
    for text in ("ab", "ab" * 40):
        with pytest.raises(VocabularyError, match=r"^vocabulary: the table of merges is full"):
            tokenizer.encode(text)
    assert "the table of merges has no empty slot" in tokenizer.problems()


WORDS = st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 2500), st.sampled_from([2**32 - 1, 2**32 - 2, 2**31]))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(
                ["token_offsets", "byte_tokens", "special_tokens", "controls", "merge_slots", "token_bytes"]
            ),
            st.integers(0, 2**20),
            WORDS,
        ),
        max_size=60,
    ),
    noise=st.one_of(st.none(), st.randoms(use_true_random=False)),
)
def test_damaged_tables_give_an_error_or_wrong_tokens_and_nothing_worse(trained, changes, noise):
    tables = {name: bytearray(content) for name, content in trained.vocabulary.tables().items()}
    if noise:  # one table is all noise
        table = tables[noise.choice(list(tables))]
        table[:] = noise.randbytes(len(table))
    for name, word, value in changes:
        struct.pack_into("<I", tables[name], word % (len(tables[name]) // 4) * 4, value)
    n_vocab = trained.vocabulary.n_vocab
    try:
        tokenizer = Tokenizer(tables, n_vocab)
    except VocabularyError:  # the table of controls is read at once
        return
    assert all(0 <= token < n_vocab for token in tokenizer.eos_token_ids)
    assert all(isinstance(problem, str) for problem in tokenizer.problems())
    for special in (False, True):
        with contextlib.suppress(VocabularyError):
            ids = tokenizer.encode(TEXT, special=special)
            assert all(0 <= token < n_vocab for token in ids)
            tokenizer.decode(ids)
    for token in range(0, n_vocab, 50):
        with contextlib.suppress(VocabularyError):
            tokenizer.token_bytes(token)
