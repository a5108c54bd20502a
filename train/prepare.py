"""Makes of text what train.py reads: a vocabulary, and the tokens of each group.

    python train/prepare.py TEXT WORK
    python train/prepare.py TEXT WORK --vocabulary FOLDER   # that of a model to go on from

WORK gets encoder.json and vocab.bpe, as in OpenAI's release, and for each group GROUP.tokens.npy, its documents in
random order, each ended by <|endoftext|>, as u16 (n_tokens,), and GROUP.starts.npy, where a training window may begin,
as i64 (n_starts,). --held-out names a file of dialogues to measure on, never to learn from; it becomes
held_out.tokens.npy. Equal arguments give equal files.
"""

import argparse
import itertools
import json
import pathlib
import random
import shutil

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from text import END_OF_TEXT, GROUPS, dialogues, documents

N_VOCAB = 4096
LONG = 256  # tokens of a document behind which a later turn may begin a window as well
SAMPLE = 4 << 20  # characters of each group that merges are learned from, so that no group drowns the others


def learn_vocabulary(texts):
    """A byte-level BPE of N_VOCAB tokens: the bytes, merges, and END_OF_TEXT as the last.

    Returns:
        (ids, merges): {token: id} and [(left, right)].
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=N_VOCAB - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    return {**learned["vocab"], END_OF_TEXT: len(learned["vocab"])}, [tuple(merge) for merge in learned["merges"]]


def write_vocabulary(folder, ids, merges):
    (folder / "encoder.json").write_text(json.dumps(ids), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "vocab.bpe").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def read_tokenizer(folder):
    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def tokens_and_starts(tokenizer, texts, is_dialogue):
    """The tokens of documents, one behind the other, and where windows may begin."""
    end, user = tokenizer.token_to_id(END_OF_TEXT), tokenizer.encode("\nUser:").ids
    tokens, starts = [], []
    for batch in batched(texts, 1000):
        for encoding in tokenizer.encode_batch(batch):
            ids, begin = encoding.ids, len(tokens)
            starts.append(begin)
            last = 0
            for i in range(LONG, len(ids) - LONG // 2):
                if i - last >= LONG and (not is_dialogue or ids[i - 1 : i - 1 + len(user)] == user):
                    starts.append(begin + i)
                    last = i
            tokens += ids
            tokens.append(end)
    return np.array(tokens, np.uint16), np.array(starts, np.int64)


def batched(items, n):
    items = iter(items)
    while batch := list(itertools.islice(items, n)):
        yield batch


def sample(texts):
    """Documents of `texts` up to SAMPLE characters."""
    room = SAMPLE
    for text in texts:
        yield text[:room]
        room -= len(text)
        if room <= 0:
            return


def prepare(text, work, vocabulary=None, held_out=None):
    """Writes what the module's docstring says; all four are a pathlib.Path, the last two may be None."""
    work.mkdir(parents=True, exist_ok=True)
    shuffled = {}
    for group in GROUPS:
        shuffled[group] = list(documents(text, group))
        random.Random(0).shuffle(shuffled[group])
    if vocabulary:
        for name, other in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")):  # Hugging Face's other names
            path = vocabulary / name
            shutil.copyfile(path if path.exists() else vocabulary / other, work / name)
    else:
        write_vocabulary(work, *learn_vocabulary(text for texts in shuffled.values() for text in sample(texts)))
    tokenizer = read_tokenizer(work)
    for group, texts in shuffled.items():
        tokens, starts = tokens_and_starts(tokenizer, texts, group != "prose")
        np.save(work / f"{group}.tokens.npy", tokens)
        np.save(work / f"{group}.starts.npy", starts)
        print(f"{group:10} {len(texts):7,} documents {len(tokens):11,} tokens {len(starts):8,} starts")
    if held_out:
        tokens, _ = tokens_and_starts(tokenizer, dialogues(held_out), True)
        np.save(work / "held_out.tokens.npy", tokens)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path, help="the folder of prose and dialogues")
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--vocabulary", type=pathlib.Path, metavar="FOLDER", help="take it from there")
    parser.add_argument("--held-out", type=pathlib.Path, metavar="FILE", help="dialogues to measure on")
    prepare(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
