"""Compare the speed of gpt2rt with builds of llama.cpp or of its forks, each measured by its own programs.

    python bench/llama_bench.py 124M-int8.bin --peer build/bin 124M-q8_0.gguf --peer ik/build/bin 124M-q8_0.gguf

A peer is a folder with `llama-bench`, and a model for it; if the folder has `llama-completion`, the time of a whole
process up to its first token is compared too, with that of `gpt2rt-chat`. In every round, each figure is measured with
all of them, one right after the other. The table has medians, and the median of the rounds' ratios.
"""

import json
import shutil
import statistics
import subprocess
import sysconfig
from functools import partial
from pathlib import Path

import click
from table import markdown

from gpt2rt.benchmark import START_PROMPT, Run, timed
from gpt2rt.model import open_model
from gpt2rt.threads import default_threads

DEPTH, PROMPT, DECODED = 900, 512, 24  # tokens


class Gpt2rt:
    """Measures the installed gpt2rt.

    Attributes:
        name: heads its column. figures: {what: function that returns tokens/s, or seconds to the first token}.
    """

    def __init__(self, path, threads):
        self.name = f"gpt2rt, {Path(path).name}"
        run = Run(open_model(path, n_threads=threads))
        depth, prompt = fitting(run.n_ctx)
        self.n_ctx = run.n_ctx
        self.figures = {
            "decode": partial(warmed, run.decode_speed, 0),
            f"decode at {depth}": partial(warmed, run.decode_speed, depth),
            f"prompt of {prompt}": partial(warmed, run.prompt_speed, prompt),
        }
        program = shutil.which("gpt2rt-chat", path=sysconfig.get_path("scripts"))
        if program is not None:
            command = [program, path, "-p", START_PROMPT, "-n", "1", "--threads", str(threads)]
            self.figures["first token, ms"] = lambda: 1e3 * timed(command)[0]


class LlamaBench:
    """Measures one build of llama.cpp, or of a fork. Attributes as for `Gpt2rt`."""

    def __init__(self, folder, model, threads, n_ctx):
        bench, completion = (Path(folder, name) for name in ("llama-bench", "llama-completion"))
        self.name = f"{folder}, {Path(model).name}"
        self._bench = [str(bench), "-m", model, "-t", str(threads), "-r", "1", "-o", "json"]
        depth, prompt = fitting(n_ctx)
        self.figures = {
            "decode": lambda: self._speed("-p", "0", "-n", str(DECODED)),
            f"decode at {depth}": lambda: self._speed("-p", "0", "-n", "0", "-gp", f"{depth},{DECODED}"),
            f"prompt of {prompt}": lambda: self._speed("-p", str(prompt), "-n", "0"),
        }
        if "--n-depth" in subprocess.run([bench, "--help"], capture_output=True, text=True, check=False).stdout:
            self.figures[f"decode at {depth}"] = lambda: self._speed("-p", "0", "-n", str(DECODED), "-d", str(depth))
        if completion.exists():
            options = ["-t", str(threads), "-n", "1", "-c", str(n_ctx), "-no-cnv", "--no-warmup", "--simple-io"]
            program = [str(completion), "-m", model, "-p", START_PROMPT, *options]
            self.figures["first token, ms"] = lambda: 1e3 * timed(program)[0]

    def _speed(self, *what):
        """Return the tokens/s that llama-bench reports for its last test."""
        done = subprocess.run([*self._bench, *what], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        return json.loads(done.stdout)[-1]["avg_ts"]


def warmed(measure, n):
    """Measure twice and return the second value: llama-bench warms up, too."""
    measure(n)
    return measure(n)


def fitting(n_ctx):
    """Return (depth, tokens of the prompt), less than usual if the context is smaller."""
    return min(DEPTH, n_ctx - DECODED), min(PROMPT, n_ctx)


def rows_of(sides, rounds):
    """Measure all sides, the first of which is gpt2rt, and yield the rows of the table."""
    yield ("", *(side.name for side in sides), *(f"gpt2rt / {side.name}" for side in sides[1:]))
    yield ("---",) * (2 * len(sides))
    for what in sides[0].figures:
        values = [[] for _ in sides]
        for i in range(rounds + 1):
            for side, found in zip(sides, values, strict=True):
                if what in side.figures and (value := side.figures[what]()) and i:  # the first round only warms up
                    found.append(value)
        shown = [f"{statistics.median(found):,.1f}" if found else "" for found in values]
        ratios = [[a / b for a, b in zip(values[0], found, strict=True)] if found else [] for found in values[1:]]
        yield (what, *shown, *(f"{statistics.median(found):.3f}" if found else "" for found in ratios))


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--peer",
    "peers",
    type=(click.Path(exists=True, file_okay=False), click.Path(exists=True, dir_okay=False)),
    multiple=True,
    required=True,
    metavar="FOLDER MODEL",
    help="A build of llama.cpp or of a fork, and a model for it; repeatable.",
)
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True, help="Measure each figure N times.")
@click.option("--threads", type=click.IntRange(1), default=default_threads(), show_default=True)
def main(model, peers, rounds, threads):
    """Compare gpt2rt with builds of llama.cpp or of its forks, in alternating rounds."""
    mine = Gpt2rt(model, threads)
    sides = [mine, *(LlamaBench(folder, path, threads, mine.n_ctx) for folder, path in peers)]
    for row in rows_of(sides, rounds):
        click.echo(markdown(row))


if __name__ == "__main__":
    main()
