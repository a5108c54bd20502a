"""gpt2rt download: fetch one of OpenAI's models; and the offer of other commands to do that and convert it."""

from __future__ import annotations

import os
import shlex
import sys

import click

from gpt2rt.cli import EXIT_INTERRUPTED, complain
from gpt2rt.cli.parameters import FOLDER, WEIGHT_TYPE, OneOf
from gpt2rt.model_folder import SIZES, model_folder, path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.converter.download import Download

MIRROR_VARIABLE = "GPT2RT_BASE_URL"
UNFINISHED = ".download"  # folder of checkpoints in the model folder: no model's name begins with a dot


@click.command("download", short_help="Fetch one of OpenAI's models.")
@click.argument("size", type=OneOf(SIZES), metavar="SIZE")
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
@click.option(
    "--base-url",
    envvar=MIRROR_VARIABLE,
    show_envvar=True,
    metavar="URL",
    help="Download from a mirror, which has the files as URL/SIZE/FILE.  [default: OpenAI's address]",
)
@click.pass_context
def command(
    ctx: click.Context, /, size: str, folder: str | None, weight_type: str | None, base_url: str | None
) -> None:
    """Fetch OpenAI's model SIZE: 124M, 355M, 774M or 1558M (0.5, 1.4, 3.1 or 6.2 GB).

    The same command resumes a download that was stopped. At the end every tensor is verified against its checksum.
    To use a model by its name alone, run gpt2rt chat SIZE: it keeps the converted file in the model folder (see
    gpt2rt models).

    \b
    Examples:
      gpt2rt download 124M
      gpt2rt download 355M -d big --convert int4
    """
    result = fetch(size, folder, base_url)
    what = f"{len(result.fetched)} files downloaded" + f", {len(result.kept)} already there" * bool(result.kept)
    click.echo(f"{result.folder}: {what}; {result.size / 1e6:.1f} MB, every tensor matches its checksum")
    if weight_type is None:
        click.echo(f"now: gpt2rt convert {shlex.quote(result.folder)}")
    else:
        from gpt2rt.cli.convert import command as convert

        ctx.invoke(convert, source=result.folder, weight_type=weight_type)


def fetch(size: str, folder: str | None, base_url: str | None = None) -> Download:
    """Download a checkpoint, with a progress bar at a terminal.

    Args:
        size: one of `SIZES`.
        folder: where the files go; models/SIZE if None.
        base_url: a mirror; OpenAI's address if None.

    Raises:
        click.exceptions.Exit: Ctrl-C was pressed.
    """
    from gpt2rt.converter.download import BASE_URL, download

    base_url = base_url or BASE_URL
    try:
        if not sys.stderr.isatty():
            return download(size, folder, base_url=base_url)
        with click.progressbar(length=1, label="downloading", file=sys.stderr) as bar:

            def show(name: str, done: int, total: int) -> None:
                bar.length, bar.label = total, name
                bar.update(done - bar.pos)

            return download(size, folder, base_url=base_url, progress=show)
    except KeyboardInterrupt:
        complain("stopped; what has arrived is kept, and the same command resumes")
        raise click.exceptions.Exit(EXIT_INTERRUPTED) from None


def install(size: str) -> str:
    """Download one of OpenAI's models, convert it to int8 in the model folder, and delete the checkpoint.

    Args:
        size: one of `SIZES`.

    Returns:
        The path of the model file.
    """
    from gpt2rt.cli.convert import with_progress
    from gpt2rt.converter import convert

    path, checkpoint = path_of(size), os.path.join(model_folder(), UNFINISHED, size)
    result = fetch(size, checkpoint, os.environ.get(MIRROR_VARIABLE))
    converted = with_progress(convert, result.folder, path, name=size)
    remove_checkpoint(checkpoint)
    click.echo(f"{size}: {converted.size / 1e6:.1f} MB in {path}", err=True)
    return path


def remove_checkpoint(folder: str) -> None:
    """Delete a checkpoint, and the folder around it when that is empty."""
    import contextlib
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(folder))
