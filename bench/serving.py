"""Measure `gpt2rt serve` with many clients at once, next to the library alone and to llama.cpp's llama-server.

    python bench/serving.py 124M-int8.bin
    python bench/serving.py 124M-int8.bin --llama-server build/bin/llama-server --gguf 124M-q8_0.gguf

Each client sends requests for streamed completions one after another, each with a prompt of its own (random words, the
same for both servers), and reads the stream to its end. No text ends early. In every round, the servers take turns at
each number of clients, and the library runs in between. The first table has the tokens/s of all clients together
(median of the rounds), and the times from a request to its first piece of text (percentiles of all requests). The
second table compares the first token of one prompt, through HTTP and from the library, in alternation.

The sdist of llama-cpp-python contains llama.cpp with its server:

    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
    tar xf llama_cpp_python-0.3.36.tar.gz
    cmake -S llama_cpp_python-0.3.36/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \\
        -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF
    cmake --build build --target llama-server llama-quantize -j 2

`python bench/performance --part peers` makes both model files from one checkpoint, in .cache/performance/models.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import namedtuple
from time import perf_counter, process_time, sleep

import click
from compare import rounds_option, threads_option
from streaming import ResponseError, complete, get_status
from table import markdown
from words import random_text

from gpt2rt.benchmark import cpu_name
from gpt2rt.errors import Gpt2rtError
from gpt2rt.model import open_model

SLOTS = 16  # sequences that llama-server runs at a time; prompts of the library's batch
ALONE = 20  # first tokens of one prompt, measured per round
ALONE_TOKENS = 4  # of these requests; the first one may be half a character
PAUSE = 0.3  # seconds; llama-server's threads wait for work that long in a loop, which slows down other processes
START_SECONDS = 120
STOP_SECONDS = 10
URL = re.compile(r"http://(127\.0\.0\.1):(\d+)\b.*\n")


class ServerError(Exception):
    """A server did not start, or did not answer as it should."""


class Server:
    """A server's process, from its start to its end; a context manager.

    Attributes:
        name: in the tables. address: (host, port) at which it listens.
        extra: what its requests have beyond those of the other servers.
    """

    def __init__(self, name, command, extra, log):
        """
        Args:
            command: its arguments; it prints the URL at which it listens. log: a file for its output.
        """
        self.name, self.extra = name, extra
        self._command, self._log = list(map(str, command)), pathlib.Path(log)

    def __enter__(self):
        with open(self._log, "ab") as output:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            self.address = self._wait(self._find_address)
            self._wait(lambda: asyncio.run(self._is_ready()))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._process.kill()
            self._process.wait()

    def _wait(self, probe):
        """Call a function until its result is true, and return the result. Raises ServerError."""
        deadline = perf_counter() + START_SECONDS
        while not (found := probe()):
            status = self._process.poll()
            if status is not None:
                raise ServerError(f"{self.name}: exited with {status} before it was ready: {self._last_line()}")
            if perf_counter() > deadline:
                raise ServerError(f"{self.name}: not ready after {START_SECONDS} seconds: {self._last_line()}")
            sleep(0.05)
        return found

    def _find_address(self):
        found = URL.search(self._log.read_text(errors="replace"))
        return found and (found[1], int(found[2]))

    async def _is_ready(self):
        try:
            return await get_status(self.address, "/health") == 200
        except (OSError, ResponseError):
            return False

    def _last_line(self):
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def no_end(model):
    """Return the logit bias with which no text ends before its last token."""
    return {model.tokenizer.bos_token_id: -100}


def gpt2rt_server(model, threads, log):
    """Return `gpt2rt serve` on the model's file, with any free port."""
    # -P: run the installed package, not a folder with that name in the current directory.
    command = [sys.executable, "-P", "-m", "gpt2rt", "serve", model.path, "--port", 0, "--threads", threads]
    bias = {str(token): value for token, value in no_end(model).items()}
    return Server("gpt2rt serve", command, {"logit_bias": bias}, log)


def llama_server(path, gguf, threads, n_ctx, log):
    """Return llama-server with a whole context for each of its slots; all else as by default."""
    options = ["--host", "127.0.0.1", "--port", 0, "-np", SLOTS, "-c", SLOTS * n_ctx, "-t", threads]
    return Server("llama-server", [path, "-m", gguf, *options], {"ignore_eos": True}, log)


class Prompts:
    """Prompts of n tokens: a new one for every request, or always the same."""

    def __init__(self, tokenizer, n, is_shared):
        self._tokenizer, self._n = tokenizer, n
        self._generator = random.Random(1)
        self._shared = self._new() if is_shared else None

    def _new(self):
        return random_text(self._tokenizer, self._n, self._generator)

    def take(self, n):
        """Return n prompts."""
        return [self._shared or self._new() for _ in range(n)]


