"""Types of arguments and options: what a shell completes, and how a value is refused."""

from __future__ import annotations

import copy

import click
from click.shell_completion import CompletionItem

from gpt2rt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class AnyPath(click.Path):
    """A path that completes and is not checked: the code that opens it reports what is wrong with it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value


class OneOf(click.Choice):  # type: ignore[type-arg]
    """One of a few names."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        for choice in self.choices:
            if value == choice or (not self.case_sensitive and str(value).casefold() == choice.casefold()):
                return choice
        raise UsageError(f"{label(param)}: got {str(value)!r:.80}, expected one of {', '.join(self.choices)}")

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        # click's own offers 124m for 124M where case does not matter.
        return [CompletionItem(choice) for choice in self.choices if choice.startswith(incomplete)]


class Renamed(click.Option):
    """An option whose first name is the one in the help; its other names are accepted as well."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        shown = copy.copy(self)
        shown.opts = self.opts[:1]
        return super(Renamed, shown).get_help_record(ctx)


def label(param: click.Parameter | None) -> str:
    """Return what messages call a parameter: `--max-tokens`, `MODEL`."""
    if param is None:
        return "argument"
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    return (param.metavar or param.name or "").upper().split()[-1].strip("[].")


FILE = AnyPath()
FOLDER = AnyPath(file_okay=False)
WEIGHT_TYPE = OneOf(["int8", "int4", "f16", "f32"])
CHAT_FORMAT = OneOf(["plain", "dialogpt", "raw"])
