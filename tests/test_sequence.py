"""Models and sequences: the public interface to logits."""

import copy
import inspect
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import reference
from random_models import random_tensors, write_model

import gpt2rt
from gpt2rt._sampler import Sampler
from gpt2rt._tokenizer import StreamDecoder, Tokenizer
from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=300, n_ctx=50, n_embd=48, n_head=3, n_layer=2)
TOKENS = [7, 1, 299, 42, 42, 0, 17, 256]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "random.bin", SHAPE, random_tensors(SHAPE), "f32")


@pytest.fixture
def sequence(path):
    return gpt2rt.open_model(path).sequence()


def test_logits_are_those_after_the_last_token(sequence):
    sequence.append(TOKENS)
    expected = reference.logits(random_tensors(SHAPE), SHAPE.n_head, TOKENS)[-1]
    assert sequence.logits.dtype == np.float32
    assert sequence.logits.shape == (SHAPE.n_vocab,)
    assert np.abs(sequence.logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_sequence_lists_its_tokens(sequence):
    sequence.append(iter(TOKENS))
    sequence.append([])
    sequence.append(np.array([5]))
    assert sequence.tokens == [*TOKENS, 5]
    assert len(sequence) == len(TOKENS) + 1
    assert sequence.n_ctx == 50


def test_logits_are_a_copy(sequence):
    sequence.append(TOKENS)
    logits = sequence.logits
    logits[:] = 0
    assert sequence.logits.any()


def test_truncating_drops_the_last_tokens(sequence):
    sequence.append(TOKENS[:5])
    expected = sequence.logits
    sequence.append(TOKENS[5:])
    sequence.truncate(len(sequence) - 3)
    assert sequence.tokens == TOKENS[:5]
    assert (sequence.logits == expected).all()
    sequence.append(TOKENS[5:])
    sequence.truncate(0)
    assert len(sequence) == 0
    with pytest.raises(gpt2rt.UsageError, match="the sequence is empty"):
        _ = sequence.logits


@pytest.mark.parametrize("length", [-1, 9, 1.0, np.float32(1), "1", None, 2.5, 1e30, True, np.array([1, 1])])
def test_truncating_to_an_invalid_length_is_refused_and_changes_nothing(sequence, length):
    sequence.append(TOKENS)
    with pytest.raises(gpt2rt.UsageError, match=r"length: got"):
        sequence.truncate(length)
    assert sequence.tokens == TOKENS
    assert (sequence.logits == fresh_logits(sequence)).all()


def fresh_logits(sequence):
    """Return the logits of a fresh sequence with the same tokens."""
    fresh = sequence.model.sequence()
    fresh.append(sequence.tokens)
    return fresh.logits


def test_a_fork_is_independent(sequence):
    sequence.append(TOKENS)
    fork = sequence.fork()
    assert (fork.logits == sequence.logits).all()
    fork.append([3])
    assert sequence.tokens == TOKENS
    sequence.append([3])
    assert (fork.logits == sequence.logits).all()


@pytest.mark.parametrize("length", range(len(TOKENS) + 1))
def test_a_fork_of_the_first_tokens_equals_a_truncated_fork(sequence, length):
    sequence.set_sampling(gpt2rt.SamplingParams(repetition_penalty=1.2), seed=3, history=[5], exempt=[7])
    sequence.append(TOKENS, 3)
    sequence.push([9])
    fork, truncated = sequence.fork(length), sequence.fork()
    truncated.truncate(length)
    assert (fork.tokens, fork.pending, fork.n_logits) == (TOKENS[:length], [], max(0, 3 - len(TOKENS) + length))
    assert fork.all_logits.tobytes() == truncated.all_logits.tobytes()
    assert (fork.sampling, fork.seed, fork.history) == (sequence.sampling, 3, [5])
    for one in (fork, truncated):
        one.append([1, 2])
    assert fork.logits.tobytes() == truncated.logits.tobytes() == fresh_logits(fork).tobytes()
    assert (sequence.tokens, sequence.pending) == (TOKENS, [9])


@pytest.mark.parametrize("length", [-1, 9, 1.0, "1", 1e30, True])
def test_a_fork_of_an_invalid_length_is_refused(sequence, length):
    sequence.append(TOKENS)
    with pytest.raises(gpt2rt.UsageError, match=r"length: got"):
        sequence.fork(length)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (TOKENS, 8),
        ([*TOKENS, 9, 4], 8),
        (TOKENS[:5], 5),
        ([*TOKENS[:5], 9, *TOKENS[6:]], 5),
        ([8, *TOKENS[1:]], 0),
        ([], 0),
        ([7, 1, 1 << 80], 2),
        ([7, -1], 1),
        (np.array(TOKENS[:3]), 3),
        (tuple(TOKENS), 8),
        ((token for token in TOKENS), 8),
        ([7, "1"], 1),
    ],
)
def test_a_common_prefix_ends_at_the_first_difference(sequence, tokens, expected):
    sequence.append(TOKENS)
    sequence.push([9])  # pending tokens do not count
    assert sequence.common_prefix(tokens) == expected


