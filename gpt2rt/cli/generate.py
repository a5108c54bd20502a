"""gpt2rt generate: continues a text."""

from __future__ import annotations

import sys

import click

from gpt2rt.cli.sampling_options import given, model_options, sampling_options
from gpt2rt.cli.terminal import speed, write

MAX_TOKENS = 200


@click.command("generate", short_help="Continue a text.")
@click.argument("model")
@click.argument("prompt", default="")
@click.option("--echo", is_flag=True, help="Print the prompt as well.")
@sampling_options(MAX_TOKENS, {})
@model_options
def command(model, prompt, echo, max_tokens, stop, seed, threads, no_mmap, **options):
    """Continue a text with the model file MODEL.

    PROMPT is the text; - reads it from standard input; without one the model begins a text of its own. The text goes to
    standard output, the seed and the speed to standard error.

    \b
    Examples:
      gpt2rt generate 124M-int8.bin "Once upon a time"
      gpt2rt generate 124M-int8.bin -n 50 --seed 7 --stop "." "The meaning of life is"
      gpt2rt generate 124M-int8.bin - --echo < letter.txt
    """
    from gpt2rt.model import open_model

    if prompt == "-":
        prompt = sys.stdin.read().removesuffix("\n")
    opened = open_model(model, threads=threads, use_mmap=not no_mmap)
    generation = opened.generate(
        prompt, max_tokens=MAX_TOKENS if max_tokens is None else max_tokens, stop=stop, seed=seed, **given(options)
    )
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


def report(generation) -> str:
    """The seed and the speed, in one line."""
    read = speed(generation.n_prompt_tokens, generation.prompt_seconds)
    drawn = speed(generation.n_tokens, generation.seconds)
    return (
        f"seed {generation.seed}; prompt {generation.n_prompt_tokens} tokens, {read};"
        f" text {generation.n_tokens} tokens, {drawn}"
    )
