"""The policy of a chat in plain Python: the reference for `core/chat_format.h`, `conversation.h`, `reply.h`, `words.h`
and `stream.h`.
"""

import codecs
import re
import types

from gpt2rt._tokenizer import StopStrings, StreamDecoder
from gpt2rt.errors import UsageError
from gpt2rt.lines import lines_of

PEOPLE = ("Sam", "Emma")
FORMATS = ("plain", "dialogpt", "template", "raw")
SCENE = """\
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


# --- texts


def words_of(text):
    kept = (c if c.isalnum() else " " if c.isspace() else "" for c in text.casefold())
    return " ".join("".join(kept).split())


def clean(text):
    return " ".join(text.split())


def renamed(text, names):
    names = {old: new for old, new in names.items() if old}
    words = "|".join(re.escape(name) for name in names)
    return re.sub(rf"(?<!\w)(?:{words})(?!\w)", lambda found: names[found[0]], text) if names else text


def template_parts(template, *places, name):
    parts = []
    rest = template
    for place in places:
        before, found, rest = rest.partition(place)
        if not found or place in rest:
            wanted = " and then ".join(places)
            raise UsageError(f"{name}: got {template!r:.80}, expected text with {wanted} in it, once")
        parts.append(before)
    return [*parts, rest]


# --- formats


def chat_format(tokenizer, n_ctx, own, options):
    """Return what `ChatFormat` with the same arguments has."""
    encode = tokenizer.encode
    own_name = own.get("format", "plain")
    options = {key: value for key, value in options.items() if value is not None}
    name = options.get("format", own_name)
    if name not in FORMATS:
        raise UsageError(f"chat format {name!r:.80}: expected one of {', '.join(FORMATS)}")
    before = between = after = before_opening = after_opening = ""
    if name == "template":
        if own_name != name or "template" not in own:
            raise UsageError("chat format 'template': the model file has no template (gpt2rt convert --chat-template)")
        before, between, after = template_parts(own["template"], "{user}", "{bot}", name="template")
        template = own.get("opening_template", "{opening}")
        before_opening, after_opening = template_parts(template, "{opening}", name="opening_template")

    own_names = [own.get(key, default) for key, default in zip(("user_name", "bot_name"), names_of(name), strict=True)]
    user_name, bot_name = options.get("user_name", own_names[0]), options.get("bot_name", own_names[1])
    for option, value in (("user_name", user_name), ("bot_name", bot_name)):
        is_name = value == clean(value) and value.isprintable() and ":" not in value
        if not is_name or not 1 <= len(value) <= 40:
            raise UsageError(f"{option}: got {value!r:.80}, expected 1 to 40 characters in one line, no colon")

    own_opening = own.get("opening") if name == own_name else None
    opening = options.get("opening")
    is_scene = opening is None and own_opening is None and name == "plain"
    if is_scene:
        lines = [f"{line}\n" for line in SCENE.format(user=user_name, bot=bot_name).split("\n")[:-1]]
        while lines and len(encode("".join(lines))) > n_ctx // 2:
            del lines[-2:]
        opening = "".join(lines)
    elif opening is None:
        opening = renamed(own_opening or "", {own_names[0]: user_name, own_names[1]: bot_name})
    if len(opening) > 1 << 16:
        raise UsageError("opening: expected text of at most 65536 characters")

    def end():
        if not tokenizer.eos_token_ids:
            raise UsageError("chat format 'dialogpt': the vocabulary has no token that ends a text (use plain)")
        return [tokenizer.eos_token_ids[0]]

    def mark(text):
        return encode(text, special=True, continues=True)

    def turn(text):
        return encode(text, add_special_tokens=False)

    def middle(text):
        return encode(text, continues=True)

    if name == "plain":
        opening_tokens = encode(opening if opening.endswith("\n") or not opening else opening + "\n")
        closing_tokens, stop = middle("\n"), ("\n", f"{user_name}:")
        kept, prompt, answer = (
            clean,
            lambda text: middle(f"{user_name}: {text}\n{bot_name}:"),
            lambda text: middle(f" {text}"),
        )
    elif name == "dialogpt":
        opening_tokens = encode("") + [token for line in lines_of(opening) for token in turn(line) + end()]
        closing_tokens, stop = end(), ()
        kept, prompt, answer = clean, lambda text: turn(text) + end(), turn
    elif name == "template":
        opening_tokens = encode("")
        if opening:
            opening_tokens += mark(before_opening) + middle(opening) + mark(after_opening)
        closing_tokens = mark(after)
        stop = tuple(dict.fromkeys(mark.strip() or mark for mark in (after, before) if mark))
        kept, prompt, answer = str.strip, lambda text: mark(before) + middle(text) + mark(between), middle
    else:
        opening_tokens, closing_tokens, stop = encode(opening), [], ()
        kept, prompt, answer = str, middle, middle

    marks = ("\n", ":", *".,!?'", user_name, bot_name, f" {user_name}", f" {bot_name}")
    single = {tokens[0] for tokens in map(middle, marks) if len(tokens) == 1}
    return types.SimpleNamespace(
        name=name,
        user_name=user_name,
        bot_name=bot_name,
        opening=opening,
        stop=stop,
        opening_tokens=opening_tokens,
        closing_tokens=closing_tokens,
        exempt=frozenset({*closing_tokens, *tokenizer.eos_token_ids, *single}),
        turns_kept=5 if name == "dialogpt" else None,
        is_talk=name != "raw",
        is_scene=is_scene and bool(opening),
        clean=kept,
        prompt=prompt,
        answer=answer,
    )


def names_of(name):
    return PEOPLE if name == "plain" else ("User", "Bot")


# --- conversations


def prompt_of(chat, turns, message, n_ctx, max_tokens):
    """Return what the function of this name in `_chat` does; None if there is no room."""
    n_dropped = 0
    first = 0 if chat.turns_kept is None else max(0, len(turns) - chat.turns_kept)
    asked = chat.prompt(message)
    kept = [[*chat.prompt(turn.user), *turn.tokens, *chat.closing_tokens] for turn in turns[first:]]
    room = n_ctx - min(max_tokens, n_ctx // 4) - len(chat.opening_tokens)
    if len(asked) > room:
        return None
    used = len(asked) + sum(map(len, kept))
    if used > room:
        while kept and used > room - n_ctx // 4:
            used -= len(kept.pop(0))
        n_dropped = len(turns) - len(kept)
    return [*chat.opening_tokens, *(token for tokens in kept for token in tokens), *asked], n_dropped


def earlier_answers(chat, turns, replaced, message):
    if not chat.is_talk:
        return set()
    earlier = {words_of(turn.answer) for turn in turns[-8:]}
    if replaced is not None:
        earlier.add(words_of(replaced))
    words = words_of(message)
    return earlier | {words} if len(words.split()) >= 4 else earlier


def kept_answer(tokenizer, sampled, stop, is_interrupted, is_stripped):
    content = tokenizer.decode_bytes(sampled)
    text = codecs.utf_8_decode(content, "replace", not is_interrupted)[0]
    complete = [(at + len(one), at) for one in stop if (at := text.find(one)) >= 0]
    if complete:  # the most bytes that decode to the text before the stop string
        lengths = [len(content[:n].decode("utf-8", "replace")) for n in range(len(content) + 1)]
        content = content[: max(n for n, length in enumerate(lengths) if length == min(complete)[1])]
    if is_interrupted:
        content = content[: codecs.utf_8_decode(content, "replace", False)[1]]
    kept = []
    length = 0
    for token in sampled:
        piece = len(tokenizer.token_bytes(token))
        if length + piece > len(content):
            break
        kept.append(token)
        length += piece
    kept += tokenizer.encode(content[length:].decode("utf-8", "ignore"), continues=True)
    text = tokenizer.decode(kept)
    return kept, text.strip() if is_stripped else text


# --- what is sampled


def stream(tokenizer, stop, max_tokens, steps):
    """Yield (piece, number of tokens used, finish reason, number of tokens in the text) of each step until the end.

    Args:
        steps: (tokens, whether the sequence is then full) of each.
    """
    decoder, stops, n_tokens = StreamDecoder(tokenizer), StopStrings(stop), 0

    def end(reason):
        tail = stops.feed(decoder.finish()) + stops.finish()
        return tail, reason if stops.found is None else "stop"

    for tokens, is_full in steps:
        piece, reason, n_used = "", None, 0
        for token in tokens:
            n_used += 1
            tail = ""
            if token in tokenizer.eos_token_ids:
                tail, reason = end("stop")
            else:
                n_tokens += 1
                piece += stops.feed(decoder.feed(token))
                if stops.found is not None:
                    reason = "stop"
                elif n_tokens == max_tokens:
                    tail, reason = end("length")
            piece += tail
            if reason:
                break
        if not reason and is_full:
            tail, reason = end("length")
            piece += tail
        yield piece, n_used, reason, n_tokens
        if reason:
            return


def reply(is_talk, temperature, earlier, drafts):
    """Return (what was returned for each piece, temperature of each draft, finish reason).

    Args:
        drafts: the pieces of each draft that may be sampled, and its finish reason.
    """
    last_draft = 4 if is_talk and temperature > 0 else 0
    returned, temperatures = [], []
    for draft, (pieces, reason) in enumerate(drafts):
        temperatures.append(min(max(temperature, 1.0), temperature * 1.25**draft))
        is_last = draft == last_draft
        raw, n_returned = "", 0
        for i, piece in enumerate(pieces):
            raw += piece
            text = raw.strip() if is_talk else raw
            if i < len(pieces) - 1:
                may_repeat = not is_last and any(answer.startswith(words_of(text)) for answer in earlier)
            elif n_returned or is_last or (text and words_of(text) not in earlier):
                returned.append(text[n_returned:])
                return returned, temperatures, reason if text else "blank"
            else:
                returned.append(None)
                break
            returned.append("" if may_repeat else text[n_returned:])
            n_returned = n_returned if may_repeat else len(text)
    return returned, temperatures, None
