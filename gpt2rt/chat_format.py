"""The format of a chat with a model: the checks of what is not text. `core/chat_format.h` does the rest."""

from __future__ import annotations

from gpt2rt._chat import ChatFormat
from gpt2rt.errors import ModelFileError, UsageError
from gpt2rt.modelfile.chat_settings import CHAT_FORMATS, CHAT_KEYS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.model import Model


def chat_format(
    model: Model,
    name: str | None = None,
    user_name: str | None = None,
    bot_name: str | None = None,
    opening: str | None = None,
) -> ChatFormat:
    """Return the format that a model's file asks for. Arguments that are not None override the file.

    A plain format without an opening gets one with example turns; an empty opening means none. The file's opening is
    used in the file's format only, and names in it that are overridden are replaced.

    Raises:
        UsageError: an argument can't be used. ModelFileError: the file's metadata `chat` can't.
    """
    chat = model.metadata.get("chat", {})
    if not isinstance(chat, dict):
        raise ModelFileError(f"{model.path}: metadata 'chat' is a {type(chat).__name__}, expected an object")
    for key in CHAT_KEYS:
        if not isinstance(chat.get(key, ""), str):
            raise ModelFileError(f"{model.path}: metadata 'chat': {key} is {chat[key]!r:.80}, expected text")
    if not isinstance(name, str | None):
        raise UsageError(f"chat format {name!r:.80}: expected one of {', '.join(CHAT_FORMATS)}")
    for option, value in (("user_name", user_name), ("bot_name", bot_name)):
        if not isinstance(value, str | None):
            raise UsageError(f"{option}: got {value!r:.80}, expected 1 to 40 characters in one line, no colon")
    if not isinstance(opening, str | None):
        raise UsageError("opening: expected text of at most 65536 characters")
    options = {"format": name, "user_name": user_name, "bot_name": bot_name, "opening": opening}
    return ChatFormat(model.tokenizer, model.hyperparameters.n_ctx, chat, options)
