"""Vocabularies for tests, and the published tokenizers that read the same two files."""

import json
import pathlib

import pytest

from gpt2rt._tokenizer import Tokenizer
from gpt2rt.converter.vocabulary import Vocabulary, byte_characters

tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed")
openai_public = pytest.importorskip("tiktoken_ext.openai_public", reason="tiktoken is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

END_OF_TEXT = "<|endoftext|>"

SENTENCES = (
    "The keeper of the lighthouse didn't sleep; she'd counted the ships, and there were three more than at dawn.",
    "I'll say it again: we've been here since 1987, we're not leaving, that's the end of it, isn't it? I'm certain.",
    'In the beginning the engine was loud, then louder, then nothing at all... "Nothing?" they said. -- Nothing.',
    "x = 3.14159; y = 2718281828; if x < y: return [x, y] else: raise ValueError(f'{x} == {y}')\n\n\treturn None  \n",
    "== Heading ==\n\n * first item\n * second item\n\n----------\n==========\n    indented by four\r\n  by two \n",
    "Das Straßenschild am Ende der Straße war größer als nötig; l'été déjà passé, le café était fermé, naïve idée.",
    "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. Всё смешалось.",
    "東京都は日本の首都である。日本語の文章には空白がない。 서울은 대한민국의 수도이다. 서울에 사는 사람들.",
    "١٢٣ و ٤٥٦ أرقام عربية، १२३ हिन्दी के अंक, ½ + ¼ = ¾, Ⅷ, x² + y², １２３ 🙂🙃🙂🙂 👩‍👩‍👧‍👦 👍🏽👍 🇩🇪",
)


def write_vocabulary(folder, merges, special=(END_OF_TEXT,), first=0):
    """Write a vocabulary of the 256 bytes, merges and special tokens.

    Args:
        merges: pairs of bytes, in rank order. special: texts.
        first: id of byte 0; the last `first` tokens come before it.

    Returns:
        The paths of encoder.json and vocab.bpe.
    """
    characters = byte_characters()
    pairs = [tuple("".join(characters[byte] for byte in part) for part in pair) for pair in merges]
    texts = [*characters, *dict.fromkeys("".join(pair) for pair in pairs), *special]
    texts = texts[len(texts) - first :] + texts[: len(texts) - first]
    encoder, bpe = folder / "encoder.json", folder / "vocab.bpe"
    encoder.write_text(json.dumps({text: i for i, text in enumerate(texts)}), encoding="utf-8")
    bpe.write_text(
        "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in pairs), encoding="utf-8", newline="\n"
    )
    return encoder, bpe


def train_vocabulary(folder):
    """Train byte-level BPE on `SENTENCES`, to 600 tokens; return the two paths."""
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(SENTENCES, vocab_size=600, min_frequency=1, special_tokens=[END_OF_TEXT])
    encoder, bpe = (pathlib.Path(path) for path in tokenizer.save_model(str(folder)))
    return encoder, bpe


class Tokenizers:
    """One vocabulary in three tokenizers.

    Attributes:
        vocabulary: the vocabulary as read. ours, tiktoken: the tokenizers of this package and of OpenAI.
        huggingface: that of `tokenizers`; huggingface_special: the same with `<|endoftext|>` as a special token.
    """

    def __init__(self, encoder, merges):
        self.vocabulary = Vocabulary.read(encoder, merges)
        self.ours = tokenizer_of(self.vocabulary)
        made = set(range(self.vocabulary.n_vocab)).difference(self.vocabulary.special_tokens)
        self.tiktoken = tiktoken.Encoding(
            "test",
            pat_str=openai_public.r50k_pat_str,
            mergeable_ranks={self.vocabulary.tokens[token]: token for token in sorted(made)},
            special_tokens={self.vocabulary.tokens[token].decode(): token for token in self.vocabulary.special_tokens},
        )
        self.huggingface = tokenizers.ByteLevelBPETokenizer(str(encoder), str(merges))
        self.huggingface_special = tokenizers.ByteLevelBPETokenizer(str(encoder), str(merges))
        self.huggingface_special.add_special_tokens([END_OF_TEXT])


def tokenizer_of(vocabulary):
    """Return our tokenizer for a `Vocabulary`."""
    return Tokenizer(vocabulary.tables(), vocabulary.n_vocab)
