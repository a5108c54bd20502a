"""Messages: a conversation as clients of OpenAI's API write it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gpt2rt.errors import UsageError


def turns_of(messages: Sequence[Mapping[str, str]], last: str = "user") -> tuple[str | None, list[str]]:
    """Return the system message of a conversation, None without one, and the texts of its turns, the user's first.

    Args:
        messages: as for `Model.chat`.
        last: the role of the last one; an assistant's must not be empty.

    Raises:
        UsageError: their order is invalid, or one is not a message.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise UsageError(f"messages: got {messages!r:.80}, expected a list of messages")
    opening: str | None = None
    talk: list[str] = []
    for i, message in enumerate(messages):
        is_object = isinstance(message, Mapping)
        role, content = (message.get("role"), message.get("content")) if is_object else (None, None)
        expected = "assistant" if len(talk) % 2 else "user"
        if i == 0 and role == "system" and isinstance(content, str):
            opening = content
        elif role == expected and isinstance(content, str):
            talk.append(content)
        else:
            raise UsageError(
                f"messages: number {i + 1}: got {message!r:.80}, expected role {expected!r} and a text as content"
            )
    is_last = len(talk) % 2 == 1 if last == "user" else bool(talk) and len(talk) % 2 == 0 and bool(talk[-1])
    if not is_last:
        wanted = "a user's message" if last == "user" else "an assistant's message, not empty,"
        raise UsageError(f"messages: expected {wanted} as the last one")
    return opening, talk
