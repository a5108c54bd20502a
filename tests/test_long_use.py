"""Long use: memory does not grow, many sequences do not disturb each other, and processes share a model's pages.

The figures are printed: pytest -s -m slow tests/test_long_use.py
"""

import asyncio
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import threading

import pytest
from conversations import open_byte_model
from demo import DEMO, demo_model
from standalone import program
from storm import Connection, as_bytes, child

import gpt2rt
from gpt2rt.chat import Conversation
from gpt2rt.generate import Generation

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

MOST_GROWTH = 2_000_000  # bytes
SAMPLING = gpt2rt.SamplingParams(temperature=1.2, repetition_penalty=1.2)
CLIENT = """
import pathlib, sys
import gpt2rt
model = gpt2rt.open_model(sys.argv[1], n_threads=1)
print(len(model.generate("Once upon a time", max_tokens=20, seed=1).text()), flush=True)
sys.stdin.read()
"""


def status_of(pid, name, file="status"):
    """Return a line of /proc/PID/status or another file, in bytes."""
    return (
        int(re.search(rf"^{name}:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/{file}").read_text(), re.MULTILINE)[1]) * 1024
    )


def report(what, growth):
    print(f"\n{what}: {growth / 1e6:+.2f} MB")


# --- memory

TURNS = [pytest.param(500, 1000, id="few"), pytest.param(2000, 10_000, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("n_before", "n"), TURNS)
def test_turns_take_the_memory_of_their_texts_alone(tmp_path, n_before, n):
    conversation = Conversation(open_byte_model(tmp_path, 128), opening="", max_tokens=8, seed=1)

    def say(messages):
        for i in messages:
            for _ in conversation.say(f"Message {i}"):
                pass

    say(range(n_before))
    begin, before = status_of(os.getpid(), "RssAnon"), len(conversation.turns)
    say(range(n_before, n_before + n))
    turns = conversation.turns[before:]
    assert len(turns) > n * 0.9
    kept = sum(sys.getsizeof(one) for turn in turns for one in (turn, *turn)) + 16 * len(turns)
    growth = status_of(os.getpid(), "RssAnon") - begin
    report(f"{n} turns of Conversation, besides the {kept / 1e6:.2f} MB of the turns", growth - kept)
    assert growth - kept < MOST_GROWTH


@pytest.mark.parametrize(("n_before", "n"), TURNS)
def test_turns_of_the_standalone_program_take_little_memory(tmp_path, n_before, n):
    path = open_byte_model(tmp_path, 128).path
    line = [program(), path, "--seed", "1", "-n", "8", "--threads", "1"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:

        def say(messages):
            for i in messages:
                process.stdin.write(b"Message %d\n" % i)
                process.stdin.flush()
                assert process.stdout.readline()

        say(range(n_before))
        begin = status_of(process.pid, "RssAnon")
        say(range(n_before, n_before + n))
        growth = status_of(process.pid, "RssAnon") - begin
        process.stdin.close()
    report(f"{n} turns of gpt2rt-chat", growth)
    assert growth < MOST_GROWTH


@pytest.mark.slow
def test_requests_to_a_server_leave_nothing(tmp_path):
    pytest.importorskip("starlette", reason="the extra 'server' is not installed")
    model = open_byte_model(tmp_path, 128).path

    async def ask(port, numbers):
        connection = await Connection.opened(port)
        for i in numbers:
            prompt = {"messages": [{"role": "user", "content": f"Message {i}"}], "max_tokens": 8, "seed": i}
            if i % 3 == 0:
                prompt["stream"] = True
            await connection.send(as_bytes("/v1/chat/completions", json.dumps(prompt).encode()))
            assert (await connection.answer())[0] == 200
        connection.close()

    with child(tmp_path / "log", model, "--threads", 1, "--kv-cache", 1, "--log-level", "warning") as server:
        asyncio.run(ask(server.port, range(500)))
        begin = status_of(server.process.pid, "RssAnon")
        asyncio.run(ask(server.port, range(500, 2500)))
        growth = status_of(server.process.pid, "RssAnon") - begin
    report("2000 requests to gpt2rt serve", growth)
    assert growth < MOST_GROWTH


# --- sequences and threads


def test_64_sequences_from_8_threads_give_what_each_gives_alone(tmp_path):
    model = open_byte_model(tmp_path, 256)

    def text_of(number):
        prompt = list(f"Prompt {number}".encode())
        return Generation(model.sequence(), prompt, SAMPLING, seed=number, max_tokens=20 + number).text()

    expected = [text_of(number) for number in range(64)]
    found = [None] * 64
    start = threading.Barrier(8)

    def generate(numbers):
        start.wait()
        running = {}
        for number in numbers:
            prompt = list(f"Prompt {number}".encode())
            running[number] = iter(Generation(model.sequence(), prompt, SAMPLING, seed=number, max_tokens=20 + number))
        texts = dict.fromkeys(running, "")
        while running:  # in turn, a piece of each
            for number, pieces in [*running.items()]:
                piece = next(pieces, None)
                if piece is None:
                    found[number] = texts[number]
                    del running[number]
                else:
                    texts[number] += piece

    threads = [threading.Thread(target=generate, args=(range(first, 64, 8),)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


# --- processes


@pytest.mark.parametrize("what", ["Python", "gpt2rt-chat"])
def test_processes_on_one_file_share_its_pages(what):
    demo_model()
    size, n = DEMO.stat().st_size, 4
    line = [sys.executable, "-c", CLIENT, DEMO] if what == "Python" else [program(), DEMO, "--seed", "1", "-n", "5"]
    with contextlib.ExitStack() as stack:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        processes = [stack.enter_context(subprocess.Popen(line, **pipes)) for _ in range(n)]
        for process in processes:
            if what != "Python":
                process.stdin.write(b"Hello\n")
                process.stdin.flush()
            assert process.stdout.readline()
        resident = [status_of(process.pid, "Rss", "smaps_rollup") for process in processes]
        proportional = sum(status_of(process.pid, "Pss", "smaps_rollup") for process in processes)
        private = [status_of(process.pid, "Private_Dirty", "smaps_rollup") for process in processes]
        for process in processes:
            process.stdin.close()
    print(
        f"\n{n} processes of {what} on a file of {size / 1e6:.1f} MB: resident {sum(resident) / 1e6:.1f} MB,"
        f" proportional {proportional / 1e6:.1f} MB, private {sum(private) / 1e6:.1f} MB"
    )
    assert min(resident) > 0.7 * size  # each has read it
    assert proportional - sum(private) < 2 * size
