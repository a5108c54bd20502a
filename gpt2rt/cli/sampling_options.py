"""Options that several commands share: of the model, of its tokenizer and of sampling."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import click

from gpt2rt.cli.parameters import KV_TYPE
from gpt2rt.sampling import SAMPLING_OPTIONS, SamplingParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gpt2rt.sampling import SamplingKeywords

Command = Callable[..., None]


special_option = click.option(
    "--special", is_flag=True, help="Encode the texts of special tokens, such as <|endoftext|>, as those tokens."
)
threads_option = click.option(
    "--threads",
    type=int,
    metavar="N",
    help="Use at most N threads.  [default: as many as the machine allows; gpt2rt doctor shows it]",
)


kv_type_option = click.option(
    "--kv-type",
    type=KV_TYPE,
    help="The type of keys and values in memory; int8 takes half of f16.  [default: f32 for f32 models, else f16]",
)


def model_options(command: Command) -> Command:
    """Add --threads, --kv-type and --no-mmap."""
    command = click.option("--no-mmap", is_flag=True, help="Read the model file into memory instead of mapping it.")(
        command
    )
    return threads_option(kv_type_option(command))


def sampling_option(name: str, default: float) -> Callable[[Command], Command]:
    """Return a decorator that adds an option of `SamplingParams`."""
    kind, _, _, meaning = SAMPLING_OPTIONS[name]
    metavar = "X" if kind is float else "N"
    text = f"{meaning}  [default: {default}]"
    return click.option(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)


def sampling_options(
    max_tokens: int, changed_defaults: SamplingKeywords, *, seed: str = "a random seed, which is printed"
) -> Callable[[Command], Command]:
    """Return a decorator with the options of `SamplingParams`, --seed, --stop and --max-tokens.

    Args:
        max_tokens, seed: the defaults, for the help. changed_defaults: those of sampling that differ from
            `SamplingParams`.
    """

    def decorate(command: Command) -> Command:
        decorators: list[Callable[[Command], Command]] = [
            click.option(
                "-n", "--max-tokens", type=int, metavar="N", help=f"Generate at most N tokens.  [default: {max_tokens}]"
            ),
            click.option(
                "--stop", multiple=True, metavar="TEXT", help="Stop before this text; may be repeated.  [default: none]"
            ),
            click.option(
                "--seed",
                type=int,
                metavar="N",
                help=f"Seed the random numbers with N.  [default: {seed}]",
            ),
        ]
        defaults = SamplingParams(**changed_defaults).as_dict()
        decorators += [sampling_option(name, defaults[name]) for name in SAMPLING_OPTIONS]
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def given(options: Mapping[str, float | None]) -> dict[str, Any]:
    """Return the sampling options that were given."""
    return {name: value for name in SAMPLING_OPTIONS if (value := options[name]) is not None}
