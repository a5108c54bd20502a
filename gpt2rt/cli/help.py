"""gpt2rt help: print the help of a command."""

from __future__ import annotations

import click

from gpt2rt.cli import COMMANDS, group, no_such_command
from gpt2rt.errors import UsageError


def matching_commands(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in COMMANDS if name.startswith(incomplete)]


@click.command("help", short_help="Print the help of a command.")
@click.argument("name", metavar="[COMMAND]", required=False, shell_complete=matching_commands)
@click.pass_context
def command(ctx: click.Context, /, name: str | None) -> None:
    """Print the help of COMMAND, or the list of commands.

    \b
    Examples:
      gpt2rt help
      gpt2rt help chat
    """
    assert ctx.parent is not None
    if name is None:
        click.echo(ctx.parent.get_help())
        return
    found = group.get_command(ctx.parent, name)
    if found is None:
        raise UsageError(no_such_command(name))
    click.echo(click.Context(found, ctx.parent, name).get_help())
