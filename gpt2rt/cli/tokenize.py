"""gpt2rt tokenize: show the tokens of a text."""

from __future__ import annotations

import sys

import click

from gpt2rt.cli.model_argument import model_and_text_arguments
from gpt2rt.cli.sampling_options import special_option
from gpt2rt.cli.terminal import print_json

IDS_AT_A_TIME = 10_000  # whose text is in memory


@click.command("tokenize", short_help="Show the tokens of a text.")
@model_and_text_arguments("text", required=True)
@click.option("--pieces", is_flag=True, help="Print each token on its own line, with its text.")
@special_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, text: str, pieces: bool, special: bool, as_json: bool) -> None:
    """Show the token ids of TEXT (- reads standard input) in the vocabulary of MODEL, the bundled model by default.

    MODEL is a model file, or a name that gpt2rt models lists. A single argument is TEXT unless a file or a model has
    this name, it ends in .bin, or it contains a path separator and no space.

    \b
    Examples:
      gpt2rt tokenize "Hello world"
      gpt2rt tokenize 124M --pieces - < letter.txt
    """
    from gpt2rt._tokenizer import Tokenizer
    from gpt2rt.modelfile import ModelFile

    file = ModelFile(model, prefetch=False)
    tokenizer = Tokenizer(file.vocabulary(), file.hyperparameters.n_vocab)
    ids = tokenizer.encode(sys.stdin.read() if text == "-" else text, special=special)
    if as_json:
        tokens = [{"id": token, "text": tokenizer.decode([token])} for token in ids] if pieces else ids
        print_json(tokens, indent=None)
    elif pieces:
        for token in ids:
            click.echo(f"{token}\t{shown(tokenizer.token_bytes(token))}")
    else:
        for start in range(0, len(ids), IDS_AT_A_TIME):
            click.echo(" " * (start > 0) + " ".join(map(str, ids[start : start + IDS_AT_A_TIME])), nl=False)
        click.echo()


def shown(content: bytes) -> str:
    """Return a token in quotes: as text, or as bytes where they are not UTF-8."""
    try:
        return repr(content.decode())
    except UnicodeDecodeError:
        return repr(content)
