"""gpt2rt generate: continue a text."""

from __future__ import annotations

import click

from gpt2rt.cli.files import read_text
from gpt2rt.cli.model_argument import model_and_text_arguments
from gpt2rt.cli.parameters import FILE
from gpt2rt.cli.sampling_options import given, model_options, sampling_options, special_option
from gpt2rt.cli.terminal import counted, json_text, speed, write
from gpt2rt.errors import UsageError
from gpt2rt.lines import lines_of

MAX_TOKENS = 200

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gpt2rt.generate import Generation
    from gpt2rt.model import Model


@click.command("generate", short_help="Continue a text.")
@model_and_text_arguments("prompt", required=False, announce=True)
@special_option
@click.option("--echo", is_flag=True, help="Print the prompt too.")
@click.option(
    "--prompts",
    type=FILE,
    metavar="FILE",
    help="Continue every line of FILE, several at once; - is standard input.  [default: none, continue PROMPT]",
)
@click.option("--batch-size", type=int, metavar="N", help="Continue N lines of --prompts at a time.  [default: 16]")
@click.option(
    "--lookup/--no-lookup",
    default=None,
    help="Use prompt lookup decoding, which does not change the text.  [default: for large models]",
)
@sampling_options(MAX_TOKENS, {})
@model_options
def command(
    model: str,
    prompt: str | None,
    special: bool,
    echo: bool,
    prompts: str | None,
    batch_size: int | None,
    lookup: bool | None,
    max_tokens: int | None,
    stop: tuple[str, ...],
    seed: int | None,
    threads: int | None,
    kv_type: str | None,
    no_mmap: bool,
    **options: float | None,
) -> None:
    """Continue the text PROMPT with MODEL, the bundled model by default.

    MODEL is a model file, or a name that gpt2rt models lists. A single argument is MODEL if a file or a model has this
    name, if it ends in .bin, or if it contains a path separator and no space; else it is PROMPT.

    PROMPT - reads standard input; without PROMPT the model starts a new document. The text goes to standard output, the
    seed and the speed to standard error.

    With --prompts, each line of FILE is a prompt, and each line of output is a JSON object with "prompt", "text" and
    "finish_reason", in the order of the prompts. Prompt i, counted from 0, uses the seed SEED + i.

    \b
    Examples:
      gpt2rt generate "Once upon a time"
      gpt2rt generate 124M "Once upon a time"
      gpt2rt generate 124M-int8.bin -n 50 --seed 7 --stop "." "The meaning of life is"
      gpt2rt generate 124M - --echo < letter.txt
      gpt2rt generate 124M --prompts questions.txt > answers.jsonl
    """
    from gpt2rt.model import open_model

    if prompts is not None and (prompt or echo or lookup is not None):
        raise UsageError("--prompts: got PROMPT, --echo or --lookup as well (leave them out)")
    if prompts is None and batch_size is not None:
        raise UsageError("--batch-size: got no --prompts (add it)")
    if prompt == "-":
        prompt = read_text("-").removesuffix("\n")
    prompt = prompt or ""
    opened = open_model(model, n_threads=threads, use_mmap=not no_mmap, kv_type=kv_type)
    arguments: dict[str, Any] = {
        "max_tokens": MAX_TOKENS if max_tokens is None else max_tokens,
        "stop": stop,
        "seed": seed,
        "special": special,
        **given(options),
    }
    if prompts is not None:
        continue_lines(opened, prompts, batch_size, arguments)
        return
    generation = opened.generate(prompt, lookup=lookup, **arguments)
    last = ""
    try:
        if echo and prompt:
            write(prompt)
            last = prompt
        for piece in generation:
            write(piece)
            last = piece
    finally:
        if last and not last.endswith("\n"):
            write("\n")
        click.echo(report(generation), err=True)


def continue_lines(model: Model, path: str, batch_size: int | None, arguments: dict[str, Any]) -> None:
    """Continue each line of a file, and print each result as soon as all before it are printed."""
    from time import perf_counter

    lines = lines_of(read_text(path))
    if batch_size is not None:
        arguments["batch_size"] = batch_size
    begin = perf_counter()
    generation = model.generate_batch(lines, **arguments)
    texts, printed = [""] * len(lines), 0

    def print_ended() -> None:
        nonlocal printed
        while printed < len(lines) and (ended := generation.continuations[printed]) and ended.finish_reason:
            result = {"prompt": lines[printed], "text": texts[printed], "finish_reason": ended.finish_reason}
            write(json_text(result) + "\n")
            printed += 1

    for i, piece in generation:
        texts[i] += piece
        print_ended()
    print_ended()
    n_tokens = sum(len(ended.tokens) for ended in generation.continuations if ended)
    decoding = speed(n_tokens, perf_counter() - begin)
    seeds = f"seed {generation.seeds[0]}; " if lines else ""
    click.echo(f"{seeds}{counted(len(lines), 'text')}, {counted(n_tokens, 'token')}, {decoding}", err=True)


def report(generation: Generation) -> str:
    """Return the seed and the speeds, in one line."""
    prefill = speed(generation.n_prompt_tokens, generation.prompt_seconds)
    decoding = speed(generation.n_tokens, generation.seconds)
    return (
        f"seed {generation.seed}; prompt {counted(generation.n_prompt_tokens, 'token')}, {prefill};"
        f" text {counted(generation.n_tokens, 'token')}, {decoding}"
    )