Load = namedtuple("Load", "speed first client_cpu")
Load.__doc__ = """What was measured with some clients: tokens/s of all of them, the seconds to the first piece of text
of each request, and the part of one CPU that the clients took."""


class Requests:
    """Requests for `n_generated` tokens after prompts of `n_prompt` tokens."""

    def __init__(self, n_prompt, n_generated):
        self.n_prompt, self.n_generated = n_prompt, n_generated
        self._seed = 0

    async def send(self, server, prompt, n_generated=None):
        """Send one request. Raises ServerError if the answer does not have the tokens that were requested."""
        n_generated = n_generated or self.n_generated
        self._seed += 1
        request = {"prompt": prompt, "max_tokens": n_generated, "seed": self._seed} | server.extra
        try:
            found = await complete(server.address, request)
        except (OSError, ResponseError) as error:
            raise ServerError(f"{server.name}: {type(error).__name__}: {error}") from None
        if found[:2] != (self.n_prompt, n_generated):
            raise ServerError(
                f"{server.name}: got {found.n_generated} tokens after a prompt of {found.n_prompt},"
                f" expected {n_generated} after {self.n_prompt}"
            )
        return found

    async def load(self, server, prompts):
        """Measure clients that send their requests at the same time.

        Args:
            prompts: a list for each client, whose requests follow one another.

        Returns:
            A `Load`.
        """

        async def run(texts):
            return [await self.send(server, text) for text in texts]

        begin, cpu_begin = perf_counter(), process_time()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(run(texts)) for texts in prompts]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        seconds, cpu_seconds = perf_counter() - begin, process_time() - cpu_begin
        found = [completion for task in tasks for completion in task.result()]
        n_tokens = sum(completion.n_generated for completion in found)
        return Load(n_tokens / seconds, [completion.first for completion in found], cpu_seconds / seconds)

    async def first_token(self, server, prompt):
        """Return the seconds from a request to its first piece of text, of one client."""
        return (await self.send(server, prompt, ALONE_TOKENS)).first


def batch_speed(model, prompts, n_generated):
    """Return the tokens/s of the library's batch."""
    begin = perf_counter()
    options = {"max_tokens": n_generated, "logit_bias": no_end(model), "seed": 1}
    for _ in model.generate_batch(prompts, batch_size=SLOTS, **options):
        pass
    return len(prompts) * n_generated / (perf_counter() - begin)


def first_token(model, ids):
    """Return the seconds from tokens to the library's first piece of text."""
    begin = perf_counter()
    generation = model.generate(ids, max_tokens=ALONE_TOKENS, logit_bias=no_end(model), seed=1)
    next(generation)
    seconds = perf_counter() - begin
    generation.close()
    return seconds


def first_tokens(model, servers, requests, texts):
    """Measure the first token of each text: the library and the first server in alternation, the others by themselves.

    Returns:
        {"library" or a server's name: [seconds]}
    """
    measures = {"library": lambda text: first_token(model, model.tokenizer.encode(text))}
    for server in servers:
        measures[server.name] = lambda text, server=server: asyncio.run(requests.first_token(server, text))
    found = {name: [] for name in measures}
    names = list(measures)
    for group in (names[:2], *([name] for name in names[2:])):
        sleep(PAUSE)
        for text in texts:
            for name in group:
                found[name].append(measures[name](text))
    return found


def measure(model, servers, clients, requests, prompts, n_requests, rounds, say):
    """Measure everything in alternating rounds, after a round that warms caches.

    Returns:
        ({(server's name, number of clients): a `Load` of each round}, the library's tokens/s of each round,
        {"library" or a server's name: seconds of each first token of one prompt})
    """
    loads = {(server.name, n): [] for server in servers for n in clients}
    speeds, firsts = [], {name: [] for name in ("library", *(server.name for server in servers))}
    for i in range(rounds + 1):
        turns = servers[:: 1 if i % 2 else -1]
        for n in clients if i else (SLOTS,):
            texts = [prompts.take(n_requests if i else 1) for _ in range(n)]
            for server in turns:
                sleep(PAUSE)
                load = asyncio.run(requests.load(server, texts))
                if i:
                    loads[server.name, n].append(load)
        sleep(PAUSE)
        speed = batch_speed(model, prompts.take(SLOTS), requests.n_generated)
        alone = first_tokens(model, servers, requests, prompts.take(ALONE if i else 1))
        if i:
            speeds.append(speed)
            for name, seconds in alone.items():
                firsts[name] += seconds
            say(f"round {i} of {rounds} measured")
    return loads, speeds, firsts


