"""POST /v1/chat/completions: the answers of gpt2rt chat, for the conversations that clients send."""

import pytest
from conversations import open_byte_model
from demo import demo_model
from serving import serving, together

HELLO = {"role": "user", "content": "Hello!"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving({"demo": demo_model(), "bytes": open_byte_model(tmp_path_factory.mktemp("model"), 300)}) as server:
        yield server


def ask(server, messages, **fields):
    return server.post("/v1/chat/completions", {"model": "demo", "messages": messages, **fields})


def answers(answer):
    assert answer.status == 200, answer.content
    return [choice["message"]["content"] for choice in answer.json["choices"]]


def library_answer(messages, **options):
    return demo_model().chat(messages, **options).text


class TestAnswers:
    @pytest.mark.parametrize("seed", range(3))
    def test_an_answer_is_that_of_the_library(self, server, seed):
        messages = [HELLO]
        for message in ("How are you?", "Tell me a joke.", "Tell me a joke."):  # the last one is sampled again
            [answer] = answers(ask(server, messages, seed=seed))
            assert answer == library_answer(messages, seed=seed)
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": message}]

    def test_its_form_is_that_of_openai(self, server):
        answer = ask(server, [HELLO], seed=1).json
        [choice] = answer["choices"]
        assert answer["object"] == "chat.completion"
        assert choice["message"]["role"] == "assistant"
        assert choice["finish_reason"] == "stop"
        assert answer["seed"] == 1
        assert (
            answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + answer["usage"]["completion_tokens"]
        )

    def test_options_mean_what_they_mean_in_the_library(self, server):
        options = {"temperature": 1.2, "top_k": 5, "max_tokens": 7, "stop": ["!"], "presence_penalty": 1}
        assert answers(ask(server, [HELLO], seed=2, **options)) == [library_answer([HELLO], seed=2, **options)]

    def test_max_completion_tokens_is_max_tokens(self, server):
        answer = ask(server, [HELLO], seed=1, max_completion_tokens=2)
        assert answer.json["usage"]["completion_tokens"] == 2
        assert answer.json["choices"][0]["finish_reason"] == "length"

    def test_more_tokens_than_the_context_has_are_an_upper_bound(self, server):
        assert answers(ask(server, [HELLO], seed=1, max_tokens=100_000)) == [
            library_answer([HELLO], seed=1, max_tokens=512)
        ]

    def test_choices_count_up_the_seed(self, server):
        expected = [library_answer([HELLO], seed=seed) for seed in (5, 6, 7)]
        assert answers(ask(server, [HELLO], seed=5, n=3)) == expected

    def test_no_answer_depends_on_what_else_is_generated(self, server):
        messages = [[{"role": "user", "content": text}] for text in ("Hello!", "What is your name?", "Why?", "1 + 1?")]
        alone = [answers(ask(server, one, seed=i)) for i, one in enumerate(messages)]
        calls = [lambda i=i, one=one: answers(ask(server, one, seed=i)) for i, one in enumerate(messages)]
        assert together(calls * 5) == alone * 5

    def test_the_next_turn_evaluates_only_what_is_new(self, server):
        messages = [{"role": "user", "content": "I have a dog, and his name is Rex. Yesterday we went to the lake."}]
        for message in ("He loves the water.", "Do you remember his name?"):
            [answer] = answers(ask(server, messages, seed=3))
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": message}]
        usage = ask(server, messages, seed=3).json["usage"]
        n_new = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
        assert n_new < len(demo_model().tokenizer.encode("User: Do you remember his name?\nBot:")) + 4


class TestMessages:
    def test_content_can_be_blocks_of_text(self, server):
        blocks = [{"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "you!"}]}]
        assert answers(ask(server, blocks, seed=1)) == answers(
            ask(server, [{"role": "user", "content": "Hello\nyou!"}], seed=1)
        )

    @pytest.mark.parametrize("role", ["system", "developer"])
    def test_system_messages_become_the_opening(self, server, role):
        system = [{"role": role, "content": "User: I am Tom."}, {"role": role, "content": "Bot: Hi Tom."}]
        expected = demo_model().chat([HELLO], opening="User: I am Tom.\nBot: Hi Tom.", seed=4).text
        assert answers(ask(server, [*system, HELLO], seed=4)) == [expected]

    def test_messages_of_one_role_in_a_row_become_one(self, server):
        found = answers(ask(server, [HELLO, {"role": "user", "content": "Are you there?"}], seed=1))
        assert found == [library_answer([{"role": "user", "content": "Hello! Are you there?"}], seed=1)]

    def test_keys_that_clients_add_to_messages_are_ignored(self, server):
        assert answers(ask(server, [{**HELLO, "id": 7, "name": "Tom"}], seed=1)) == answers(
            ask(server, [HELLO], seed=1)
        )

    @pytest.mark.parametrize(
        ("messages", "param"),
        [
            ([], "messages"),
            ([{"role": "assistant", "content": "Hello!"}], "messages[0].role"),
            ([HELLO, {"role": "assistant", "content": "Hello!"}], "messages"),
            ([HELLO, {"role": "system", "content": "Be kind."}], "messages[1].role"),
            ([{"role": "tool", "content": "7"}], "messages[0].role"),
            ([{"role": "system", "content": "Be kind."}], "messages"),
            ([{"role": "user"}], "messages[0].content"),
            ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "messages[0].content[0].type"),
            ([{"role": "user", "content": 7}], "messages[0].content"),
            ([{"content": "Hello!"}], "messages[0].role"),
            ([{"role": "user", "content": " \n"}], "messages"),
            ("Hello!", "messages"),
        ],
    )
    def test_messages_that_make_no_conversation_are_refused(self, server, messages, param):
        error = ask(server, messages).error
        assert (error["status"], error["param"]) == (400, param)

    def test_an_opening_that_is_too_long_is_refused(self, server):
        error = ask(server, [{"role": "system", "content": "word " * 400}, HELLO]).error
        assert (error["status"], error["param"]) == (400, "messages")


LONG = [{"role": ("user", "assistant")[i % 2], "content": f"Word {i} and more words."} for i in range(121)]


class TestLongConversations:
    def test_one_that_does_not_fit_is_refused(self, server):
        error = ask(server, LONG).error
        assert (error["status"], error["param"], error["code"]) == (400, "messages", "context_length_exceeded")
        assert "truncation" in error["message"]

    def test_truncation_drops_its_oldest_turns(self, server):
        found = answers(ask(server, LONG, truncation="auto", seed=1))
        assert found == [library_answer(LONG, seed=1)]

    def test_a_server_can_truncate_by_default(self):
        with serving({"demo": demo_model()}, truncation="auto") as server:
            assert ask(server, LONG, seed=1).status == 200
            assert ask(server, LONG, seed=1, truncation="disabled").status == 400

    def test_a_message_that_never_fits_is_refused(self, server):
        message = {"role": "user", "content": "word " * 700}
        error = ask(server, [message], truncation="auto").error
        assert (error["status"], error["param"], error["code"]) == (400, "messages", "context_length_exceeded")


class TestStreams:
    @pytest.mark.parametrize("seed", range(4))
    def test_the_pieces_make_the_answer(self, server, seed):
        messages = [HELLO, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Tell me a story."}]
        first, *events = ask(server, messages, seed=seed, stream=True).events
        assert first["choices"][0]["delta"] == {"content": "", "role": "assistant"}
        assert {event["object"] for event in events} == {"chat.completion.chunk"}
        pieces = [event["choices"][0]["delta"].get("content", "") for event in events]
        assert ["".join(pieces)] == answers(ask(server, messages, seed=seed))
        assert [event["choices"][0]["finish_reason"] for event in events] == [None] * (len(events) - 1) + ["stop"]

    def test_choices_and_usage(self, server):
        fields = {"n": 2, "seed": 5, "stream": True, "stream_options": {"include_usage": True}}
        *events, last = ask(server, [HELLO], **fields).events
        texts = {0: "", 1: ""}
        for event in events:
            assert event["usage"] is None
            texts[event["choices"][0]["index"]] += event["choices"][0]["delta"].get("content", "")
        assert list(texts.values()) == answers(ask(server, [HELLO], n=2, seed=5))
        assert (last["choices"], last["usage"]["prompt_tokens"]) == (
            [],
            ask(server, [HELLO]).json["usage"]["prompt_tokens"],
        )


class TestLogprobs:
    def test_each_token_has_its_bytes_and_the_most_likely_ones(self, server):
        [choice] = ask(server, [HELLO], seed=1, logprobs=True, top_logprobs=3).json["choices"]
        content = choice["logprobs"]["content"]
        text = b"".join(bytes(token["bytes"]) for token in content).decode()
        assert text.strip() == choice["message"]["content"]
        for token in content:
            assert len(token["top_logprobs"]) == 3
            values = [other["logprob"] for other in token["top_logprobs"]]
            assert values == sorted(values, reverse=True)
            assert token["logprob"] <= values[0]

    def test_a_stream_has_the_same_ones(self, server):
        fields = {"seed": 1, "logprobs": True}
        [choice] = ask(server, [HELLO], **fields).json["choices"]
        found = []
        for event in ask(server, [HELLO], stream=True, **fields).events:
            found += (event["choices"][0]["logprobs"] or {"content": []})["content"]
        assert found == choice["logprobs"]["content"]

    def test_too_many_are_refused(self, server):
        fields = {"n": 128, "max_tokens": 500, "logprobs": True, "top_logprobs": 20}
        assert ask(server, [HELLO], **fields).error["param"] == "top_logprobs"

    def test_there_are_none_unless_wanted(self, server):
        assert ask(server, [HELLO]).json["choices"][0]["logprobs"] is None


class TestContinuing:
    def test_an_answer_is_continued_where_it_ended(self, server):
        fields = {"seed": 3, "temperature": 0, "repetition_penalty": 1, "no_repeat_ngram_size": 0}
        question = {"role": "user", "content": "Tell me about the sea, please."}
        [whole] = answers(ask(server, [question], **fields))
        for n_words in (1, 2):
            begun = " ".join(whole.split()[:n_words])
            messages = [question, {"role": "assistant", "content": begun}]
            [rest] = answers(ask(server, messages, continue_final_message=True, **fields))
            assert (begun + rest).strip() == whole
            streamed = ask(server, messages, continue_final_message=True, stream=True, **fields).events
            assert "".join(event["choices"][0]["delta"].get("content", "") for event in streamed) == rest

    def test_there_must_be_one(self, server):
        assert ask(server, [HELLO], continue_final_message=True).error["param"] == "messages"
        empty = [HELLO, {"role": "assistant", "content": ""}]
        assert ask(server, empty, continue_final_message=True).error["param"] == "messages"

    def test_one_that_fills_the_context_is_refused(self, server):
        full = [HELLO, {"role": "assistant", "content": "word " * 600}]
        error = ask(server, full, continue_final_message=True).error
        assert (error["param"], error["code"]) == ("messages", "context_length_exceeded")
