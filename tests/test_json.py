"""The reader of JSON in C agrees with Python's."""

import json
import os
import pathlib
import random
import shlex
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
FLAGS = ["-std=c11", "-O1", *WARNINGS, f"-I{ROOT / 'gpt2rt' / 'core'}"]
TEXT, OTHER, INVALID = 0, 1, 2


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"{compiler[0]} is not installed")
    program = tmp_path_factory.mktemp("json") / "json"
    subprocess.run([*compiler, *FLAGS, ROOT / "tests" / "json.c", "-o", program], check=True)
    return program


def read(reader, document, *names):
    """Return (status, text)."""
    content = document if isinstance(document, bytes) else document.encode()
    done = subprocess.run([reader, *names], input=content, capture_output=True, check=False)
    return done.returncode, done.stdout.decode()


def expected(document, *names):
    try:
        value = json.loads(document)
    except ValueError:
        return INVALID, ""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    if not isinstance(value, str):
        return OTHER, ""
    return TEXT, value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


VALID = [
    '{"chat": {"format": "plain"}}',
    ' { "chat" : { "format" : "a\\n\\t\\"\\\\\\/\\b\\f\\r" } } ',
    '{"chat": {"format": "\\u00e9\\u20AC\\ud83d\\ude00 caf\u00e9 \u65e5\u672c"}}',
    '{"chat": {"format": "\\ud83d alone, \\ude00 alone, \\ud83d\\u0041"}}',
    '{"chat": {"format": "first", "format": "last"}}',
    '{"chat": {"format": "text"}, "chat": 1}',
    '{"ch\\u0061t": {"f\\u006frmat": "escaped names"}}',
    '{"other": [1, -2.5e+3, 0, true, false, null, NaN, Infinity, -Infinity, [], {}], "chat": {"format": ""}}',
    '{"chatter": {"format": 1}, "cha": {}, "chat": {"form": "x", "formats": "y"}}',
    '{"chat": ["format"]}',
    '{"chat": null}',
    '"text"',
    "[]",
    "{}",
    "12",
]
INVALID_DOCUMENTS = [
    *("", " ", "{", "}", '{"chat"}', '{"chat":}', '{"chat": {"format": "a"}', '{"a": 1,}', "[1,]", "[1 2]", '{"a" 1}'),
    *('{"a": 01}', '{"a": 1.}', '{"a": .5}', '{"a": +1}', '{"a": 1e}', '{"a": -}', '{"a": tru}', '{"a": nul}'),
    *('{"a": "\n"}', '{"a": "\\x"}', '{"a": "\\u12"}', '{"a": "\\u12g4"}', '{"a": "', "{'a': 1}", "{} {}", "[1] x"),
    *("{1: 2}", '{"a": "b" "c"}', "nan", '{"a": "\\', '{"a": "\x00"}'),
]


@pytest.mark.parametrize("document", VALID + INVALID_DOCUMENTS)
@pytest.mark.parametrize("names", [(), ("chat",), ("chat", "format")], ids="/".join)
def test_a_text_is_the_one_that_python_finds(reader, document, names):
    assert read(reader, document, *names) == expected(document, *names)


def test_bytes_that_are_not_utf8_are_refused(reader):
    for content in (b'{"a": "\xff"}', b'{"a": "\xc3"}', b'{"a": "\xed\xa0\x80"}', b'{"\xc0\x80": 1}'):
        assert read(reader, content, "a")[0] == INVALID


def test_arrays_in_each_other_have_a_limit(reader):
    assert read(reader, "[" * 64 + "]" * 64)[0] == OTHER
    assert read(reader, "[" * 65 + "]" * 65)[0] == INVALID
    assert read(reader, '{"a":' * 100_000)[0] == INVALID


def test_changed_documents_are_read_as_in_python(reader):
    draw = random.Random(1)
    document = VALID[1].strip().replace("}", ', "list": [1.5, {"x": "\\u00e9"}, null]}', 1)
    for _ in range(60):
        letters = list(document)
        for _ in range(draw.randrange(1, 3)):
            letters[draw.randrange(len(letters))] = draw.choice('{}[]",:\\u0123abn e-.')
        changed = "".join(letters)
        assert read(reader, changed, "chat", "format") == expected(changed, "chat", "format"), changed
