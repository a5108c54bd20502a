"""Scheduling: turns, limits, clients that leave or read slowly, and the end."""

import asyncio
import contextlib
import gc
import http.client
import json
import threading

import pytest
from conversations import open_byte_model
from demo import demo_model
from serving import PATIENCE, Answer, eventually, serving, together

from gpt2rt._engine import Sequence
from gpt2rt.serve.api_error import ApiError
from gpt2rt.serve.call import Call, Text
from gpt2rt.serve.metrics import Metrics
from gpt2rt.serve.scheduler import Scheduler
from gpt2rt.serve.served_model import ServedModel

STORY = "Once upon a time"
LONG = {"max_tokens": 500, "logit_bias": {"8191": -100}}  # a text that fills the context
PROMPTS = [STORY] * 100  # such texts take seconds


def read_some(connection):
    """Read the first bytes of an answer."""
    return connection.recv(1000)


def is_idle(server):
    return server.metric("running_texts") == 0 == server.metric("waiting_texts")


class TestLeaving:
    @pytest.mark.parametrize("is_stream", [True, False])
    def test_a_client_that_leaves_ends_its_request(self, is_stream):
        with serving({"demo": demo_model()}, max_batch=1) as server:
            connection = server.open_request("/v1/completions", prompt=PROMPTS, stream=is_stream, **LONG)
            eventually(lambda: server.metric("running_texts") == 1)
            connection.close()
            eventually(lambda: is_idle(server))
            assert server.metric("generated_tokens_total") < 500 * len(PROMPTS)

    def test_so_does_one_that_leaves_before_its_texts_start(self):
        with serving({"demo": demo_model()}, max_batch=1) as server:
            first = server.open_request("/v1/completions", prompt=PROMPTS, **LONG)
            eventually(lambda: server.metric("running_texts") == 1)
            second = server.open_request("/v1/completions", prompt=[STORY] * 7, **LONG)
            eventually(lambda: server.metric("waiting_texts") > 100)
            second.close()
            eventually(lambda: server.metric("waiting_texts") < 100)
            first.close()
            eventually(lambda: is_idle(server))

    def test_others_do_not_notice(self):
        with serving({"demo": demo_model()}) as server:
            expected = server.complete(STORY, seed=3, max_tokens=100).json["choices"]
            leavers = [server.open_request("/v1/completions", prompt=[STORY] * 20, **LONG) for _ in range(5)]
            results = [None]

            def ask():
                results[0] = server.complete(STORY, seed=3, max_tokens=100).json["choices"]

            asking = threading.Thread(target=ask)
            asking.start()
            for leaver in leavers:
                leaver.close()
            asking.join()
            assert results == [expected]

    def test_a_client_that_leaves_in_mid_stream_ends_it(self):
        with serving({"demo": demo_model()}, max_batch=1) as server:
            connection = server.open_request("/v1/completions", prompt=PROMPTS, stream=True, **LONG)
            assert read_some(connection).startswith(b"HTTP/1.1 200 ")
            connection.close()
            eventually(lambda: is_idle(server))


