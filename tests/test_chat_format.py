"""Chat formats: what the model reads of a conversation's turns, names and opening."""

import re

import pytest
from conversations import open_byte_model, say, shown_to
from demo import DEMO, demo_model

from gpt2rt._chat import ChatFormat
from gpt2rt.chat import Conversation
from gpt2rt.errors import UsageError
from gpt2rt.model import open_model
from gpt2rt.modelfile import ModelFile
from gpt2rt.modelfile.writer import Writer


@pytest.fixture
def model():
    return demo_model()


@pytest.fixture
def conversation(model):
    return Conversation(model, opening="", seed=1)


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory):
    """A random model with a token for each byte and an end of text, and nothing about chat in its file."""
    return open_byte_model(tmp_path_factory.mktemp("model"), n_ctx=4096)


def test_plain_turns_are_lines_with_names(conversation):
    first = say(conversation, "Hello!").text
    say(conversation, "How are you?")
    assert shown_to(conversation).startswith(f"User: Hello!\nBot: {first}\nUser: How are you?\nBot:")


PLACEHOLDER = re.compile(r"[(\[{<][^)\]}>]*[)\]}>]")  # such as (name), which the model has read in its texts


@pytest.mark.parametrize("n_seeds", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_the_bundled_model_gives_its_name_and_no_placeholder(model, n_seeds):
    found = []
    for seed in range(n_seeds):
        conversation = Conversation(model, seed=seed)
        texts = [conversation.say(message).text for message in ("Hello!", "What's your name?")]
        found += [text for text in texts if PLACEHOLDER.search(text)]
    assert found == []


def test_an_answer_is_one_line_without_names(conversation):
    for message in ("Hi!", "What do you like?", "Tell me a joke.", "Why?"):
        text = say(conversation, message).text
        assert text
        assert text == text.strip()
        assert "\n" not in text
        assert "User:" not in text


def test_names_and_opening_can_be_overridden(model):
    conversation = Conversation(
        model, user_name="Ann", bot_name="Tom", opening="Tom likes cats.", seed=1, temperature=0.5
    )
    say(conversation, "Hello!")
    assert shown_to(conversation).startswith("Tom likes cats.\nAnn: Hello!\nTom:")


def test_a_file_without_chat_gets_an_opening_with_example_turns(byte_model):
    chat = Conversation(byte_model).format
    assert chat.is_scene
    assert chat.opening.count("\nEmma: ") == chat.opening.count("\nSam: ") >= 4
    assert chat.opening.endswith("\n")


@pytest.mark.parametrize("format", ["dialogpt", "raw"])
def test_only_a_scene_gives_the_speakers_the_names_of_people(model, byte_model, format):
    chat = Conversation(byte_model if format == "raw" else model, format=format).format
    assert (chat.user_name, chat.bot_name, chat.is_scene) == ("User", "Bot", False)


@pytest.mark.parametrize("n_ctx", [16, 512, 1024])
def test_a_small_context_gets_fewer_example_turns(tmp_path, n_ctx):
    model = open_byte_model(tmp_path, n_ctx)
    chat = Conversation(model).format
    assert len(chat.opening_tokens) <= n_ctx // 2
    assert chat.opening.count("\nSam: ") == chat.opening.count("\nEmma: ")


def test_an_empty_opening_is_respected(byte_model, model):
    assert Conversation(byte_model, opening="").format.opening_tokens == []
    assert Conversation(model, opening="").format.opening_tokens == []


@pytest.fixture(scope="module")
def opened_model(tmp_path_factory):
    """The bundled model, with an opening in its file."""
    demo_model()
    path = tmp_path_factory.mktemp("model") / "opened.bin"
    file = ModelFile(DEMO)
    chat = {**file.metadata["chat"], "opening": "User: Who are you?\nBot: I'm Bot, a little program that talks.\n"}
    shape = file.hyperparameters, file.weight_type, file.group_size
    vocabulary, weights = bytes(file.sections["vocabulary"]), file.sections["weights"]
    with Writer(path, *shape, {**file.metadata, "chat": chat}, vocabulary, is_tied=file.is_tied) as writer:
        for tensor in writer.tensors:
            writer.write_tensor([weights[tensor.offset : tensor.offset + tensor.length]])
    return open_model(path, n_threads=1)


def test_an_opening_from_the_file_has_the_names_of_the_conversation(opened_model):
    model = opened_model
    chat = Conversation(model, user_name="Ann", bot_name="Tom").format
    assert chat.opening == "Ann: Who are you?\nTom: I'm Tom, a little program that talks.\n"
    assert Conversation(model, bot_name="Tom", opening="I am Bot.").format.opening == "I am Bot."


@pytest.mark.parametrize("format", ["dialogpt", "raw"])
def test_an_opening_from_the_file_is_for_its_own_format(opened_model, format):
    model = opened_model
    assert Conversation(model, format=format).format.opening == ""


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("Bot: Robots, Bot!", {"Bot": "Al"}, "Al: Robots, Al!"),
        ("A: Hi B!", {"A": "B", "B": "A"}, "B: Hi A!"),
        ("A.B: Hi AxB!", {"A.B": r"\1"}, r"\1: Hi AxB!"),
        ("A: Hi Ann!", {"A": "B", "Ann": "C"}, "B: Hi C!"),
        ("ab: a!", {"a": "B", "ab": "C"}, "C: B!"),
        ("A_ éA A² _A A.", {"A": "B"}, "A_ éA A² _A B."),
        ("-A A-A", {"-A": "B"}, "B A-A"),
        ("A- A-A", {"A-": "B", "A": "C"}, "B C-C"),
        ("\ud800A A\udfff", {"A": "B"}, "\ud800B B\udfff"),
    ],
)
def test_names_are_replaced_as_whole_words(byte_model, text, names, expected):
    (user_name, new_user_name), (bot_name, new_bot_name) = [*names.items(), ("never", "Never")][:2]
    own = {"opening": text, "user_name": user_name, "bot_name": bot_name}
    options = {"user_name": new_user_name, "bot_name": new_bot_name}
    assert ChatFormat(byte_model.tokenizer, 4096, own, options).opening == expected


