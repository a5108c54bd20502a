"""The settings of a chat in the metadata of a model file: their names, and templates of turns."""

from __future__ import annotations

from gpt2rt.errors import UsageError

CHAT_FORMATS = ("plain", "dialogpt", "template", "raw")
CHAT_KEYS = ("format", "user_name", "bot_name", "opening", "template", "opening_template")


def template_parts(template: str, *places: str, name: str) -> list[str]:
    """Return the parts of a template between its places, such as {user} and {bot}.

    Raises:
        UsageError: it doesn't have each place once, in this order; the message begins with `name`.
    """
    parts: list[str] = []
    rest = template
    for place in places:
        before, found, rest = rest.partition(place)
        if not found or place in rest:
            wanted = " and then ".join(places)
            raise UsageError(f"{name}: got {template!r:.80}, expected text with {wanted} in it, once")
        parts.append(before)
    return [*parts, rest]


def check_templates(chat: dict[str, str]) -> None:
    """Raise UsageError if the templates among the settings of a chat can't be used."""
    is_template = chat.get("format") == "template"
    if not is_template and ("template" in chat or "opening_template" in chat):
        raise UsageError(f"template: got format {chat.get('format')!r:.80}, expected 'template'")
    if is_template:
        template_parts(chat.get("template", ""), "{user}", "{bot}", name="template")
        template_parts(chat.get("opening_template", "{opening}"), "{opening}", name="opening_template")
