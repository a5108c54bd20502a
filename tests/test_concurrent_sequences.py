"""Threads: separate sequences don't affect each other; sharing one gives errors or correct results."""

import threading

import pytest
from expected_sequence import assert_as_fresh
from random_models import random_tensors, write_model

import gpt2rt
from gpt2rt._engine import Engine, Runtime
from gpt2rt.errors import CancelledError, UsageError
from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=260, n_ctx=600, n_embd=32, n_head=2, n_layer=2)
TEXT = [(7 * i * i + 3 * i) % 256 for i in range(SHAPE.n_ctx)]
SAMPLING = gpt2rt.SamplingParams(temperature=1.2, repetition_penalty=1.2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with two threads, the second of which serves one caller at a time."""
    path = write_model(tmp_path_factory.mktemp("model") / "random.bin", SHAPE, random_tensors(SHAPE))
    model = gpt2rt.open_model(path, n_threads=1)
    model._runtime = Runtime(model._runtime.weights, 2)
    return model


def run_in_threads(*functions):
    """Run functions at the same time; raise the exception of any of them."""
    errors = []
    start = threading.Barrier(len(functions))

    def run(function):
        start.wait()
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def unless_in_use(call, *arguments):
    """Call a function and return its result, or None if another thread is using the sequence or engine."""
    try:
        return call(*arguments)
    except UsageError as error:
        if "in use" not in str(error):
            raise
        return None


def talk(model, seed):
    """Return tokens and logits of some calls that depend on the seed."""
    sequence, engine = model.sequence(), Engine(model)
    sequence.set_sampling(SAMPLING, seed=seed, history=[])
    sequence.push(TEXT[seed : seed + 30])
    for _ in range(6):
        engine.step([sequence])
    fork = sequence.fork()
    fork.append(TEXT[: 10 * seed])
    sequence.truncate(20)
    scores = sequence.score(TEXT[:5])
    return fork.tokens, fork.logits.tobytes(), scores, sequence.logits.tobytes()


def test_eight_threads_with_their_own_sequences_compute_what_each_computes_alone(model):
    expected = [talk(model, seed) for seed in range(8)]
    results = [[] for _ in range(8)]

    def repeat(seed):
        for _ in range(5):
            results[seed].append(talk(model, seed))

    run_in_threads(*(lambda seed=seed: repeat(seed) for seed in range(8)))
    for result, one in zip(results, expected, strict=True):
        assert result == [one] * 5


def test_reads_during_a_change_by_another_thread_are_consistent(model):
    sequence = model.sequence()
    sequence.append(TEXT[:1])
    is_done = threading.Event()
    size = sequence.nbytes
    lengths = (1, 100, 356, 512)  # 356: the end of the second append's first pass
    logits = set()
    for length in lengths:
        fresh = model.sequence()
        fresh.append(TEXT[:length])
        logits.add(fresh.logits.tobytes())

    def change():
        try:
            for _ in range(8):
                for begin, end in ((1, 100), (100, 512)):
                    while len(sequence) != end:
                        unless_in_use(sequence.append, TEXT[begin:end])
                while len(sequence) > 1:
                    unless_in_use(sequence.truncate, 1)
        finally:
            is_done.set()

    def read():
        while not is_done.is_set():
            assert len(sequence) in lengths
            tokens = sequence.tokens
            assert tokens == TEXT[: len(tokens)]
            assert len(tokens) in lengths
            assert sequence.pending == []
            assert sequence.common_prefix(TEXT) in lengths
            assert sequence.n_logits in (0, 1)
            assert sequence.nbytes >= size
            found = unless_in_use(lambda: sequence.logits)
            assert found is None or found.tobytes() in logits

    run_in_threads(change, read, read)
    assert_as_fresh(sequence)


def test_only_one_thread_at_a_time_steps_a_shared_sequence(model):
    sequence = model.sequence()
    alone = model.sequence()
    for one in (sequence, alone):
        one.push(TEXT[:20])
        one.set_sampling(SAMPLING, seed=4)
    sampled = []

    def step():
        engine = Engine(model)
        for _ in range(20):
            events = unless_in_use(engine.step, [sequence])
            if events is not None:
                sampled.append(events[0].tokens)

    run_in_threads(*[step] * 4)
    engine = Engine(model)
    for _ in sampled:
        engine.step([alone])
    assert sequence.tokens == alone.tokens
    assert sequence.pending == alone.pending
    assert_as_fresh(sequence)


def test_threads_that_share_an_engine_get_errors_but_no_wrong_tokens(model):
    engine = Engine(model)
    sequences = [model.sequence() for _ in range(4)]

    def step(sequence):
        sequence.push(TEXT[:5])
        sequence.set_sampling(SAMPLING, seed=4)
        for _ in range(20):
            unless_in_use(engine.step, [sequence])

    run_in_threads(*(lambda sequence=sequence: step(sequence) for sequence in sequences))
    longest = max((sequence.tokens + sequence.pending for sequence in sequences), key=len)
    for sequence in sequences:
        ids = sequence.tokens + sequence.pending
        assert ids == longest[: len(ids)]
        assert_as_fresh(sequence)


def test_constant_cancelling_breaks_nothing(model):
    sequence, is_done = model.sequence(), threading.Event()

    def evaluate():
        try:
            while len(sequence) < SHAPE.n_ctx:
                length = len(sequence)
                try:
                    sequence.append(TEXT[length:])
                except CancelledError:
                    assert len(sequence) in (length, 256, 512)
        finally:
            is_done.set()

    def cancel():
        for _ in range(200):
            sequence.cancel()
            if is_done.wait(0.001):
                return

    run_in_threads(evaluate, cancel)
    assert sequence.tokens == TEXT
    assert_as_fresh(sequence)
