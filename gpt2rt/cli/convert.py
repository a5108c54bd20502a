"""gpt2rt convert: makes a model file of a checkpoint."""

from __future__ import annotations

import sys

import click

from gpt2rt.cli import complain
from gpt2rt.cli.files import read_any_text, read_text
from gpt2rt.errors import UsageError

MOST_GROWTH = 0.01  # of the loss, that needs no warning
BETTER = {"int4": "int8", "int8": "f16"}  # the type to take instead

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from gpt2rt.converter import Conversion


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
@click.option("--calibrate", metavar="FILE", help="Round int8 and int4 by this text: less is lost; takes minutes.")
@click.option("--text", metavar="FILE", help="Measure the quality on this text.  [default: a page of prose]")
@click.option("--no-quality-report", is_flag=True, help="Don't measure the quality.")
@click.option("--no-receipt", "no_quality_report", is_flag=True, hidden=True)
@click.option("--force", is_flag=True, help="Overwrite the file where it exists.")
def command(
    source: str,
    output: str | None,
    weight_type: str,
    group_size: int | None,
    name: str | None,
    licence: str | None,
    chat_format: str | None,
    user_name: str | None,
    bot_name: str | None,
    opening: str | None,
    calibrate: str | None,
    text: str | None,
    no_quality_report: bool,
    force: bool,
) -> None:
    """Make a model file of a GPT-2 checkpoint.

    SOURCE is a folder as OpenAI releases it, or a checkpoint's prefix as fine-tuning tools save it; a Hugging Face
    folder, or hf:OWNER/NAME[@REVISION] to fetch one; or a GGUF file (F32, F16 or Q8_0).

    What the smaller weights lose is measured on text, told, and kept in the file (see info). --calibrate rounds them by
    a text like those that the model is for, so that less is lost; measure on another one.

    \b
    Examples:
      gpt2rt convert models/124M
      gpt2rt convert models/124M --type int4 --calibrate book.txt
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
    options: dict[str, Any] = {
        "weight_type": weight_type,
        "group_size": group_size,
        "name": name,
        "licence": licence,
        "chat": chat or None,
        "calibration_text": None if calibrate is None else read_any_text(calibrate),
        "quality_text": quality_text(weight_type, text, no_quality_report),
        "force": force,
    }
    show_result(with_progress(convert, source, output, **options), options)


def quality_text(weight_type: str, text: str | None, no_quality_report: bool) -> str | None:
    """Return the text for the quality report, or None for no report. Raises UsageError."""
    from gpt2rt.converter.quality import bundled_text

    if no_quality_report and text is not None:
        raise UsageError("--text and --no-quality-report: give one of them")
    if text is not None:
        return read_any_text(text)
    return None if no_quality_report or weight_type == "f32" else bundled_text()  # f32 is the source itself


def with_progress(convert: Callable[..., Conversion], *arguments: Any, **options: Any) -> Conversion:
    """Calls `convert` with a progress bar, at a terminal."""
    if not sys.stderr.isatty():
        return convert(*arguments, **options)
    with click.progressbar(length=1, label="converting", file=sys.stderr) as bar:

        def show(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        return convert(*arguments, **options, progress=show)


def show_result(result: Conversion, options: dict[str, Any]) -> None:
    """Tells of a `Conversion` by these options."""
    click.echo(
        f"{result.path}: {result.size / 1e6:.1f} MB of {result.source_size / 1e6:.1f} MB ({result.ratio:.2f} times"
        f" smaller) in {result.seconds:.1f} s; largest error {result.max_error:.2g}, mean {result.mean_error:.2g}"
    )
    if options["quality_text"] is not None:
        show_quality(result.quality, options["weight_type"])


def show_quality(quality: dict[str, Any] | None, weight_type: str) -> None:
    """Prints the quality report, and warns where the loss grows by more than MOST_GROWTH."""
    if quality is None:
        complain("the model's loss on the text is not finite, so the file has no quality report")
        return
    growth = quality["loss"] / quality["source_loss"] - 1 if quality["source_loss"] else 0.0
    click.echo(
        f"on {quality['n_tokens']} tokens of text: perplexity {quality['perplexity']:.6g}, the source's"
        f" {quality['source_perplexity']:.6g} (loss {growth:+.3%}); mean KL {quality['mean_kl']:.2g} nats,"
        f" same top token {quality['same_top']:.1%}"
    )
    if growth > MOST_GROWTH:
        better = BETTER.get(weight_type, "f32")
        complain(f"{weight_type} raises the loss by {growth:.1%} (--calibrate or --type {better} keeps more)")
