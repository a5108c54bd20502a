"""Logits depend only on the file and the tokens: they have the same bits for every instruction set, number of threads,
split of the tokens, batch and history of the sequence, in every type of weights and of the KV cache."""

import itertools
import random

import numpy as np
import pytest
from random_models import ISAS, evaluate_together, open_sequence, random_tensors, write_model

from gpt2rt.modelfile import Hyperparameters

# A width, heads and a vocabulary that are not multiples of tiles or groups; a prompt of several passes; small enough
# for portable C.
SHAPE = Hyperparameters(n_vocab=261, n_ctx=552, n_embd=10, n_head=2, n_layer=2)
TYPES = {"f32": ("f32", None), "f16": ("f16", None), "int8": ("int8", None), "int4": ("int4", None)}
TYPES |= {"int8 cache": ("f32", "int8")}  # of weights, and of the KV cache if it is not the default
THREADS = [1, 2, 3, 8]
PIECES = [SHAPE.n_ctx, 511, 64, 7, 1]
NEIGHBORS = [0, 4]
WAYS = ["continued", "truncated", "forked"]
FACTORS = {"type": list(TYPES), "isa": ISAS, "threads": THREADS, "piece": PIECES, "neighbors": NEIGHBORS, "way": WAYS}

TEXTS = np.random.default_rng(1).integers(0, SHAPE.n_vocab, (6, SHAPE.n_ctx)).tolist()
TEXT, DETOUR = TEXTS[0][:530], TEXTS[5][:40]
NEIGHBOR_TEXTS = [text[:length] for text, length in zip(TEXTS[1:5], (50, 41, 16, 5), strict=True)]
SMALL = 504  # tokens before the smallest pieces, which are slow
TURN = 512  # tokens after which a sequence takes a detour, and is truncated or forked


def pairwise(factors):
    """Return a small, fixed set of combinations that contains every pair of values of different factors."""
    generator = random.Random(1)

    def pairs(combination):
        return set(itertools.combinations(enumerate(combination), 2))

    missing = set().union(*(pairs(combination) for combination in itertools.product(*factors)))
    while missing:
        some = [tuple(generator.choice(values) for values in factors) for _ in range(100)]
        best = max(some, key=lambda combination: len(pairs(combination) & missing))
        if found := pairs(best) & missing:
            missing -= found
            yield best


def spans(piece):
    """Return (begin, end) of the pieces of TEXT, split at TURN; before SMALL, pieces have at least 64 tokens."""
    begin = 0
    while begin < len(TEXT):
        step = piece if piece >= 64 or begin >= SMALL else min(64, SMALL - begin)
        end = min(begin + step, TURN if begin < TURN else len(TEXT))
        yield begin, end
        begin = end


def logits(fresh, piece, neighbors, way):
    """Return the bytes of the logits after TEXT, computed with forks of a fresh sequence."""
    sequences = [fresh.fork() for _ in range(1 + neighbors)]
    calls = list(spans(piece))
    for i, (begin, end) in enumerate(calls):
        if begin == TURN and way == "truncated":
            sequences[0].append(DETOUR)
            sequences[0].truncate(TURN)
        elif begin == TURN and way == "forked":
            left = sequences[0]
            sequences[0] = left.fork()
            left.append(DETOUR)
        parts = [TEXT[begin:end]]
        parts += [  # the neighbors' texts are spread over all calls
            text[i * len(text) // len(calls) : (i + 1) * len(text) // len(calls)] for text in NEIGHBOR_TEXTS[:neighbors]
        ]
        busy = [j for j, part in enumerate(parts) if part]
        evaluate_together([sequences[j] for j in busy], [parts[j] for j in busy])
    return sequences[0].logits.tobytes()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return {type: path} of a random model."""
    folder, tensors = tmp_path_factory.mktemp("models"), random_tensors(SHAPE)
    return {kind: write_model(folder / f"{kind}.bin", SHAPE, tensors, weights) for kind, (weights, _) in TYPES.items()}


@pytest.fixture(scope="module")
def expected(files):
    """Return {type: logits} of portable C with one thread, token by token."""
    return {
        kind: logits(open_sequence(path, "portable", kv_type=TYPES[kind][1]), 1, 0, "continued")
        for kind, path in files.items()
    }


def test_every_pair_of_conditions_gives_the_same_logits(files, expected):
    for kind, isa, threads, *rest in pairwise(list(FACTORS.values())):
        found = logits(open_sequence(files[kind], isa, threads, TYPES[kind][1]), *rest)
        assert found == expected[kind], dict(zip(FACTORS, (kind, isa, threads, *rest), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", TYPES)
def test_all_combinations_of_conditions_give_the_same_logits(kind, isa, threads, files, expected):
    fresh = open_sequence(files[kind], isa, threads, TYPES[kind][1])
    for rest in itertools.product(PIECES, NEIGHBORS, WAYS):
        assert logits(fresh, *rest) == expected[kind], dict(zip(list(FACTORS)[3:], rest, strict=True))


def test_other_tokens_have_other_logits(files, expected):
    # The comparison is sensitive: changing the very first token is enough.
    for kind, path in files.items():
        sequence = open_sequence(path, kv_type=TYPES[kind][1])
        sequence.append([TEXT[0] ^ 1, *TEXT[1:]])
        assert sequence.logits.tobytes() != expected[kind]
