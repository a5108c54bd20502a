"""The policy of a chat in a program without Python decides what Python's classes decide, and stays in its memory."""

import random
import struct
import subprocess

import pytest
from test_chat_policy import PARTS, PIECES, Turn
from test_core import build, build_sanitized, system_compiler
from token_tables import tables_with

from gpt2rt._chat import ChatFormat, ReplyText, earlier_answers, kept_answer, prompt_of
from gpt2rt._tokenizer import TextStream, Tokenizer
from gpt2rt.errors import ContextFullError, UsageError

NONE = 0xFFFFFFFF
N_VOCAB = 256 + len(PARTS)
OWN = ("format", "user_name", "bot_name", "opening", "template", "opening_template")
OPTIONS = ("format", "user_name", "bot_name", "opening")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("chat") / "chat", system_compiler())


@pytest.fixture(scope="module")
def sanitized_program(tmp_path_factory):
    return build_sanitized(tmp_path_factory.mktemp("sanitized") / "chat")


def random_case(seed):
    """Return (tables, settings of the file, options, n_ctx, max_tokens, message, replaced, turns, sampled)."""
    draw = random.Random(seed)

    def text(most=6):
        return "".join(draw.choice(PIECES) for _ in range(draw.randrange(most)))

    def tokens(most):
        return [draw.randrange(N_VOCAB) for _ in range(draw.randrange(most))]

    def some(settings):
        return {key: value for key, value in settings.items() if draw.random() < 0.7}

    formats = ["plain", "dialogpt", "template", "raw"]
    own = {
        "format": draw.choice(formats),
        "user_name": draw.choice(["Ann", "User", text(3)]),
        "bot_name": draw.choice(["Tom", "Bot", "é" * 40]),
        "opening": text(12),
        "template": f"{text(3)}{{user}}{text(3)}{{bot}}{text(3)}",
        "opening_template": f"{text(3)}{{opening}}{text(3)}",
    }
    options = {"format": own["format"], "user_name": "Zoë", "bot_name": draw.choice(["Ann", "Z"]), "opening": text()}
    controls = draw.choice([{}, {"flags": 3, "bos": 256, "eos": [257]}, {"bos": 256, "eos": [257, 264]}])
    turns = [Turn(text(), text(), tokens(30)) for _ in range(draw.randrange(12))]
    replaced = draw.choice([None, text()])
    tables = tables_with(PARTS, special=[256, 257], **controls)
    n_ctx, max_tokens = draw.choice([64, 256, 2048]), draw.randrange(1, 200)
    return tables, some(own), some(options), n_ctx, max_tokens, text(), replaced, turns, tokens(60)


def content_of(value):
    """Return a text, or None, as the program reads it."""
    if value is None:
        return struct.pack("<I", NONE)
    content = value.encode("utf-8", "surrogatepass")
    return struct.pack("<I", len(content)) + content


def ids_of(ids):
    return struct.pack(f"<{1 + len(ids)}I", len(ids), *ids)


def run(program, folder, case):
    """Return (exit status, output, message) of the program."""
    tables, own, options, n_ctx, max_tokens, message, replaced, turns, sampled = case
    parts = [struct.pack("<7I", N_VOCAB, *map(len, tables.values())), *tables.values()]
    parts += [content_of(own.get(key)) for key in OWN] + [content_of(options.get(key)) for key in OPTIONS]
    parts += [struct.pack("<2I", n_ctx, max_tokens), content_of(message), content_of(replaced)]
    parts += [struct.pack("<I", len(turns))]
    for turn in turns:
        parts += [content_of(turn.user), content_of(turn.answer), ids_of(turn.tokens)]
    (folder / "case").write_bytes(b"".join([*parts, ids_of(sampled)]))
    done = subprocess.run([program, folder / "case"], capture_output=True, check=False)
    return done.returncode, done.stdout.decode().splitlines(), done.stderr.decode()


def expected(case):
    """Return what `run` returns, from Python's classes."""
    tables, own, options, n_ctx, max_tokens, message, replaced, turns, sampled = case
    lines = []

    def ids(name, values):
        lines.append(" ".join([name, *map(str, values)]))

    def text(name, value):
        lines.append(f"{name} {value.encode('utf-8', 'surrogatepass').hex()}")

    tokenizer = Tokenizer(tables, N_VOCAB)
    try:
        chat = ChatFormat(tokenizer, n_ctx, own, options)
    except UsageError as error:
        return 1, [], str(error)
    ids("opening", chat.opening_tokens)
    ids("closing", chat.closing_tokens)
    ids("exempt", sorted(chat.exempt))
    for stop in chat.stop:
        text("stop", stop)
    cleaned = chat.clean(message)
    text("message", cleaned)
    prompt = []
    try:
        prompt, n_dropped = prompt_of(chat, turns, cleaned, n_ctx, max_tokens)
        lines.append(f"dropped {n_dropped}")
    except ContextFullError:
        pass
    ids("prompt", prompt)
    earlier = earlier_answers(chat, turns, replaced, message)
    lines.append(sorted(earlier))
    kept, kept_text = kept_answer(tokenizer, sampled, chat.stop, True, True)
    ids("kept", kept)
    text("text", kept_text)
    stream, reply, answer, draft = TextStream(tokenizer, chat.stop, 20), ReplyText(True, 0.7, earlier), "", 0
    for i, token in enumerate(sampled):
        piece, _ = stream.accept([token], i == len(sampled) - 1)
        part = reply.accept(piece, stream.finish_reason)
        if part is None:
            stream, draft = TextStream(tokenizer, chat.stop, 20), draft + 1
        answer += part or ""
        if reply.finish_reason:
            break
    lines.append(f"reply {draft} {reply.temperature:.9g} {stream.n_tokens} {reply.finish_reason or 'none'}")
    text("answer", answer)
    return 0, lines, ""


def decided(result):
    """Return what `run` returned, with the earlier answers as a sorted list of different ones, as in Python."""
    status, lines, message = result
    for i, line in enumerate(lines):
        name, _, content = line.partition(" ")
        if name == "earlier":
            lines[i] = sorted({*bytes.fromhex(content).decode().split("\n")[:-1]})
    return status, lines, message


@pytest.mark.parametrize("seed", range(40))
def test_a_program_without_python_decides_the_same(program, tmp_path, seed):
    case = random_case(seed)
    assert decided(run(program, tmp_path, case)) == expected(case)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_nothing_is_read_outside_its_memory_under_sanitizers(sanitized_program, tmp_path, first):
    for seed in range(first, first + 100):
        case = random_case(seed)
        assert decided(run(sanitized_program, tmp_path, case)) == expected(case), seed
