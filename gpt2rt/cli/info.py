"""gpt2rt info: show what a model file contains."""

from __future__ import annotations

import click

from gpt2rt.cli.model_argument import model_argument
from gpt2rt.cli.terminal import print_json, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from gpt2rt._tokenizer import Tokenizer
    from gpt2rt.modelfile import ModelFile


@click.command("info", short_help="Show what a model file contains.")
@model_argument()
@click.option("--sha256", "with_sha256", is_flag=True, help="Add the SHA-256 of the file, which reads all of it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, with_sha256: bool, as_json: bool) -> None:
    """Show what MODEL, the bundled model by default, contains. The weights are not read; gpt2rt verify checks them.

    \b
    Examples:
      gpt2rt info 124M
      gpt2rt info 124M-int8.bin --sha256
      gpt2rt info 124M-int8.bin --json
    """
    from gpt2rt._tokenizer import Tokenizer
    from gpt2rt.modelfile import ModelFile

    file = ModelFile(model, prefetch=False)
    h = file.hyperparameters
    tokenizer = Tokenizer(file.vocabulary(), h.n_vocab)
    if as_json:
        document = {
            "path": file.path,
            "size": file.size,
            **({"sha256": sha256(file.path)} if with_sha256 else {}),
            "n_parameters": h.n_parameters,
            **h._asdict(),
            "weight_type": file.weight_type,
            "group_size": file.group_size,
            "cache_size": cache_size(file),
            "cache_size_int8": cache_size(file, "int8"),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_ids": tokenizer.eos_token_ids,
            "pad_token_id": tokenizer.pad_token_id,
            "add_bos_token": tokenizer.add_bos_token,
            "add_prefix_space": tokenizer.add_prefix_space,
            "sections": {
                name: {"length": len(section), "crc32c": f"{file.checksums[name]:08x}"}
                for name, section in file.sections.items()
            },
            "metadata": file.metadata,
        }
        print_json(document, indent=2)
        return
    size, small = megabytes(cache_size(file)), megabytes(cache_size(file, "int8"))
    groups = f" in groups of {file.group_size}" if file.group_size else ""
    rows = [
        ("file", f"{file.path}, {megabytes(file.size)}"),
        *([("SHA-256", sha256(file.path))] if with_sha256 else []),
        ("parameters", f"{h.n_parameters / 1e6:.1f} million"),
        ("weights", f"{file.weight_type}{groups}, {megabytes(len(file.sections['weights']))}"),
        *((name, value) for name, value in h._asdict().items()),
        ("KV cache", f"{size} for {h.n_ctx} tokens, {small} in int8"),
        ("a text begins with", beginning(tokenizer)),
        ("a text ends with", names(tokenizer, tokenizer.eos_token_ids) or "(nothing)"),
    ]
    for key, value in file.metadata.items():
        if isinstance(value, dict):
            rows += [(f"{key} {name}", one_line(inner)) for name, inner in value.items()]
        else:
            rows.append(("license" if key == "licence" else key, one_line(value)))
    width = max(len(printable(str(name))) for name, _ in rows) + 2
    for name, value in rows:
        click.echo(f"{printable(str(name)):{width}}{printable(str(value))}")


def beginning(tokenizer: Tokenizer) -> str:
    """Return what begins a text: the bos token, which is added to each or stands for an empty one, and a space."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    name = names(tokenizer, bos) or "(nothing)"
    when = "" if tokenizer.add_bos_token or not bos else " where it is empty"
    return f"{name}{when}{', and a space' if tokenizer.add_prefix_space else ''}"


def names(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """Return the texts and ids of tokens."""
    return ", ".join(f"{tokenizer.decode([token])} ({token})" for token in tokens)


def sha256(path: str) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises OSError."""
    import hashlib

    from gpt2rt.regular_file import open_regular

    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_size(file: ModelFile, kv_type: str | None = None) -> int:
    """Return the size of a full KV cache in bytes; its type is that of `open_model`."""
    from gpt2rt._engine import Runtime
    from gpt2rt._kernels import Weights

    weights = Weights(file.sections["weights"], file.shape, "portable", kv_type)
    n_ctx: int = file.hyperparameters.n_ctx
    return Runtime(weights, 1).kv_cache_bytes_per_token * n_ctx


def megabytes(n: int) -> str:
    """Return a number of bytes as text."""
    return f"{n / 1e6:.1f} MB"


def one_line(value: object) -> str:
    """Return a value of the metadata, shortened to one line."""
    text = " ".join(str(value).split())
    if not text:
        return "(empty)"
    return text if len(text) <= 80 else f"{text[:77]}..."
