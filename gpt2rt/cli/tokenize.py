"""gpt2rt tokenize: show the tokens of a text."""

from __future__ import annotations

import sys

import click

from gpt2rt.cli.parameters import FILE


@click.command("tokenize", short_help="Show the tokens of a text.")
@click.argument("model", type=FILE)
@click.argument("text")
@click.option("--pieces", is_flag=True, help="Print each token on its own line, with its text.")
@click.option(
    "--special", is_flag=True, help="Encode the texts of special tokens, such as <|endoftext|>, as those tokens."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, text: str, pieces: bool, special: bool, as_json: bool) -> None:
    """Show the token ids of TEXT (- reads standard input) in the vocabulary of the model file MODEL.

    \b
    Examples:
      gpt2rt tokenize 124M-int8.bin "Hello world"
      gpt2rt tokenize 124M-int8.bin --pieces - < letter.txt
    """
    from gpt2rt._tokenizer import Tokenizer
    from gpt2rt.modelfile import ModelFile

    file = ModelFile(model)
    tokenizer = Tokenizer(file.vocabulary(), file.hyperparameters.n_vocab)
    ids = tokenizer.encode(sys.stdin.read() if text == "-" else text, special=special)
    if as_json:
        import json

        tokens = [{"id": token, "text": tokenizer.decode([token])} for token in ids] if pieces else ids
        click.echo(json.dumps(tokens, ensure_ascii=False))
    elif pieces:
        for token in ids:
            click.echo(f"{token}\t{shown(tokenizer.token_bytes(token))}")
    else:
        click.echo(" ".join(map(str, ids)))


def shown(content: bytes) -> str:
    """Return a token in quotes: as text, or as bytes where they are not UTF-8."""
    try:
        return repr(content.decode())
    except UnicodeDecodeError:
        return repr(content)
