"""Types of arguments and options: what a shell completes, and how a value is refused."""

from __future__ import annotations

import click

from gpt2rt.errors import UsageError
from gpt2rt.modelfile.chat_settings import CHAT_FORMATS

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
        if value not in self.choices:
            raise UsageError(f"{label(param)}: got {str(value)!r:.80}, expected one of {', '.join(self.choices)}")
        return value


class Renamed(click.Option):
    """An option whose first name is the one in the help; its other names are accepted as well."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        import copy  # help alone needs it

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
KV_TYPE = OneOf(["int8", "f16", "f32"])
CHAT_FORMAT = OneOf(CHAT_FORMATS)