class TestLimits:
    def test_a_full_queue_refuses_more(self):
        with serving({"demo": demo_model()}, max_batch=1, max_queue=3) as server:
            connection = server.open_request("/v1/completions", prompt=[STORY] * 4, **LONG)
            eventually(lambda: server.metric("running_texts") == 1)
            answer = server.complete(STORY)
            assert (answer.status, answer.error["code"]) == (503, "queue_full")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            connection.close()
            eventually(lambda: is_idle(server))
            assert server.complete(STORY, max_tokens=1).status == 200

    def test_more_texts_than_ever_fit_are_refused(self):
        with serving({"demo": demo_model()}, max_batch=1, max_queue=3) as server:
            assert server.complete([STORY] * 5).error["status"] == 400
            assert server.complete([STORY] * 4, max_tokens=1).status == 200

    def test_requests_take_turns(self):
        with serving({"demo": demo_model()}, max_batch=1) as server:
            many = server.open_request("/v1/completions", prompt=PROMPTS, **LONG)
            eventually(lambda: server.metric("running_texts") == 1)
            assert server.complete(STORY, max_tokens=3).status == 200
            assert server.metric("waiting_texts") > 50
            many.close()

    def test_little_memory_for_caches_only_makes_texts_wait(self):
        prompts = [f"{STORY}, in the year {1000 + i}, there was" for i in range(12)]
        expected = [demo_model().generate(prompt, seed=i, max_tokens=30).text() for i, prompt in enumerate(prompts)]
        with serving({"demo": demo_model()}, kv_cache=1) as server:  # room for the caches of two such texts
            calls = [
                lambda i=i, prompt=prompt: server.complete(prompt, seed=i, max_tokens=30).json
                for i, prompt in enumerate(prompts)
            ]
            assert [answer["choices"][0]["text"] for answer in together(calls)] == expected
            assert server.metric("kv_cache_bytes") <= 2_000_000

    def test_a_text_waits_until_there_is_room_for_its_cache(self):
        with serving({"demo": demo_model()}, kv_cache=1) as server:  # less than one such text takes
            connection = server.open_request("/v1/completions", prompt=PROMPTS, **LONG)
            eventually(lambda: server.metric("generated_tokens_total") > 5)
            assert server.metric("running_texts") == 1
            assert server.metric("waiting_texts") == len(PROMPTS) - 1
            connection.close()

    def test_a_request_that_takes_too_long_is_given_up(self):
        with serving({"demo": demo_model()}, timeout=0.2, max_batch=1) as server:
            answer = server.complete(PROMPTS, **LONG)
            assert (answer.status, answer.error["code"]) == (504, "timeout")
            assert answer.headers["x-should-retry"] == "false"
            eventually(lambda: is_idle(server))

    def test_a_stream_that_takes_too_long_ends_with_an_error(self):
        with serving({"demo": demo_model()}, timeout=0.2, max_batch=1) as server:
            answer = server.complete(PROMPTS, stream=True, **LONG)
            assert answer.status == 200
            last = answer.content.decode().split("\n\n")[-2].removeprefix("data: ")
            assert json.loads(last)["error"]["code"] == "timeout"


@pytest.fixture(scope="module")
def fast_server(tmp_path_factory):
    """A server of a model that is faster than its readers."""
    with serving({"bytes": open_byte_model(tmp_path_factory.mktemp("model"), 1000)}) as server:
        yield server


# A stream of more bytes than a connection holds back.
BIG = {"prompt": ["abc"] * 8, "stream": True, "logprobs": 20, "max_tokens": 990, "logit_bias": {"256": -100}}


class TestSlowReaders:
    def test_a_reader_that_stops_reading_holds_up_nobody(self, fast_server):
        slow = [fast_server.open_request("/v1/completions", **BIG) for _ in range(3)]
        expected = fast_server.models["bytes"].generate("abc", seed=1, max_tokens=50).text()
        assert fast_server.complete("abc", seed=1, max_tokens=50).json["choices"][0]["text"] == expected
        eventually(lambda: is_idle(fast_server))  # the texts are finished: what they can hold back is bounded
        for connection in slow:
            connection.close()

    @pytest.mark.slow
    def test_a_reader_that_stops_reading_holds_no_kv_cache(self, tmp_path):
        with serving({"bytes": open_byte_model(tmp_path, 1000)}, kv_cache=1) as server:
            slow = [server.open_request("/v1/completions", **BIG) for _ in range(3)]
            eventually(lambda: server.metric("generated_tokens_total") == 3 * 8 * 990)
            eventually(lambda: is_idle(server))
            n_kept = server.metric("kept_sequences")
            sequences = [one for one in gc.get_objects() if isinstance(one, Sequence) and one.nbytes > 100_000]
            assert len([one for one in sequences if one.model is server.models["bytes"]]) == n_kept < 8
            for connection in slow:
                connection.close()

    def test_what_a_slow_reader_is_sent_is_complete(self, fast_server):
        connection = fast_server.open_request("/v1/completions", seed=1, **BIG)
        eventually(lambda: is_idle(fast_server))
        with contextlib.closing(http.client.HTTPResponse(connection)) as response:
            response.begin()
            events = Answer(response).events
        connection.close()
        texts = dict.fromkeys(range(8), "")
        for event in events:
            texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
        whole = fast_server.post("/v1/completions", {**BIG, "stream": False, "seed": 1}).json
        assert list(texts.values()) == [choice["text"] for choice in whole["choices"]]


