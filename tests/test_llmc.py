"""llm.c's files: what they convert to, the vocabulary that follows from the tokenizer file, and what is refused."""

import shutil

import numpy as np
import pytest
import reference
from checkpoints import SMALL, write_checkpoint
from hf_folder import TOKENS, assert_close, tensors_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trainer_files import model_bytes, simple_tokens, tokenizer_bytes

from gpt2rt.converter import convert
from gpt2rt.converter.llmc import LlmcFile, read_tokens, vocabulary_of
from gpt2rt.converter.vocabulary import Vocabulary
from gpt2rt.errors import CheckpointError, Gpt2rtError, VocabularyError
from gpt2rt.model import open_model
from gpt2rt.modelfile import ModelFile


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A folder with a vocabulary of SMALL's size, encoder.json and vocab.bpe."""
    folder = tmp_path_factory.mktemp("vocabulary") / "small"
    write_checkpoint(folder)
    return folder


def rounded(tensors):
    """Return the tensors in bf16 precision, in f32."""
    return {name: (array.view("<u4") & 0xFFFF0000).view("<f4") for name, array in tensors.items()}


def logits_of(source, vocabulary, tmp_path):
    convert(source, tmp_path / "x.bin", weight_type="f32", vocabulary=vocabulary, force=True)
    sequence = open_model(tmp_path / "x.bin", n_threads=1).sequence()
    sequence.append(TOKENS, n_logits=len(TOKENS))
    return np.stack([np.frombuffer(row, np.float32) for row in sequence.all_logits])


# --- what it converts to


@pytest.mark.parametrize("version", [3, 5])
def test_logits_match_the_tensors(vocabulary, tmp_path, version):
    tensors = tensors_of() if version == 3 else rounded(tensors_of())
    (tmp_path / "gpt2.bin").write_bytes(model_bytes(version))
    found = logits_of(tmp_path / "gpt2.bin", vocabulary, tmp_path)
    assert_close(found, reference.logits(tensors, SMALL.n_head, TOKENS))


def test_a_vocabulary_without_padding_is_read(vocabulary, tmp_path):
    (tmp_path / "gpt2.bin").write_bytes(model_bytes(n_rows=SMALL.n_vocab))
    found = logits_of(tmp_path / "gpt2.bin", vocabulary, tmp_path)
    assert_close(found, reference.logits(tensors_of(), SMALL.n_head, TOKENS))


def test_the_file_records_its_source(vocabulary, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "gpt2_124M.bin").write_bytes(model_bytes())
    convert(tmp_path / "run" / "gpt2_124M.bin", tmp_path / "x.bin", vocabulary=vocabulary)
    metadata = ModelFile(tmp_path / "x.bin").metadata
    assert (metadata["name"], metadata["source"]) == ("gpt2_124M", "llm.c file run/gpt2_124M.bin")


# --- the vocabulary


def test_the_vocabulary_follows_from_the_tokenizer_file(trained_vocabulary, tmp_path):
    expected = Vocabulary.read(*trained_vocabulary)
    (tmp_path / "gpt2_tokenizer.bin").write_bytes(tokenizer_bytes(expected.tokens))
    found = vocabulary_of(tmp_path / "x", read_tokens(tmp_path / "gpt2_tokenizer.bin"))
    assert found.merges == expected.merges
    assert found.tables() == expected.tables()


