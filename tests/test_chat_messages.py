"""model.chat: messages get the same answer as a `Conversation` with the same turns."""

import pytest
from demo import demo_model

from gpt2rt.chat import Conversation, Turn
from gpt2rt.errors import ContextFullError, UsageError

TALK = [("Hello!", "Hello! How are you?"), ("I am  well.\n", "That's good.")]


@pytest.fixture
def model():
    return demo_model()


def message(role, content):
    return {"role": role, "content": content}


def messages(*turns, last="What do you like?", system=None):
    """Return messages in the format of OpenAI's API."""
    found = [] if system is None else [message("system", system)]
    for user, answer in turns:
        found += [message("user", user), message("assistant", answer)]
    return [*found, message("user", last)]


def conversation(model, turns, **options):
    """Return a conversation with these turns."""
    talk = Conversation(model, **options)
    talk.turns = [Turn(talk.format.clean(user), answer, talk.format.answer(answer)) for user, answer in turns]
    return talk


@pytest.mark.parametrize("n_turns", [0, 1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.0, "max_tokens": 5},
        {"temperature": 1.5, "top_k": 3, "user_name": "Ann", "bot_name": "Tom"},
        {"format": "dialogpt"},
        {"format": "raw", "stop": ["."]},
    ],
    ids=str,
)
def test_the_answer_equals_that_of_a_conversation_with_the_same_turns(model, n_turns, options):
    turns = TALK[:n_turns]
    expected = conversation(model, turns, seed=3, **options).say("What do you like?")
    found = model.chat(messages(*turns), seed=3, **options)
    assert "".join(found) == "".join(expected)
    assert found.text == expected.text
    for name in ("finish_reason", "n_dropped", "n_prompt_tokens", "n_tokens"):
        assert getattr(found, name) == getattr(expected, name)


def test_a_past_conversation_continues_the_same_way(model):
    talk = Conversation(model, seed=3, temperature=0.0)
    texts = [talk.say("Hello!").text, talk.say("How are you?").text]
    again = model.chat(messages(("Hello!", texts[0]), last="How are you?"), seed=3, temperature=0.0)
    assert again.text == texts[1]


def test_a_system_message_is_the_opening(model):
    opening = "Tom likes cats."
    found = model.chat(messages(*TALK, system=opening), seed=1)
    expected = conversation(model, TALK, seed=1, opening=opening).say("What do you like?")
    assert "".join(found) == "".join(expected)
    assert found.n_prompt_tokens == expected.n_prompt_tokens
    assert (
        model.chat(messages(system=""), seed=1).text
        == Conversation(model, seed=1, opening="").say("What do you like?").text
    )


def test_a_system_message_together_with_an_opening_is_refused(model):
    with pytest.raises(UsageError, match="messages: got a system message and an opening, expected one of them"):
        model.chat(messages(system="Hi."), opening="Hello.")


def test_text_generates_to_the_end(model):
    whole = model.chat(messages(*TALK), seed=2).text
    answer = model.chat(messages(*TALK), seed=2)
    first = next(answer)
    assert answer.text == whole
    assert whole.startswith(first)
    assert list(answer) == []
    assert answer.text == whole


def test_the_answer_of_a_conversation_need_not_be_iterated(model):
    talk, other = (Conversation(model, seed=4) for _ in range(2))
    for line in ("Hello!", "Who are you?"):
        assert talk.say(line).text == "".join(other.say(line))
    assert talk.turns == other.turns
    assert talk.retry().text == "".join(other.retry())
    assert talk.turns == other.turns
    assert len(talk.turns) == 2


def test_turns_that_do_not_fit_are_dropped(model):
    turns = [(f"This is message number {n}, what do you think of it?", "I like it very much.") for n in range(60)]
    answer = model.chat(messages(*turns), seed=1)
    assert answer.text
    assert 0 < answer.n_dropped < 60


def test_a_last_message_that_does_not_fit_is_refused(model):
    with pytest.raises(ContextFullError, match=r"message: \d+ tokens, the context has room for"):
        model.chat(messages(last="word " * 600))


@pytest.mark.parametrize("kind", [tuple, iter, list])
def test_messages_may_be_any_iterable(model, kind):
    assert model.chat(kind(messages(*TALK)), seed=1).text == model.chat(messages(*TALK), seed=1).text


HI, BYE = message("user", "Hi"), message("user", "Bye")


@pytest.mark.parametrize(
    ("wrong", "number", "role"),
    [
        ([message("assistant", "Hi")], 1, "user"),
        ([message("tool", "Hi")], 1, "user"),
        ([message("system", None), HI], 1, "user"),
        ([message("user", 5)], 1, "user"),
        ([message("user", None)], 1, "user"),
        ([message("user", b"Hi")], 1, "user"),
        ([message("user", [{"type": "text", "text": "Hi"}])], 1, "user"),
        ([{"role": "user"}], 1, "user"),
        ([{"content": "Hi"}], 1, "user"),
        ([{}], 1, "user"),
        (["Hi"], 1, "user"),
        ([None], 1, "user"),
        ([("user", "Hi")], 1, "user"),
        ([HI, BYE], 2, "assistant"),
        ([HI, message("system", "x"), BYE], 2, "assistant"),
        ([message("system", "x"), message("system", "x"), HI], 2, "user"),
        ([message("system", "x"), HI, BYE], 3, "assistant"),
        ([HI, message("assistant", 5), BYE], 2, "assistant"),
    ],
    ids=repr,
)
def test_an_invalid_message_is_refused_with_its_number(model, wrong, number, role):
    with pytest.raises(
        UsageError, match=f"messages: number {number}: got .*, expected role '{role}' and a text as content"
    ):
        model.chat(wrong)


@pytest.mark.parametrize("wrong", [[], [message("system", "x")], [HI, message("assistant", "Hello")]], ids=repr)
def test_messages_that_do_not_end_with_the_user_are_refused(model, wrong):
    with pytest.raises(UsageError, match="messages: expected a user's message as the last one"):
        model.chat(wrong)


@pytest.mark.parametrize("wrong", ["Hi", b"Hi", HI, None, 5], ids=repr)
def test_messages_that_are_not_a_list_are_refused(model, wrong):
    with pytest.raises(UsageError, match=r"messages: got .*, expected a list of messages"):
        model.chat(wrong)


def test_an_empty_last_message_is_refused(model):
    with pytest.raises(UsageError, match="message: it is empty, expected some text"):
        model.chat(messages(last=" \n"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seed": -1}, "seed: got -1"), ({"topk": 1}, "sampling option 'topk'")],
    ids=str,
)
def test_invalid_chat_options_are_refused(model, options, message):
    with pytest.raises(UsageError, match=message):
        model.chat([HI], **options)
