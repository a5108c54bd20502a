"""gpt2rt export: write a model file as a folder for other programs."""

from __future__ import annotations

import click

from gpt2rt.cli.model_argument import model_argument
from gpt2rt.cli.parameters import FOLDER, OneOf
from gpt2rt.cli.signals import undone_when_stopped
from gpt2rt.cli.terminal import printable


@click.command("export", short_help="Write a model file as a Hugging Face folder.")
@model_argument(required=True)
@click.option(
    "--to",
    "form",
    type=OneOf(["safetensors"]),
    default="safetensors",
    show_default=True,
    help="Write files in this format.",
)
@click.argument("folder", type=FOLDER)
def command(model: str, form: str, folder: str) -> None:
    """Write MODEL, a model file of type f32 or f16, to the new folder FOLDER, as transformers saves a GPT-2.

    \b
    Example:
      gpt2rt export 124M-f32.bin --to safetensors 124M-hf
    """
    from gpt2rt.converter.export import export

    with undone_when_stopped():
        size = export(model, folder)
    click.echo(f"{printable(folder)}: {size / 1e6:.1f} MB")
