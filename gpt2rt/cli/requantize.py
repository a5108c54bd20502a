"""gpt2rt requantize: makes a model file of another type of a model file."""

from __future__ import annotations

import click


@click.command("requantize", short_help="Make a model file of another type of one of f32 or f16.")
@click.argument("model")
@click.option("--type", "weight_type", required=True, metavar="TYPE", help="int8, int4, f16, f32.")
@click.option("-o", "--output", metavar="FILE", help="The file to write; by default named for the model and the type.")
@click.option("--group-size", type=int, metavar="N", help="Weights that share a scale, for int8 and int4.")
@click.option("--calibrate", metavar="FILE", help="Round int8 and int4 by this text: less is lost; takes minutes.")
@click.option("--text", metavar="FILE", help="Measure the quality on this text.  [default: a page of prose]")
@click.option("--no-quality-report", is_flag=True, help="Don't measure the quality.")
@click.option("--no-receipt", "no_quality_report", is_flag=True, hidden=True)
@click.option("--force", is_flag=True, help="Overwrite the file where it exists.")
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
    """Make a model file of another type of MODEL, a model file of f32 or f16, without its checkpoint.

    Of f32 the result has the same weights as one converted from the checkpoint. Name, licence, vocabulary and what the
    file says of chat are kept.

    \b
    Examples:
      gpt2rt requantize 124M-f32.bin --type int4
      gpt2rt requantize 124M-f16.bin --type int8 -o small.bin
    """
    from gpt2rt.cli.convert import quality_text, show_result, with_progress
    from gpt2rt.cli.files import read_any_text
    from gpt2rt.converter import convert
    from gpt2rt.converter.model_source import is_model_file
    from gpt2rt.errors import UsageError

    if not is_model_file(model):
        raise UsageError(f"{model}: no model file of gpt2rt (gpt2rt convert reads other files)")
    options = {
        "weight_type": weight_type,
        "group_size": group_size,
        "calibration_text": None if calibrate is None else read_any_text(calibrate),
        "quality_text": quality_text(weight_type, text, no_quality_report),
        "force": force,
    }
    show_result(with_progress(convert, model, output, **options), options)