def test_of_equal_names_the_second_is_replaced(byte_model):
    own = {"opening": "A, A", "user_name": "A", "bot_name": "A"}
    assert ChatFormat(byte_model.tokenizer, 4096, own, {"user_name": "B", "bot_name": "C"}).opening == "C, C"


def test_dialogpt_turns_are_separated_by_end_of_text(model):
    conversation = Conversation(model, format="dialogpt", opening="Hi.\nHello.", seed=1)
    encode, end = model.tokenizer.encode, model.tokenizer.bos_token_id
    answer = conversation.say("How are you?")
    next(answer)
    read = [*encode("Hi."), end, *encode("Hello."), end, *encode("How are you?"), end]
    assert conversation.sequence.tokens[: len(read)] == read


def test_dialogpt_is_shown_the_last_turns_only(model):
    conversation = Conversation(model, format="dialogpt", seed=1, max_tokens=5)
    for n in range(9):
        say(conversation, f"Message {n}.")
    assert [f"Message {n}." in shown_to(conversation) for n in range(9)] == [False] * 3 + [True] * 6


def test_raw_continues_what_was_typed(model):
    conversation = Conversation(model, format="raw", seed=3, max_tokens=20)
    first = say(conversation, "Once upon a time\n\n").text
    say(conversation, " and then")
    assert shown_to(conversation).startswith(f"Once upon a time\n\n{first} and then")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "alpaca"}, "chat format 'alpaca': expected one of plain, dialogpt, template, raw"),
        ({"user_name": "a\nb"}, r"user_name: got 'a\\nb', expected 1 to 40 characters in one line, no colon"),
        ({"bot_name": ""}, "bot_name: got '', expected 1 to 40 characters"),
        ({"bot_name": "\x1b[2J"}, "bot_name: got "),
        ({"opening": "word " * 400}, "opening: .* tokens, expected at most 256, half of the model's context"),
        ({"max_tokens": 0}, "max_tokens: got 0, expected a whole number from 1 to 512"),
        ({"top_p": 2}, "top_p: got 2"),
        ({"stop": [""]}, "stop: got ''"),
        ({"seed": -1}, "seed: got -1"),
    ],
    ids=str,
)
def test_options_that_cant_be_used_are_refused(model, options, message):
    with pytest.raises(UsageError, match=message):
        Conversation(model, **options)


def test_what_holds_the_turns_together_is_exempt_from_penalties(model, byte_model):
    chat, tokenizer = Conversation(model).format, model.tokenizer
    assert {*tokenizer.encode("\n"), *tokenizer.encode("User"), *tokenizer.encode("Bot")} <= chat.exempt
    assert tokenizer.bos_token_id in chat.exempt
    # With a token for each byte, a name's tokens are other words' letters.
    letters = {*byte_model.tokenizer.encode("abcdefghijklmnopqrstuvwxyzES")}
    assert not letters & Conversation(byte_model).format.exempt
