"""The argument MODEL, the same for every command: a file, or the name of a model."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
from collections.abc import Callable

import click

from gpt2rt.errors import ModelFileError, UsageError
from gpt2rt.model_folder import (
    SIZES,
    SUFFIX,
    bundled_model,
    model_folder,
    model_names,
    named_model,
    released_size,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from click.shell_completion import CompletionItem

Command = Callable[..., None]

DOWNLOAD_SIZES = {"124M": "0.5", "355M": "1.4", "774M": "3.1", "1558M": "6.2"}  # GB
CONVERTED_SIZES = {"124M": "0.13", "355M": "0.37", "774M": "0.81", "1558M": "1.6"}  # GB, of int8
HUB_NAMES = {"gpt2": "124M", "gpt2-medium": "355M", "gpt2-large": "774M", "gpt2-xl": "1558M"}


class ModelType(click.ParamType):  # type: ignore[type-arg, unused-ignore] # generic since click 8.4
    """A model's file or name. Commands get what was typed; `model_path` finds the file."""

    name = "model"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the names of models and of files.

        bash asks either for words or for its own completion of files. Where a model's name fits, the files are
        therefore listed here; else the shell completes them.
        """
        from click.shell_completion import CompletionItem  # not needed to run a command

        names = [name for name in dict.fromkeys((*model_names(), *SIZES)) if name.startswith(incomplete)]
        if not names:
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(word) for word in (*names, *_files(incomplete))]


MODEL = ModelType()
yes_option = click.option("--yes", is_flag=True, help="Download and convert OpenAI's MODEL without asking.")


def _files(incomplete: str) -> list[str]:
    """Return files of the current folder that begin like this, of those whose names a shell reads as they are."""
    found: list[str] = []
    with contextlib.suppress(OSError), os.scandir() as entries:
        for entry in entries:
            is_hidden = entry.name.startswith(".") and not incomplete
            if entry.name.startswith(incomplete) and not is_hidden and re.fullmatch(r"[\w.+@:=-]+", entry.name):
                found.append(entry.name + "/" * entry.is_dir())
    return sorted(found)


def model_argument(*, required: bool = False, also: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """Return a decorator that adds MODEL and --yes to a command, which gets the path of a file as `model`.

    Args:
        required: whether MODEL must be given; else the bundled model is the default.
        also: options that name models as well.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_path(*arguments: Any, **options: Any) -> None:
            command(*arguments, **_with_paths(options, also))

        return _with_parameters(with_path, required)

    return decorate


