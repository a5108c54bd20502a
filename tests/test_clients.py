"""gpt2rt serve and clients of OpenAI's API: curl, openai, litellm and LangChain get the library's answers."""

import asyncio
import json
import pathlib
import re
import shutil
import subprocess

import pytest
from clients import HELLO, STORY, TALK, needs, offline, process_apart, serving_process
from demo import demo_model

pytest.importorskip("starlette", reason="the extra 'server' is not installed")

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def _offline():
    with offline():
        yield


@pytest.fixture(scope="module")
def model():
    return demo_model()


@pytest.fixture(scope="module")
def server(model):
    with serving_process() as address:
        yield address


@pytest.fixture(scope="module")
def url(server):
    return f"{server}/v1"


@pytest.fixture(scope="module")
def apart():
    with process_apart() as call:
        yield call


# --- curl


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
class TestCurl:
    def test_the_command_of_the_page_gets_the_librarys_answer(self, server, model):
        page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
        command = re.search(r"^\$ (curl (?:.*\\\n)*.*chat/completions(?:.*\\\n)*.*)\n", page, re.MULTILINE)[1]
        content = subprocess.check_output(["bash", "-c", command.replace("http://localhost:8000", server)], text=True)
        expected = model.chat(HELLO, seed=1).text
        assert json.loads(content)["choices"][0]["message"]["content"] == expected


# --- openai


@pytest.fixture(scope="module")
def client(url):
    import openai

    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@needs("openai")
class TestOpenAI:
    @pytest.mark.parametrize("messages", [HELLO, TALK], ids=["one message", "a conversation"])
    def test_an_answer_is_the_librarys(self, client, model, messages):
        completion = client.chat.completions.create(model="demo", messages=messages, seed=7)
        answer = model.chat(messages, seed=7)
        assert completion.choices[0].message.content == answer.text
        assert completion.choices[0].finish_reason == answer.finish_reason
        assert completion.usage.prompt_tokens == answer.n_prompt_tokens
        assert completion.usage.completion_tokens == answer.n_tokens

    def test_a_text_is_the_librarys(self, client, model):
        completion = client.completions.create(model="demo", prompt=STORY, seed=7, max_tokens=30, temperature=1.2)
        text = model.generate(STORY, seed=7, max_tokens=30, temperature=1.2)
        assert completion.choices[0].text == text.text()
        assert completion.choices[0].finish_reason == text.finish_reason == "length"
        assert completion.usage.total_tokens == text.n_prompt_tokens + 30

    def test_several_texts_are_those_of_a_batch(self, client, model):
        prompts = ["The cat", "The dog", "The bird"]
        completion = client.completions.create(model="demo", prompt=prompts, seed=7, max_tokens=20)
        texts = dict.fromkeys(range(3), "")
        for i, piece in model.generate_batch(prompts, seed=7, max_tokens=20):
            texts[i] += piece
        assert {choice.index: choice.text for choice in completion.choices} == texts

    def test_a_stream_of_an_answer_has_its_pieces_and_its_usage(self, client, model):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, last = client.chat.completions.create(model="demo", messages=TALK, seed=7, **options)
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert "".join(pieces) == model.chat(TALK, seed=7).text
        assert len(pieces) > 5
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert last.choices == []
        answer = model.chat(TALK, seed=7)
        assert answer.text
        assert last.usage.completion_tokens == answer.n_tokens

    def test_a_stream_of_a_text_has_its_pieces(self, client, model):
        chunks = client.completions.create(model="demo", prompt=STORY, seed=7, max_tokens=30, stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks) == model.generate(STORY, seed=7, max_tokens=30).text()

    def test_a_client_that_closes_a_stream_can_ask_again(self, client, model):
        with client.completions.create(model="demo", prompt=STORY, seed=7, stream=True) as stream:
            next(iter(stream))
        completion = client.completions.create(model="demo", prompt=STORY, seed=7, max_tokens=5)
        assert completion.choices[0].text == model.generate(STORY, seed=7, max_tokens=5).text()

    def test_coroutines_get_the_same_answers(self, url, model):
        import openai

        async def ask():
            async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
                whole, text = await asyncio.gather(
                    client.chat.completions.create(model="demo", messages=TALK, seed=7),
                    client.completions.create(model="demo", prompt=STORY, seed=7, max_tokens=30),
                )
                stream = await client.chat.completions.create(model="demo", messages=TALK, seed=7, stream=True)
                streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
                return whole.choices[0].message.content, text.choices[0].text, streamed

        answer = model.chat(TALK, seed=7).text
        assert asyncio.run(ask()) == (answer, model.generate(STORY, seed=7, max_tokens=30).text(), answer)

    def test_the_seed_of_an_answer_repeats_it(self, client):
        first = client.chat.completions.create(model="demo", messages=HELLO, temperature=1.5)
        seed = first.model_extra["seed"]
        again = client.chat.completions.create(model="demo", messages=HELLO, temperature=1.5, seed=seed)
        assert again.choices[0].message.content == first.choices[0].message.content
        assert again.system_fingerprint == first.system_fingerprint

    def test_other_seeds_give_other_texts(self, client):
        made = [client.completions.create(model="demo", prompt=STORY, seed=seed, max_tokens=20) for seed in range(5)]
        assert len({one.choices[0].text for one in made}) == 5

    def test_log_probabilities_of_a_prompt_are_those_of_score(self, client, model):
        text = "The café was closed, 你好."
        scores = model.score(text)
        completion = client.completions.create(model="demo", prompt=text, max_tokens=1, logprobs=2, echo=True, seed=7)
        logprobs = completion.choices[0].logprobs
        assert logprobs.token_logprobs[0] is None
        assert logprobs.token_logprobs[1:-1] == pytest.approx(scores[1:], abs=1e-6)
        assert len(logprobs.top_logprobs) == len(logprobs.text_offset) == len(scores) + 1

    def test_log_probabilities_of_an_answer_are_the_librarys(self, client, model):
        completion = client.chat.completions.create(
            model="demo", messages=HELLO, seed=7, logprobs=True, top_logprobs=2, temperature=0
        )
        content = completion.choices[0].logprobs.content
        assert all(token.logprob == token.top_logprobs[0].logprob for token in content)
        assert (
            b"".join(bytes(token.bytes) for token in content)
            .decode()
            .strip()
            .startswith(model.chat(HELLO, temperature=0).text)
        )

    def test_models_are_listed_and_described(self, client):
        assert [one.id for one in client.models.list()] == ["demo"]
        assert client.models.retrieve("demo").owned_by == "gpt2rt"

    def test_an_unknown_model_is_not_found(self, client):
        import openai

        with pytest.raises(openai.NotFoundError, match="expected one of demo") as error:
            client.chat.completions.create(model="gpt-5", messages=HELLO)
        assert error.value.code == "model_not_found"
        assert error.value.param == "model"
        assert error.value.request_id

    def test_what_is_not_supported_is_refused_by_name(self, client):
        import openai

        with pytest.raises(openai.BadRequestError, match="response_format: got ") as error:
            client.chat.completions.create(model="demo", messages=HELLO, response_format={"type": "json_object"})
        assert error.value.param == "response_format"

    def test_a_prompt_that_is_too_long_is_refused(self, client):
        import openai

        with pytest.raises(openai.BadRequestError, match="the model's context has 512") as error:
            client.completions.create(model="demo", prompt=[0] * 513)
        assert error.value.code == "context_length_exceeded"


