"""gpt2rt download: fetches one of OpenAI's models."""

from __future__ import annotations

import shlex
import sys

import click

from gpt2rt.cli import EXIT_INTERRUPTED, complain
from gpt2rt.cli.parameters import FOLDER, SIZE, WEIGHT_TYPE


@click.command("download", short_help="Fetch one of OpenAI's models.")
@click.argument("size", type=SIZE, metavar="SIZE")
@click.option("-d", "--folder", type=FOLDER, metavar="DIR", help="Save the files in DIR.  [default: models/SIZE]")
@click.option(
    "--convert",
    "weight_type",
    type=WEIGHT_TYPE,
    is_flag=False,
    flag_value="int8",
    metavar="[TYPE]",
    help="Convert the checkpoint at once to int8 (without a TYPE), int4, f16 or f32.  [default: no conversion]",
)
@click.option("--base-url", metavar="URL", help="Download URL/SIZE/FILE from a mirror.  [default: OpenAI's address]")
@click.pass_context
def command(
    ctx: click.Context, /, size: str, folder: str | None, weight_type: str | None, base_url: str | None
) -> None:
    """Fetch OpenAI's model SIZE: 124M, 355M, 774M or 1558M (0.5, 1.4, 3.1 or 6.2 GB).

    A download that was stopped goes on where it was. At the end every tensor is proved by its checksum.

    \b
    Examples:
      gpt2rt download 124M
      gpt2rt download 355M -d big --convert int4
    """
    from gpt2rt.converter.download import BASE_URL, download

    base_url = BASE_URL if base_url is None else base_url
    try:
        if sys.stderr.isatty():
            with click.progressbar(length=1, label="downloading", file=sys.stderr) as bar:

                def show(name: str, done: int, total: int) -> None:
                    bar.length, bar.label = total, name
                    bar.update(done - bar.pos)

                result = download(size, folder, base_url=base_url, progress=show)
        else:
            result = download(size, folder, base_url=base_url)
    except KeyboardInterrupt:
        complain("stopped; what has come is kept, and the same command goes on")
        ctx.exit(EXIT_INTERRUPTED)
    what = f"{len(result.fetched)} files fetched" + f", {len(result.kept)} were there" * bool(result.kept)
    click.echo(f"{result.folder}: {what}; {result.size / 1e6:.1f} MB, every tensor has its checksum")
    if weight_type is None:
        click.echo(f"now: gpt2rt convert {shlex.quote(result.folder)}")
    else:
        from gpt2rt.cli.convert import command as convert

        ctx.invoke(convert, source=result.folder, weight_type=weight_type)