@pytest.mark.parametrize("version", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_gpt2s_vocabulary_follows_from_its_tokenizer_file(openai_vocabulary, tmp_path, version):
    expected = Vocabulary.read(*openai_vocabulary)
    (tmp_path / "gpt2_tokenizer.bin").write_bytes(tokenizer_bytes(expected.tokens, version, 50256))
    found = vocabulary_of(tmp_path / "x", read_tokens(tmp_path / "gpt2_tokenizer.bin"))
    assert found.section() == expected.section()


def test_a_model_takes_the_tokenizer_file_in_its_folder(vocabulary, tmp_path):
    tokens = simple_tokens()
    (tmp_path / "gpt2_tokenizer.bin").write_bytes(tokenizer_bytes(tokens, end=300))
    (tmp_path / "gpt2.bin").write_bytes(model_bytes())
    convert(tmp_path / "gpt2.bin", tmp_path / "x.bin")
    tokenizer = open_model(tmp_path / "x.bin").tokenizer
    assert tokenizer.encode("ab") == [tokens.index(b"ab")]
    assert tokenizer.encode("<|endoftext|>", special=True) == [300]


def test_a_named_vocabulary_must_be_that_of_the_tokenizer_file(vocabulary, tmp_path):
    tokens = Vocabulary.read(vocabulary / "encoder.json", vocabulary / "vocab.bpe").tokens
    (tmp_path / "gpt2.bin").write_bytes(model_bytes())
    (tmp_path / "gpt2_tokenizer.bin").write_bytes(tokenizer_bytes(tokens))
    convert(tmp_path / "gpt2.bin", tmp_path / "x.bin", vocabulary=vocabulary)
    (tmp_path / "gpt2_tokenizer.bin").write_bytes(tokenizer_bytes([*tokens[:7], b"other", *tokens[8:]]))
    with pytest.raises(VocabularyError, match=r"small: token 7 is not that of .*gpt2_tokenizer\.bin"):
        convert(tmp_path / "gpt2.bin", tmp_path / "y.bin", vocabulary=vocabulary)


def test_a_missing_vocabulary_says_where_to_get_it(tmp_path):
    (tmp_path / "gpt2.bin").write_bytes(model_bytes())
    with pytest.raises(VocabularyError, match=r"no gpt2_tokenizer\.bin in its folder, .*--vocabulary models/124M"):
        convert(tmp_path / "gpt2.bin", tmp_path / "x.bin")


def test_another_number_of_tokens_is_refused(tmp_path):
    tokens = [*(bytes([byte]) for byte in range(256)), b"<|endoftext|>"]
    (tmp_path / "gpt2.bin").write_bytes(model_bytes())
    (tmp_path / "gpt2_tokenizer.bin").write_bytes(tokenizer_bytes(tokens))
    with pytest.raises(CheckpointError, match=r"the vocabulary has 257 tokens, expected n_vocab, which is 301"):
        convert(tmp_path / "gpt2.bin", tmp_path / "x.bin")


BYTES = [bytes([byte]) for byte in range(256)]


def test_a_merge_may_come_before_its_bytes(tmp_path):
    found = vocabulary_of(tmp_path / "x", [b"ab", *BYTES, b"abc", b"bc"])
    assert found.merges == [(98, 99, 0), (0, 100, 257), (99, 100, 258)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "shorter than its header"),
        (tokenizer_bytes(BYTES)[:-1], "256 tokens do not end with the file"),
        (tokenizer_bytes(BYTES) + b"\0", "256 tokens do not end with the file"),
        (tokenizer_bytes(BYTES, h2=2**30), "1073741824 tokens, expected 1 to"),
        (tokenizer_bytes(BYTES, h2=0), "0 tokens, expected 1 to"),
        (tokenizer_bytes(BYTES, h1=3), "not a tokenizer file of llm.c, version 1 or 2"),
        (tokenizer_bytes(BYTES, h0=3), "not a tokenizer file of llm.c, version 1 or 2"),
        (tokenizer_bytes([*BYTES, b"abc"]), "token 256 is not the merge of two earlier ones"),
        (tokenizer_bytes([*BYTES, b"ab", b"ab"]), "tokens 256 and 257 are both 'ab'"),
        (tokenizer_bytes([*BYTES, b""]), "token 256 is empty"),
        (tokenizer_bytes(BYTES[1:]), "byte 0 has no token"),
    ],
)
def test_a_malformed_tokenizer_file_is_refused(tmp_path, content, message):
    (tmp_path / "gpt2.bin").write_bytes(model_bytes())
    (tmp_path / "gpt2_tokenizer.bin").write_bytes(content)
    with pytest.raises(VocabularyError, match=rf"gpt2_tokenizer\.bin: .*{message}"):
        convert(tmp_path / "gpt2.bin", tmp_path / "x.bin")


# --- malformed files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (model_bytes()[:1023], "shorter than its header"),
        (model_bytes()[:-4], r"has \d+ bytes, expected \d+ from its header"),
        (model_bytes() + b"\0\0\0\0", r"has \d+ bytes, expected \d+ from its header"),
        (model_bytes(version=1), "version 1 of llm.c's model files, expected 3"),
        (model_bytes(h6=25), "n_embd"),
        (model_bytes(h3=-1), "n_vocab is -1, expected 1 to"),
        (model_bytes(h4=2**31 - 1), "n_layer is 2147483647, expected 1 to"),
        (model_bytes(h7=300), "padded_vocab_size is 300, expected 301 to"),
        (model_bytes(h7=2**31 - 1), "padded_vocab_size is 2147483647, expected 301 to"),
        (tokenizer_bytes(BYTES), "a tokenizer file of llm.c, expected a model"),
    ],
)
def test_a_malformed_model_is_refused(tmp_path, content, message):
    (tmp_path / "gpt2.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"gpt2\.bin: .*{message}"):
        convert(tmp_path / "gpt2.bin", tmp_path / "x.bin")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_header_or_tokenizer_raises_nothing_else(tmp_path, data):
    model, tokens = bytearray(model_bytes()), bytearray(tokenizer_bytes([*BYTES, b"ab", b"abc", b"<|endoftext|>"]))
    for content in (model, tokens):
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(4, 31 if content is model else len(content) - 1))
            content[at] = data.draw(st.integers(0, 255))
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    (tmp_path / "gpt2.bin").write_bytes(model)
    (tmp_path / "gpt2_tokenizer.bin").write_bytes(tokens)
    try:
        LlmcFile(tmp_path / "gpt2.bin").vocabulary()
    except Gpt2rtError as error:
        assert "gpt2" in str(error)  # noqa: PT017 (valid by chance is fine too)


def test_many_long_tokens_are_refused_before_their_merges_are_searched(tmp_path):
    tokens = [*(bytes([byte]) for byte in range(256)), *(b"%03d" % i + b"a" * 250 for i in range(200))]
    with pytest.raises(VocabularyError, match="its tokens are longer than those of a vocabulary of bytes"):
        vocabulary_of(tmp_path / "gpt2_tokenizer.bin", tokens)
