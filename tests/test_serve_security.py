"""What a server lets in: hosts, keys, sizes, types; and what its errors say."""

import json
import pathlib
import socket
import time

import pytest
from demo import DEMO, demo_model
from serving import JSON, serving

from gpt2rt.serve.gate import MAX_BODY, host_name


@pytest.fixture(scope="module")
def server():
    with serving({"demo": demo_model()}) as server:
        yield server


@pytest.fixture(scope="module")
def locked():
    with serving({"demo": demo_model()}, api_key="öpen sesame", allow_hosts=("gpt.example",)) as server:
        yield server


def raw(server, content):
    """Send bytes, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


class TestHosts:
    @pytest.mark.parametrize(
        "host",
        [
            *("localhost", "localhost:8000", "LOCALHOST.", "a.localhost"),
            *("127.0.0.1", "127.0.0.1:80", "192.168.1.7:8000", "[::1]:8000"),
        ],
    )
    def test_this_machine_and_addresses_are_allowed(self, server, host):
        assert server.get("/v1/models", {"host": host}).status == 200

    @pytest.mark.parametrize(
        "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.nip.io", ""]
    )
    def test_other_names_are_not(self, server, host):
        error = server.get("/v1/models", {"host": host}).error
        assert (error["status"], error["code"]) == (421, "host_not_allowed")

    def test_names_can_be_allowed(self, locked):
        headers = {"authorization": "Bearer öpen sesame".encode().decode("latin-1")}
        assert locked.get("/v1/models", {"host": "gpt.example:8000", **headers}).status == 200
        assert locked.get("/v1/models", {"host": "evil.example", **headers}).status == 421

    def test_all_names_can_be_allowed(self):
        with serving({"demo": demo_model()}, allow_hosts=("*",)) as server:
            assert server.get("/v1/models", {"host": "anything.example"}).status == 200

    @pytest.mark.parametrize(
        ("header", "name"),
        [("a:1", "a"), ("[::1]", "::1"), ("[::1]:80", "::1"), ("::1", ""), ("A.B.", "a.b"), ("", ""), ("[", "")],
    )
    def test_ports_and_brackets_are_no_part_of_a_name(self, header, name):
        assert host_name(header) == name


class TestKeys:
    @pytest.mark.parametrize(
        "given", [None, "", "Bearer", "Bearer ", "Bearer open sesame", "Basic b3Blbg==", "öpen sesame x"]
    )
    def test_without_the_key_nothing_is_answered(self, locked, given):
        headers = {} if given is None else {"authorization": given.encode().decode("latin-1")}
        for path in ("/v1/models", "/v1/completions", "/metrics", "/tokenizer_info", "/nowhere"):
            answer = locked.get(path, headers)
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"

    def test_health_needs_no_key(self, locked):
        assert locked.get("/health").json == {"status": "ok"}

    def test_any_key_is_good_where_none_is_needed(self, server):
        assert server.get("/v1/models", {"authorization": "Bearer anything"}).status == 200


class TestSizes:
    def test_a_large_body_is_refused_before_it_is_sent(self, server):
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n"
        assert raw(server, head.encode()).startswith(b"HTTP/1.1 413 ")

    def test_a_large_body_in_chunks_is_refused(self, server):
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        answer = raw(server, head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 5 + b"0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"body_too_large" in answer

    def test_large_headers_are_refused(self, server):
        answer = raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (16 << 10) + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 431 ")

    def test_headers_without_an_end_are_refused(self, server):
        answer = raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (17 << 10))
        assert answer.startswith(b"HTTP/1.1 400 ")

    @pytest.mark.parametrize(
        "content",
        [
            b"nonsense\r\n\r\n",
            b"\x16\x03\x01\x02\x00",
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\n\r\n",
        ],
    )
    def test_what_is_no_http_is_refused(self, server, content):
        assert raw(server, content).split(b" ")[1] in (b"400", b"421")
        assert server.get("/health").status == 200


class TestTypes:
    @pytest.mark.parametrize(
        "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
    )
    def test_types_that_a_page_can_send_without_asking_are_refused(self, server, media_type):
        answer = server.request("POST", "/v1/completions", "{}", {"content-type": media_type})
        assert (answer.status, answer.error["type"]) == (415, "invalid_request_error")

    def test_a_charset_may_follow(self, server):
        body = json.dumps({"prompt": "a", "max_tokens": 1})
        headers = {"content-type": "Application/JSON; charset=utf-8"}
        assert server.request("POST", "/v1/completions", body, headers).status == 200


PREFLIGHT = {"origin": "https://page.example", "access-control-request-method": "POST"}


class TestOrigins:
    def test_no_page_may_use_the_server(self, server):
        answer = server.get("/v1/models", {"origin": "https://page.example"})
        assert "access-control-allow-origin" not in answer.headers
        assert server.request("OPTIONS", "/v1/completions", headers=PREFLIGHT).status == 405

    def test_pages_can_be_allowed(self):
        with serving({"demo": demo_model()}, allow_origins=("https://page.example",), api_key="key") as server:
            answer = server.request("OPTIONS", "/v1/completions", headers=PREFLIGHT)
            assert answer.status == 200
            assert answer.headers["access-control-allow-origin"] == "https://page.example"
            answer = server.get("/v1/models", {"origin": "https://page.example"})
            assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, "https://page.example")
            answer = server.request("OPTIONS", "/v1/models", headers={**PREFLIGHT, "origin": "https://evil.example"})
            assert "access-control-allow-origin" not in answer.headers


class TestErrors:
    @pytest.mark.parametrize("path", ["/v1", "/v1/engines", "/v1/models/../../etc/passwd", "/docs", "/%00"])
    def test_paths_that_do_not_exist(self, server, path):
        error = server.get(path).error
        assert error["status"] == 404

    def test_methods_that_are_not_allowed(self, server):
        answer = server.get("/v1/completions")
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert "GET is not allowed" in answer.error["message"]

    def test_every_answer_has_an_id(self, server):
        ids = {server.get(path).headers["x-request-id"] for path in ("/health", "/nowhere", "/v1/completions")}
        assert len(ids) == 3

    def test_an_unexpected_error_says_nothing_about_the_server(self, monkeypatch):
        with serving({"demo": demo_model()}) as server:
            model = next(iter(server.service._models.values()))
            monkeypatch.setattr(model, "encode", lambda *_: pathlib.Path("/etc/gpt2rt/secret").read_text())
            answer = server.complete("a")
            assert (answer.status, answer.json) == (
                500,
                {"error": {"message": "an internal error", "type": "server_error", "param": None, "code": None}},
            )
            assert server.complete([1, 2]).status == 200

    def test_no_error_has_a_path_of_the_server(self, server):
        bodies = [{"prompt": "a", "model": "x"}, {"prompt": [10**9]}, {"zzz": 1}, {"prompt": "word " * 900}]
        for body in bodies:
            content = server.post("/v1/completions", body).content.decode()
            assert str(DEMO) not in content
            assert "Traceback" not in content
            assert DEMO.name not in content


class TestTokenizer:
    def test_lm_evaluation_harness_finds_what_it_asks_for(self, server):
        info = server.get("/tokenizer_info").json
        assert info["eos_token"] == "<|endoftext|>"
        asked = {"prompt": "<|endoftext|>", "add_special_tokens": False}
        for asked["add_special_tokens"] in (False, True):  # GPT-2's vocabulary adds none
            assert server.post("/tokenize", asked).json["tokens"] == [info["eos_token_id"]]

    def test_texts_become_ids_and_again_texts(self, server):
        text = "Hello, wörld! €"
        answer = server.post("/tokenize", prompt=text).json
        assert answer["tokens"] == demo_model().tokenizer.encode(text)
        assert answer["count"] == len(answer["tokens"])
        assert server.post("/detokenize", tokens=answer["tokens"]).json == {"prompt": text}

    def test_texts_longer_than_the_context(self, server):
        assert server.post("/tokenize", prompt="word " * 5000).json["count"] > 5000

    def test_ids_out_of_range_are_refused(self, server):
        assert server.post("/detokenize", tokens=[1, 8192]).error["param"] == "tokens"

    def test_models_are_described(self, server):
        listed = server.get("/v1/models").json
        assert listed["object"] == "list"
        [model] = listed["data"]
        assert (model["id"], model["object"], model["max_model_len"]) == ("demo", "model", 512)
        assert server.get("/v1/models/demo").json == model
        assert server.get("/v1/models/other").error["code"] == "model_not_found"


def test_metrics_count_requests_and_tokens(server):
    before = server.metric("generated_tokens_total")
    server.complete("Once upon a secret", max_tokens=5, logit_bias={"8191": -100})
    assert server.metric("generated_tokens_total") == before + 5
    text = server.get("/metrics").content.decode()
    assert 'gpt2rt_requests_total{path="/v1/completions",status="200"}' in text
    assert "gpt2rt_time_to_first_token_seconds_bucket" in text
    assert "secret" not in text


COUNTERS = ("prompt_tokens_total", "generated_tokens_total", "batch_size_sum", "batch_size_count", "step_seconds_total")


def test_metrics_count_forward_passes_with_their_texts_and_time(server):
    before = {name: server.metric(name) for name in COUNTERS}
    n_first = server.metric("time_to_first_token_seconds_count")
    begin = time.monotonic()
    answer = server.complete("Tell me", max_tokens=5, logit_bias={"8191": -100}).json
    seconds = time.monotonic() - begin
    grown = {name: server.metric(name) - value for name, value in before.items()}
    assert grown["prompt_tokens_total"] == answer["usage"]["prompt_tokens"]
    assert grown["generated_tokens_total"] == answer["usage"]["completion_tokens"] == 5
    assert grown["batch_size_sum"] == grown["batch_size_count"] >= 5  # one text at a time
    assert 0 < grown["step_seconds_total"] <= seconds
    assert server.metric("time_to_first_token_seconds_count") == n_first + 1


def test_a_request_that_names_no_path_is_counted_as_other(server):
    server.request("POST", "/some/secret/path", "{}", JSON)
    text = server.get("/metrics").content.decode()
    assert 'path="other",status="404"' in text
    assert "secret" not in text
