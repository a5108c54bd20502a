"""gpt2rt tokenize: show the tokens of a text."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import click

from gpt2rt.cli.model_argument import model_and_text_arguments
from gpt2rt.cli.sampling_options import special_option
from gpt2rt.cli.terminal import json_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt._tokenizer import Tokenizer

CHARACTERS_AT_A_TIME = 1 << 16  # of standard input; its ids take many times the memory of the text
# No token, but a special one, holds the end of a word and the white space after it.
WORDS = re.compile(r".*\S(?=[ \n])", re.DOTALL)


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
    parts = ids_of_input(tokenizer, special) if text == "-" else iter([tokenizer.encode(text, special=special)])
    if as_json:
        tokens = (
            [{"id": token, "text": tokenizer.decode([token])} for token in ids] if pieces else ids for ids in parts
        )
        print_parts((json_text(each, indent=None)[1:-1] for each in tokens), "[", ", ", "]")
    elif pieces:
        for ids in parts:
            for token in ids:
                click.echo(f"{token}\t{shown(tokenizer.token_bytes(token))}")
    else:
        print_parts((" ".join(map(str, ids)) for ids in parts), "", " ", "")


def ids_of_input(tokenizer: Tokenizer, special: bool) -> Iterator[list[int]]:
    """Yield the ids of standard input, those of some words at a time."""
    rest, continues = "", False
    while part := sys.stdin.read(max(CHARACTERS_AT_A_TIME, len(rest))):
        rest += part
        words = None if special else WORDS.match(rest)
        if words:
            yield tokenizer.encode(rest[: words.end()], continues=continues)
            rest, continues = rest[words.end() :], True
    yield tokenizer.encode(rest, special=special, continues=continues)


def print_parts(parts: Iterator[str], before: str, between: str, after: str) -> None:
    """Print a line in parts, without those that are empty."""
    click.echo(before, nl=False)
    is_first = True
    for part in parts:
        if part:
            click.echo(part if is_first else f"{between}{part}", nl=False)
            is_first = False
    click.echo(after)


def shown(content: bytes) -> str:
    """Return a token in quotes: as text, or as bytes where they are not UTF-8."""
    try:
        return repr(content.decode())
    except UnicodeDecodeError:
        return repr(content)