# --- litellm


@needs("litellm")
@pytest.mark.slow
class TestLitellm:
    def test_an_answer_is_the_librarys(self, apart, url, model):
        answer = model.chat(TALK, seed=7)
        assert apart(litellm_answer, url) == (answer.text, answer.n_prompt_tokens, answer.n_tokens)

    def test_a_streamed_answer_is_the_librarys(self, apart, url, model):
        pieces = apart(litellm_stream, url)
        assert len(pieces) > 5
        assert "".join(pieces) == model.chat(TALK, seed=7).text

    @pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
    def test_a_text_is_the_librarys(self, apart, url, model, is_streamed):
        assert apart(litellm_text, url, is_streamed) == model.generate(STORY, seed=7, max_tokens=20).text()

    def test_an_unknown_model_is_not_found(self, apart, url):
        name, message = apart(litellm_error, url)
        assert name == "NotFoundError"
        assert "model: got 'gpt-5', expected one of demo" in message


def litellm_answer(url):
    import litellm

    one = litellm.completion(model="openai/demo", api_base=url, api_key="none", messages=TALK, seed=7)
    return one.choices[0].message.content, one.usage.prompt_tokens, one.usage.completion_tokens


def litellm_stream(url):
    import litellm

    chunks = litellm.completion(model="openai/demo", api_base=url, api_key="none", messages=TALK, seed=7, stream=True)
    return [chunk.choices[0].delta.content or "" for chunk in chunks]


def litellm_text(url, is_streamed):
    import litellm

    options = {"model": "text-completion-openai/demo", "api_base": url, "api_key": "none", "stream": is_streamed}
    found = litellm.text_completion(prompt=STORY, seed=7, max_tokens=20, **options)
    return "".join(one.choices[0].text or "" for one in (found if is_streamed else [found]))


def litellm_error(url):
    import litellm

    try:
        litellm.completion(model="openai/gpt-5", api_base=url, api_key="none", messages=HELLO)
    except Exception as error:  # its errors can't be pickled
        return type(error).__name__, str(error)


# --- LangChain


@needs("langchain_openai")
@pytest.mark.slow
class TestLangChain:
    def test_an_answer_is_the_librarys(self, apart, url, model):
        answer = model.chat(TALK, seed=7)
        assert apart(langchain_answer, url) == (answer.text, answer.n_prompt_tokens + answer.n_tokens)

    def test_a_streamed_answer_is_the_librarys(self, apart, url, model):
        pieces = apart(langchain_stream, url)
        assert len(pieces) > 5
        assert "".join(pieces) == model.chat(TALK, seed=7).text

    def test_structured_output_is_refused_by_name(self, apart, url):
        assert apart(langchain_structured, url) == (400, "response_format")


def langchain_model(url):
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(model="demo", base_url=url, api_key="none", seed=7, max_retries=0)


def langchain_messages():
    """The messages as blocks of text, as LangChain's own prompts have them."""
    return [(one["role"], [{"type": "text", "text": one["content"]}]) for one in TALK]


def langchain_answer(url):
    found = langchain_model(url).invoke(langchain_messages())
    return found.content, found.usage_metadata["total_tokens"]


def langchain_stream(url):
    return [chunk.content for chunk in langchain_model(url).stream(langchain_messages())]


def langchain_structured(url):
    import openai
    from pydantic import BaseModel

    class Name(BaseModel):
        name: str

    try:
        langchain_model(url).with_structured_output(Name).invoke("Hello!")
    except openai.BadRequestError as error:
        return error.status_code, error.param
