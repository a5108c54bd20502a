"""Compare the speed of two installed versions of gpt2rt, before and after a change.

    python bench/compare.py BEFORE/bin/python AFTER/bin/python 124M-int8.bin 124M-int4.bin --rounds 7

BEFORE and AFTER are virtual environments. In every round, each figure is measured in both, one right after the other,
so that background load affects both equally; the order alternates. The table has the medians, and the median of the
rounds' speedups (above 1 means faster after the change).
"""

import os
import pathlib
import statistics
import subprocess
from functools import partial

import click
from worker import Worker, WorkerError

from gpt2rt.benchmark import DECODED, START_PROMPT, some_tokens, timed
from gpt2rt.threads import default_threads

DEPTH, PROMPT = 900, 512  # tokens; fewer if the context is smaller
BATCHES = (16, 64)  # sequences


class Side:
    """One of the two versions with one model: its worker and its measurements.

    Attributes:
        figures: {what: (function that returns seconds, number of tokens)}; 0 tokens if a whole process is timed.
    """

    def __init__(self, python, model, threads):
        self._worker = Worker(python, "gpt2rt", model, threads)
        n_vocab, n_ctx = self._worker.ask("shape")
        depth, prompt = min(DEPTH, n_ctx - DECODED), min(PROMPT, n_ctx)
        decode = partial(self._worker.ask, "decode", n=DECODED)
        command = [python, "-P", "-m", "gpt2rt", "generate", model, START_PROMPT, "-n", "1", "--threads", str(threads)]
        self.figures = {
            "decode": (partial(decode, tokens=some_tokens(1, n_vocab)), DECODED),
            f"decode after {depth}": (partial(decode, tokens=some_tokens(depth, n_vocab)), DECODED),
            f"prompt of {prompt}": (partial(self._worker.ask, "prompt", tokens=some_tokens(prompt, n_vocab)), prompt),
            "first token": (lambda: timed(command)[0], 0),
        }
        for size in BATCHES:
            self.figures[f"batch of {size}"] = (
                partial(self._worker.ask, "batch", size=size, n=DECODED),
                size * DECODED,
            )

    def close(self):
        self._worker.close()


def compare(sides, rounds):
    """Measure two sides in alternating rounds.

    Returns:
        {what: (seconds of each round before, seconds of each round after)}
    """
    found = {what: ([], []) for what in sides[0].figures}
    for i in range(rounds + 1):  # the first round warms caches
        for what, values in found.items():
            for number in (0, 1) if i % 2 else (1, 0):
                measure, _ = sides[number].figures[what]
                seconds = measure()
                if i:
                    values[number].append(seconds)
    return found


def median_ratio(values, others):
    """Return the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


def shown(seconds, n_tokens):
    """Return the median as text: tokens/s, or milliseconds for a process."""
    median = statistics.median(seconds)
    return f"{n_tokens / median:,.1f} tokens/s" if n_tokens else f"{1e3 * median:.1f} ms"


def print_table(rows):
    """Print rows of text in columns; the first column is left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(rest, widths[1:], strict=True))]
        click.echo("  ".join(cells).rstrip())


def interpreter(_context, _parameter, path):
    """Return the absolute path of an interpreter without resolving links, as in virtual environments it is a link."""
    return os.path.abspath(path) if path else path


rounds_option = click.option(
    "--rounds", type=click.IntRange(1), metavar="N", default=7, show_default=True, help="Measure each figure N times."
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    metavar="N",
    default=default_threads(),
    show_default=True,
    help="Use N threads.",
)


@click.command()
@click.argument("before", callback=interpreter, type=click.Path(exists=True, dir_okay=False))
@click.argument("after", callback=interpreter, type=click.Path(exists=True, dir_okay=False))
@click.argument("models", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
@rounds_option
@threads_option
def main(before, after, models, rounds, threads):
    """Compare the gpt2rt that the interpreter BEFORE imports with that of AFTER, on each of the model files MODELS."""
    try:
        for model in models:
            sides = [Side(python, model, threads) for python in (before, after)]
            found = compare(sides, rounds)
            rows = [(pathlib.Path(model).name, "before", "after", "speedup")]
            for what, values in found.items():
                n_tokens = sides[0].figures[what][1]
                rows.append((what, *(shown(seconds, n_tokens) for seconds in values), f"{median_ratio(*values):.2f}"))
            print_table(rows)
            click.echo()
            for side in sides:
                side.close()
    except (WorkerError, subprocess.CalledProcessError) as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
