"""gpt2rt batch: generate or score over a corpus."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from time import monotonic

import click

from gpt2rt.cli import complain, needing
from gpt2rt.cli.generate import MAX_TOKENS
from gpt2rt.cli.model_argument import model_argument
from gpt2rt.cli.parameters import FILE, FOLDER, OneOf, label
from gpt2rt.cli.sampling_options import given, sampling_options, special_option
from gpt2rt.cli.signals import undone_when_stopped
from gpt2rt.cli.terminal import counted
from gpt2rt.errors import UsageError
from gpt2rt.sampling import SAMPLING_OPTIONS

SECONDS_BETWEEN_LINES = 30.0  # of progress, where standard error is no terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gpt2rt.jobs.job import Executor, Job
    from gpt2rt.jobs.shard import Answers, AnyTask, Call

REQUESTS = "requests"
OF_TEXTS = {"field", "id_field", "copy", "special"}
OF_SAMPLING = {*SAMPLING_OPTIONS, "max_tokens", "stop"}
# The options that a task has.
OPTIONS = {
    REQUESTS: {"seed", "model_name", "truncation"},
    "generate": {*OF_TEXTS, *OF_SAMPLING, "seed"},
    "score": {*OF_TEXTS, "no_bos"},
    "perplexity": {*OF_TEXTS, "no_bos", "stride"},
}


class PartType(click.ParamType):  # type: ignore[type-arg, unused-ignore] # generic since click 8.4
    """I/N."""

    name = "part"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        i, slash, n = str(value).partition("/")
        if not (slash and i.isdecimal() and n.isdecimal() and len(n) <= 6 and 1 <= int(i) <= int(n)):
            raise UsageError(f"{label(param)}: got {value!r:.80}, expected such as 1/4 for the first of four parts")
        return int(i) - 1, int(n)


@click.command("batch", short_help="Generate or score over a corpus.")
@model_argument(required=True)
@click.argument("input", metavar="IN", type=FILE)
@click.argument("folder", metavar="OUT_DIR", type=FOLDER)
@click.option(
    "--task",
    type=OneOf(["generate", "score", "perplexity"]),
    help="Do this with the text of each row.  [default: the rows are requests of OpenAI's batch API]",
)
@click.option("--field", metavar="NAME", default="text", help="Take a row's text from field NAME.  [default: text]")
@click.option(
    "--id-field",
    metavar="NAME",
    default="id",
    help="Take a row's id from field NAME, if it has one.  [default: id]",
)
@click.option("--copy", is_flag=True, help="Begin each answer with the row's own fields.")
@special_option
@click.option("--no-bos", is_flag=True, help="Put no bos token before a text that is scored.")
@click.option(
    "--stride", type=int, metavar="N", help="Move the window of perplexity by N tokens.  [default: half the context]"
)
@click.option(
    "--model-name", metavar="NAME", help="Let requests name the model NAME.  [default: its file's name without .bin]"
)
@click.option(
    "--truncation",
    type=OneOf(["disabled", "auto"]),
    default="disabled",
    help="What a conversation becomes that does not fit the context: an error, or shorter.  [default: disabled]",
)
@sampling_options(MAX_TOKENS, {}, seed="0; each row has a seed of its own, which follows from N and its id")
@click.option(
    "--merge", metavar="FILE", type=FILE, help="Join all answers into FILE; - is standard output.  [default: none]"
)
@click.option("--force", is_flag=True, help="Let --merge replace a file with other content.")
@click.option(
    "--processes", type=click.IntRange(1, 256), metavar="N", help="Use N processes.  [default: one per thread]"
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Use at most N threads, in all; with --on, in each task.  [default: as many as the machine allows; 1]",
)
@click.option(
    "--batch-size", type=click.IntRange(1, 256), default=16, metavar="N", help="Run N texts at a time.  [default: 16]"
)
@click.option(
    "--shard-size",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Write N rows at a time.  [default: 128, or as many that there are at most 10,000 shards]",
)
@click.option("--on", metavar="ray|dask[=ADDRESS]", help="Run on a cluster.  [default: this machine]")
@click.option(
    "--part", type=PartType(), metavar="I/N", help="Do part I of N, the others elsewhere.  [default: all of it]"
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    input: str,
    folder: str,
    task: str | None,
    merge: str | None,
    force: bool,
    processes: int | None,
    threads: int | None,
    batch_size: int,
    shard_size: int | None,
    on: str | None,
    part: tuple[int, int] | None,
    **options: Any,
) -> None:
    """Generate or score over the rows of IN, and write the answers into the directory OUT_DIR.

    IN is a JSON Lines file (.gz, .bz2 and .xz are unpacked) of requests as for OpenAI's batch API, to
    /v1/completions or /v1/chat/completions. With --task, it is one of rows with a text, or a Parquet file; IN may also
    be a URI such as s3://bucket/rows.jsonl.

    \b
    generate    continue the text
    score       the log probability of each token
    perplexity  how well the model predicts the text, of any length

    An answer depends on its row, the model and the settings alone: not on the other rows, the number of processes and
    machines, or on interruptions. OUT_DIR gets a file for each 128 rows, written in one step. To continue a job that
    was interrupted, run the same command again. An invalid row is answered with an error, and stops nothing.

    \b
    Examples:
      gpt2rt batch 124M requests.jsonl job --merge answers.jsonl
      gpt2rt batch 124M corpus.jsonl.gz job --task perplexity --copy
      gpt2rt batch 124M prompts.parquet job --task generate --field prompt -n 50
      gpt2rt batch 124M corpus.jsonl shared/job --task score --on ray=auto
    """
    from gpt2rt.jobs.job import Job
    from gpt2rt.jobs.shard import Call
    from gpt2rt.jobs.source import Source
    from gpt2rt.model import open_model

    for parameter in ctx.command.params:
        name = parameter.name or ""
        is_given = ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
        if is_given and name in set().union(*OPTIONS.values()) - OPTIONS[task or REQUESTS]:
            user = f"--task {task}" if task else "a file of requests"
            raise UsageError(f"{label(parameter)}: {user} has no use for it (leave it out)")
    if merge is None and force:
        raise UsageError("--force: got no --merge (add it)")
    opened = open_model(model, n_threads=None if on else threads)
    asked = task_of(task, model, options)
    on_cluster = cluster_of(on, processes)
    source = Source(input, id_field=asked.id_field, columns=asked.columns)
    with undone_when_stopped():
        job = Job(opened, source, asked, folder, shard_size=shard_size, part=part or (0, 1))
        if merge is not None:
            check_target(merge, job, (input, opened.path), force)
        n_threads = opened.n_threads if on_cluster is None else threads or 1
        call = Call(os.path.abspath(opened.path), opened.checksums, asked, n_threads, batch_size)
        run(job, partial(on_cluster, call) if on_cluster else executor_of(call, processes, len(job.missing())))
        if merge is not None:
            merge_answers(job, merge, force)


def task_of(name: str | None, model: str, options: dict[str, Any]) -> AnyTask:
    """Return the task that the options describe. Raises UsageError: an option is invalid."""
    from gpt2rt.jobs.tasks import Generate, Perplexity, Score

    seed = options["seed"] or 0
    if name is None:
        with needing("requests need", "server"):
            from gpt2rt.jobs.requests import Requests
        from gpt2rt.cli.serve import name_and_model

        return Requests(
            model_name=options["model_name"] or name_and_model(model)[0], seed=seed, truncation=options["truncation"]
        )
    texts: dict[str, Any] = {
        "text_field": options["field"],
        **{name: options[name] for name in ("id_field", "copy", "special")},
    }
    if name == "generate":
        most = MAX_TOKENS if options["max_tokens"] is None else options["max_tokens"]
        return Generate(**texts, seed=seed, max_tokens=most, stop=tuple(options["stop"]), sampling=given(options))
    if name == "score":
        return Score(**texts, bos=not options["no_bos"])
    return Perplexity(**texts, bos=not options["no_bos"], stride=options["stride"])


def cluster_of(on: str | None, processes: int | None) -> Callable[..., Any] | None:
    """Return what runs tasks on the cluster that --on names; None for this machine.

    Raises:
        UsageError: there is no such kind of cluster, a package is missing, or the options don't go together.
    """
    if on is None:
        return None
    name, _, address = on.partition("=")
    if name not in ("ray", "dask"):
        raise UsageError(f"--on: got {on!r:.80}, expected ray or dask, perhaps with =ADDRESS")
    if processes is not None:
        raise UsageError("--processes: with --on, the cluster decides (leave it out)")
    with needing(f"--on {name} needs", name):
        if name == "ray":
            from gpt2rt.jobs.on_ray import on_ray as on_cluster
        else:
            from gpt2rt.jobs.on_dask import on_dask as on_cluster
    return partial(on_cluster, address=address or None)


def executor_of(call: Call, processes: int | None, n_shards: int) -> Executor:
    """Return what answers so many shards on this machine, with the threads of a call split among processes."""
    from gpt2rt.jobs.local import in_processes, in_this_process

    n_processes = min(processes or call.n_threads, max(1, n_shards))
    if n_processes == 1:
        return partial(in_this_process, call)
    call = call._replace(n_threads=max(1, call.n_threads // n_processes))
    return partial(in_processes, call, n_processes=n_processes)


def run(job: Job, executor: Executor) -> None:
    """Run a job, and show how far it is."""
    n_done, begin = job.n_complete(), monotonic()
    progress = Progress(job.n_rows, n_done)
    n_errors = 0

    def on_shard(answers: Answers) -> None:
        nonlocal n_done, n_errors
        n_done += job.rows_of(answers.number)
        n_errors += answers.n_errors
        progress.show(n_done)

    n_before = n_done
    try:
        with progress:
            job.run(executor, progress.add, on_shard)
    except UsageError:
        raise
    except BaseException:
        complain(f"{n_done} of {counted(job.n_rows, 'row')} done (run the same command again to continue)")
        raise
    seconds = monotonic() - begin
    new = n_done - n_before
    speed = f", {new / seconds:.1f} rows/s" if new and seconds > 0 else ""
    before = f", {n_before} of them before" if n_before else ""
    errors = f"; {counted(n_errors, 'row')} answered with an error" if n_errors else ""
    click.echo(f"{n_done} of {counted(job.n_rows, 'row')} done{before}{speed}{errors}", err=True)


class Progress:
    """A bar on a terminal, else a line now and then."""

    def __init__(self, n_rows: int, n_before: int):
        self._n_rows, self._n_before, self._n_shown = n_rows, n_before, n_before
        self._n_reported = n_before
        self._begin = self._last_line = monotonic()
        self._bar: Any = (
            click.progressbar(
                length=n_rows, label="Rows", file=sys.stderr, show_pos=True, item_show_func=lambda _: self._rate()
            )
            if sys.stderr.isatty()
            else None
        )
        if self._bar is not None:
            self._bar.pos = n_before  # not `update`, which would count them as done now

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)

    def _rate(self) -> str:
        return f"{(self._n_shown - self._n_before) / max(1e-9, monotonic() - self._begin):.1f} rows/s"

    def add(self, n_rows: int) -> None:
        """Count rows whose shard is not complete yet; a negative number takes some back."""
        self._n_reported += n_rows
        self._show(self._n_reported)

    def show(self, n_complete: int) -> None:
        """Show the number of rows of complete shards, which clusters report alone."""
        self._show(max(n_complete, self._n_reported))

    def _show(self, n_rows: int) -> None:
        if self._bar is not None:
            self._bar.update(n_rows - self._n_shown)
            self._n_shown = n_rows
            return
        self._n_shown, now = n_rows, monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            left = (now - self._begin) * (self._n_rows - n_rows) / max(1, n_rows - self._n_before)
            click.echo(f"{n_rows} of {self._n_rows} rows, {self._rate()}, {duration(left)} left", err=True)


def duration(seconds: float) -> str:
    """Return a duration as text, such as 1:02:03."""
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole:02}"


def check_target(target: str, job: Job, used: tuple[str, ...], force: bool) -> None:
    """Raise UsageError if the file of --merge can't be replaced, before the work begins.

    Args:
        used: files that the job reads.
    """
    if target == "-":
        return
    folder, name = os.path.split(target)
    if not name:
        raise UsageError(f"--merge: got {target!r:.80}, expected the name of a file")
    if folder and not os.path.isdir(folder):
        raise UsageError(f"{folder}: no such folder (--merge does not make it)")
    if job.folder.has(target) or any(os.path.exists(path) and _is_same(path, target) for path in used):
        raise UsageError(f"{target}: the job needs this file itself (merge into another one)")
    if os.path.lexists(target):
        if not os.path.isfile(target):
            raise UsageError(f"{target}: not a regular file (- is standard output)")
        # That of a complete job may have been written by it; `merge` compares.
        if not force and job.n_complete() < job.n_rows:
            raise UsageError(f"{target}: it exists already (--force replaces it)")


def _is_same(path: str, other: str) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def merge_answers(job: Job, target: str, force: bool) -> None:
    """Join the answers, if all shards are complete: with --part, others may still be at work."""
    if (n_missing := job.n_rows - job.n_complete()) > 0:
        raise UsageError(f"--merge: {counted(n_missing, 'row')} of other parts are missing (run this again later)")
    job.merge(target, force=force)
