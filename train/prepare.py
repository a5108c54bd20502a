"""Makes of text what train.py reads: a vocabulary, and the tokens of each group.

    python train/prepare.py TEXT WORK
    python train/prepare.py TEXT WORK --vocabulary FOLDER   # that of a model to continue from

WORK gets encoder.json and vocab.bpe, as in OpenAI's release, and for each group GROUP.tokens.npy, its documents in
random order, each ended by <|endoftext|>, as u16 (n_tokens,), and GROUP.starts.npy, where a training window may begin,
as i64 (n_starts,). A group with scores (--scores, made by score.py) also gets GROUP.learned.npy, bool (n_tokens,),
false for turns that the stage `chat` reads but doesn't learn to say. --held-out names a file of dialogues to measure
on, never to learn from; it becomes held_out.tokens.npy. Equal arguments give equal files.
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
LONG = 256  # tokens of a document after which a later turn may begin a window as well
SAMPLE = 4 << 20  # characters of each group that merges are learned from, so that no group drowns the others

UNIT = 0.25  # nats, of the scores
MIN_SCORE = 0.75  # nats; an answer below it would fit anything
MAX_SCORE = 10.0  # nats that an answer counts for at most in its dialogue's mean, so that one long one doesn't decide
DROPPED_DIALOGUES = 0.15  # the fraction of dialogues that is dropped, those with the lowest means


def learn_vocabulary(texts, n_vocab=N_VOCAB):
    """Learn a byte-level BPE of n_vocab tokens: the bytes, merges, and END_OF_TEXT as the last.

    Returns:
        (ids, merges): {token: id} and [(left, right)].
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=n_vocab - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    return {**learned["vocab"], END_OF_TEXT: len(learned["vocab"])}, [tuple(merge) for merge in learned["merges"]]


