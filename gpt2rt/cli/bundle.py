"""gpt2rt bundle: write one executable with runtime and model."""

from __future__ import annotations

import os
import shlex

import click

from gpt2rt.cli.model_argument import model_argument
from gpt2rt.cli.parameters import FILE, OneOf
from gpt2rt.cli.signals import undone_when_stopped
from gpt2rt.cross import TARGETS
from gpt2rt.model_folder import SUFFIX


@click.command("bundle", short_help="Write one executable with runtime and model.")
@model_argument()
@click.option(
    "-o", "--output", type=FILE, metavar="NAME", help="Write NAME.  [default: the model's name, in this folder]"
)
@click.option(
    "--target",
    "targets",
    type=OneOf(list(TARGETS)),
    multiple=True,
    metavar="PLATFORM",
    help=f"Compile for PLATFORM: {', '.join(TARGETS)}. May be repeated; then each NAME ends in its platform."
    "  [default: this platform, without compiling]",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def command(model: str, output: str | None, targets: tuple[str, ...], force: bool) -> None:
    """Write an executable that carries MODEL, the bundled model by default, and runs where nothing is installed.

    It chats, and with -p it continues a text; its option --help lists the others. --target needs the extra cross:
    pip install 'gpt2rt[cross]'.

    \b
    Examples:
      gpt2rt bundle -o demo
      gpt2rt bundle 124M -o chat
      gpt2rt bundle 124M -o chat --target windows-x86_64 --target macos-aarch64
    """
    from gpt2rt.bundle import bundle, is_compiled
    from gpt2rt.modelfile.unfinished import check_output

    name = os.path.basename(model).removesuffix(SUFFIX) if output is None else output
    paths = output_names(name, list(dict.fromkeys(targets)))
    for path in paths.values():
        check_output(path, force)
    for target, path in paths.items():
        if is_compiled(target):
            click.echo(f"compiling {path} (the first time, this may take a minute)", err=True)
        with undone_when_stopped():
            size = bundle(model, path, target, force=force)
        where = f"on {target}" if target else "with"
        click.echo(f"{path}: {size / 1e6:.1f} MB; run it {where} {shell_command(path, target)}")


def output_names(name: str, targets: list[str]) -> dict[str | None, str]:
    """Return the file for each target; {None: file} for this platform."""
    if not targets:
        return {None: with_suffix(name, os.name == "nt")}
    return {
        target: with_suffix(f"{name}-{target}" if len(targets) > 1 else name, target.startswith("windows"))
        for target in targets
    }


def with_suffix(name: str, is_windows: bool) -> str:
    """Return the name of an executable: Windows runs only those that end in .exe."""
    return name + ".exe" * (is_windows and not name.lower().endswith(".exe"))


def shell_command(path: str, target: str | None) -> str:
    """Return what to type in a shell."""
    if target is not None:
        windows = target.startswith("windows")
        return "as " + (".\\" if windows else "./") + os.path.basename(path)
    if os.name == "nt":
        return path
    return shlex.quote(path if os.path.dirname(path) else f"./{path}")
