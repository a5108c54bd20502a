"""A storm: many clients at once that leave, read slowly, half-close, pipeline and send nonsense, for tests of serve.

The clients are coroutines over plain streams, since what they do to connections is what no HTTP library does.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
from collections import Counter

from random_requests import PATHS, prompts_of, random_body, random_request

PATIENCE = 100  # seconds for an answer
COMPLETE = ("plain", "plain", "plain", "slow", "pipelined")
BROKEN = ("cut", "left at once", "left in mid-answer", "half-closed", "nonsense")


class Child:
    """`gpt2rt serve` as a process that listens on a port of its own. `log` is the path of its standard error."""

    def __init__(self, log, *arguments):
        self.log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gpt2rt", "serve", "--port", "0", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "MALLOC_ARENA_MAX": "1"},  # one heap for all threads: what grows is a leak
            )
        found = re.search(r":(\d+) \(Ctrl-C", self.process.stdout.readline())
        assert found, log.read_text()
        self.port = int(found[1])

    def stop(self):
        self.process.kill()
        self.process.communicate()

    def memory(self):
        """Resident memory in bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1000

    def n_files(self):
        """How many file descriptors are open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@contextlib.contextmanager
def child(log, *arguments):
    """Serve in a process while the block runs."""
    process = Child(log, *arguments)
    try:
        yield process
    finally:
        process.stop()


class Connection:
    """A connection that reads HTTP answers. A slow one has a small buffer and pauses."""

    def __init__(self, reader, writer, pause):
        self.reader, self.writer, self._pause = reader, writer, pause

    @classmethod
    async def opened(cls, port, pause=0.0):
        one = socket.socket()
        if pause:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.setblocking(False)
        await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", port))
        return cls(*await asyncio.open_connection(sock=one, limit=1 << 12 if pause else 1 << 20), pause)

    async def send(self, content):
        self.writer.write(content)
        await self.writer.drain()

    async def answer(self):
        """Return (status, headers, content); raises IncompleteReadError if the connection ends first."""
        async with asyncio.timeout(PATIENCE):
            return await self._answer()

    async def some(self, n=-1):
        """Return up to n bytes; without n, all until the connection ends."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read(n)

    async def _answer(self):
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:-2])
        if "chunked" not in headers.get("transfer-encoding", ""):
            return int(head[0].split()[1]), headers, await self._read(int(headers["content-length"]))
        content = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            content += await self._read(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return int(head[0].split()[1]), headers, content

    async def _read(self, size):
        parts = []
        while size:
            if self._pause:
                await asyncio.sleep(self._pause)
            parts.append(await self.reader.readexactly(min(size, 1 << 13) if self._pause else size))
            size -= len(parts[-1])
        return b"".join(parts)

    def close(self, at_once=True):
        """Close the connection; at once: without reading what is still under way."""
        if at_once:
            self.writer.transport.abort()
        else:
            self.writer.close()


def as_bytes(path, body):
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n".encode() + body


class Storm:
    """
    Attributes:
        statuses: how many answers had each status. ends: how many requests ended in each way.
        completed: (path, fields, what `outcome` returns) of each completed request.
    """

    def __init__(self, port, random, models):
        """models: their names, from which one is chosen for each request."""
        self._port, self._random, self._models = port, random, models
        self.statuses, self.ends = Counter(), Counter()
        self.completed = []

    async def blow(self, n_requests, n_clients):
        """Send so many requests, by so many clients at once."""
        left = iter(range(n_requests))
        async with asyncio.TaskGroup() as clients:
            for _ in range(n_clients):
                clients.create_task(self._client(left))

    async def _client(self, left):
        """Send requests, over one connection as long as it holds."""
        connection = None
        for _ in left:
            random = self._random
            path, fields = random_request(random, random.choice(self._models))
            way = random.choice(COMPLETE if random.random() < 0.7 else BROKEN)
            if connection is None or way == "slow" or random.random() < 0.1:
                if connection is not None:
                    connection.close(at_once=False)
                connection = await Connection.opened(self._port, 0.002 if way == "slow" else 0.0)
            self.ends[way] += 1
            try:
                if way in COMPLETE:
                    is_open = await self._complete(connection, path, fields, 2 if way == "pipelined" else 1)
                else:
                    is_open = await self._broken(connection, path, fields, way)
            except Exception as error:
                error.add_note(f"{way}: {path} {fields}")
                raise
            if not is_open or way == "slow":
                connection.close()
                connection = None
        if connection is not None:
            connection.close()

    async def _complete(self, connection, path, fields, n):
        """Send a request n times at once, each again while the queue is full, and check the answers."""
        content = as_bytes(path, json.dumps(fields).encode())
        while n:
            await connection.send(content * n)
            n_refused = 0
            for _ in range(n):
                status, headers, answer = await connection.answer()
                self.statuses[status] += 1
                if status == 503:
                    assert json.loads(answer)["error"]["code"] == "queue_full"
                    n_refused += 1
                else:
                    assert status == 200, (fields, answer)
                    self.completed.append((path, fields, outcome(fields, headers, answer)))
            n = n_refused
            if n:
                await asyncio.sleep(self._random.uniform(0.1, 0.5))
        return True

    async def _broken(self, connection, path, fields, way):
        """Send a request in a way that spoils it; return whether the connection can be used again."""
        random = self._random
        content = as_bytes(path, json.dumps(fields).encode())
        if way == "nonsense":
            kind, body = random_body(random, self._models[0])
            await connection.send(as_bytes(PATHS[kind], body))
            status, _, answer = await connection.answer()
            self.statuses[status] += 1
            if status not in (200, 503):
                check_error(status, answer)
            return True
        if way == "cut":
            await connection.send(content[: random.randrange(len(content))])
            return False
        await connection.send(content)
        if way == "left in mid-answer":
            await connection.some(random.choice((1, 100, 2000)))
        elif way == "half-closed":
            connection.writer.write_eof()
            answer = await connection.some()  # uvicorn takes it for a client that left
            assert not answer or answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 503 ")), answer
        elif random.random() < 0.5:
            await asyncio.sleep(random.uniform(0, 0.05))
        return False


def check_error(status, content):
    """Check that an answer is an error of the API that the client is told to be its own."""
    assert 400 <= status < 500, (status, content)
    error = json.loads(content)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] == "invalid_request_error"


