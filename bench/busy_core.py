"""Measure how much a process that keeps one core busy slows down prompts and decoding. Linux only.

    python bench/busy_core.py 124M-int8.bin [BEFORE/bin/python AFTER/bin/python]

In every round, each figure is measured alone and then next to a busy loop that is pinned to one core. The table has the
medians, and the median of the rounds' ratios. Given the interpreters of two virtual environments, it compares the
versions of gpt2rt installed there.

The scheduler takes the core away for milliseconds at a time. A worker stopped in the middle of a chunk holds up all
others at the next barrier, so with two cores about half of the speed is left, however the work is divided. The effect
of chunks on a core that is always slower can be measured without a scheduler, with a build whose worker 1 computes each
of its chunks twice. In a copy of the repository that has not been built,

    python -m venv SLOW && CFLAGS=-DGPT2RT_SLOW_WORKER SLOW/bin/pip install .
    python bench/busy_core.py 124M-int8.bin NORMAL/bin/python SLOW/bin/python

The column `alone` shows it: with two threads, evenly divided work takes twice as long, chunks 4/3 as long.
"""

import contextlib
import os
import signal
import statistics
import subprocess
import sys

import click
from compare import interpreter, median_ratio, print_table, rounds_option, threads_option
from worker import Worker, WorkerError

from gpt2rt.benchmark import some_tokens

PROMPT = 512  # tokens; fewer if the context is smaller
DECODED = 64  # tokens: several of the scheduler's time slices


@contextlib.contextmanager
def busy_process(cpu):
    """Start a stopped process that keeps one CPU busy once it is continued."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(process.pid, {cpu})
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()


def measure(workers, busy, rounds):
    """Measure every worker in alternating rounds.

    Returns:
        {(what, number of the worker, whether a core is busy): [tokens/s of each round]}
    """
    n_vocab, n_ctx = workers[0].ask("shape")
    prompt, decoded = min(PROMPT, n_ctx), min(DECODED, n_ctx - 1)
    tokens = some_tokens(prompt, n_vocab)
    figures = {
        f"prompt of {prompt}": lambda worker: prompt / worker.ask("prompt", tokens=tokens),
        "decode": lambda worker: decoded / worker.ask("decode", tokens=tokens[:1], n=decoded),
    }
    found = {}
    for i in range(rounds + 1):  # the first round warms caches
        for what, speed in figures.items():
            for number, worker in list(enumerate(workers))[:: 1 if i % 2 else -1]:
                for is_busy in (False, True):
                    busy.send_signal(signal.SIGCONT if is_busy else signal.SIGSTOP)
                    value = speed(worker)
                    if i:
                        found.setdefault((what, number, is_busy), []).append(value)
            busy.send_signal(signal.SIGSTOP)
    return found


def table(found, names):
    """Return the rows of the table: each figure of each version, and, with two versions, their ratio."""
    rows = [("tokens/s", "version", "alone", "one core busy", "busy / alone")]
    for what in dict.fromkeys(what for what, _, _ in found):
        for number, name in enumerate(names):
            alone, busy = (found[what, number, is_busy] for is_busy in (False, True))
            medians = (f"{statistics.median(values):,.1f}" for values in (alone, busy))
            rows.append((what, name, *medians, f"{median_ratio(busy, alone):.2f}"))
        if len(names) > 1:
            ratios = (median_ratio(found[what, 1, is_busy], found[what, 0, is_busy]) for is_busy in (False, True))
            rows.append((what, "after / before", *(f"{value:.2f}" for value in ratios), ""))
    return rows


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False))
@click.argument("before", required=False, callback=interpreter, type=click.Path(exists=True, dir_okay=False))
@click.argument("after", required=False, callback=interpreter, type=click.Path(exists=True, dir_okay=False))
@rounds_option
@threads_option
def main(model, before, after, rounds, threads):
    """Measure MODEL alone and next to a busy process, with this interpreter or with BEFORE and AFTER."""
    if not hasattr(os, "sched_setaffinity"):
        raise click.ClickException(f"{sys.platform}: a process can't be pinned to a core (run this on Linux)")
    versions = {"before": before, "after": after} if after else {"gpt2rt": before or sys.executable}
    try:
        workers = [Worker(python, "gpt2rt", model, threads) for python in versions.values()]
        with busy_process(max(os.sched_getaffinity(0))) as busy:
            found = measure(workers, busy, rounds)
        for worker in workers:
            worker.close()
    except WorkerError as error:
        raise click.ClickException(str(error)) from None
    print_table(table(found, list(versions)))


if __name__ == "__main__":
    main()
