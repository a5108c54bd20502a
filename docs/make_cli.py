"""Write cli.md, the help of every command: python docs/make_cli.py"""

import pathlib

import click

from gpt2rt.cli import group

PAGE = pathlib.Path(__file__).with_name("cli.md")
WIDTH = 88  # columns: what fits the page of a window of 1280 pixels


def page() -> str:
    """Return the text of cli.md."""
    parent = click.Context(group, info_name="gpt2rt", terminal_width=WIDTH, **group.context_settings)
    parts = ["# The command line", help_of(parent)]
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        context = click.Context(command, parent, name)
        parts += [f"## gpt2rt {name}", help_of(context)]
        if isinstance(command, click.Group):
            for one in command.list_commands(context):
                inner = click.Context(command.get_command(context, one), context, one)
                parts += [f"### gpt2rt {name} {one}", help_of(inner)]
    return "\n\n".join(parts) + "\n"


def help_of(context: click.Context) -> str:
    """Return a command's help, fenced."""
    return f"```text\n{context.get_help()}\n```"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
