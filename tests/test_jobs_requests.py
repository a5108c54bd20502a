"""gpt2rt batch with a file of OpenAI's batch API: each answer is that of gpt2rt serve."""

import json

import pytest
from demo import demo_model
from jobs import Batch

pytest.importorskip("starlette", reason="the extra 'server' is not installed")

from serving import serving

HELLO = [{"role": "user", "content": "Hello! How are you?"}]
SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.fixture
def batch(cli, tmp_path):
    return Batch(cli, tmp_path)


@pytest.fixture(scope="module")
def server():
    with serving({"demo": demo_model()}) as server:
        yield server


def completion(custom_id, **body):
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}


def chat(custom_id, messages=HELLO, **body):
    return {**completion(custom_id, messages=messages, **body), "url": "/v1/chat/completions"}


def comparable(body):
    """Return an answer without what names the single request."""
    body = {name: value for name, value in body.items() if name not in ("id", "created")}
    if "usage" in body:
        body["usage"].pop("prompt_tokens_details", None)
    return body


@pytest.mark.parametrize(
    "row",
    [
        completion("a", prompt="Once upon a time", max_tokens=12, seed=3),
        completion("a", prompt=["The cat", "A dog"], n=3, max_tokens=5, seed=3, temperature=1.2, logprobs=2),
        completion("a", prompt="The cat sat", max_tokens=0, echo=True, logprobs=3, seed=0),
        completion("a", prompt="The cat sat", max_tokens=4, echo=True, logprobs=0, seed=2**63, stop=["\n"]),
        completion("a", prompt=[5, 6, 7], max_tokens=3, seed=1, logit_bias={"11": 5}),
        chat("a", seed=8),
        chat("a", seed=8, n=3, max_tokens=9, logprobs=True, top_logprobs=2),
        chat("a", seed=8, model="demo", messages=[SYSTEM, *HELLO]),
    ],
)
def test_an_answer_is_that_of_the_server(batch, server, row):
    (answer,) = batch.answers([row])
    assert answer["custom_id"] == "a"
    assert answer["error"] is None
    response = answer["response"]
    served = server.post(row["url"], row["body"])
    assert response["status_code"] == served.status == 200
    assert comparable(response["body"]) == comparable(served.json)


@pytest.mark.parametrize(
    "row",
    [
        completion("a", prompt="The", max_tokens=0),
        completion("a", prompt="The", temperature=-1),
        completion("a", prompt="The", model="gpt-4"),
        completion("a", prompt="The", unknown=1),
        completion("a", prompt="a b " * 1000),
        chat("a", messages=[]),
        chat("a", tools=[{"type": "function"}]),
    ],
)
def test_an_error_is_that_of_the_server(batch, server, row):
    (answer,) = batch.answers([row])
    served = server.post(row["url"], row["body"])
    assert answer["error"] is None
    assert answer["response"]["status_code"] == served.status >= 400
    assert answer["response"]["body"] == served.json


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**completion("a"), "url": "/v1/embeddings"}, "url: got '/v1/embeddings', expected /v1/completions or"),
        ({**completion("a"), "method": "GET"}, "method: got 'GET', expected POST"),
        ({**completion("a"), "body": None}, "body: expected a JSON object"),
        ({**completion("a"), "extra": 1}, "extra: unknown field (leave it out)"),
        ({**completion("a"), "custom_id": 5}, "custom_id: expected text"),
        ({"url": "/v1/completions", "body": {}}, "custom_id: expected text"),
    ],
)
def test_a_row_that_is_no_request_is_answered_with_an_error(batch, row, message):
    (answer,) = batch.answers([row])
    assert answer["response"] is None
    assert answer["error"]["code"] == "invalid_row"
    assert answer["error"]["message"].startswith(f"row 0: {message}")


def test_streams_are_refused(batch):
    (answer,) = batch.answers([completion("a", prompt="The", stream=True)])
    assert answer["response"]["status_code"] == 400
    assert "a batch has no streams" in answer["response"]["body"]["error"]["message"]


def test_the_second_request_with_an_id_is_refused(batch):
    rows = [completion("a", prompt="The", max_tokens=1), completion("a", prompt="A", max_tokens=1)]
    first, second = batch.answers(rows)
    assert first["response"]["status_code"] == 200
    assert second["error"]["message"] == "row 1: custom_id: row 0 has the same, 'a'"
    assert first["id"] != second["id"]


def test_ids_and_times_are_the_same_in_every_run_and_differ_between_rows(batch):
    rows = [completion(f"r{i}", prompt="The", max_tokens=3) for i in range(5)] + [chat("c", max_tokens=3)]
    _, first, _ = batch.run(rows, "--batch-size", 1)
    _, second, _ = batch.run(rows, "--shard-size", 2)
    assert first == second
    answers = [json.loads(line) for line in first.splitlines()]
    assert len({answer["id"] for answer in answers}) == 6
    assert len({answer["response"]["body"]["seed"] for answer in answers}) == 6
    assert {answer["response"]["body"]["created"] for answer in answers} == {0}


def test_requests_may_use_another_name_of_the_model(batch):
    (answer,) = batch.answers([completion("a", prompt="The", model="gpt-2", max_tokens=1)], "--model-name", "gpt-2")
    assert answer["response"]["body"]["model"] == "gpt-2"


def test_a_conversation_that_is_too_long_drops_its_oldest_turns_where_that_is_wanted(batch):
    long = [{"role": role, "content": "word " * 200} for role in ("user", "assistant")] * 2 + HELLO
    (refused,) = batch.answers([chat("a", messages=long)])
    assert refused["response"]["body"]["error"]["code"] == "context_length_exceeded"
    (answer,) = batch.answers([chat("a", messages=long, max_tokens=4)], "--truncation", "auto")
    assert answer["response"]["status_code"] == 200


def test_rows_of_texts_are_no_requests(batch):
    code, _, error = batch.run([{"text": "The cat"}])
    assert code == 2
    assert "no row has a field 'url' (--task for rows that are not requests)" in error
