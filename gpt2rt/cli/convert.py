"""gpt2rt convert: makes a model file of a checkpoint."""

from __future__ import annotations

import sys

import click

from gpt2rt.cli.files import read_text


@click.command("convert", short_help="Make a model file of a checkpoint.")
@click.argument("source")
@click.option("-o", "--output", metavar="FILE", help="The file to write; by default named for the source and the type.")
@click.option("--type", "weight_type", default="int8", show_default=True, metavar="TYPE", help="int8, int4, f16, f32.")
@click.option("--group-size", type=int, metavar="N", help="Weights that share a scale, for int8 and int4.")
@click.option("--name", metavar="TEXT", help="The model's name, kept in the file.")
@click.option("--licence", metavar="TEXT", help="The weights' licence, kept in the file.")
@click.option("--chat-format", metavar="NAME", help="plain, dialogpt or raw: how chat is to talk with it.")
@click.option("--user-name", metavar="NAME", help="The user's name in a chat.")
@click.option("--bot-name", metavar="NAME", help="The model's name in a chat.")
@click.option("--opening", metavar="FILE", help="Text before a chat's first turn.")
@click.option("--force", is_flag=True, help="Overwrite the file where it exists.")
def command(source, output, weight_type, group_size, name, licence, chat_format, user_name, bot_name, opening, force):
    """Make a model file of a GPT-2 checkpoint.

    SOURCE is a folder as OpenAI releases it, or a checkpoint's prefix as fine-tuning tools save it; a Hugging Face
    folder, or hf:OWNER/NAME[@REVISION] to fetch one; or a GGUF file (F32, F16 or Q8_0).

    \b
    Examples:
      gpt2rt convert models/124M
      gpt2rt convert models/124M --type f32 -o exact.bin
      gpt2rt convert checkpoint/run1/model-1000 --name run1 --chat-format dialogpt
      gpt2rt convert hf:microsoft/DialoGPT-small
    """
    from gpt2rt.converter import convert

    chat = {
        "format": chat_format,
        "user_name": user_name,
        "bot_name": bot_name,
        "opening": None if opening is None else read_text(opening),
    }
    chat = {key: value for key, value in chat.items() if value is not None}
    options = {
        "weight_type": weight_type,
        "group_size": group_size,
        "name": name,
        "licence": licence,
        "chat": chat or None,
        "force": force,
    }
    show_result(with_progress(convert, source, output, **options))


def with_progress(convert, *arguments, **options):
    """Calls `convert` with a progress bar, at a terminal."""
    if not sys.stderr.isatty():
        return convert(*arguments, **options)
    with click.progressbar(length=1, label="converting", file=sys.stderr) as bar:

        def show(done, total):
            bar.length = total
            bar.update(done - bar.pos)

        return convert(*arguments, **options, progress=show)


def show_result(result):
    """Tells of a `Conversion`."""
    click.echo(
        f"{result.path}: {result.size / 1e6:.1f} MB of {result.source_size / 1e6:.1f} MB ({result.ratio:.2f} times"
        f" smaller) in {result.seconds:.1f} s; largest error {result.max_error:.2g}, mean {result.mean_error:.2g}"
    )
