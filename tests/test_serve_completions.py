"""POST /v1/completions: the same texts and numbers as from the library, whatever else the server does."""

import pytest
from conversations import open_byte_model
from demo import demo_model
from serving import serving, together

from gpt2rt.sampling import SamplingParams

STORY = "Once upon a time"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {"demo": demo_model(), "bytes": open_byte_model(tmp_path_factory.mktemp("model"), 300)}


@pytest.fixture(scope="module")
def server(models):
    with serving(models) as server:
        yield server


def complete(server, prompt, **fields):
    answer = server.complete(prompt, model="demo", **fields)
    assert answer.status == 200, answer.content
    return answer.json


def texts(answer):
    return [choice["text"] for choice in sorted(answer["choices"], key=lambda choice: choice["index"])]


class TestTexts:
    def test_the_text_is_that_of_the_library(self, server, models):
        expected = models["demo"].generate(STORY, max_tokens=40, seed=7)
        answer = complete(server, STORY, max_tokens=40, seed=7)
        assert texts(answer) == [expected.text()]
        assert answer["seed"] == 7
        assert answer["choices"][0]["finish_reason"] == expected.finish_reason
        assert answer["usage"]["prompt_tokens"] == expected.n_prompt_tokens
        assert answer["usage"]["completion_tokens"] == expected.n_tokens
        assert answer["usage"]["total_tokens"] == expected.n_prompt_tokens + expected.n_tokens

    @pytest.mark.parametrize(
        "options",
        [
            {"temperature": 0},
            {"temperature": 1.5, "top_k": 0, "top_p": 1},
            {"top_k": 3},
            {"top_p": 0.5},
            {"min_p": 0.2},
            {"repetition_penalty": 1.3, "repeat_last_n": 20},
            {"no_repeat_ngram_size": 2},
            {"presence_penalty": 1.5},
            {"frequency_penalty": -1},
            {"logit_bias": {"11": 5.5, "13": -100}},
            {"stop": "."},
            {"stop": [",", " the"]},
        ],
    )
    def test_every_option_means_what_it_means_in_the_library(self, server, models, options):
        own = {**options}
        if "logit_bias" in own:
            own["logit_bias"] = {int(token): bias for token, bias in own["logit_bias"].items()}
        expected = models["demo"].generate(STORY, max_tokens=40, seed=3, **own).text()
        assert texts(complete(server, STORY, max_tokens=40, seed=3, **options)) == [expected]

    def test_no_text_depends_on_what_else_is_generated(self, server):
        asked = [
            {"prompt": prompt * k, "seed": i, "max_tokens": 5 + 3 * i, "temperature": 0.5 + 0.1 * i}
            for i, (prompt, k) in enumerate([(STORY, 1), ("User: Hello!\nBot:", 9), ("The ", 60), ("a b c ", 40)] * 6)
        ]
        alone = [texts(complete(server, **fields)) for fields in asked]
        at_once = together([lambda fields=fields: texts(complete(server, **fields)) for fields in asked])
        assert at_once == alone

    def test_choices_count_up_the_seed(self, server):
        answer = complete(server, [STORY, "The dog"], n=3, seed=5, max_tokens=9)
        expected = [complete(server, STORY if i < 3 else "The dog", seed=5 + i, max_tokens=9) for i in range(6)]
        assert [choice["index"] for choice in answer["choices"]] == list(range(6))
        assert texts(answer) == [texts(one)[0] for one in expected]

    def test_a_prompt_that_several_choices_continue_is_evaluated_once(self, server):
        evaluated = server.metric("prompt_tokens_total") - server.metric("cached_prompt_tokens_total")
        answer = complete(server, "Something about nothing, and " * 20, n=4, max_tokens=2)
        n_prompt = answer["usage"]["prompt_tokens"]
        assert n_prompt > 64
        after = server.metric("prompt_tokens_total") - server.metric("cached_prompt_tokens_total")
        assert after - evaluated == n_prompt + 3  # each choice evaluates the last token

    def test_ids_are_prompts_too(self, server, models):
        ids = models["demo"].tokenizer.encode(STORY)
        expected = texts(complete(server, STORY, seed=1, max_tokens=9))
        assert texts(complete(server, ids, seed=1, max_tokens=9)) == expected
        assert texts(complete(server, [ids], seed=1, max_tokens=9)) == expected

    @pytest.mark.parametrize("prompt", [None, "", [], "<|endoftext|>"])
    def test_an_empty_prompt_starts_a_document(self, server, models, prompt):
        expected = models["demo"].generate("", seed=4, max_tokens=9).text()
        prompts = [prompt] if prompt == [] else prompt
        assert texts(complete(server, prompts, seed=4, max_tokens=9)) == [expected]

    def test_without_a_seed_one_is_chosen_and_returned(self, server):
        answers = [complete(server, STORY, max_tokens=30) for _ in range(3)]
        assert len({answer["seed"] for answer in answers}) == 3
        for answer in answers:
            assert texts(complete(server, STORY, max_tokens=30, seed=answer["seed"])) == texts(answer)

    def test_the_largest_seed(self, server, models):
        most = 2**64 - 1
        answer = complete(server, STORY, n=2, seed=most, max_tokens=9)
        expected = [models["demo"].generate(STORY, seed=seed, max_tokens=9).text() for seed in (most, 0)]
        assert (answer["seed"], texts(answer)) == (most, expected)

    def test_a_text_ends_where_the_context_does(self, server, models):
        prompt = models["demo"].tokenizer.encode("The dog and " * 200)[:510]
        answer = complete(
            server, prompt, max_tokens=1000, logit_bias={str(models["demo"].tokenizer.bos_token_id): -100}
        )
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 3  # the last one needs no position

    def test_a_full_prompt_has_one_more_token(self, server):
        assert complete(server, [5] * 512, max_tokens=3)["usage"]["completion_tokens"] == 1

    def test_a_prompt_that_does_not_fit_is_refused(self, server):
        error = server.complete([5] * 513, model="demo").error
        assert error["status"] == 400
        assert error["param"] == "prompt"
        assert error["code"] == "context_length_exceeded"
        assert "513 tokens" in error["message"]

    def test_a_text_that_can_not_fit_is_refused_without_being_encoded(self, server):
        error = server.complete("word " * 500_000, model="demo").error
        assert (error["param"], error["code"]) == ("prompt", "context_length_exceeded")

    def test_echo_repeats_the_prompt(self, server):
        plain = complete(server, [STORY, "<|endoftext|>a"], seed=2, max_tokens=5)
        echo = complete(server, [STORY, "<|endoftext|>a"], seed=2, max_tokens=5, echo=True)
        assert texts(echo) == [STORY + texts(plain)[0], "<|endoftext|>a" + texts(plain)[1]]

    def test_the_beginning_of_an_earlier_text_is_not_evaluated_again(self, server):
        prompt = "It was the best of times, it was the worst of times. " * 4
        first = complete(server, prompt, seed=1, max_tokens=20)
        longer = prompt + first["choices"][0]["text"]
        second = complete(server, longer, seed=2, max_tokens=20)
        cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached >= first["usage"]["prompt_tokens"] - 1
        fresh = demo_model().generate(longer, seed=2, max_tokens=20).text()
        assert texts(second) == [fresh]

    def test_models_have_names(self, server, models):
        answer = server.complete("abc", model="bytes", seed=3, max_tokens=4).json
        expected = models["bytes"].generate("abc", seed=3, max_tokens=4).text()
        assert (answer["model"], texts(answer)) == ("bytes", [expected])


