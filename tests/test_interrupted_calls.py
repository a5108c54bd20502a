"""KeyboardInterrupt at the entry of each Python function in turn, the worst moment for a signal."""

import functools
import gc
import itertools
import sys

import pytest
from expected_sequence import assert_as_fresh
from random_models import random_tensors, write_model

import gpt2rt
from gpt2rt.chat import Conversation
from gpt2rt.generate import Generation
from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=257, n_ctx=512, n_embd=16, n_head=2, n_layer=1)
SAMPLING = gpt2rt.SamplingParams(temperature=1.5, repetition_penalty=1.3)


@pytest.fixture(autouse=True, scope="module")
def nothing_to_collect():
    """What earlier tests left would run code of its own when freed, which would take the interruption."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("model") / "random.bin", SHAPE, random_tensors(SHAPE))
    return gpt2rt.open_model(path, n_threads=1)


def interrupted_at(n, call):
    """Call it, and raise KeyboardInterrupt when it enters its n-th Python function; return whether it got there.

    An interruption while a generator is freed reaches no caller, only the hook for such exceptions.
    """
    left, unraisable = n, []

    def trace(_frame, event, _argument):
        nonlocal left
        if event != "call":
            return
        left -= 1
        if left < 0:
            sys.settrace(None)
            raise KeyboardInterrupt

    old, old_hook = sys.gettrace(), sys.unraisablehook
    sys.unraisablehook = lambda failure: unraisable.append(failure.exc_type)
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(old)
        sys.unraisablehook = old_hook
    assert left >= 0 or unraisable == [KeyboardInterrupt], "the interruption was swallowed"
    return left < 0


def each_interruption(prepared, call):
    """Yield the result of `prepared`, each time after `call` on it was interrupted at a later function."""
    for n in itertools.count():
        subject = prepared()
        if not interrupted_at(n, functools.partial(call, subject)):
            assert n > 0
            return
        yield subject


# --- texts


@pytest.mark.parametrize("lookup", [False, True])
def test_an_interrupted_generation_can_be_continued(model, lookup):
    prompt = list(b"one two three one two three one two")

    def generation(sequence):
        return Generation(sequence, prompt, SAMPLING, seed=5, max_tokens=9, lookup=lookup)

    whole = generation(model.sequence())
    whole.text()
    assert len(whole.tokens) == 9
    for sequence in each_interruption(model.sequence, lambda sequence: generation(sequence).text()):
        assert_as_fresh(sequence)
        ids = sequence.tokens + sequence.pending
        if not ids:
            continue  # not even the prompt
        sampled = ids[len(prompt) :]
        assert ids == prompt + whole.tokens[: len(sampled)]
        if len(sampled) < 9:
            rest = Generation(sequence, (), SAMPLING, history=None, max_tokens=9 - len(sampled))
            rest.text()
            assert sampled + rest.tokens == whole.tokens


def test_an_interrupted_batch_keeps_the_tokens_before_it(model):
    prompts = ["one two", "three", "four five six"]

    def batch():
        return model.generate_batch(prompts, max_tokens=4, seed=3, batch_size=2, sampling=SAMPLING)

    whole = batch()
    pieces = list(whole)
    expected = [continuation.tokens for continuation in whole.continuations]

    def read(found):
        found.append(batch())
        for _ in found[0]:
            pass

    for found in each_interruption(list, read):
        for one in found:
            for continuation, tokens in zip(one.continuations, expected, strict=True):
                if continuation is not None:
                    assert continuation.tokens == tokens[: len(continuation.tokens)]
                    assert_as_fresh(continuation.sequence)
    assert list(batch()) == pieces


# --- conversations

MESSAGES = ["Hello there.", "What is it?"]
OPTIONS = [
    pytest.param({"temperature": 0.7}, id="sampled"),
    pytest.param({"temperature": 0.7, "format": "raw"}, id="raw"),
]


def conversation_of(model, options, turns=(), seed=3):
    conversation = Conversation(model, **{"format": "plain", "opening": "", "max_tokens": 4, **options}, seed=seed)
    conversation.turns = list(turns)
    return conversation


def turns_of(model, options):
    conversation = conversation_of(model, options)
    for message in MESSAGES:
        "".join(conversation.say(message))
    return conversation.turns


def assert_continues_like_its_turns(conversation, options):
    conversation.set("seed", 9)  # ends an unfinished answer, which completes its turn
    rebuilt = conversation_of(conversation.model, options, conversation.turns, seed=9)
    assert "".join(conversation.say("And then?")) == "".join(rebuilt.say("And then?"))
    assert conversation.turns == rebuilt.turns
    assert_as_fresh(conversation.sequence)


@pytest.mark.parametrize("options", OPTIONS)
def test_an_interrupted_answer_keeps_the_turns(model, options):
    turns = turns_of(model, options)
    whole = "".join(conversation_of(model, options, turns).say("More."))
    for conversation in each_interruption(
        lambda: conversation_of(model, options, turns), lambda conversation: "".join(conversation.say("More."))
    ):
        kept, new = conversation.turns[:2], conversation.turns[2:]
        assert kept == turns
        for turn in new:
            assert turn.user == "More."
            assert whole.startswith(turn.answer)
        assert len(new) <= 1
        assert_continues_like_its_turns(conversation, options)


@pytest.mark.parametrize("options", OPTIONS)
def test_an_interrupted_retry_keeps_the_turns(model, options):
    turns = turns_of(model, options)
    whole = "".join(conversation_of(model, options, turns).retry())
    for conversation in each_interruption(
        lambda: conversation_of(model, options, turns), lambda conversation: "".join(conversation.retry())
    ):
        assert conversation.turns[:1] == turns[:1]
        assert [turn.user for turn in conversation.turns] == MESSAGES
        assert conversation.turns == turns or whole.startswith(conversation.turns[1].answer)
        assert_continues_like_its_turns(conversation, options)


@pytest.mark.parametrize("call", [Conversation.undo, Conversation.reset], ids=["undo", "reset"])
def test_an_interrupted_undo_or_reset_is_complete_or_has_no_effect(model, call):
    turns = turns_of(model, {})
    after = conversation_of(model, {}, turns)
    call(after)
    for conversation in each_interruption(lambda: conversation_of(model, {}, turns), call):
        assert conversation.turns in (turns, after.turns)
        assert_continues_like_its_turns(conversation, {})


@pytest.fixture(params=[20, 700])
def garbage_collection(request):
    """Collects garbage often and rarely: what it closes must not change a conversation."""
    before = gc.get_threshold()
    gc.set_threshold(request.param)
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("garbage_collection")
def test_an_interruption_while_closing_an_unfinished_answer_loses_no_earlier_turn(model):
    turns = turns_of(model, {})

    def begun():
        conversation = conversation_of(model, {}, turns)
        next(conversation.say("More."))
        return conversation

    for conversation in each_interruption(begun, lambda conversation: "".join(conversation.say("Again."))):
        assert conversation.turns[:2] == turns
        assert_continues_like_its_turns(conversation, {})