def test_a_common_prefix_reads_nothing_after_the_first_difference(sequence):
    def ids():
        yield from TOKENS[:3]
        yield TOKENS[3] + 1
        pytest.fail("read after the first difference")

    sequence.append(TOKENS)
    assert sequence.common_prefix(ids()) == 3
    assert sequence.model.sequence().common_prefix(TOKENS) == 0


@pytest.mark.parametrize("tokens", ["text", b"ab", None, 5], ids=repr)
def test_a_common_prefix_with_something_else_than_ids_is_refused(sequence, tokens):
    with pytest.raises(gpt2rt.UsageError, match=r"tokens: got .*, expected ids"):
        sequence.common_prefix(tokens)


@pytest.mark.parametrize(("weight_type", "value_size"), [("f32", 4), ("f16", 2), ("int8", 2)])
def test_a_token_takes_a_key_and_a_value_of_each_layer(tmp_path, weight_type, value_size):
    model = gpt2rt.open_model(write_model(tmp_path / "m.bin", SHAPE, random_tensors(SHAPE), weight_type))
    assert model.kv_cache_bytes_per_token == SHAPE.n_layer * 2 * SHAPE.n_embd * value_size


def test_the_size_of_a_sequence_grows_with_its_cache_and_its_logits(path):
    model = gpt2rt.open_model(path)
    sequence = model.sequence()
    empty = sequence.nbytes
    sequence.append(TOKENS, 0)
    assert sequence.nbytes == empty + 64 * model.kv_cache_bytes_per_token
    sequence.append([1], 1)
    assert sequence.nbytes == empty + 64 * model.kv_cache_bytes_per_token + 304 * 4  # n_vocab, a multiple of 16
    sequence.set_sampling(None, history=range(10), exempt=range(5))
    assert sequence.nbytes == empty + 64 * model.kv_cache_bytes_per_token + 304 * 4 + 15 * 4


def test_a_fork_of_the_first_tokens_is_as_small_as_they_are(tmp_path):
    shape = SHAPE._replace(n_ctx=256)
    model = gpt2rt.open_model(write_model(tmp_path / "m.bin", shape, random_tensors(shape)))
    sequence = model.sequence()
    sequence.append([1] * 200)
    for length, positions in ((0, 0), (1, 64), (64, 64), (65, 128), (200, 256)):
        assert sequence.fork(length).nbytes - model.sequence().nbytes <= (
            positions * model.kv_cache_bytes_per_token + (304 * 4 if length == 200 else 0)
        )