def outcome(fields, headers, content):
    """Check that an answer is complete; return [(text, finish reason, log probabilities)] of its choices."""
    found = [["", None, []] for _ in range(len(prompts_of(fields)) * fields.get("n", 1))]
    usage = None
    if fields["stream"]:
        assert headers["content-type"].startswith("text/event-stream")
        *events, end, rest = content.decode().split("\n\n")
        assert (end, rest) == ("data: [DONE]", "")
        answers = [json.loads(event.removeprefix("data: ")) for event in events]
    else:
        answers = [json.loads(content)]
    for answer in answers:
        usage = answer.get("usage") or usage
        assert answer["seed"] == fields["seed"]
        for choice in answer["choices"]:
            mine = found[choice["index"]]
            assert mine[1] is None, "a choice that had ended continues"
            message = choice.get("delta") or choice.get("message") or {}
            mine[0] += message.get("content", "") if "text" not in choice else choice["text"]
            mine[1] = choice["finish_reason"]
            mine[2] += tokens_of(choice["logprobs"])
    assert all(reason in ("stop", "length") for _, reason, _ in found)
    wants_usage = not fields["stream"] or "stream_options" in fields
    assert (usage is not None) == wants_usage
    if usage:
        check_usage(fields, usage, found)
    return found


def tokens_of(logprobs):
    """Return the tokens of a choice with their log probabilities, of either form."""
    if logprobs is None:
        return []
    if "content" in logprobs:
        return [(token["token"], token["logprob"]) for token in logprobs["content"]]
    return list(zip(logprobs["tokens"], logprobs["token_logprobs"], strict=True))


def check_usage(fields, usage, found):
    """Check that the numbers agree with each other, and with the tokens that arrived."""
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 <= usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]
    assert usage["completion_tokens"] <= fields["max_tokens"] * len(found)
    if fields.get("logprobs") not in (None, False):
        n_tokens = sum(len(tokens) for *_, tokens in found)
        n_scored = n_tokens - usage["prompt_tokens"] * fields.get("n", 1) * bool(fields.get("echo"))
        n_stopped = sum(reason == "stop" for _, reason, _ in found)  # an end of text is scored, but not counted
        assert n_scored - n_stopped <= usage["completion_tokens"] <= n_scored
