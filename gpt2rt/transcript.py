"""Transcripts: save a conversation as JSON with settings, turns and token ids, and resume it later."""

from __future__ import annotations

import os

from gpt2rt.arguments import whole_number
from gpt2rt.chat import Conversation, Turn
from gpt2rt.errors import Gpt2rtError, UsageError
from gpt2rt.foreign import translated
from gpt2rt.regular_file import open_regular, read_regular
from gpt2rt.sampling import MAX_SEED, SamplingParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gpt2rt._chat import ChatFormat

VERSION = 1
MARK = b'{\n "gpt2rt_transcript"'  # the first bytes of a transcript
MAX_SIZE = 1 << 24  # bytes
MAX_TURNS = 100_000
SETTINGS = ("format", "user_name", "bot_name", "opening", "sampling", "max_tokens", "seed")


def save_transcript(conversation: Conversation, path: str) -> None:
    """Write the conversation to a file, completely or not at all.

    Raises:
        UsageError: the file exists and is not a transcript, or it can't be written.
    """
    import json

    from gpt2rt.modelfile.unfinished import replaced

    chat = conversation.format
    document = {
        "gpt2rt_transcript": VERSION,
        "model": os.path.basename(conversation.model.path),
        "format": chat.name,
        "user_name": chat.user_name,
        "bot_name": chat.bot_name,
        "opening": chat.opening,
        "sampling": conversation.sampling.as_dict(),
        "max_tokens": conversation.max_tokens,
        "seed": conversation.seed,
        "turns": [turn._asdict() for turn in conversation.turns],
    }
    content = json.dumps(document, ensure_ascii=False, indent=1).encode("utf-8", "replace")
    try:
        if os.path.exists(path):
            with open_regular(path) as file:
                if file.read(len(MARK)) != MARK:
                    raise UsageError(f"{path}: exists and is not a transcript (choose another name)")
        with replaced(path, mode=0o600) as file:  # a conversation is private
            file.write(content)
    except (OSError, ValueError) as error:
        raise _refusal(path, "can't be written", error) from None


def load_transcript(conversation: Conversation, path: str) -> None:
    """Replace the conversation, its format and its settings with saved ones. On an error nothing changes.

    Raises:
        UsageError: the file can't be read, is not a transcript, or does not fit the model; the message names the field.
    """
    with translated(path, UsageError):
        found = _checked(conversation, _read(path), path)
    conversation.reset_to(*found)


def _refusal(path: str, what: str, error: Exception) -> UsageError:
    if isinstance(error, UsageError):
        return error
    return UsageError(f"{path!r:.200}: {what}: {getattr(error, 'strerror', None) or error}")


def _read(path: str) -> dict[str, Any]:
    from gpt2rt.bounded_json import loads

    try:
        content = read_regular(path, MAX_SIZE)
    except OSError as error:
        raise _refusal(path, "can't be read", error) from error
    try:
        document: dict[str, Any] = loads(content)
    except ValueError as error:
        raise UsageError(f"{path}: not a transcript (not valid JSON)") from error
    version = document.get("gpt2rt_transcript") if isinstance(document, dict) else None
    if version is None:
        raise UsageError(f"{path}: not a transcript (no 'gpt2rt_transcript')")
    if version != VERSION:
        raise UsageError(f"{path}: transcript version {version!r:.40}, this gpt2rt reads version {VERSION}")
    return document


def _checked(
    conversation: Conversation, document: dict[str, Any], path: str
) -> tuple[ChatFormat, SamplingParams, int, int, list[Turn]]:
    """Check a document and return its format, sampling, seed, max_tokens and turns."""
    missing = [name for name in (*SETTINGS, "turns") if name not in document]
    if missing:
        raise UsageError(f"{path}: {missing[0]} is missing")
    if not isinstance(document["sampling"], dict):
        raise UsageError(f"{path}: sampling: expected an object")
    for name in ("format", "user_name", "bot_name", "opening"):
        if not isinstance(document[name], str):
            raise UsageError(f"{path}: {name}: got {document[name]!r:.80}, expected text")
    try:
        chat = conversation.made_format(*(document[name] for name in ("format", "user_name", "bot_name", "opening")))
        sampling = SamplingParams.from_dict(document["sampling"])
        seed = whole_number("seed", document["seed"], 0, MAX_SEED)
        max_tokens = conversation.checked_max_tokens(document["max_tokens"])
    except Gpt2rtError as error:
        raise UsageError(f"{path}: {error}") from None
    turns = document["turns"]
    if not isinstance(turns, list) or len(turns) > MAX_TURNS:
        raise UsageError(f"{path}: turns: expected a list of at most {MAX_TURNS}")
    checked = [_checked_turn(conversation, chat, turn, f"{path}: turn {n}") for n, turn in enumerate(turns, 1)]
    return chat, sampling, seed, max_tokens, checked


def _checked_turn(conversation: Conversation, chat: ChatFormat, turn: Any, where: str) -> Turn:
    tokenizer = conversation.model.tokenizer
    if not isinstance(turn, dict):
        raise UsageError(f"{where}: expected an object")
    for name in ("user", "answer"):
        text = turn.get(name)
        if not isinstance(text, str) or not text or (name == "user" and text != chat.clean(text)):
            raise UsageError(f"{where}: {name}: got {text!r:.80}, expected text on one line")
    tokens = turn.get("tokens")
    if tokens is None:
        return Turn(turn["user"], turn["answer"], chat.answer(turn["answer"]))
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise UsageError(f"{where}: tokens: expected a list of token ids")
    for token in tokens:
        if not 0 <= token < tokenizer.n_vocab:
            raise UsageError(f"{where}: tokens: got {token}, expected 0 to {tokenizer.n_vocab - 1}")
    if tokenizer.decode(tokens).strip() != turn["answer"].strip():
        raise UsageError(
            f"{where}: tokens: they do not decode to the answer"
            " (from another model? remove 'tokens' to encode the text again)"
        )
    return Turn(turn["user"], turn["answer"], tokens)
