"""The tokens of GGUF files: types of tokens, and those that begin and end a text."""

import json

import pytest

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")

from checkpoints import write_checkpoint  # noqa: E402
from test_gguf import SMALL, gguf_tensors, write_gguf  # noqa: E402

from gpt2rt import open_model  # noqa: E402
from gpt2rt.converter import convert  # noqa: E402
from gpt2rt.errors import VocabularyError  # noqa: E402
from gpt2rt.modelfile import ModelFile  # noqa: E402

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
ADDED = {"<s>": CONTROL, "đem": USER_DEFINED, "</s>": CONTROL, "<unk>": UNKNOWN, "[PAD305]": UNUSED, "Ġab": NORMAL}


@pytest.fixture
def tokenizer_with(tmp_path):
    """A function that writes a file with more tokens and keys of the tokenizer, and returns the converted tokenizer."""

    def make(types=True, template=None, **keys):
        write_checkpoint(tmp_path)
        texts = [*json.loads((tmp_path / "encoder.json").read_text("utf-8")), *ADDED]
        shape = SMALL._replace(n_vocab=len(texts))

        def edit(writer):
            del writer.kv_data[0]["tokenizer.ggml.token_type"]
            if types:
                writer.add_token_types(
                    [ADDED.get(text, CONTROL if text == "<|endoftext|>" else NORMAL) for text in texts]
                )
            if template:
                writer.add_chat_template(template)
            for key, value in keys.items():
                (writer.add_bool if isinstance(value, bool) else writer.add_uint32)(f"tokenizer.ggml.{key}", value)

        write_gguf(tmp_path / "x.gguf", tmp_path, shape, tensors=gguf_tensors(shape), tokens=texts, edit=edit)
        convert(tmp_path / "x.gguf", tmp_path / "x.bin", weight_type="f32")
        return open_model(tmp_path / "x.bin").tokenizer

    return make


FIRST = SMALL.n_vocab  # the id of <s>


def test_added_tokens_are_plain_text_and_the_others_are_not(tokenizer_with):
    tokenizer = tokenizer_with()
    for number, text in enumerate(ADDED):
        assert tokenizer.decode([FIRST + number]) == text.replace("Ġ", " ")
    assert tokenizer.encode("<s>đem</s><unk>", special=True) == [FIRST, FIRST + 1, FIRST + 2, FIRST + 3]
    assert FIRST + 4 not in tokenizer.encode("[PAD305]", special=True)
    assert FIRST + 5 not in tokenizer.encode(" ab", special=True)
    assert tokenizer.problems() == []


def test_without_types_every_token_that_no_merge_makes_is_special(tokenizer_with):
    assert tokenizer_with(types=False).encode("<s>[PAD305]", special=True) == [FIRST, FIRST + 4]


@pytest.mark.parametrize(
    ("keys", "eos", "bos"),
    [
        ({"eos_token_id": FIRST + 2, "bos_token_id": FIRST}, (FIRST + 2,), FIRST),
        ({"eos_token_id": FIRST + 2, "eot_token_id": FIRST + 1}, (FIRST + 2, FIRST + 1), FIRST + 2),
        ({"eos_token_id": FIRST + 2, "eot_token_id": FIRST + 2}, (FIRST + 2,), FIRST + 2),
        ({"eos_token_id": 2**31, "bos_token_id": FIRST}, (FIRST - 1,), FIRST),
        ({}, (FIRST - 1,), FIRST - 1),
    ],
)
def test_the_tokens_that_begin_and_end_a_text_are_those_of_the_file(tokenizer_with, keys, eos, bos):
    tokenizer = tokenizer_with(**keys)
    assert tokenizer.eos_token_ids == eos
    assert tokenizer.bos_token_id == bos


def test_what_is_put_before_a_text_is_put_there(tokenizer_with):
    tokenizer = tokenizer_with(
        add_bos_token=True, add_space_prefix=True, bos_token_id=FIRST, padding_token_id=FIRST + 4
    )
    assert tokenizer.encode("q") == [FIRST, *tokenizer.encode(" q", add_special_tokens=False)]
    assert tokenizer.pad_token_id == FIRST + 4


def test_a_token_after_a_text_is_refused(tokenizer_with):
    with pytest.raises(VocabularyError, match="add_eos_token is true, expected false"):
        tokenizer_with(add_eos_token=True)


def test_chatml_is_recognized(tokenizer_with, tmp_path):
    tokenizer_with(template="{{'<|im_start|>' + content + '<|im_end|>'}}")
    assert ModelFile(tmp_path / "x.bin").metadata["chat"]["format"] == "template"