class TestLogprobs:
    def test_echo_scores_each_token_as_the_library_does(self, server, models):
        ids = models["demo"].tokenizer.encode("The quick brown fox jumps over the lazy dog.")
        [choice] = complete(server, [ids], echo=True, logprobs=1, max_tokens=1, temperature=0)["choices"]
        logprobs = choice["logprobs"]
        assert logprobs["token_logprobs"][:-1] == models["demo"].score(ids)
        assert {name: len(values) for name, values in logprobs.items()} == dict.fromkeys(logprobs, len(ids) + 1)
        assert logprobs["top_logprobs"][0] is None
        for chosen, top in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:], strict=True):
            assert chosen in top.values()
            assert max(top.values()) >= chosen
        # Greedy: the sampled token is the most likely one, by the very same number.
        assert logprobs["token_logprobs"][-1] == max(logprobs["top_logprobs"][-1].values())

    @pytest.mark.parametrize("ending", ["end of text", "stop"])
    def test_the_token_that_ends_a_text_is_scored_too(self, server, models, ending):
        tokenizer = models["demo"].tokenizer
        token = tokenizer.bos_token_id if ending == "end of text" else tokenizer.encode(".")[0]
        fields = {"logit_bias": {str(token): 100}, "stop": "."}
        [choice] = complete(server, [[1, 2, 3]], echo=True, logprobs=1, max_tokens=1, **fields)["choices"]
        assert choice["finish_reason"] == "stop"
        assert choice["text"] == tokenizer.decode([1, 2, 3])
        assert choice["logprobs"]["tokens"][-1] == tokenizer.decode([token])
        assert len(choice["logprobs"]["token_logprobs"]) == 4

    @pytest.mark.parametrize("n_tokens", [1, 2, 63, 64, 65, 130, 512])
    def test_prompts_of_any_length(self, server, models, n_tokens):
        ids = (models["demo"].tokenizer.encode(STORY + ", there was a king who had three daughters. ") * 50)[:n_tokens]
        [choice] = complete(server, [ids], echo=True, logprobs=3, max_tokens=1)["choices"]
        assert choice["logprobs"]["token_logprobs"][:-1] == models["demo"].score(ids)

    def test_a_prompt_is_scored_without_sampling(self, server, models):
        ids = models["demo"].tokenizer.encode("The dog barks.")
        answer = complete(server, [ids, ids[:2]], echo=True, logprobs=0, max_tokens=0)
        for choice, prompt in zip(answer["choices"], [ids, ids[:2]], strict=True):
            assert choice["logprobs"]["token_logprobs"] == models["demo"].score(prompt)
            assert choice["finish_reason"] == "length"
            assert choice["text"] == models["demo"].tokenizer.decode(prompt)
        assert answer["usage"]["completion_tokens"] == 0

    def test_no_score_depends_on_what_else_is_evaluated(self, server, models):
        ids = models["demo"].tokenizer.encode(STORY + ", there was a king who had three daughters. ") * 8
        prompts = [ids[: 7 * i + 1] + [i] * i for i in range(24)]
        expected = [models["demo"].score(prompt) for prompt in prompts]
        fields = {"echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1234}
        [scored, *_] = together(
            [
                lambda: complete(server, prompts, **fields),
                *(lambda: complete(server, STORY, max_tokens=100) for _ in range(4)),
                *(lambda i=i: complete(server, prompts[i], **fields) for i in range(8)),
            ]
        )
        found = [choice["logprobs"]["token_logprobs"][:-1] for choice in scored["choices"]]
        assert found == expected

    def test_a_shared_beginning_is_scored_once(self, server, models):
        context = models["demo"].tokenizer.encode("Which of these animals can fly, and which of them can not? " * 4)
        prompts = [context + models["demo"].tokenizer.encode(end) for end in (" A bird.", " A dog.", " A bird and")]
        fields = {"echo": True, "logprobs": 1, "max_tokens": 1}
        complete(server, [prompts[0]], **fields)
        for prompt in prompts:
            answer = complete(server, [prompt], **fields)
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= len(context) - 1
            assert answer["choices"][0]["logprobs"]["token_logprobs"][:-1] == models["demo"].score(prompt)

    def test_tokens_that_are_part_of_a_character_have_names_of_their_own(self, server, models):
        ids = list("€üa".encode())
        [choice] = server.complete([ids], model="bytes", echo=True, logprobs=20, max_tokens=1, seed=1).json["choices"]
        assert choice["logprobs"]["tokens"][:-1] == [
            *("bytes:\\xe2", "bytes:\\x82", "bytes:\\xac", "bytes:\\xc3", "bytes:\\xbc", "a")
        ]
        assert choice["logprobs"]["text_offset"][:-1] == [0, 0, 0, 1, 1, 2]
        assert choice["text"].startswith("€üa")
        for chosen, top in zip(
            choice["logprobs"]["token_logprobs"][1:], choice["logprobs"]["top_logprobs"][1:], strict=True
        ):
            assert len(top) in (20, 21)
            assert chosen in top.values()

    def test_offsets_are_places_in_the_text(self, server):
        [choice] = complete(server, STORY, echo=True, logprobs=2, max_tokens=20, seed=1)["choices"]
        for token, offset in zip(choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"], strict=True):
            assert choice["text"][offset:].startswith(token)

    def test_more_log_probabilities_than_memory_should_hold_are_refused(self, server):
        for fields in ({"max_tokens": 1000, "n": 128}, {"prompt": [[5] * 400] * 128, "max_tokens": 1, "echo": True}):
            error = server.post("/v1/completions", {"prompt": "a", **fields}, model="demo", logprobs=20).error
            assert (error["status"], error["param"]) == (400, "logprobs")
        assert len(complete(server, [[5] * 400] * 128, max_tokens=1, echo=True, logprobs=1)["choices"]) == 128

    def test_without_echo_only_the_text_is_scored(self, server, models):
        [choice] = complete(server, STORY, logprobs=2, max_tokens=8, seed=1)["choices"]
        generation = models["demo"].generate(STORY, logprobs=2, max_tokens=8, seed=1)
        generation.text()
        assert choice["logprobs"]["token_logprobs"] == generation.logprobs
        assert [len(top) >= 2 for top in choice["logprobs"]["top_logprobs"]] == [True] * 8


class TestStreams:
    def test_the_pieces_make_the_text(self, server):
        fields = {"n": 2, "seed": 8, "max_tokens": 30}
        expected = complete(server, [STORY, "The dog"], **fields)
        events = server.complete([STORY, "The dog"], model="demo", stream=True, **fields).events
        pieces = dict.fromkeys(range(4), "")
        reasons = {}
        for event in events:
            assert event["object"] == "text_completion"
            assert "usage" not in event
            [choice] = event["choices"]
            pieces[choice["index"]] += choice["text"]
            if choice["finish_reason"]:
                assert choice["index"] not in reasons
                reasons[choice["index"]] = choice["finish_reason"]
        assert list(pieces.values()) == texts(expected)
        assert reasons == {choice["index"]: choice["finish_reason"] for choice in expected["choices"]}
        assert len({event["id"] for event in events}) == 1
        assert {event["seed"] for event in events} == {8}

    def test_usage_comes_last_and_only_if_wanted(self, server):
        fields = {"seed": 8, "max_tokens": 9, "stream": True, "stream_options": {"include_usage": True}}
        *events, last = server.complete(STORY, model="demo", **fields).events
        assert [event["usage"] for event in events] == [None] * len(events)
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == 9

    def test_log_probabilities_are_those_of_one_answer(self, server):
        fields = {"seed": 8, "max_tokens": 30, "logprobs": 2, "echo": True, "stop": " the"}
        [expected] = complete(server, STORY, **fields)["choices"]
        found = {name: [] for name in expected["logprobs"]}
        for event in server.complete(STORY, model="demo", stream=True, **fields).events:
            for name, values in event["choices"][0]["logprobs"].items():
                found[name] += values
        assert found == expected["logprobs"]

    @pytest.mark.parametrize("seed", range(4))
    def test_no_piece_is_part_of_a_character(self, server, seed):
        fields = {"model": "bytes", "seed": seed, "max_tokens": 60, "temperature": 3, "top_k": 0, "top_p": 1}
        [expected] = server.complete("é", **fields).json["choices"]
        events = server.complete("é", stream=True, **fields).events
        assert "".join(event["choices"][0]["text"] for event in events) == expected["text"]

    def test_an_error_before_the_first_piece_has_its_status(self, server):
        answer = server.complete(
            "ab", model="bytes", stream=True, temperature=0, no_repeat_ngram_size=1, max_tokens=290
        )
        assert answer.status in (200, 500)  # random weights: whether all 257 tokens are used up depends on them
        error = server.complete("word " * 600, model="demo", stream=True).error
        assert (error["status"], error["code"]) == (400, "context_length_exceeded")


def test_default_sampling_is_that_of_the_library(server):
    plain = complete(server, STORY, seed=1, max_tokens=30)
    explicit = complete(server, STORY, seed=1, max_tokens=30, **SamplingParams().as_dict())
    assert texts(plain) == texts(explicit)
