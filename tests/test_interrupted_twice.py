"""A second Ctrl-C while the first one is being handled: what is kept is still consistent."""

import random
import sys

import pytest
from expected_sequence import assert_as_fresh
from random_models import random_tensors, write_model

import gpt2rt
from gpt2rt.chat import Conversation
from gpt2rt.generate import Generation
from gpt2rt.modelfile import Hyperparameters

# Freeing a generator closes it, and an exception raised there has no caller to propagate to.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SHAPE = Hyperparameters(n_vocab=257, n_ctx=512, n_embd=16, n_head=2, n_layer=1)
SAMPLING = gpt2rt.SamplingParams(temperature=1.5, repetition_penalty=1.3)
HANDLING = 6  # functions within which the second one comes
MANY = [pytest.param(40, id="few"), pytest.param(1500, id="many", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("model") / "random.bin", SHAPE, random_tensors(SHAPE))
    return gpt2rt.open_model(path, n_threads=1)


def interrupted_twice(first, second, call):
    """Raise KeyboardInterrupt when `call` enters its Python function number `first`, and the `second` one after it.

    Returns:
        How many were raised.
    """
    moments, n_calls, n_raised = [first, first + second], 0, 0

    def trace(_frame, event, _argument):
        nonlocal n_calls, n_raised
        if event == "call":
            n_calls += 1
            if moments and n_calls > moments[0]:
                moments.pop(0)
                n_raised += 1
                sys.settrace(trace if moments else None)  # Python has switched it off for the exception
                raise KeyboardInterrupt

    def traced():
        """Handle the first one as a caller does, in a function that is entered while it is handled."""
        sys.settrace(trace)
        try:
            call()
        except KeyboardInterrupt:
            sys.settrace(trace)
            cleared()

    def cleared():
        pass

    old = sys.gettrace()
    try:
        traced()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(old)
    return n_raised


def each_pair(n, prepared, call):
    """Yield what `prepared` returned, after two interruptions of `call` on it, at n pairs of moments."""
    n_functions = 0

    def count(_frame, event, _argument):
        nonlocal n_functions
        n_functions += event == "call"

    subject = prepared()
    sys.settrace(count)
    try:
        call(subject)
    finally:
        sys.settrace(None)
    choose, n_twice = random.Random(n), 0
    for _ in range(n):
        subject = prepared()
        first, second = choose.randrange(n_functions), choose.randrange(1, HANDLING)
        n_twice += interrupted_twice(first, second, lambda: call(subject)) == 2  # noqa: B023 (called at once)
        yield subject
    assert n_twice > n / 10


def conversation_of(model, turns=(), seed=3):
    conversation = Conversation(model, format="plain", opening="", max_tokens=4, temperature=0.7, seed=seed)
    conversation.turns = list(turns)
    return conversation


def assert_continues_like_its_turns(conversation):
    conversation.set("seed", 9)  # ends an unfinished answer, which completes its turn
    rebuilt = conversation_of(conversation.model, conversation.turns, seed=9)
    assert "".join(conversation.say("And then?")) == "".join(rebuilt.say("And then?"))
    assert conversation.turns == rebuilt.turns
    assert_as_fresh(conversation.sequence)


@pytest.mark.parametrize("n", MANY)
@pytest.mark.parametrize("what", ["say", "retry"])
def test_a_conversation_keeps_its_turns(model, what, n):
    first = conversation_of(model)
    for message in ("Hello there.", "What is it?"):
        "".join(first.say(message))
    turns = first.turns

    def call(conversation):
        "".join(conversation.say("More.") if what == "say" else conversation.retry())

    for conversation in each_pair(n, lambda: conversation_of(model, turns), call):
        if what == "say":
            assert conversation.turns[:2] == turns
            assert [turn.user for turn in conversation.turns[2:]] in ([], ["More."])
        else:
            assert conversation.turns[:1] == turns[:1]
            assert [turn.user for turn in conversation.turns] == ["Hello there.", "What is it?"]
        assert_continues_like_its_turns(conversation)


@pytest.mark.parametrize("n", MANY)
def test_a_generation_can_be_continued(model, n):
    prompt = list(b"one two three one two three one two")

    def generation(sequence):
        return Generation(sequence, prompt, SAMPLING, seed=5, max_tokens=9, lookup=True)

    whole = generation(model.sequence())
    whole.text()
    for sequence in each_pair(n, model.sequence, lambda sequence: generation(sequence).text()):
        assert_as_fresh(sequence)
        ids = sequence.tokens + sequence.pending
        sampled = ids[len(prompt) :]
        assert not ids or ids == prompt + whole.tokens[: len(sampled)]
        if ids and len(sampled) < 9:
            rest = Generation(sequence, (), SAMPLING, history=None, max_tokens=9 - len(sampled))
            rest.text()
            assert sampled + rest.tokens == whole.tokens