class TestStopping:
    def test_open_streams_end_with_an_error(self):
        with serving({"demo": demo_model()}, max_batch=1) as server:
            connection = server.open_request("/v1/completions", prompt=PROMPTS, stream=True, **LONG)
            content = read_some(connection)
            server.stop()
            while part := connection.recv(65536):
                content += part
            connection.close()
            last = [line for line in content.split(b"\n") if line.startswith(b"data: ")][-1]
            assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "stopping"

    def test_requests_that_wait_get_an_error(self):
        with serving({"demo": demo_model()}, max_batch=1) as server:
            connection = server.open_request("/v1/completions", prompt=PROMPTS, **LONG)
            eventually(lambda: server.metric("running_texts") == 1)
            server.stop()
            assert connection.recv(1000).startswith(b"HTTP/1.1 503 ")
            connection.close()

    def test_a_call_submitted_while_the_thread_ends_gets_an_answer(self):
        model = ServedModel("demo", demo_model())
        scheduler = Scheduler([model], max_batch=1, max_queue=1, kv_cache_bytes=1, metrics=Metrics())

        class Lock:
            """Released, it lets the thread end before its user continues."""

            def __enter__(self):
                lock.acquire()

            def __exit__(self, *_):
                lock.release()
                if threading.get_ident() == submitting:
                    scheduler._lock = lock
                    scheduler.stop()
                    scheduler._has_ended.wait(PATIENCE)

        async def submitted():
            scheduler.start(asyncio.get_running_loop())
            scheduler._lock = Lock()
            call = Call(model, [Text(0, [1], None, 1)], wants_pieces=False, timeout=PATIENCE)
            scheduler.submit(call)
            async with asyncio.timeout(5):
                await call.updates()

        lock, submitting = scheduler._lock, threading.get_ident()
        with pytest.raises(ApiError, match="stopping"):
            asyncio.run(submitted())

    def test_a_thread_that_fails_answers_all_and_is_not_healthy(self, monkeypatch):
        with serving({"demo": demo_model()}, max_batch=1) as server:
            waiting = [server.open_request("/v1/completions", prompt=PROMPTS, **LONG) for _ in range(2)]
            eventually(lambda: server.metric("waiting_texts") > 150)
            monkeypatch.setattr("threading.excepthook", lambda _: None)
            monkeypatch.setattr(server.service._scheduler, "_admit", None)
            for connection in waiting:
                assert read_some(connection).startswith(b"HTTP/1.1 503 ")
                connection.close()
            assert not server.service.is_running
            with contextlib.suppress(ConnectionError):  # the server ends at its next look, within 0.1 s
                assert server.get("/health").status == 503
                assert server.complete(STORY).error["code"] == "stopping"

    def test_a_failing_step_fails_its_requests_and_no_others(self, monkeypatch):
        with serving({"demo": demo_model()}) as server:
            [queue] = server.service._scheduler._queues.values()
            engine, failures = queue.engine, [RuntimeError("a fault"), MemoryError()]

            class Failing:
                def step(self, sequences):
                    if failures:
                        raise failures.pop()
                    return engine.step(sequences)

                def cancel(self):
                    engine.cancel()

            queue.engine = Failing()
            assert server.complete(STORY).error["message"] == "the server does not have enough memory"
            assert server.complete(STORY).error["message"] == "an internal error"
            assert server.complete(STORY, max_tokens=1).status == 200
