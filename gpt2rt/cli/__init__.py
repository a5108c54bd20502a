"""The command line. A command's module is imported only when it is called; only this package prints, asks or exits."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from io import TextIOWrapper

import click

from gpt2rt.errors import Gpt2rtError, UsageError

COMMANDS = (
    *("chat", "generate", "models", "download", "convert", "requantize", "export", "info", "verify"),
    *("tokenize", "bench", "perplexity", "doctor"),
)
EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class LazyGroup(click.Group):
    """Commands by the names of their modules, in the order of `COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"gpt2rt.cli.{name}").command
        return command


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
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=print_version, help="Show the version."
)
@click.pass_context
def group(ctx: click.Context, /) -> None:
    """GPT-2 on ordinary CPUs.

    \b
    Examples:
      gpt2rt chat                            chat with the small bundled model
      gpt2rt generate "Once upon a time"     let it continue a text
      gpt2rt chat 124M                       chat with OpenAI's smallest, downloaded if you want
      gpt2rt generate 124M "Once upon a time"
      gpt2rt models                          list the models that have a name
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


def prepare_streams() -> None:
    """Makes sure that no text can fail to be read or written; a stream that the caller has closed is an empty one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (for the whole run)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            if sys.platform == "win32" and not stream.isatty():
                stream.reconfigure(encoding="utf-8")
            if stream is not sys.stderr:
                stream.reconfigure(errors="replace")


def complain(message: object) -> None:
    """One sentence to standard error."""
    click.echo(f"gpt2rt: {message}", err=True)


def print_warning(message: Warning | str, *_where: object, **_line: object) -> None:
    """What Python calls with a warning, once for each text: prints it as one sentence, without a line of code."""
    complain(message)


def run(args: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    try:
        status = group.main(args, prog_name="gpt2rt", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "gpt2rt"
        complain(f"{error.format_message().rstrip('.')}; {command} -h explains")
        return EXIT_USAGE
    except click.ClickException as error:
        complain(error.format_message())
        return EXIT_ERROR
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except UsageError as error:
        complain(str(error))
        return EXIT_USAGE
    except Gpt2rtError as error:
        complain(str(error))
        return EXIT_ERROR
    except MemoryError:
        complain("not enough memory")
        return EXIT_ERROR
    except OSError as error:
        if not isinstance(error, BrokenPipeError):  # then the reader has left, and need not be told
            complain(f"{error.filename + ': ' if isinstance(error.filename, str) else ''}{error.strerror or error}")
        drop_output()
        return EXIT_ERROR


def drop_output() -> None:
    """Keeps the interpreter from failing once more over output that could not be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """The entry point `gpt2rt`."""
    prepare_streams()
    warnings.showwarning = print_warning
    sys.exit(run())