def percentile(values, percent):
    """Return the smallest of the values that `percent` percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def results(loads, speeds, firsts):
    """Return the figures as a JSON-serializable dict; seconds and tokens/s."""
    return {
        "loads": [
            {
                "server": name,
                "clients": n,
                "requests": sum(len(load.first) for load in found),
                "speed": statistics.median(load.speed for load in found),
                "speeds": [load.speed for load in found],
                "first_p50": percentile([first for load in found for first in load.first], 50),
                "first_p99": percentile([first for load in found for first in load.first], 99),
                "client_cpu": statistics.median(load.client_cpu for load in found),
            }
            for (name, n), found in loads.items()
        ],
        "batch": {"size": SLOTS, "speed": statistics.median(speeds), "speeds": speeds},
        "first_token": {name: statistics.median(found) for name, found in firsts.items()},
    }


def tables(found):
    """Return the two Markdown tables as lines."""
    rows = [("", "clients", "requests", "tokens/s", "first token, p50, ms", "first token, p99, ms"), ("---",) * 6]
    for load in found["loads"]:
        delays = (f"{1e3 * load[what]:,.1f}" for what in ("first_p50", "first_p99"))
        rows.append((load["server"], str(load["clients"]), str(load["requests"]), f"{load['speed']:,.0f}", *delays))
    batch = found["batch"]
    rows.append((f"library, batch of {batch['size']}", "", "", f"{batch['speed']:,.0f}", "", ""))
    alone = [("one prompt", "first token, ms", "more than the library, ms"), ("---",) * 3]
    library = found["first_token"]["library"]
    for name, seconds in found["first_token"].items():
        more = "" if name == "library" else f"{1e3 * (seconds - library):.2f}"
        alone.append((name, f"{1e3 * seconds:.2f}", more))
    return [*map(markdown, rows), "", *map(markdown, alone)]


def whole_numbers(_context, _parameter, value):
    """Parse whole numbers that are separated by commas."""
    try:
        found = [int(text) for text in value.split(",")]
    except ValueError:
        found = []
    if not found or not all(1 <= number <= 256 for number in found):
        raise click.BadParameter(f"got {value!r}, expected whole numbers from 1 to 256, separated by commas")
    return found


@click.command()
@click.argument("path", metavar="MODEL", type=click.Path(exists=True, dir_okay=False))
@click.option("--llama-server", "peer", type=click.Path(exists=True, dir_okay=False), help="Measure this program too.")
@click.option("--gguf", type=click.Path(exists=True, dir_okay=False), help="The model file of llama-server.")
@click.option(
    "--clients",
    metavar="N,N,...",
    default="1,4,16,64",
    callback=whole_numbers,
    show_default=True,
    help="Measure with each of these numbers of clients.",
)
@click.option("--tokens", type=click.IntRange(ALONE_TOKENS), default=64, show_default=True, help="Tokens per request.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=32, show_default=True, help="Tokens of each prompt.")
@click.option("--requests", type=click.IntRange(1, 1000), default=4, show_default=True, help="Requests per client.")
@click.option("--shared-prompt", is_flag=True, help="Send the same prompt in all requests, so that caches may help.")
@rounds_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, which has every round's tokens/s.")
def main(path, peer, gguf, clients, tokens, prompt_tokens, requests, shared_prompt, rounds, threads, as_json):
    """Measure `gpt2rt serve` with the model file MODEL under load, and llama-server next to it."""
    if (peer is None) != (gguf is None):
        raise click.UsageError("--llama-server and --gguf: got one of them, expected both or neither")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # stops the servers, as Ctrl-C does
    try:
        model = open_model(path, n_threads=threads)
        n_ctx = model.hyperparameters.n_ctx
        if prompt_tokens + tokens > n_ctx:
            raise click.UsageError(f"--prompt-tokens and --tokens: more than the model's {n_ctx} positions together")
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            servers = [stack.enter_context(gpt2rt_server(model, threads, folder / "gpt2rt.log"))]
            if peer:
                server = llama_server(peer, gguf, threads, n_ctx, folder / "llama-server.log")
                servers.append(stack.enter_context(server))
            prompts = Prompts(model.tokenizer, prompt_tokens, shared_prompt)
            work = Requests(prompt_tokens, tokens)
            measured = measure(
                model, servers, clients, work, prompts, requests, rounds, lambda line: click.echo(line, err=True)
            )
    except (Gpt2rtError, ServerError, OSError) as error:
        raise click.ClickException(str(error)) from None
    found = results(*measured)
    if as_json:
        machine = {"cpu": cpu_name(), "cpus": os.cpu_count()}
        how = {"threads": threads, "rounds": rounds, "tokens": tokens, "prompt_tokens": prompt_tokens}
        click.echo(json.dumps({"machine": machine} | how | found, indent=1))
    else:
        click.echo("\n".join(tables(found)))


if __name__ == "__main__":
    main()
