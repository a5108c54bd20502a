"""Signal handlers that raise, and cancel() from other threads, during a call."""

import functools
import itertools
import random
import signal
import threading
import time

import pytest
from expected_sequence import assert_as_fresh
from random_models import random_tensors, write_model
from token_tables import tokenizer_with

import gpt2rt
from gpt2rt.chat import Conversation
from gpt2rt.errors import CancelledError, UsageError
from gpt2rt.generate import Generation
from gpt2rt.modelfile import Hyperparameters

needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer on this system")

SHAPE = Hyperparameters(n_vocab=257, n_ctx=1100, n_embd=32, n_head=2, n_layer=2)
CHUNK = 256  # tokens of a pass
TEXT = [(7 * i * i + 3 * i) % 256 for i in range(SHAPE.n_ctx)]
SAMPLING = gpt2rt.SamplingParams(temperature=1.5, repetition_penalty=1.3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with slow forward passes, because it runs the portable kernels."""
    path = write_model(tmp_path_factory.mktemp("model") / "random.bin", SHAPE, random_tensors(SHAPE))
    return gpt2rt.open_model(path, n_threads=1, isa="portable")


class InterruptError(Exception):
    """Raised by the signal handler."""


def interrupted(call, delay):
    """Call it, and raise InterruptError in it after a delay in seconds; return whether that came in time."""

    def handler(*_):
        raise InterruptError

    old = signal.signal(signal.SIGALRM, handler)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, max(1e-6, delay))
            call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except InterruptError:
        return True
    finally:
        signal.signal(signal.SIGALRM, old)
    return False


def seconds_of(call, subject):
    begin = time.perf_counter()
    call(subject)
    return time.perf_counter() - begin


def interruptions(n, prepared, call, check):
    """Interrupt a call n times, at moments spread over its whole duration.

    Args:
        prepared: returns the argument of `call` and `check`.
        check: called after the call; returns whether the call was interrupted before its end.
    """
    moments = random.Random(n)
    duration = min(seconds_of(call, prepared()) for _ in range(3))  # only used to choose the moments
    n_unfinished = 0
    for _ in range(n):
        subject = prepared()
        came = interrupted(lambda: call(subject), moments.uniform(0, 1.1) * duration)  # noqa: B023 (called at once)
        unfinished = check(subject)
        assert came or not unfinished
        n_unfinished += unfinished
    assert n_unfinished > 1  # otherwise the moments were not the interesting ones


FEW_AND_MANY = [pytest.param(15, id="few"), pytest.param(300, id="many", marks=pytest.mark.slow)]
each_interrupted = pytest.mark.parametrize("n", FEW_AND_MANY)


@needs_timer
@each_interrupted
@pytest.mark.parametrize("method", ["append", "score"])
def test_an_interrupted_append_has_evaluated_whole_chunks(model, method, n):
    start, pending, end = 10, 300, 350
    boundaries = {start + i for i in range(0, end - start, CHUNK if method == "append" else 64)}
    source = model.sequence()
    source.append(TEXT[:start])
    source.push(TEXT[start : start + pending])

    @functools.cache
    def logits_after(length):
        fresh = model.sequence()
        fresh.append(TEXT[:length])
        return fresh.logits.tobytes()

    def check(sequence):
        length = len(sequence)
        assert length in boundaries | {end}
        assert sequence.tokens == TEXT[:length]
        assert sequence.pending == TEXT[length : start + pending]
        assert sequence.logits.tobytes() == logits_after(length)
        sequence.append(TEXT[length + len(sequence.pending) : end])
        assert sequence.logits.tobytes() == logits_after(end)
        return length < end

    interruptions(n, source.fork, lambda sequence: getattr(sequence, method)(TEXT[start + pending : end]), check)


def state(sequence):
    return sequence.tokens, sequence.pending, sequence.history, sequence.sampling, sequence.seed


@needs_timer
@each_interrupted
def test_an_interrupted_step_has_changed_nothing(model, n):
    source = [model.sequence() for _ in range(3)]
    source[0].append(TEXT[:20])
    source[0].set_sampling(SAMPLING, seed=1, logprobs=2)
    source[1].append(TEXT[5:40])
    source[1].push(TEXT[:9])
    source[2].push(TEXT[:400])
    source[2].set_sampling(SAMPLING, seed=2)
    before = [state(sequence) for sequence in source]
    stepped = [sequence.fork() for sequence in source]
    model.engine().step(stepped)
    after = [state(sequence) for sequence in stepped]
    assert before[0] != after[0]
    assert before[2] != after[2]

    def check(sequences):
        found = [state(sequence) for sequence in sequences]
        assert found in (before, after)
        for sequence in sequences:
            assert_as_fresh(sequence)
        if found == before:
            model.engine().step(sequences)
            assert [state(sequence) for sequence in sequences] == after
        return found == before

    def step(sequences):
        model.engine().step(sequences)

    interruptions(n, lambda: [sequence.fork() for sequence in source], step, check)


def check_generated(sequence, prompt, expected):
    """Check that an interrupted generation can be continued to the same text; return whether any text was missing."""
    ids = sequence.tokens + sequence.pending
    assert_as_fresh(sequence)
    if not ids:
        return True  # not even the prompt
    sampled = ids[len(prompt) :]
    assert ids[: len(prompt)] == prompt
    assert sampled == expected[: len(sampled)]
    if sampled == expected:
        return False
    rest = Generation(sequence, (), SAMPLING, history=None, max_tokens=len(expected) - len(sampled))
    rest.text()
    assert sampled + rest.tokens == expected
    return True


@needs_timer
@each_interrupted
@pytest.mark.parametrize("lookup", [False, True])
def test_an_interrupted_generation_can_be_continued(model, n, lookup):
    prompt = TEXT[:90] * 3

    def generation(sequence):
        return Generation(sequence, prompt, SAMPLING, seed=5, max_tokens=20, lookup=lookup)

    whole = generation(model.sequence())
    whole.text()
    assert whole.finish_reason == "length"
    interruptions(
        n,
        model.sequence,
        lambda sequence: generation(sequence).text(),
        lambda sequence: check_generated(sequence, prompt, whole.tokens),
    )


@needs_timer
@each_interrupted
def test_an_interrupted_answer_leaves_a_conversation_consistent_with_its_turns(model, n):
    options = {"format": "plain", "opening": "", "max_tokens": 8, "seed": 3}
    first = Conversation(model, **options)
    "".join(first.say("Hello there."))
    "".join(first.say("What is it?"))

    def prepared():
        conversation = Conversation(model, **options)
        conversation.turns = list(first.turns)
        return conversation

    def check(conversation):
        conversation.set("seed", 9)  # ends an unfinished answer, which completes its turn
        assert conversation.turns[:2] == first.turns
        is_unfinished = [turn.answer for turn in conversation.turns[2:]] != [whole]
        rebuilt = Conversation(model, **{**options, "seed": 9})
        rebuilt.turns = list(conversation.turns)
        assert "".join(conversation.say("And then?")) == "".join(rebuilt.say("And then?"))
        assert_as_fresh(conversation.sequence)
        return is_unfinished

    whole = "".join(prepared().say("Tell me more."))
    interruptions(n, prepared, lambda conversation: "".join(conversation.say("Tell me more.")), check)


# --- handlers that return


@needs_timer
def test_a_handler_may_use_other_sequences_and_read_this_one(model):
    sequence, other = model.sequence(), model.sequence()
    seen, refused = [], []

    def handler(*_):
        other.append(TEXT[len(other) : len(other) + 3])
        seen.append(len(sequence))
        try:
            _ = sequence.history
        except UsageError as error:
            refused.append(str(error))
            signal.setitimer(signal.ITIMER_REAL, 1e-3)  # again, while the sequence is in use

    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 2e-3)
        sequence.append(TEXT[:1000])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert refused
    assert all("in use" in message for message in refused)
    assert {length % CHUNK for length in seen} <= {0, 1000 % CHUNK}
    assert sequence.tokens == TEXT[:1000]
    assert other.tokens == TEXT[: 3 * len(seen)]
    assert_as_fresh(sequence)
    assert_as_fresh(other)


# --- cancel


def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def wait_until_in_use(sequence):
    for _ in itertools.count():
        try:
            _ = sequence.history
        except UsageError:
            return


def test_a_long_append_can_be_cancelled_from_another_thread(model):
    sequence = model.sequence()

    def cancel():
        while not len(sequence):
            pass
        sequence.cancel()

    thread = in_thread(cancel)
    with pytest.raises(CancelledError, match="sequence: cancelled"):
        sequence.append(TEXT)
    thread.join()
    length = len(sequence)
    assert length in range(CHUNK, len(TEXT), CHUNK)
    assert sequence.tokens == TEXT[:length]
    assert sequence.pending == []
    assert_as_fresh(sequence)
    sequence.append(TEXT[length:])
    assert_as_fresh(sequence)


@pytest.mark.parametrize("what", ["engine", "sequence"])
def test_a_long_step_can_be_cancelled_from_another_thread(model, what):
    sequence, engine = model.sequence(), model.engine()
    sequence.push(TEXT)

    def cancel():
        wait_until_in_use(sequence)
        (engine if what == "engine" else sequence).cancel()

    def step():  # the first step may finish before the cancel; no other can
        for _ in range(4):
            for event in engine.step([sequence]):
                raise event.error

    thread = in_thread(cancel)
    with pytest.raises(CancelledError):
        step()
    thread.join()
    length = len(sequence)
    assert length in range(0, len(TEXT), CHUNK)
    assert sequence.tokens + sequence.pending == TEXT
    assert_as_fresh(sequence)
    while sequence.pending:
        assert engine.step([sequence]) == []
    assert_as_fresh(sequence)


def test_a_cancelled_sequence_delays_no_other(model):
    one, other = model.sequence(), model.sequence()
    for sequence in (one, other):
        sequence.push(TEXT[:20])
        sequence.set_sampling(SAMPLING, seed=1)
    one.cancel()
    events = {event.sequence: event for event in model.engine().step([one, other])}
    assert type(events[one].error) is CancelledError
    assert events[other].error is None
    assert (len(one), len(other)) == (0, 20)
    event = model.engine().step([one])[0]
    assert event.tokens == events[other].tokens


def test_reading_logits_does_not_consume_a_cancel(model):
    sequence = model.sequence()
    sequence.append(TEXT[:5], 0)
    sequence.cancel()
    assert_as_fresh(sequence)
    with pytest.raises(CancelledError):
        sequence.append([1])
    sequence.append([1])
    assert_as_fresh(sequence)


@needs_timer
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a" * 4_000_000, id="one_piece"),
        pytest.param("a " * 2_000_000, id="many_pieces"),
        pytest.param("<" * 200_000, id="nearly_special_tokens"),
        pytest.param("<s>" * 200_000, id="special_tokens"),
    ],
)
def test_an_interrupted_encode_ends_early(text):
    special = [b"<s>", *(b"<%d>" % i for i in range(1500))]
    tokenizer = tokenizer_with(special, range(256, 256 + len(special)))

    def seconds(delay):
        begin = time.process_time()
        came = interrupted(lambda: tokenizer.encode(text, special=text[0] == "<"), delay)
        return time.process_time() - begin, came

    whole, _ = seconds(60)
    part, came = seconds(0.001)
    assert came
    assert part < whole / 2