def test_exceeding_the_context_is_refused_and_changes_nothing(sequence):
    sequence.append([1] * 49)
    logits = sequence.logits
    with pytest.raises(gpt2rt.ContextFullError, match="49 tokens and 2 more, but the model has 50 positions"):
        sequence.append([1, 2])
    assert len(sequence) == 49
    assert (sequence.logits == logits).all()
    sequence.append([1])


def test_a_token_out_of_range_is_refused_and_changes_nothing(sequence):
    sequence.append(TOKENS)
    with pytest.raises(gpt2rt.VocabularyError, match="token 300: out of range, expected 0 to 299"):
        sequence.append([1, 300])
    assert sequence.tokens == TOKENS


def test_threads_share_a_model(path):
    model = gpt2rt.open_model(path, n_threads=2)
    texts = [[(7 * i + j) % 300 for j in range(40)] for i in range(4)]
    results = [None] * 4

    def run(i):
        for _ in range(20):
            sequence = model.sequence()
            sequence.append(texts[i])
            results[i] = sequence.logits

    workers = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for text, result in zip(texts, results, strict=True):
        sequence = model.sequence()
        sequence.append(text)
        assert (sequence.logits == result).all()


def test_reading_into_memory_gives_the_same_logits_as_mapping(path):
    results = []
    for use_mmap in (True, False):
        sequence = gpt2rt.open_model(path, use_mmap=use_mmap).sequence()
        sequence.append(TOKENS)
        results.append(sequence.logits.tobytes())
    assert results[0] == results[1]


def test_a_closed_model_keeps_its_sequences_and_makes_no_new_ones(path):
    with gpt2rt.open_model(path) as model:
        sequence = model.sequence()
    sequence.append(TOKENS)
    with pytest.raises(gpt2rt.UsageError, match="the model is closed"):
        model.sequence()


@pytest.mark.parametrize("threads", [0, -1, 257, 1.5, "2", True])
def test_an_invalid_number_of_threads_is_refused(path, threads):
    with pytest.raises(gpt2rt.UsageError, match=f"n_threads: got {threads!r}, expected a whole number from 1 to 256"):
        gpt2rt.open_model(path, n_threads=threads)


def test_a_model_has_a_descriptive_repr(path):
    model = gpt2rt.open_model(path)
    assert repr(model) == "<gpt2rt.Model random.bin: 0.1 M parameters, f32>"
    assert model.metadata == {"name": "random"}
    assert model.hyperparameters == SHAPE
    assert model.n_threads >= 1


# Unneeded modules must not be imported before the first token: each costs milliseconds at startup.
HEAVY = ["numpy", "json", "dataclasses", "importlib.metadata", "tempfile", "asyncio", "ctypes", "logging", "tensorflow"]
GENERATE = """
import sys
from gpt2rt.cli import run
run(["generate", {path!r}, "Hello", "-n", "2", "--seed", "1"])
print(*sys.modules, sep="\\n", file=sys.stderr)
"""


def test_nothing_heavy_is_imported_before_the_first_token(path):
    code = GENERATE.format(path=str(path))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = set(result.stderr.splitlines())
    assert "gpt2rt._kernels" in imported
    assert imported.isdisjoint(HEAVY)


def test_importing_the_package_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import gpt2rt; print(*sorted(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["gpt2rt"]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, *(lambda x, p=p: pickle.dumps(x, p) for p in range(6))])
def test_objects_that_own_memory_cannot_be_pickled_or_copied(path, copied):
    model = gpt2rt.open_model(path)
    sampler, decoder = Sampler(gpt2rt.SamplingParams(), 1), StreamDecoder(model.tokenizer)
    for x in (
        model.tokenizer,
        model._runtime.weights,
        model._runtime,
        model.sequence(),
        model.engine(),
        sampler,
        decoder,
    ):
        with pytest.raises(TypeError, match="cannot pickle"):
            copied(x)


def test_compiled_methods_have_signatures():
    parameters = ["self", "text", "special", "add_special_tokens", "continues"]
    assert list(inspect.signature(Tokenizer.encode).parameters) == parameters
