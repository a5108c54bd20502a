"""ChatFormat: how the turns of a conversation become one text for the model."""

from __future__ import annotations

from gpt2rt._tokenizer import Tokenizer
from gpt2rt.errors import ModelFileError, UsageError
from gpt2rt.lines import lines_of
from gpt2rt.modelfile.chat_settings import CHAT_KEYS, template_parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.model import Model

MAX_NAME = 40  # characters
MAX_OPENING = 1 << 16  # characters

DEFAULT_NAMES = {
    "plain": ("Sam", "Emma"),
    "dialogpt": ("User", "Bot"),
    "template": ("User", "Bot"),
    "raw": ("User", "Bot"),
}

# For models that were not trained to chat: a scene, and turns of the kind that is wanted.
DEFAULT_OPENING = """\
{user} and {bot} are good friends who like to talk with each other. {bot} is cheerful, kind and curious. She answers \
in one or two short sentences, and she always stays on the subject.

{user}: Hi {bot}, how are you today?
{bot}: I'm very well, thank you! I slept late and had pancakes for breakfast. How are you?
{user}: I'm fine, a bit tired from work. What did you do yesterday?
{bot}: I went for a long walk by the river with my dog. It was sunny, and we saw some ducks.
{user}: That sounds lovely. Do you like books?
{bot}: Yes, I love to read, most of all stories about travel. Right now I'm reading a novel about a sailor.
{user}: What would you like for dinner?
{bot}: Maybe pasta with tomatoes and cheese. It's easy to make, and everybody likes it.
{user}: Good idea! I have to go to the shop first.
{bot}: Then please bring some apples too, and I'll bake a cake for us.
"""
PUNCTUATION = ".,!?'"


class ChatFormat:
    """How turns become tokens. Text of users never becomes a special token.

    Attributes:
        name, user_name, bot_name, opening: as in the metadata's `chat`. stop: strings that end an answer.
        opening_tokens: ids before the first turn. closing_tokens: ids after an answer.
        exempt: ids that a repetition penalty must leave alone, because they hold turns and sentences together.
        turns_kept: how many of the last turns the model reads, None for as many as fit.
        is_talk: answers are utterances: stripped, never blank, and not given twice.
        is_scene: the opening is the scene with example turns for models that were not trained to chat.
    """

    name = ""
    stop: tuple[str, ...] = ()
    turns_kept: int | None = None
    is_talk = True
    is_scene = False

    def __init__(self, tokenizer: Tokenizer, user_name: str, bot_name: str, opening: str):
        """Raises UsageError: a name or the opening can't be used, or the vocabulary lacks what the format needs."""
        for option, value in (("user_name", user_name), ("bot_name", bot_name)):
            is_name = isinstance(value, str) and value == clean(value) and value.isprintable() and ":" not in value
            if not is_name or not 1 <= len(value) <= MAX_NAME:
                raise UsageError(
                    f"{option}: got {value!r:.80}, expected 1 to {MAX_NAME} characters in one line, no colon"
                )
        if not isinstance(opening, str) or len(opening) > MAX_OPENING:
            raise UsageError(f"opening: expected text of at most {MAX_OPENING} characters")
        self.user_name, self.bot_name, self.opening = user_name, bot_name, opening
        self._tokenizer = tokenizer
        self.opening_tokens = self._opening()
        self.closing_tokens = self._closing()
        marks = ("\n", ":", *PUNCTUATION, user_name, bot_name, f" {user_name}", f" {bot_name}")
        encoded = [tokenizer.encode(text, continues=True) for text in marks]
        # A name of several tokens is left out: its parts are parts of other words as well.
        exempt = {*self.closing_tokens, *(tokens[0] for tokens in encoded if len(tokens) == 1)}
        self.exempt = frozenset({*exempt, *tokenizer.eos_token_ids})

    def _opening(self) -> list[int]:
        return self._tokenizer.encode(self.opening)

    def _closing(self) -> list[int]:
        return []

    def clean(self, text: str) -> str:
        """Return what is kept of a user's message: one line, so that it can't end its turn."""
        return clean(text)

    def prompt(self, text: str) -> list[int]:
        """Return the ids of a user's clean message and of what asks for the answer."""
        raise NotImplementedError

    def answer(self, text: str) -> list[int]:
        """Return the ids of an answer, as a model would have given it."""
        raise NotImplementedError


class PlainFormat(ChatFormat):
    """`User: text` and `Bot: text` lines."""

    name = "plain"

    def __init__(self, tokenizer: Tokenizer, user_name: str, bot_name: str, opening: str):
        super().__init__(tokenizer, user_name, bot_name, opening)
        self.stop = ("\n", f"{user_name}:")

    def _opening(self) -> list[int]:
        ended = self.opening if self.opening.endswith("\n") or not self.opening else self.opening + "\n"
        return self._tokenizer.encode(ended)

    def _closing(self) -> list[int]:
        return self._tokenizer.encode("\n", continues=True)

    def prompt(self, text: str) -> list[int]:
        # No space after the colon: it belongs to the answer's first token.
        return self._tokenizer.encode(f"{self.user_name}: {text}\n{self.bot_name}:", continues=True)

    def answer(self, text: str) -> list[int]:
        return self._tokenizer.encode(f" {text}", continues=True)


