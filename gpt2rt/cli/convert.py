"""gpt2rt convert: convert a checkpoint to a model file."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from gpt2rt.cli import complain
from gpt2rt.cli.files import read_any_text, read_text
from gpt2rt.cli.parameters import CHAT_FORMAT, FILE, WEIGHT_TYPE, Renamed
from gpt2rt.cli.signals import undone_when_stopped
from gpt2rt.cli.terminal import printable
from gpt2rt.errors import UsageError

MOST_GROWTH = 0.01  # of the loss, before there is a warning
BETTER = {"int4": "int8", "int8": "f16"}  # the type with the next smaller quantization error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gpt2rt.converter import Conversion

Command = Callable[..., None]


def output_options(default_type: str | None) -> Callable[[Command], Command]:
    """Return a decorator with the options of what `convert` and `requantize` write.

    Args:
        default_type: of --type; None where it is required.
    """
    decorators = [
        click.option(
            "-o", "--output", type=FILE, metavar="FILE", help="Write FILE.  [default: NAME-TYPE.bin in this folder]"
        ),
        click.option(
            "--type",
            "weight_type",
            type=WEIGHT_TYPE,
            help="Store the weights in this type.",
            **({"required": True} if default_type is None else {"default": default_type, "show_default": True}),
        ),
        click.option(
            "--group-size",
            type=int,
            metavar="N",
            help="Let N weights share a scale: 16, 32, 64, 128 or 256.  [default: 64 for int8, 32 for int4]",
        ),
        click.option(
            "--calibrate",
            type=FILE,
            metavar="FILE",
            help="Calibrate int8 and int4 on this text, which reduces the quality loss and takes minutes."
            "  [default: round each weight to the nearest value]",
        ),
        click.option(
            "--text", type=FILE, metavar="FILE", help="Measure the quality on this text.  [default: a page of prose]"
        ),
        click.option(
            *("--no-quality-report", "--no-receipt", "no_quality_report"),
            cls=Renamed,
            is_flag=True,
            help="Skip measuring the quality.",
        ),
        click.option("--force", is_flag=True, help="Overwrite an existing file."),
    ]

    def decorate(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


@click.command("convert", short_help="Convert a checkpoint to a model file.")
@click.argument("source", type=FILE)
@output_options("int8")
@click.option("--name", metavar="TEXT", help="Store this name of the model in the file.  [default: the source's name]")
@click.option(
    *("--license", "--licence", "licence"),
    cls=Renamed,
    metavar="TEXT",
    help="Store this license of the weights in the file.  [default: the source's license, where it is known]",
)
@click.option(
    "--chat-format",
    type=CHAT_FORMAT,
    help="Store how gpt2rt chat formats a conversation.  [default: the source's, else plain]",
)
@click.option(
    "--chat-template",
    metavar="TEXT",
    help="Store how an exchange is written: text with {user} and {bot}, and the model's special tokens.  [default: the"
    " source's]",
)
@click.option(
    "--opening-template",
    metavar="TEXT",
    help="Store how the text before a chat's first turn is written: text with {opening}.  [default: the source's, else"
    " {opening}]",
)
@click.option("--user-name", metavar="NAME", help="Store the user's name in a chat.  [default: the source's, else Sam]")
@click.option(
    "--bot-name", metavar="NAME", help="Store the model's name in a chat.  [default: the source's, else Emma]"
)
@click.option(
    "--opening",
    type=FILE,
    metavar="FILE",
    help="Store this text before a chat's first turn.  [default: the source's, else example turns]",
)
@click.option(
    "--vocabulary",
    type=FILE,
    metavar="FOLDER",
    help="Take the vocabulary from this folder, for a checkpoint of nanoGPT or llm.c.  [default: the source's own]",
)
def command(
    source: str,
    output: str | None,
    weight_type: str,
    group_size: int | None,
    name: str | None,
    licence: str | None,
    chat_format: str | None,
    chat_template: str | None,
    opening_template: str | None,
    user_name: str | None,
    bot_name: str | None,
    opening: str | None,
    vocabulary: str | None,
    calibrate: str | None,
    text: str | None,
    no_quality_report: bool,
    force: bool,
) -> None:
    """Convert a GPT-2 checkpoint to a model file.

    SOURCE is a folder as released by OpenAI; the prefix of a checkpoint as saved by fine-tuning tools; a Hugging Face
    folder, or a file of weights in one, or hf:OWNER/NAME[@REVISION] to download one; a GGUF file (F32, F16, BF16 or
    Q8_0; of a split file, any part); nanoGPT's ckpt.pt; or a model file of llm.c.

    The quality loss is measured on text, printed, and stored in the file (see gpt2rt info). --calibrate reduces it with
    a text like those that the model will read; measure the result on another text.

    \b
    Examples:
      gpt2rt convert models/124M
      gpt2rt convert models/124M --type int4 --calibrate book.txt
      gpt2rt convert models/124M --type f32 -o exact.bin
      gpt2rt convert checkpoint/run1/model-1000 --name run1 --chat-format dialogpt
      gpt2rt convert checkpoint/run1/model-1000 --chat-template "<|user|>{user}<|bot|>{bot}"
      gpt2rt convert hf:microsoft/DialoGPT-small
      gpt2rt convert out/ckpt.pt --vocabulary models/124M
    """
    from gpt2rt.converter import convert

    chat = {
        "format": "template" if chat_format is None and chat_template is not None else chat_format,
        "template": chat_template,
        "opening_template": opening_template,
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
        "vocabulary": vocabulary,
        "calibration_text": None if calibrate is None else read_any_text(calibrate),
        "quality_text": quality_text(weight_type, text, no_quality_report),
        "force": force,
    }
    show_result(with_progress(convert, source, output, **options), options)


def quality_text(weight_type: str, text: str | None, no_quality_report: bool) -> str | None:
    """Return the text to measure the quality on, or None. Raises UsageError."""
    from gpt2rt.converter.quality import bundled_text

    if no_quality_report and text is not None:
        raise UsageError("--text and --no-quality-report: got both, expected one of them")
    if text is not None:
        return read_any_text(text)
    return None if no_quality_report or weight_type == "f32" else bundled_text()  # f32 is the source itself


def with_progress(convert: Callable[..., Conversion], *arguments: Any, **options: Any) -> Conversion:
    """Call `convert`, at a terminal with a progress bar."""
    with undone_when_stopped():
        if not sys.stderr.isatty():
            return convert(*arguments, **options)
        with click.progressbar(length=1, label="Converting", file=sys.stderr) as bar:

            def show(done: int, total: int) -> None:
                bar.length = total
                bar.update(done - bar.pos)

            return convert(*arguments, **options, progress=show)


def show_result(result: Conversion, options: dict[str, Any]) -> None:
    """Print what a conversion with these options wrote."""
    for note in result.notes:
        click.echo(f"({note})", err=True)
    click.echo(
        f"{printable(result.path)}: {sizes(result)}, in {result.seconds:.1f} s; largest quantization error"
        f" {result.max_error:.2g}, mean {result.mean_error:.2g}"
    )
    if options["quality_text"] is not None:
        show_quality(result.quality, options["weight_type"])


def sizes(result: Conversion) -> str:
    """Return the size of the file and that of the weights in f32, with the factor if it is smaller."""
    size, source_size = f"{result.size / 1e6:.1f} MB", f"{result.source_size / 1e6:.1f} MB"
    if result.ratio > 1:
        return f"{size}, down from {source_size} in f32 ({result.ratio:.1f}x)"
    return f"{size}, from {source_size} in f32"


def show_quality(quality: dict[str, Any] | None, weight_type: str) -> None:
    """Print the quality report, and warn where the loss grows by more than MOST_GROWTH."""
    if quality is None:
        complain("the model's loss on the text is not finite, so the file has no quality report")
        return
    growth = quality["loss"] / quality["source_loss"] - 1 if quality["source_loss"] else 0.0
    click.echo(
        f"on {quality['n_tokens']} tokens of text: perplexity {quality['perplexity']:.6g}, the source's"
        f" {quality['source_perplexity']:.6g} (loss {growth:+.3%}); mean KL divergence {quality['mean_kl']:.2g} nats;"
        f" same most likely token for {quality['same_top']:.1%}"
    )
    if growth > MOST_GROWTH:
        better = BETTER.get(weight_type, "f32")
        complain(f"{weight_type} raises the loss by {growth:.1%} (--calibrate or --type {better} keeps more)")
