"""gpt2rt perplexity: measure how well a model predicts text."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from gpt2rt.cli.files import read_any_text
from gpt2rt.cli.model_argument import MODEL, model_and_text_arguments
from gpt2rt.cli.parameters import OneOf
from gpt2rt.cli.sampling_options import model_options, special_option
from gpt2rt.cli.terminal import print_json, print_table, printable
from gpt2rt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@click.command("perplexity", short_help="Measure how well a model predicts text.")
@model_and_text_arguments("text", required=True, files=True, also=("against",))
@click.option("--stride", type=int, metavar="N", help="Move the window by N tokens.  [default: half the context]")
@special_option
@click.option("--no-bos", is_flag=True, help="Put no end-of-text token before a text, like transformers.")
@click.option(
    "--against",
    type=MODEL,
    metavar="OTHER",
    help="Compare with the model OTHER, such as MODEL in f32.  [default: no comparison]",
)
@click.option(
    "--task",
    type=OneOf(["lambada"]),
    help="Measure a task instead; lambada: the last words of the passages in a JSON Lines file.  [default: none]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a Markdown table.")
@model_options
def command(
    model: str,
    text: tuple[str, ...],
    stride: int | None,
    special: bool,
    no_bos: bool,
    against: str | None,
    task: str | None,
    as_json: bool,
    as_markdown: bool,
    threads: int | None,
    kv_type: str | None,
    no_mmap: bool,
) -> None:
    """Measure how well MODEL predicts each file TEXT (UTF-8; .xz is unpacked; - is standard input).

    MODEL is a model file, or a name that gpt2rt models lists. A single argument is TEXT, for the bundled model.

    A window as long as the model's context slides over the text and moves by the stride. Each token is scored once: in
    the first window all tokens, after an end-of-text token; in each later window the new ones, which have at least
    context minus stride tokens before them. The loss is in nats per token, with its standard error; the perplexity is
    exp(loss); bits per byte count the bytes of the text.

    --no-bos puts no end-of-text token before the text, like the strided recipe in the documentation of transformers:
    the first token is not scored, and a window scores only the tokens that it contains. Use it to compare with
    published figures: conventions can differ by more than models do (322.7 and 324.9 for one text and model).

    --against adds the loss of OTHER, the difference of the losses with its standard error, the mean and the largest KL
    divergence of MODEL from OTHER (nats per token), and how often both have the same most likely token. --kv-type is
    that of MODEL alone, so that OTHER can be the same file.

    --task lambada takes lines {"text": ...} and measures the last word, after the last space: how often each of its
    tokens is the most likely one, and the perplexity per word.

    \b
    Examples:
      gpt2rt perplexity 124M letters.txt book.txt.xz
      gpt2rt perplexity 124M-int8.bin wiki.txt --against 124M-f32.bin --stride 1024
      gpt2rt perplexity 124M-f32.bin wiki.txt --no-bos --stride 512
      gpt2rt perplexity 124M-f32.bin wiki.txt --kv-type int8 --against 124M-f32.bin
      gpt2rt perplexity 124M-int8.bin lambada_test.jsonl --task lambada
    """
    from gpt2rt.model import open_model
    from gpt2rt.perplexity import lambada, perplexity

    if as_json and as_markdown:
        raise UsageError("--json and --markdown: got both, expected one of them")
    if task and (stride is not None or special or no_bos or len(text) > 1):
        raise UsageError("--task lambada: got --stride, --special, --no-bos or several files (leave them out)")
    texts = [(path, read_any_text(path)) for path in text]
    opened = open_model(model, n_threads=threads, use_mmap=not no_mmap, kv_type=kv_type)
    other = None if against is None else open_model(against, n_threads=threads, use_mmap=not no_mmap)

    def measure(progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        if task:
            return lambada(opened, texts[0][1], name=texts[0][0], against=other, progress=progress)
        return perplexity(
            opened, texts, against=other, stride=stride, special=special, bos=not no_bos, progress=progress
        )

    if sys.stderr.isatty():
        with click.progressbar(length=1, label="Measuring", file=sys.stderr) as bar:

            def show(done: int, total: int) -> None:
                bar.length = total
                bar.update(done - bar.pos)

            result = measure(show)
    else:
        result = measure()
    if as_json:
        print_json({"model": model, "other": against, **result})
    elif task:
        print_table(lambada_rows(result, model, against), as_markdown)
    else:
        if not as_markdown:
            start = ", no end-of-text token before the text" if no_bos else ""
            click.echo(f"windows of {result['n_ctx']} tokens, stride {result['stride']}{start}")
        print_table(perplexity_rows(result), as_markdown)


def perplexity_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each text, and one for all of them where there are several."""
    head = ["text", "tokens", "loss", "+-", "perplexity", "bits per byte"]
    if "against" in result["texts"][0]:
        head += ["other's loss", "difference", "+-", "mean KL", "largest KL", "same top"]
    rows = [tuple(head)]
    for found in [*result["texts"], *([result["total"]] if "total" in result else [])]:
        row = [printable(found["name"]), str(found["n_tokens"]), f"{found['loss']:.5f}", f"{found['loss_error']:.5f}"]
        row += [shown(found["perplexity"], ".3f"), shown(found["bits_per_byte"], ".4f")]
        if other := found.get("against"):
            share = [other[key] / (other["loss"] or 1) for key in ("loss_difference", "loss_difference_error")]
            row += [f"{other['loss']:.5f}", f"{share[0]:+.4%}", f"{share[1]:.4%}"]
            row += [f"{other['mean_kl']:.3g}", f"{other['largest_kl']:.3g}", f"{other['same_top']:.2%}"]
        rows.append(tuple(row))
    return rows


def lambada_rows(result: dict[str, Any], model: str, against: str | None) -> list[tuple[str, ...]]:
    """Return a row for each model."""
    rows: list[tuple[str, ...]] = [("model", "passages", "accuracy", "perplexity")]
    for path, found in ((model, result), (against, result.get("against"))):
        if path is not None and found:
            accuracy, word = f"{found['accuracy']:.2%}", shown(found["perplexity"], ".3f")
            rows.append((printable(path), str(result["n_passages"]), accuracy, word))
    return rows


def shown(value: float | None, form: str) -> str:
    """Return a number as text; an empty text for None."""
    return "" if value is None else format(value, form)
