"""What the help of every command says."""

import re

import click
import pytest

from gpt2rt.cli import COMMANDS, group


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_has_an_example(cli, command, option):
    code, out, err = cli(*command, option)
    assert (code, err) == (0, "")
    assert "Example" in out
    assert "gpt2rt " + " ".join(command) in out


def commands():
    """(name, command) of all commands, the group included."""
    context = click.Context(group)
    return [("gpt2rt", group), *((name, group.get_command(context, name)) for name in COMMANDS)]


def options():
    """Those of all commands that people see, as pytest's parameters."""
    return [
        pytest.param(command, option, id=f"{name} {option.opts[-1]}")
        for name, command in commands()
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden
    ]


@pytest.mark.parametrize(("command", "option"), options())
def test_help_says_what_an_option_does_and_its_default(command, option):
    _, text = option.get_help_record(click.Context(command))
    assert text[0].isupper()
    assert text.partition("  [")[0].endswith(".")
    if not option.is_flag:
        assert "  [default: " in text or text.endswith("[required]")
    elif option.secondary_opts:  # --this/--no-this
        assert "  [default: " in text


@pytest.mark.parametrize(("command", "option"), options())
def test_help_of_a_number_is_about_its_metavar(command, option):
    if option.metavar in ("N", "X", "OTHER"):
        assert re.search(rf"\b{option.metavar}\b", option.help)


def test_help_of_a_command_is_that_of_its_h(cli):
    code, out, err = cli("help", "chat")
    assert (code, err) == (0, "")
    assert out == cli("chat", "-h")[1]


def test_help_alone_lists_the_commands(cli):
    assert cli("help") == cli("-h")
