"""gpt2rt verify: read a whole model file and report what is damaged."""

from __future__ import annotations

import click

from gpt2rt.cli import EXIT_ERROR, complain
from gpt2rt.cli.model_argument import model_argument
from gpt2rt.cli.terminal import printable


@click.command("verify", short_help="Check a model file for damage.")
@model_argument()
@click.pass_context
def command(ctx: click.Context, /, model: str) -> None:
    """Check every byte of MODEL, the bundled model by default, and print its SHA-256.

    The checksums in the file detect damage, and the vocabulary is checked as well. The SHA-256 identifies the file:
    note it to recognize the same file later.

    \b
    Examples:
      gpt2rt verify 124M
      gpt2rt verify 124M-int8.bin
    """
    from gpt2rt._tokenizer import Tokenizer
    from gpt2rt.cli.info import sha256
    from gpt2rt.modelfile import ModelFile

    file = ModelFile(model)
    damaged = set()
    for name, stored, actual in file.damaged_sections():
        damaged.add(name)
        complain(
            f"{file.path}: section {name!r} is damaged: checksum {actual:08x}, expected {stored:08x}"
            " (copy or convert again)"
        )
    offset = file.nonzero_padding()
    if offset is not None:
        complain(f"{file.path}: byte {offset}, between the sections, is not zero (copy or convert again)")
    problems = []
    if "vocabulary" not in damaged:
        problems = list(Tokenizer(file.vocabulary(), file.hyperparameters.n_vocab).problems())
    for problem in problems:
        complain(f"{file.path}: vocabulary: {problem}")
    if damaged or offset is not None or problems:
        ctx.exit(EXIT_ERROR)
    _ = file.metadata  # raises where it is not a JSON object
    click.echo(
        f"{printable(file.path)}: {len(file.sections)} sections, {file.size} bytes, no damage\n"
        f"SHA-256: {sha256(file.path)}"
    )