def write_vocabulary(folder, ids, merges):
    (folder / "encoder.json").write_text(json.dumps(ids), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "vocab.bpe").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def vocabulary_files(folder):
    """Return the paths of a vocabulary's two files, by OpenAI's names or by Hugging Face's."""
    names = (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt"))
    return [folder / (name if (folder / name).exists() else other) for name, other in names]


def read_tokenizer(folder):
    tokenizer = Tokenizer(models.BPE.from_file(*map(str, vocabulary_files(folder))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


class Fit:
    """Which turns of a group's dialogues are worth learning to say, by the scores of score.py.

    Args:
        values: the scores, i8 (n_turns,). lengths: each dialogue's number of turns.

    Attributes:
        learned: bool (n_turns,), false for answers that would fit anything and for all turns of dropped dialogues.
        kept: bool (n_turns,), false for turns of dropped dialogues, whose answers don't fit on average.
    """

    def __init__(self, values, lengths):
        lengths = np.asarray(lengths)
        if lengths.sum() != len(values):
            raise SystemExit(f"scores: got {len(values):,} turns, expected {lengths.sum():,} (run score.py again)")
        is_scored = values != -128
        dialogue = np.repeat(np.arange(len(lengths)), lengths)
        clipped = np.clip(values * UNIT, -MAX_SCORE, MAX_SCORE)
        total = np.bincount(dialogue, clipped * is_scored, len(lengths))
        mean = total / np.maximum(1, np.bincount(dialogue, is_scored, len(lengths)))
        is_kept = mean > np.quantile(mean, DROPPED_DIALOGUES)
        self.kept = is_kept[dialogue]
        self.learned = self.kept & (~is_scored | (values * UNIT >= MIN_SCORE))
        self.n_dropped_dialogues = int((~is_kept).sum())
        self.n_dropped_turns = int((self.kept & ~self.learned).sum())


def tokens_and_starts(tokenizer, texts, is_dialogue):
    """Return the tokens of documents, u16, one after the other, and where windows may begin, i64."""
    end, user = tokenizer.token_to_id(END_OF_TEXT), tokenizer.encode("\nUser:").ids
    tokens, starts, n_tokens = [], [], 0
    for batch in batched(texts, 1000):
        for encoding in tokenizer.encode_batch(batch):
            ids = np.array([*encoding.ids, end], np.uint16)
            starts.append(n_tokens)
            if is_dialogue:
                turns = np.lib.stride_tricks.sliding_window_view(ids, len(user)) if len(ids) >= LONG else ids[:0, None]
                candidates = np.flatnonzero((turns == user).all(axis=1)) + 1
            else:
                candidates = np.arange(LONG, len(ids), LONG)
            last = 0
            for i in candidates:
                if last + LONG <= i < len(ids) - LONG // 2:
                    starts.append(n_tokens + int(i))
                    last = i
            tokens.append(ids)
            n_tokens += len(ids)
    return np.concatenate(tokens), np.array(starts, np.int64)


def learned_tokens(tokenizer, tokens, learned):
    """Return which tokens of a group's dialogues are learned, bool (n_tokens,): those of `learned` turns (n_turns,)."""
    [newline], end = tokenizer.encode("\n").ids, tokenizer.token_to_id(END_OF_TEXT)
    is_newline = tokens == newline
    turn = np.cumsum(is_newline) - is_newline - (tokens == end)  # the end of a document belongs to its last turn
    return learned[turn]


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


def prepare(text, work, vocabulary=None, held_out=None, scores=None, n_vocab=N_VOCAB):
    """Write what the module's docstring says; all but n_vocab are pathlib.Path, of which the last three may be None."""
    work.mkdir(parents=True, exist_ok=True)
    scores = np.load(scores) if scores else {}
    shuffled, learned = {}, {}
    for group in GROUPS:
        texts = list(documents(text, group))
        order = random.Random(0).sample(range(len(texts)), len(texts))
        if group in scores:
            lengths = [text.count("\n") for text in texts]
            turns = np.split(Fit(scores[group], lengths).learned, np.cumsum(lengths)[:-1])
            learned[group] = np.concatenate([turns[i] for i in order])
        shuffled[group] = [texts[i] for i in order]
    if vocabulary:
        for path, name in zip(vocabulary_files(vocabulary), ("encoder.json", "vocab.bpe"), strict=True):
            shutil.copyfile(path, work / name)
    else:
        samples = (text for texts in shuffled.values() for text in sample(texts))
        write_vocabulary(work, *learn_vocabulary(samples, n_vocab))
    tokenizer = read_tokenizer(work)
    for group, texts in shuffled.items():
        tokens, starts = tokens_and_starts(tokenizer, texts, group != "prose")
        np.save(work / f"{group}.tokens.npy", tokens)
        np.save(work / f"{group}.starts.npy", starts)
        print(f"{group:10} {len(texts):7,} documents {len(tokens):11,} tokens {len(starts):8,} starts", end="")
        if group in learned:
            is_learned = learned_tokens(tokenizer, tokens, learned[group])
            np.save(work / f"{group}.learned.npy", is_learned)
            print(f" {is_learned.mean():4.0%} learned in chat", end="")
        print(flush=True)
    if held_out:
        tokens, _ = tokens_and_starts(tokenizer, dialogues(held_out), True)
        np.save(work / "held_out.tokens.npy", tokens)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path, help="the folder of prose and dialogues")
    parser.add_argument("work", type=pathlib.Path, help="the folder to write to")
    parser.add_argument("--vocabulary", type=pathlib.Path, metavar="FOLDER", help="take the vocabulary from there")
    parser.add_argument("--held-out", type=pathlib.Path, metavar="FILE", help="dialogues to measure on")
    parser.add_argument("--scores", type=pathlib.Path, metavar="FILE", help="what score.py wrote for this text")
    parser.add_argument(
        "--n-vocab", type=int, default=N_VOCAB, help="tokens of a new vocabulary (default: %(default)s)"
    )
    prepare(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