class DialogptFormat(ChatFormat):
    """Turns separated by the token that ends a text, `<|endoftext|>`; every line of an opening is a turn."""

    name = "dialogpt"
    turns_kept = 5  # more confuse DialoGPT, which was trained on short exchanges

    def _end(self) -> list[int]:
        if not self._tokenizer.eos_token_ids:
            raise UsageError("chat format 'dialogpt': the vocabulary has no token that ends a text (use plain)")
        return [self._tokenizer.eos_token_ids[0]]

    def _turn(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _opening(self) -> list[int]:
        turns = [token for line in lines_of(self.opening) for token in self._turn(line) + self._end()]
        return self._tokenizer.encode("") + turns

    def _closing(self) -> list[int]:
        return self._end()

    def prompt(self, text: str) -> list[int]:
        return self._turn(text) + self._end()

    def answer(self, text: str) -> list[int]:
        return self._turn(text)


class TemplateFormat(ChatFormat):
    """Turns as the model's own template writes them, such as ChatML's.

    The template is an exchange with {user} and {bot} for the texts: `<|user|>{user}<|bot|>{bot}<|end|>`. Special tokens
    in it are those tokens; the texts never are.
    """

    name = "template"

    def __init__(
        self, tokenizer: Tokenizer, user_name: str, bot_name: str, opening: str, template: str, opening_template: str
    ):
        """Raises UsageError: as for `ChatFormat`, or a template can't be used."""
        before, self._between, after = template_parts(template, "{user}", "{bot}", name="template")
        parts = template_parts(opening_template, "{opening}", name="opening_template")
        self._before_opening, self._after_opening = parts
        self._before, self._after = before, after
        super().__init__(tokenizer, user_name, bot_name, opening)
        self.stop = tuple(dict.fromkeys(mark.strip() or mark for mark in (after, before) if mark))

    def _mark(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, special=True, continues=True)

    def _opening(self) -> list[int]:
        start = self._tokenizer.encode("")
        if not self.opening:
            return start
        text = self._tokenizer.encode(self.opening, continues=True)
        return [*start, *self._mark(self._before_opening), *text, *self._mark(self._after_opening)]

    def _closing(self) -> list[int]:
        return self._mark(self._after)

    def clean(self, text: str) -> str:
        return text.strip()

    def prompt(self, text: str) -> list[int]:
        return [*self._mark(self._before), *self.answer(text), *self._mark(self._between)]

    def answer(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, continues=True)


class RawFormat(ChatFormat):
    """Text and nothing else: the model continues what was typed."""

    name = "raw"
    is_talk = False

    def clean(self, text: str) -> str:
        return text

    def prompt(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, continues=True)

    def answer(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, continues=True)


FORMATS: dict[str, type[ChatFormat]] = {
    kind.name: kind for kind in (PlainFormat, DialogptFormat, TemplateFormat, RawFormat)
}


def clean(text: str) -> str:
    """Return the text in one line: stripped, and every run of white space a single space."""
    return " ".join(text.split())


def default_opening(model: Model, user_name: str, bot_name: str) -> str:
    """Return the scene and as many of the example turns as leave half of the context free."""
    lines = DEFAULT_OPENING.format(user=user_name, bot=bot_name).split("\n")[:-1]
    lines = [f"{line}\n" for line in lines]
    while len(model.tokenizer.encode("".join(lines))) > model.hyperparameters.n_ctx // 2:
        del lines[-2:]  # an exchange; the scene and the empty line after it go last
    return "".join(lines)


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
    own_format = chat.get("format", "plain")
    name = name if name is not None else own_format
    if name not in FORMATS:
        raise UsageError(f"chat format {name!r:.80}: expected one of {', '.join(FORMATS)}")
    default_user_name, default_bot_name = DEFAULT_NAMES[name]
    own_user_name = chat.get("user_name", default_user_name)
    own_bot_name = chat.get("bot_name", default_bot_name)
    user_name = own_user_name if user_name is None else user_name
    bot_name = own_bot_name if bot_name is None else bot_name
    own_opening = chat.get("opening") if name == own_format else None  # one of another format would be misread
    is_scene = opening is None and own_opening is None and name == "plain"
    if is_scene:
        opening = default_opening(model, user_name, bot_name)
    elif opening is None:
        opening = renamed(own_opening or "", {own_user_name: user_name, own_bot_name: bot_name})
    arguments = (model.tokenizer, user_name, bot_name, opening)
    if name == TemplateFormat.name:
        if own_format != name or "template" not in chat:
            raise UsageError("chat format 'template': the model file has no template (gpt2rt convert --chat-template)")
        made: ChatFormat = TemplateFormat(*arguments, chat["template"], chat.get("opening_template", "{opening}"))
    else:
        made = FORMATS[name](*arguments)
    made.is_scene = is_scene and bool(opening)
    return made


def renamed(text: str, names: dict[str, str]) -> str:
    """Return the text with other names in it.

    Args:
        names: {name: its replacement}; only whole words are replaced. Names that can't be used are left out.
    """
    names = {old: new for old, new in names.items() if old and isinstance(new, str)}
    if all(old == new for old, new in names.items()):
        return text
    import re

    words = "|".join(re.escape(name) for name in names)
    return re.sub(rf"(?<!\w)(?:{words})(?!\w)", lambda found: names[found[0]], text)
