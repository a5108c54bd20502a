"""Measure what `gpt2rt explain` costs: a trace beside the plain pass over the same tokens, its memory, and a lesson.

    python bench/explain.py 124M-int8.bin
    python bench/explain.py 124M-int8.bin --tokens 60 --rounds 9 --json

The three are measured in alternating rounds; the figures are medians.

    plain   Sequence.append of the tokens
    trace   the same with hidden states, outputs of heads and attention recorded
    explain Model.trace: that, the logit lens of all layers and the most likely tokens at each position

Memory is the peak of a process that prints the trace as JSON. A lesson is the page of --html.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import click
from table import markdown

from gpt2rt.benchmark import some_tokens, timed
from gpt2rt.errors import Gpt2rtError
from gpt2rt.model import open_model


def seconds_of(work):
    begin = perf_counter()
    work()
    return perf_counter() - begin


def measure(model, n_tokens, rounds):
    """Return {name: median seconds} of the three."""
    ids = some_tokens(n_tokens, model.hyperparameters.n_vocab)
    ways = {
        "plain": lambda: model.sequence().append(ids),
        "trace": lambda: model.sequence().append(ids, trace=True),
        "explain": lambda: model.trace(ids),
    }
    found = {name: [] for name in ways}
    for i in range(rounds + 1):  # the first round warms caches
        for name, work in ways.items():
            seconds = seconds_of(work)
            if i:
                found[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def measure_processes(path, text, n_threads):
    """Return the peak memory of a trace, in bytes, and the size of a lesson and the seconds of making it."""
    explain = [sys.executable, "-P", "-m", "gpt2rt", "explain", path, text, "--threads", str(n_threads)]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "lesson.html"
        peak = timed([*explain, "--json"])[1]
        seconds = timed([*explain, "--html", str(page)])[0]
        return {"peak": peak, "page": page.stat().st_size, "lesson": seconds}


@click.command()
@click.argument("path", metavar="MODEL", type=click.Path(exists=True, dir_okay=False))
@click.option("--tokens", type=click.IntRange(2), default=60, show_default=True, help="Trace a text of so many.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Measure so many times.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(path, tokens, rounds, as_json):
    """Measure what a trace of the model file MODEL costs."""
    try:
        model = open_model(path)
        found = measure(model, tokens, rounds)
        text = model.tokenizer.decode(model.tokenizer.encode("The cat sat on the mat. " * tokens)[:tokens])
        found |= measure_processes(path, text, model.n_threads)
    except Gpt2rtError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    memory = "not known" if found["peak"] is None else f"{found['peak'] / 1e6:.0f} MB"
    click.echo(markdown((f"{tokens} tokens", "figure")))
    click.echo(markdown(("---", "---")))
    for name in ("plain", "trace", "explain"):
        click.echo(markdown((name, f"{1e3 * found[name]:.0f} ms")))
    click.echo(markdown(("peak memory", memory)))
    click.echo(markdown(("lesson", f"{found['page'] / 1e6:.2f} MB in {found['lesson']:.1f} s")))


if __name__ == "__main__":
    main()
