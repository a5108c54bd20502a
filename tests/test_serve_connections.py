"""What clients do to connections: never end a head, read nothing, and send what is no HTTP."""

import contextlib
import socket
import sys
import time

import pytest
from conversations import open_byte_model
from demo import demo_model
from serving import eventually, serving

from gpt2rt.serve.server import max_connections

HEAD = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"

# A stream of more bytes than a connection holds back.
BIG = {"prompt": ["abc"] * 8, "stream": True, "logprobs": 20, "max_tokens": 990, "logit_bias": {"256": -100}}


def limit(monkeypatch, module, name, value):
    """Set a limit of a module. Its name as a string would be that of another one, once a test has imported it again."""
    monkeypatch.setattr(sys.modules[f"gpt2rt.serve.{module}"], name, value)


def connected(server):
    return socket.create_connection(("127.0.0.1", server.port), timeout=60)


def rest_of(connection):
    """Return all that comes until the server closes the connection."""
    content = b""
    try:
        while part := connection.recv(65536):
            content += part
    except ConnectionResetError:
        pass
    return content


def n_connections(server):
    return len(server._server.server_state.connections)


@pytest.fixture(scope="module")
def server():
    with serving({"demo": demo_model()}) as server:
        yield server


class TestIdleClients:
    @pytest.fixture
    def server(self, monkeypatch):
        limit(monkeypatch, "connection", "HEAD_SECONDS", 0.2)
        with serving({"demo": demo_model()}) as server:
            yield server

    @pytest.mark.parametrize("content", [b"", b"GET /hea", HEALTH[:-2]])
    def test_a_client_that_sends_no_whole_head_is_disconnected(self, server, content):
        with connected(server) as connection:
            connection.sendall(content)
            assert rest_of(connection) == b""

    def test_so_is_one_that_was_answered_before(self, server):
        with connected(server) as connection:
            connection.sendall(HEALTH + HEALTH[:5])
            assert rest_of(connection).endswith(b'{"status":"ok"}')

    def test_so_is_one_that_sends_a_byte_now_and_then(self, server):
        with connected(server) as connection:
            connection.settimeout(0.01)
            connection.sendall(b"GET /")

            def is_closed():
                try:
                    connection.sendall(b"a")
                    return connection.recv(1) == b""
                except TimeoutError:
                    return False
                except ConnectionError:
                    return True

            eventually(is_closed)

    @pytest.mark.slow
    def test_one_whose_request_takes_longer_is_not(self, server):
        long = {"prompt": ["Once upon a time"] * 10, "max_tokens": 500, "logit_bias": {"8191": -100}}
        assert server.post("/v1/completions", long).status == 200


class TestReadersThatStop:
    @pytest.fixture
    def server(self, monkeypatch, tmp_path):
        limit(monkeypatch, "connection", "READ_SECONDS", 0.5)
        with serving({"bytes": open_byte_model(tmp_path, 1000)}) as server:
            yield server

    @pytest.mark.parametrize("is_stream", [True, False])
    @pytest.mark.slow
    def test_a_client_that_reads_nothing_is_disconnected(self, server, is_stream):
        connection = server.open_request("/v1/completions", **{**BIG, "stream": is_stream})
        eventually(lambda: n_connections(server) == 1)
        eventually(lambda: n_connections(server) == 0)
        connection.close()

    @pytest.mark.slow
    def test_a_slow_reader_is_sent_all_that_was_generated_in_time(self, tmp_path, monkeypatch, caplog):
        limit(monkeypatch, "delivery", "GRACE", 0)
        with serving({"bytes": open_byte_model(tmp_path, 1000)}, timeout=3) as server:
            connection = server.open_request("/v1/completions", **BIG)
            begin = time.monotonic()
            eventually(lambda: server.metric("generated_tokens_total") == 8 * 990)
            eventually(lambda: time.monotonic() > begin + 3.5)
            content = b""
            while not content.endswith(b"0\r\n\r\n"):
                part = connection.recv(65536)
                assert part, "the answer is cut"
                content += part
            assert b"data: [DONE]" in content
            connection.close()
        assert not caplog.records


class TestManyConnections:
    def test_idle_ones_are_limited_and_requests_above_the_limit_refused(self, monkeypatch):
        limit(monkeypatch, "server", "MAX_CONNECTIONS", 5)
        limit(monkeypatch, "connection", "SPARE", 3)
        with serving({"demo": demo_model()}) as server, contextlib.ExitStack() as idle:
            for _ in range(4):
                idle.enter_context(connected(server))
            eventually(lambda: n_connections(server) == 4)
            assert server.get("/health").status == 503
            more = [idle.enter_context(connected(server)) for _ in range(20)]
            assert [rest_of(connection) for connection in more[10:]] == [b""] * 10
            assert n_connections(server) <= 8
            idle.close()
            eventually(lambda: server.get("/health").status == 200)

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows does not count files")
    @pytest.mark.parametrize(
        ("limits", "raised", "expected"),
        [
            ((1 << 20, 1 << 20), None, 1024),
            ((-1, -1), None, 1024),
            ((256, -1), 1632, 1024),
            ((1024, 4096), 1632, 1024),
            ((1024, 1024), 1024, 416),
            ((64, 64), 64, 1),
        ],
    )
    def test_there_are_as_many_as_open_files_allow(self, monkeypatch, limits, raised, expected):
        asked = []
        monkeypatch.setattr("resource.getrlimit", lambda _: limits)
        monkeypatch.setattr("resource.setrlimit", lambda _, wanted: asked.append(wanted))
        assert max_connections() == expected
        assert asked == ([] if raised is None else [(raised, limits[1])])


class TestNoHTTP:
    def test_an_invalid_chunk_after_the_answer_closes_the_connection(self, server, caplog):
        with connected(server) as connection:
            connection.sendall(HEAD.replace(b"/tokenize", b"/nowhere") + CHUNKED + b"5\r\nabcde\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")
            connection.sendall(b"no chunk\r\n")
            assert b"HTTP/1.1" not in rest_of(connection)
        assert not caplog.records

    def test_a_body_with_two_lengths_is_refused_and_what_follows_it_is_not_read(self, server):
        with connected(server) as connection:
            connection.sendall(HEAD + b"Content-Length: 5\r\n" + CHUNKED + b"0\r\n\r\n" + HEALTH)
            answer = rest_of(connection)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1
