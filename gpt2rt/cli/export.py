"""gpt2rt export: makes a folder for other programs of a model file."""

from __future__ import annotations

import click

from gpt2rt.cli.model_argument import model_argument


@click.command("export", short_help="Make a Hugging Face folder of a model file.")
@model_argument(required=True)
@click.option("--to", "form", type=click.Choice(["safetensors"]), default="safetensors", show_default=True, help="As.")
@click.argument("folder")
def command(model: str, form: str, folder: str) -> None:
    """Write MODEL, a model file of f32 or f16, to the new folder FOLDER as transformers saves a GPT-2.

    \b
    Example:
      gpt2rt export 124M-f32.bin --to safetensors 124M-hf
    """
    from gpt2rt.converter.export import export

    size = export(model, folder)
    click.echo(f"{folder}: {size / 1e6:.1f} MB")
