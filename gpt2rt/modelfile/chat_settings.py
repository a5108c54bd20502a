"""The settings of a chat in the metadata of a model file: their names and checks."""

from __future__ import annotations

from gpt2rt.errors import UsageError

CHAT_FORMATS = ("plain", "dialogpt", "template", "raw")
CHAT_KEYS = ("format", "user_name", "bot_name", "opening", "template", "opening_template")


def check_templates(chat: dict[str, str]) -> None:
    """Raise UsageError if the templates among the settings of a chat can't be used."""
    is_template = chat.get("format") == "template"
    if not is_template and ("template" in chat or "opening_template" in chat):
        raise UsageError(f"template: got format {chat.get('format')!r:.80}, expected 'template'")
    if is_template:
        from gpt2rt import _chat  # importing these names does not need it

        _chat.check_templates(chat.get("template", ""), chat.get("opening_template", "{opening}"))
