"""The command line. A command's module is imported when it runs; only this package prints, asks or exits."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import takewhile

import click

from gpt2rt.cli.signals import Stopped, interruptible
from gpt2rt.errors import NO_THREAD, Gpt2rtError, UsageError, is_lack_of_memory

COMMANDS = (
    *(
        "chat",
        "generate",
        "serve",
        "arena",
        "batch",
        "next",
        "explain",
        "models",
        "download",
        "convert",
        "requantize",
        "export",
        "bundle",
        "info",
        "verify",
    ),
    *("tokenize", "bench", "perplexity", "doctor", "help"),
)
EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class LazyGroup(click.Group):
    """Import a command's module when the command is looked up; list them in the order of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"gpt2rt.cli.{name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise UsageError(no_such_command(args[0]))
        return super().resolve_command(ctx, args)


def no_such_command(name: str) -> str:
    """Return the sentence for a command that does not exist."""
    from difflib import get_close_matches

    nearest = get_close_matches(name, COMMANDS, 1)
    return f"{name[:80]}: no such command ({f'did you mean {nearest[0]}?' if nearest else 'gpt2rt -h lists them'})"


def print_version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from gpt2rt import __version__

        click.echo(f"gpt2rt {__version__}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=print_version, help="Print the version."
)
@click.option("--debug", is_flag=True, expose_value=False, help="Print the Python traceback of an error, too.")
@click.pass_context
def group(ctx: click.Context, /) -> None:
    """Run GPT-2 on ordinary CPUs.

    \b
    Examples:
      gpt2rt chat                            chat with the small bundled model
      gpt2rt generate "Once upon a time"     let it continue a text
      gpt2rt next "The cat sat on the"       show the most likely next tokens
      gpt2rt explain "The cat sat on the"    show what the model saw in a text
      gpt2rt chat 124M                       chat with OpenAI's smallest, downloaded if you want
      gpt2rt generate 124M "Once upon a time"
      gpt2rt models                          list the models that have a name

    \b
    Shell completion, a line for ~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish:
      bash   eval "$(_GPT2RT_COMPLETE=bash_source gpt2rt)"
      zsh    eval "$(_GPT2RT_COMPLETE=zsh_source gpt2rt)"
      fish   _GPT2RT_COMPLETE=fish_source gpt2rt | source
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


def prepare_streams() -> None:
    """Make the standard streams accept any text, and replace a stream that the caller closed with an empty one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (for the whole run)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            if sys.platform == "win32" and not stream.isatty():
                stream.reconfigure(encoding="utf-8")
            if stream is sys.stdin and not stream.isatty() and stream.encoding.lower() in ("utf-8", "utf8"):
                stream.reconfigure(encoding="utf-8-sig", newline="\n")  # without a byte order mark
            if stream is not sys.stderr:
                stream.reconfigure(errors="replace")


@contextlib.contextmanager
def needing(what: str, extra: str) -> Iterator[None]:
    """Turn the import of a package that is not installed into a sentence: `what` needs it, and an extra has it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "gpt2rt":
            raise
        raise UsageError(f"{what} the package {package} (pip install 'gpt2rt[{extra}]')") from None


def complain(message: object) -> None:
    """Print one sentence to standard error. Files and servers may be quoted in it, so it is made printable."""
    from gpt2rt.cli.terminal import sentence

    click.echo(f"gpt2rt: {sentence(message)}", err=True)


def complain_of(error: BaseException, message: object, args: list[str]) -> None:
    """Print a sentence about an exception, and its traceback if it was asked for."""
    if "--debug" in takewhile(lambda argument: argument.startswith("-"), args):
        from traceback import format_exception

        from gpt2rt.cli.terminal import printable

        click.echo(printable("".join(format_exception(error))), nl=False, err=True)
    complain(message)


def print_warning(message: Warning | str, *_where: object, **_line: object) -> None:
    """Print a warning as one sentence, without the line of code that Python would add."""
    if not str(message).endswith(" was never awaited"):  # because of an exception, which is reported
        complain(message)


def run(args: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Raises:
        MemoryError, SystemError: memory has run out; `__main__` says so, where the most of it is free again.
    """
    given = sys.argv[1:] if args is None else args
    try:
        with interruptible():
            status = group.main(args, prog_name="gpt2rt", standalone_mode=False)
            sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.UsageError as error:
        complain_of(error, usage_sentence(error, given), given)
        return EXIT_USAGE
    except click.ClickException as error:
        complain_of(error, error.format_message(), given)
        return EXIT_ERROR
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except Stopped as stopped:
        complain(f"stopped by signal {stopped.number}; what was unfinished is removed")
        return 128 + stopped.number
    except UsageError as error:
        complain_of(error, error, given)
        return EXIT_USAGE
    except Gpt2rtError as error:
        complain_of(error, error, given)
        return EXIT_ERROR
    except ImportError as error:
        cause = first_cause(error)
        if is_lack_of_memory(cause):
            raise MemoryError from error
        if (error.name or "").startswith("gpt2rt."):
            raise
        complain_of(error, f"a library can't be loaded: {cause} (install gpt2rt and what it needs again)", given)
        return EXIT_ERROR
    except RuntimeError as error:
        if str(error) != NO_THREAD:
            raise
        complain_of(error, "can't start a thread (too little memory, or too many processes)", given)
        return EXIT_ERROR
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # whoever read the pipe is gone
            subject = f"{error.filename}: " if isinstance(error.filename, str) else ""
            complain_of(error, f"{subject}{error.strerror or error}", given)
        drop_output()
        return EXIT_ERROR


def first_cause(error: ImportError) -> ImportError:
    """Return why an import has failed, which numpy explains at length."""
    while isinstance(before := error.__cause__ or error.__context__, ImportError):
        error = before
    return error


def usage_sentence(error: click.UsageError, args: list[str]) -> str:
    """Return click's complaint in the form of our own: subject, what is wrong, what to do."""
    from gpt2rt.cli.parameters import label

    named = [name for name in args[:1] if name in COMMANDS]
    command = error.ctx.command_path if error.ctx else " ".join(["gpt2rt", *named])
    hint = f"see {command} -h"
    message = error.message.rstrip(".")
    if isinstance(error, click.NoSuchOption):
        if error.possibilities:
            hint = f"did you mean {' or '.join(sorted(error.possibilities))}?"
        return f"{error.option_name}: no such option ({hint})"
    if isinstance(error, click.MissingParameter):
        subject = label(error.param) if error.param else str(error.param_hint).strip("'")
        return f"{subject}: missing ({hint})"
    if isinstance(error, click.BadParameter):
        return f"{label(error.param)}: {message} ({hint})"
    if isinstance(error, click.BadOptionUsage):
        what = message.removeprefix(f"Option {error.option_name!r} ")
        return f"{error.option_name}: {what[:1].lower()}{what[1:]} ({hint})"
    return f"{message[:1].lower()}{message[1:]} ({hint})"


def drop_output() -> None:
    """Keep the interpreter from failing again, at exit, over output that could not be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """Run the command line and exit with its code: the entry point `gpt2rt`."""
    prepare_streams()
    warnings.showwarning = print_warning
    sys.exit(run())
