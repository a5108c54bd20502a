"""gpt2rt serve under load and abuse: 200 clients of all kinds at once, and bodies that were changed at random."""

import asyncio
import json
import sys
from random import Random

import pytest
from conversations import open_byte_model
from demo import demo_model
from random_requests import PATHS, library_texts, random_body
from serving import JSON, eventually, serving
from storm import Connection, Storm, as_bytes, check_error, child, outcome

from gpt2rt.serve.api_error import ApiError
from gpt2rt.serve.chat_completions import chat_texts
from gpt2rt.serve.completions import completion_texts
from gpt2rt.serve.requests import CompletionRequest, read_request
from gpt2rt.serve.served_model import ServedModel

EVERY = 50  # of so many completed requests, one is sent again, alone
SLACK = 8_000_000  # bytes by which the memory may grow in the second half: less than 2 KB for each request
FEW_TOKENS = 2000  # that a changed request may ask for, when it is sent to a server


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory):
    return open_byte_model(tmp_path_factory.mktemp("model"), 400)


class TestStorm:
    pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory and open files are read from /proc")

    def test_a_small_one(self, byte_model, tmp_path):
        endure({"bytes": byte_model}, ["bytes"], tmp_path / "log", 400, 50)

    @pytest.mark.slow
    def test_one_of_10000_requests_by_200_clients(self, byte_model, tmp_path):
        models = {"bytes": byte_model, "demo": demo_model()}
        endure(models, ["bytes"] * 15 + ["demo"], tmp_path / "log", 10_000, 200)


def endure(models, names, log, n_requests, n_clients):
    """Send a storm to a server, and check all that can be seen of it. names: of models, to choose from."""
    arguments = [f"{name}={model.path}" for name, model in models.items()]
    options = ("--max-queue", 3 * n_clients // 4, "--max-batch", 8, "--kv-cache", 4, "--log-level", "warning")
    with child(log, *arguments, *options) as server:
        storm = Storm(server.port, Random(7), names)
        asyncio.run(metrics(server))
        memory, n_files = [], server.n_files()
        for _ in range(2):
            asyncio.run(storm.blow(n_requests // 2, n_clients))
            eventually(lambda: is_idle(server, n_files))
            memory.append(server.memory())
        assert storm.statuses[503], "the queue was never full"
        assert len(storm.completed) > n_requests / 2
        for path, fields, found in storm.completed[::EVERY]:
            assert asyncio.run(alone(server, path, fields)) == found, (path, fields)
            expected = library_texts(models[fields["model"]], path, fields)
            assert [text for text, *_ in found] == expected, (path, fields)
        unexpected = [name for name in asyncio.run(metrics(server)) if 'status="5' in name and "503" not in name]
        assert not unexpected
    assert "Traceback" not in log.read_text()
    assert " ERROR " not in log.read_text()
    assert memory[1] - memory[0] < SLACK, memory


async def alone(server, path, fields):
    """Return the outcome of a request, sent while nothing else is under way."""
    connection = await Connection.opened(server.port)
    await connection.send(as_bytes(path, json.dumps(fields).encode()))
    status, headers, content = await connection.answer()
    connection.close()
    assert status == 200
    return outcome(fields, headers, content)


async def metrics(server):
    """Return the server's metrics by name."""
    connection = await Connection.opened(server.port)
    await connection.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    _, _, content = await connection.answer()
    connection.close()
    return dict(line.rsplit(" ", 1) for line in content.decode().splitlines() if line[0] != "#")


def is_idle(server, n_files):
    found = asyncio.run(metrics(server))
    n_texts = float(found["gpt2rt_running_texts"]) + float(found["gpt2rt_waiting_texts"])
    return n_texts == 0 and server.n_files() <= n_files


class TestChangedBodies:
    """Each is a request, or refused with an error that says so."""

    @pytest.mark.parametrize("n_bodies", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
    def test_each_is_read_or_refused(self, byte_model, n_bodies):
        random, model = Random(n_bodies), ServedModel("bytes", byte_model)
        n_valid = sum(
            bool(texts_of(model, *random_body(random, "bytes"), is_lenient=random.random() < 0.5))
            for _ in range(n_bodies)
        )
        assert n_bodies / 10 < n_valid < n_bodies / 2

    @pytest.mark.parametrize("n_bodies", [50, pytest.param(500, marks=pytest.mark.slow)])
    def test_each_is_answered(self, byte_model, n_bodies):
        random, model = Random(n_bodies), ServedModel("bytes", byte_model)
        n_sent = 0
        with serving({"bytes": byte_model}, is_lenient=True, kv_cache=4) as server:
            while n_sent < n_bodies:
                kind, body = random_body(random, "bytes")
                texts = texts_of(model, kind, body, is_lenient=True)
                if sum(text.n_positions for text in texts) <= FEW_TOKENS:
                    n_sent += 1
                    check_answer(server.request("POST", PATHS[kind], body, JSON), texts)
            assert server.complete("a", max_tokens=1).status == 200
            assert server.metric("running_texts") == 0 == server.metric("waiting_texts")


def texts_of(model, kind, body, is_lenient):
    """Return the texts that a body asks for; an empty list if it is refused."""
    try:
        request, _ = read_request(body, kind, is_lenient)
        if kind is CompletionRequest:
            return [text for text, _ in completion_texts(model, request, 1)]
        return chat_texts(model, request, 1, "disabled")
    except ApiError as error:
        check_error(error.status, error.content())
        return []


def check_answer(answer, texts):
    """Check the answer to a request for these texts; none if it must be refused."""
    if answer.status != 200:
        check_error(answer.status, answer.content)
        assert not texts or answer.error["param"] == "model"
        return
    is_stream = answer.headers["content-type"].startswith("text/event-stream")
    choices = [choice for one in (answer.events if is_stream else [answer.json]) for choice in one["choices"]]
    ended = [choice["index"] for choice in choices if choice["finish_reason"] in ("stop", "length")]
    assert sorted(ended) == list(range(len(texts)))
