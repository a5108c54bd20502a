"""gpt2rt info: what a model file says of itself."""

from __future__ import annotations

import click

from gpt2rt.cli.model_argument import model_argument
from gpt2rt.cli.terminal import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.modelfile import ModelFile


@click.command("info", short_help="Show what a model file holds.")
@model_argument()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, as_json: bool) -> None:
    """Show what MODEL, the bundled model by default, says of itself. The weights are not read (see verify).

    \b
    Examples:
      gpt2rt info 124M
      gpt2rt info 124M-int8.bin --json
    """
    from gpt2rt.modelfile import ModelFile

    file = ModelFile(model, prefetch=False)
    h = file.hyperparameters
    if as_json:
        import json

        document = {
            "path": file.path,
            "size": file.size,
            "n_parameters": h.n_parameters,
            **h._asdict(),
            "weight_type": file.weight_type,
            "group_size": file.group_size,
            "cache_size": cache_size(file),
            "sections": {
                name: {"length": len(section), "crc32c": f"{file.checksums[name]:08x}"}
                for name, section in file.sections.items()
            },
            "metadata": file.metadata,
        }
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))
        return
    groups = f" in groups of {file.group_size}" if file.group_size else ""
    rows = [
        ("file", f"{file.path}, {megabytes(file.size)}"),
        ("parameters", f"{h.n_parameters / 1e6:.1f} million"),
        ("weights", f"{file.weight_type}{groups}, {megabytes(len(file.sections['weights']))}"),
        *((name, value) for name, value in h._asdict().items()),
        ("cache", f"{megabytes(cache_size(file))} for {h.n_ctx} tokens"),
    ]
    for key, value in file.metadata.items():
        if isinstance(value, dict):
            rows += [(f"{key} {name}", one_line(inner)) for name, inner in value.items()]
        else:
            rows.append((key, one_line(value)))
    width = max(len(printable(str(name))) for name, _ in rows) + 2
    for name, value in rows:
        click.echo(f"{printable(str(name)):{width}}{printable(str(value))}")


def cache_size(file: ModelFile) -> int:
    """Bytes of a sequence's keys and values when its context is full."""
    h = file.hyperparameters
    size: int = 2 * h.n_layer * h.n_ctx * h.n_embd * (4 if file.weight_type == "f32" else 2)
    return size


def megabytes(n: int) -> str:
    """A number of bytes for people."""
    return f"{n / 1e6:.1f} MB"


def one_line(value: object) -> str:
    """A value of the metadata, shortened to a line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
