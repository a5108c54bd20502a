"""Drafts: several answers are sampled together, and a conversation takes the best."""

import signal

import numpy as np
import pytest
from conversations import open_byte_model, say
from demo import demo_model

from gpt2rt.chat import MAX_BATCH, Conversation
from gpt2rt.drafts import best_answer, sampled_together
from gpt2rt.errors import UsageError
from gpt2rt.reply import words_of
from gpt2rt.sampling import SamplingParams

N = 6


@pytest.fixture
def conversation():
    return Conversation(demo_model(), seed=1, drafts=N)


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory):
    """A random model with few positions: its answers continue until the context is full."""
    return open_byte_model(tmp_path_factory.mktemp("model"), n_ctx=300)


def drafts_for(conversation, message):
    sequence = conversation.model.sequence()
    prompt = conversation.format.prompt(message)
    drafts, _ = sampled_together(
        sequence, prompt, SamplingParams(), range(5, 5 + N), max_tokens=40, stop=("\n",), history=()
    )
    return drafts


def test_drafts_are_different_texts_with_their_own_sequences(conversation):
    prompt, drafts = conversation.format.prompt("What do you like?"), drafts_for(conversation, "What do you like?")
    assert len({draft.text for draft in drafts}) > 1
    for draft in drafts:
        assert draft.continuation.finish_reason == "stop"
        assert draft.continuation.sequence.tokens == prompt + draft.continuation.tokens[:-1]


def test_the_best_draft_makes_the_message_most_likely(conversation):
    model, form, message = conversation.model, conversation.format, "Do you like music?"
    drafts = drafts_for(conversation, message)
    found = []
    for draft in drafts:
        sequence, total = model.sequence(), 0.0
        sequence.append(form.prompt(draft.text.strip()))
        for token in form.answer(message) + form.closing_tokens:
            logits = sequence.logits.astype(np.float64)
            total += logits[token] - np.log(np.exp(logits).sum())
            sequence.append([token])
        found.append(total)
    assert best_answer(form, message, drafts) is drafts[int(np.argmax(found))]


def test_the_next_answer_follows_the_best_draft(conversation):
    first = say(conversation, "Hello!").text
    say(conversation, "How are you?")
    tokens = conversation.sequence.tokens
    text = conversation.model.tokenizer.decode(tokens)
    assert text.startswith(f"{conversation.format.opening}User: Hello!\nBot: {first}\nUser: How are you?\nBot:")
    fresh = conversation.model.sequence()
    fresh.append(tokens)
    assert (conversation.sequence.logits == fresh.logits).all()


def test_only_new_tokens_are_read(conversation):
    say(conversation, "Hello!")
    known = len(conversation.sequence)
    answer = say(conversation, "How are you?")
    asked = conversation.format.prompt("How are you?")
    assert answer.n_prompt_tokens <= len(asked) + 2  # plus the end of the last answer, not yet evaluated
    assert len(conversation.sequence) > known + len(asked)


def test_the_same_seed_gives_the_same_conversation():
    talks = [Conversation(demo_model(), seed=7, drafts=N) for _ in range(2)]
    answers = [[say(talk, message).text for message in ("Hi!", "Who are you?", "Why?")] for talk in talks]
    assert answers[0] == answers[1]


def test_no_answer_is_given_twice(conversation):
    answers = [words_of(say(conversation, "Tell me a joke.").text) for _ in range(5)]
    assert len(set(answers)) == 5
    last = words_of("".join(conversation.retry()))
    assert last not in answers


def test_drafts_end_with_the_context(byte_model):
    conversation = Conversation(byte_model, format="plain", opening="", seed=1, drafts=4, max_tokens=300)
    answer = say(conversation, "x" * 80)
    assert (answer.finish_reason, len(conversation.sequence)) == ("length", 300)
    assert "\n" not in answer.text


def test_a_message_as_long_as_the_context_can_be_scored(byte_model):
    conversation = Conversation(byte_model, format="plain", opening="", seed=1, drafts=4, max_tokens=10)
    say(conversation, "x" * 270)
    assert len(conversation.turns) == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer()")
def test_ctrl_c_while_drafts_are_sampled_discards_the_message(byte_model):
    conversation = Conversation(byte_model, format="plain", opening="", seed=1, drafts=MAX_BATCH, max_tokens=300)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        answer = conversation.say("x")

        def interrupted():
            signal.setitimer(signal.ITIMER_REAL, 0.001)
            list(answer)

        with pytest.raises(KeyboardInterrupt):
            interrupted()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (answer.finish_reason, answer.text, conversation.turns) == ("interrupted", "", [])


@pytest.mark.parametrize("drafts", [0, -1, MAX_BATCH + 1, True, 2.0])
def test_an_invalid_number_of_drafts_is_refused(drafts):
    with pytest.raises(UsageError, match=f"drafts: got {drafts}, expected a whole number from 1 to 16"):
        Conversation(demo_model(), drafts=drafts)


def test_drafts_in_the_raw_format_are_refused():
    with pytest.raises(UsageError, match="drafts: chat format 'raw' has no messages to choose by"):
        Conversation(demo_model(), format="raw", drafts=2)