def model_and_text_arguments(
    name: str, *, required: bool, files: bool = False, also: tuple[str, ...] = (), announce: bool = False
) -> Callable[[Command], Command]:
    """Return a decorator that adds MODEL, a text after it, and --yes. A single argument that is no model is the text.

    Args:
        name: of the text.
        required: whether the text must be given.
        files: whether the text is one or more names of files. Then a single argument is a model only where a model has
            its name or it ends in .bin.
        also: options that name models as well.
        announce: whether to say on standard error that the bundled model was taken by default.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_text(*arguments: Any, **options: Any) -> None:
            context, model, texts = click.get_current_context(), options["model"], options[name]
            if model is not None and not texts and not names_model(model, files):
                options["model"], texts = None, (model,)
            if not files and texts:
                _check_quotes(context, options["model"], texts)
            if required and not texts:
                raise click.MissingParameter(param_hint=f"'{name.upper()}'", param_type="argument", ctx=context)
            if options["model"] is None and announce:
                click.echo(f"(the small bundled model; for OpenAI's, run {context.command_path} 124M ...)", err=True)
            if not files:
                texts = texts[0] if texts else None
            command(*arguments, **_with_paths({**options, name: texts}, also))

        metavar = name.upper() + "..." * files
        metavar = metavar if required else f"[{metavar}]"
        click.argument(name, nargs=-1, metavar=metavar, type=click.Path() if files else str)(with_text)
        return _with_parameters(with_text, required=False)

    return decorate


def _with_parameters(command: Command, required: bool) -> Command:
    """Add MODEL and --yes to a command."""
    click.argument("model", type=MODEL, required=required)(command)
    yes_option(command)
    parameters = command.__click_params__  # type: ignore[attr-defined]
    parameters.insert(0, parameters.pop())  # --yes becomes the last one: click reverses them
    return command


def _with_paths(options: dict[str, Any], also: tuple[str, ...]) -> dict[str, Any]:
    """Return the arguments of a command without --yes, and with paths of files for names of models."""
    yes = options.pop("yes")
    paths = {name: model_path(options[name], yes) for name in also if options[name] is not None}
    model = options["model"]
    return {**options, **paths, "model": bundled_model() if model is None else model_path(model, yes)}


def _check_quotes(context: click.Context, model: str | None, texts: tuple[str, ...]) -> None:
    """Raise UsageError if a text was typed without quotes, as far as that can be told from a mistyped model."""
    is_model = model is None or names_model(model) or os.path.isdir(model) or bool(_near(model))
    if len(texts) == 1 and (is_model or " " in texts[0]):
        return  # `model_path` judges the model
    words = texts if is_model else (str(model), *texts)
    text = " ".join(words).replace('"', r"\"")
    line = f'{context.command_path} {f"{model} " if is_model else ""}"{text:.80}"'
    raise UsageError(f"got the {len(words)} texts {', '.join(words):.80}, expected one (in quotes: {line})")


def names_model(argument: str, files: bool = False) -> bool:
    """Whether a single argument is meant as a model rather than as a text, or with `files`, as the file of a text.

    It is where a file or a model has this name, where it ends in .bin, and where it contains a path separator and no
    space. `-`, which stands for standard input, is a text.
    """
    if argument == "-":
        return False
    if argument in HUB_NAMES or released_size(argument) or named_model(argument):
        return not (files and os.path.isfile(argument))
    if files:
        return argument.endswith(SUFFIX)
    return (os.path.exists(argument) and not os.path.isdir(argument)) or _is_path(argument)


def _is_path(argument: str) -> bool:
    """Whether an argument looks like the path of a file."""
    separators = {os.sep, os.altsep or os.sep}
    return argument.endswith(SUFFIX) or (not separators.isdisjoint(argument) and not re.search(r"\s", argument))


def model_path(argument: str, yes: bool = False) -> str:
    """Return the file that MODEL means; offer to download one of OpenAI's models that is not there yet.

    Args:
        argument: a file, which always comes first, or a name.
        yes: whether to download without asking.

    Raises:
        ModelFileError: there is neither a file nor a model with this name. click.exceptions.Exit: the answer was no.
    """
    from gpt2rt._modelfile import end_when_a_file_is_cut  # not needed for help texts and completion

    end_when_a_file_is_cut()
    if os.path.exists(argument) and not os.path.isdir(argument):
        return argument
    if path := named_model(argument):
        return path
    if size := released_size(argument):
        return _offered(size, yes)
    if argument.startswith("hf:"):
        raise ModelFileError(f"{argument}: got a checkpoint, expected a model file (run gpt2rt convert {argument})")
    if argument in HUB_NAMES:
        size = HUB_NAMES[argument]
        raise ModelFileError(f"{argument}: no file or model has this name (OpenAI's model of this size is {size})")
    if os.path.isdir(argument) or _is_path(argument):
        return argument  # opening it names the problem
    raise ModelFileError(f"{argument}: no file or model has this name ({_suggestion(argument)})")


def _suggestion(name: str) -> str:
    return "".join(f"did you mean {near}? " for near in _near(name)) + "gpt2rt models lists the names"


def _near(name: str) -> list[str]:
    """Return the name of a model that a mistyped one may have meant."""
    from difflib import get_close_matches

    return get_close_matches(name, dict.fromkeys((*model_names(), *SIZES)), 1)


def _offered(size: str, yes: bool) -> str:
    """Download and convert one of OpenAI's models if the user wants that, and return the file's path."""
    from gpt2rt.cli.download import install

    if not yes:
        work = f"{DOWNLOAD_SIZES[size]} GB from OpenAI and convert it to {CONVERTED_SIZES[size]} GB"
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise ModelFileError(f"{size}: not in {model_folder()} yet (run the command with --yes to download {work})")
        click.echo(f"{size} is not in {model_folder()} yet.", err=True)
        if not click.confirm(f"Download {work} there?", default=True, err=True):
            raise click.exceptions.Exit(1)
    return install(size)
