"""gpt2rt requantize: convert a model file to another type."""

from __future__ import annotations

import click

from gpt2rt.cli.convert import output_options, quality_text, show_result, with_progress
from gpt2rt.cli.model_argument import model_argument


@click.command("requantize", short_help="Convert an f32 or f16 model file to another type.")
@model_argument(required=True)
@output_options(None)
def command(
    model: str,
    weight_type: str,
    output: str | None,
    group_size: int | None,
    calibrate: str | None,
    text: str | None,
    no_quality_report: bool,
    force: bool,
) -> None:
    """Convert MODEL, a model file of type f32 or f16, to another type, without its checkpoint.

    From f32, the result has the same weights as a file converted from the checkpoint. The name, the license, the
    vocabulary and the chat settings are copied.

    \b
    Examples:
      gpt2rt requantize 124M-f32.bin --type int4
      gpt2rt requantize 124M-f16.bin --type int8 -o small.bin
    """
    from gpt2rt.cli.files import read_any_text
    from gpt2rt.converter import convert
    from gpt2rt.converter.model_source import is_model_file
    from gpt2rt.errors import UsageError

    if not is_model_file(model):
        raise UsageError(f"{model}: not a gpt2rt model file (gpt2rt convert reads other files)")
    options = {
        "weight_type": weight_type,
        "group_size": group_size,
        "calibration_text": None if calibrate is None else read_any_text(calibrate),
        "quality_text": quality_text(weight_type, text, no_quality_report),
        "force": force,
    }
    show_result(with_progress(convert, model, output, **options), options)
