"""gpt2rt next: show the most likely next tokens of a text."""

from __future__ import annotations

import math
import shutil
import sys

import click

from gpt2rt.cli.files import read_text
from gpt2rt.cli.model_argument import model_and_text_arguments
from gpt2rt.cli.sampling_options import model_options, special_option
from gpt2rt.cli.terminal import print_json, write
from gpt2rt.cli.tokenize import shown
from gpt2rt.errors import ContextFullError

BLOCKS = " ▏▎▍▌▋▊▉█"  # eighths of a column
MOST_COLUMNS = 40  # of a bar
MOST_TOKENS = 32  # that the engine reports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.model import Model


@click.command("next", short_help="Show the most likely next tokens of a text.")
@model_and_text_arguments("text", required=True)
@click.option(
    "-n", "--number", type=int, default=10, show_default=True, metavar="N", help=f"Show N tokens, 1 to {MOST_TOKENS}."
)
@special_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@model_options
def command(
    model: str,
    text: str,
    number: int,
    special: bool,
    as_json: bool,
    threads: int | None,
    kv_type: str | None,
    no_mmap: bool,
) -> None:
    """Show the tokens that MODEL, the bundled model by default, finds most likely after TEXT.

    MODEL is a model file, or a name that gpt2rt models lists. TEXT - reads standard input; an empty TEXT asks for the
    first token of a document.

    Each token is printed in quotes, because most begin with a space, with its probability and a bar; the longest bar
    is that of the most likely token. End TEXT without a space: the next token brings its own.

    \b
    Examples:
      gpt2rt next "The cat sat on the"
      gpt2rt next 124M "The cat sat on the" -n 20
      gpt2rt next "Hello" --json
    """
    from gpt2rt.arguments import whole_number
    from gpt2rt.generate import prompt_ids, start_of_text
    from gpt2rt.model import open_model

    whole_number("--number", number, 1, MOST_TOKENS)
    if text == "-":
        text = read_text("-").removesuffix("\n")
    opened = open_model(model, n_threads=threads, use_mmap=not no_mmap, kv_type=kv_type)
    ids = prompt_ids(opened, text, special=special) or start_of_text(opened)
    found = most_likely_next(opened, ids, min(number, opened.hyperparameters.n_vocab))
    if text.endswith(" "):
        click.echo("(the text ends with a space; most tokens begin with one, so leave it out)", err=True)
    if as_json:
        print_found(opened, text, ids, found)
    else:
        print_bars(opened, found)


def most_likely_next(model: Model, ids: list[int], n: int) -> list[tuple[int, float]]:
    """Return the n most likely tokens after others: (id, log probability), the most likely one first.

    Raises:
        ContextFullError: there are more ids than the model has positions.
    """
    from gpt2rt._engine import step_together
    from gpt2rt.sampling import SamplingParams

    sequence = model.sequence()
    if len(ids) > sequence.n_ctx:
        raise ContextFullError(f"TEXT: {len(ids)} tokens, the model has {sequence.n_ctx} positions (shorten it)")
    sequence.push(ids)
    sequence.set_sampling(SamplingParams(temperature=0.0), seed=0, logprobs=n)
    while not (events := step_together([sequence])):
        pass
    if events[0].error is not None:
        raise events[0].error
    assert events[0].top_logprobs is not None
    top: list[tuple[int, float]] = events[0].top_logprobs[0]
    return top


def print_bars(model: Model, found: list[tuple[int, float]]) -> None:
    """Print a line for each token, and the probability that they have together."""
    texts = [as_the_stream_can(shown(model.tokenizer.token_bytes(token))) for token, _ in found]
    probabilities = [math.exp(logprob) for _, logprob in found]
    width = max(map(len, texts))
    columns = max(1, min(MOST_COLUMNS, shutil.get_terminal_size().columns - width - 12))
    for text, probability in zip(texts, probabilities, strict=True):
        write(f"{text:{width}}  {probability:7.2%}  {bar(probability / probabilities[0], columns)}\n")
    n = len(found)
    tokens = "This token has" if n == 1 else f"These {n} tokens together have"
    write(f"\n{tokens} {sum(probabilities):.1%} of the probability; the vocabulary has")
    write(f" {model.hyperparameters.n_vocab:,} tokens.\n")


def as_the_stream_can(text: str) -> str:
    """Return the text with escapes for what standard output cannot encode."""
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def bar(share: float, columns: int) -> str:
    """Return a bar for a share of all columns, in eighths of a column; of # where the stream has no blocks."""
    try:
        BLOCKS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#" * round(share * columns)
    eighths = round(share * columns * 8)
    return (BLOCKS[8] * (eighths // 8) + BLOCKS[eighths % 8]).rstrip()


def print_found(model: Model, text: str, ids: list[int], found: list[tuple[int, float]]) -> None:
    """Print what was found as a JSON object."""
    tokens = [
        {
            "token": model.tokenizer.decode([token]),
            "id": token,
            "logprob": logprob,
            "probability": math.exp(logprob),
        }
        for token, logprob in found
    ]
    total = math.fsum(math.exp(logprob) for _, logprob in found)
    document = {"model": model.path, "text": text, "ids": ids, "next": tokens, "probability": total}
    print_json(document)
