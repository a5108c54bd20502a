"""gpt2rt bench: measure how fast a model runs on this machine."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from gpt2rt.cli.model_argument import model_argument
from gpt2rt.cli.sampling_options import kv_type_option
from gpt2rt.cli.terminal import print_json, print_table
from gpt2rt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def numbers(least: int) -> Callable[[click.Context, click.Parameter, str | None], list[int] | None]:
    """Return a callback that parses an option of whole numbers separated by commas."""

    def parse(_ctx: click.Context, option: click.Parameter, value: str | None) -> list[int] | None:
        if value is None:
            return None
        try:
            found = [int(text) for text in value.split(",")]
        except ValueError:
            found = []
        if not found or min(found) < least:
            raise UsageError(
                f"{option.opts[-1]}: got {value!r}, expected whole numbers from {least}, separated by commas"
            )
        return found

    return parse


@click.command("bench", short_help="Measure how fast a model runs on this machine.")
@model_argument()
@click.option(
    "--threads",
    metavar="N,N,...",
    callback=numbers(1),
    help="Measure with each of these numbers of threads.  [default: 1, and the default number]",
)
@click.option(
    "--depths",
    metavar="N,N,...",
    default="0,256,900",
    callback=numbers(0),
    show_default=True,
    help="Measure decoding after each of these numbers of tokens.",
)
@click.option(
    "--prompts",
    metavar="N,N,...",
    default="16,128,512",
    callback=numbers(1),
    show_default=True,
    help="Measure prompts of each of these numbers of tokens.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    metavar="N",
    default=5,
    show_default=True,
    help="Measure everything N times.",
)
@kv_type_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, which has every measured value.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown tables.")
def command(
    model: str,
    threads: list[int] | None,
    depths: list[int],
    prompts: list[int],
    rounds: int,
    kv_type: str | None,
    as_json: bool,
    as_markdown: bool,
) -> None:
    """Measure how fast MODEL, the bundled model by default, runs on this machine.

    Each round measures every figure once. Decoding is limited by how fast memory can be read: "of memory limit" is the
    median decoding speed divided by the speed at which the same number of threads can read the weights and the KV cache
    without computing anything. Reads alternate with decoding, and the fastest read counts as the limit.

    \b
    Examples:
      gpt2rt bench 124M
      gpt2rt bench 124M-int8.bin --threads 1,2,4 --rounds 9 --markdown
    """
    from gpt2rt.benchmark import benchmark
    from gpt2rt.model import number_of_threads

    if as_json and as_markdown:
        raise UsageError("--json and --markdown: got both, expected one of them")
    arguments: dict[str, Any] = {
        "threads": threads or sorted({1, number_of_threads(None)}),
        "depths": depths,
        "prompts": prompts,
        "rounds": rounds,
        "kv_type": kv_type,
    }
    if sys.stderr.isatty():
        with click.progressbar(length=rounds, label="Measuring", file=sys.stderr) as bar:
            result = benchmark(model, **arguments, progress=lambda done, _: bar.update(done - bar.pos))
    else:
        result = benchmark(model, **arguments)
    if as_json:
        print_json(result)
    else:
        show(result, as_markdown)


def show(result: dict[str, Any], as_markdown: bool) -> None:
    """Print the tables."""
    machine, model = result["machine"], result["model"]
    click.echo(
        f"{model['path']}: {model['n_parameters'] / 1e6:.1f} million parameters, {model['weight_type']},"
        f" {model['size'] / 1e6:.1f} MB\n"
        f"{machine['cpu']}, {machine['cpus']} CPUs, {machine['isa']}, {machine['system']}; KV cache {model['kv_type']};"
        f" {result['rounds']} rounds"
    )
    if result["peak_memory"] is not None:
        click.echo(f"peak memory of generate: {result['peak_memory'] / 1e6:.0f} MB")
    click.echo()
    rows: list[tuple[str, ...]] = [("what", "threads", "median", "mean", "min", "max", "unit", "of memory limit")]
    for figure in result["figures"]:
        what = figure["name"]
        if figure["depth"] is not None:
            what += f" after {figure['depth']}"
        if figure["n_tokens"] is not None:
            what += f" of {figure['n_tokens']}"
        share = f"{figure['of_memory_limit']:.0%}" if "of_memory_limit" in figure else ""
        values = (figure[key] for key in ("median", "mean", "min", "max"))
        shown = (f"{value:.3f}" if figure["unit"] == "s" else f"{value:.1f}" for value in values)
        rows.append((what, str(figure["threads"]), *shown, figure["unit"], share))
    print_table(rows, as_markdown)
    click.echo()
    rows = [("where the time goes, ms", *result["parts"][0]["seconds"], "sum")]
    for at in result["parts"]:
        what = f"{at['n_tokens']} token{'s' * (at['n_tokens'] > 1)} after {at['depth']}, threads {at['threads']}"
        seconds = at["seconds"].values()
        rows.append((what, *(f"{1e3 * value:.2f}" for value in seconds), f"{1e3 * sum(seconds):.2f}"))
    print_table(rows, as_markdown)
