"""gpt2rt models: list the models that have a name."""

from __future__ import annotations

import click

from gpt2rt.cli import complain
from gpt2rt.cli.terminal import print_json, print_table, printable
from gpt2rt.model_folder import SIZES, model_folder, model_names, named_model, path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@click.command("models", short_help="List the models that have a name.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the models that every command knows by name: the bundled one and those in your model folder.

    A file NAME.bin in that folder is the model NAME. 124M, 355M, 774M and 1558M are OpenAI's: a command that is given
    one of these names offers to download and convert it. The folder is GPT2RT_MODELS where that variable is set, else
    gpt2rt/models in the folder for application data: $XDG_DATA_HOME or ~/.local/share, on macOS
    ~/Library/Application Support, on Windows %LOCALAPPDATA%.

    \b
    Examples:
      gpt2rt models
      gpt2rt models --json
    """
    models = found_models()
    if as_json:
        print_json(models)
        return
    rows = [("name", "type", "size", "parameters", "path")]
    for model in models:
        size, parameters = f"{model['size'] / 1e6:.1f} MB", f"{model['n_parameters'] / 1e6:.1f} million"
        rows.append((printable(model["name"]), model["weight_type"], size, parameters, printable(model["path"])))
    print_table(rows, as_markdown=False)
    missing = [size for size in SIZES if not named_model(size)]
    offer = f"; gpt2rt chat {missing[0]} downloads {missing[0]} from OpenAI" if missing else ""
    click.echo(f"(model folder: {printable(model_folder())}{offer})", err=True)


def found_models() -> list[dict[str, Any]]:
    """Return what the list says of each model; complain about files that are no model files."""
    from gpt2rt.errors import ModelFileError
    from gpt2rt.modelfile import ModelFile

    found = []
    for name in model_names():
        try:
            file = ModelFile(path_of(name), prefetch=False)
        except ModelFileError as error:
            complain(error)
            continue
        found.append(
            {
                "name": name,
                "weight_type": file.weight_type,
                "size": file.size,
                "n_parameters": file.hyperparameters.n_parameters,
                "path": file.path,
            }
        )
    return found
