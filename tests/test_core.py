"""The C headers of the core: each compiles alone, without a warning and without Python; text in C is as in Python."""

import functools
import importlib.util
import os
import pathlib
import random
import shlex
import shutil
import struct
import subprocess
import sys

import pytest
from vocabularies import END_OF_TEXT, Tokenizers

from gpt2rt._tokenizer import StopStrings, StreamDecoder, Tokenizer
from gpt2rt.errors import VocabularyError

ROOT = pathlib.Path(__file__).parents[1]
CORE = ROOT / "gpt2rt" / "core"
FLAGS = ["-std=c11", "-O2", "-ffp-contract=off", f"-I{CORE}"]
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
TARGETS = (
    *("x86_64-linux-musl", "aarch64-linux-musl", "x86_64-windows-gnu", "aarch64-windows-gnu"),
    *("x86_64-macos", "aarch64-macos"),
)

# Those in kernels/ are parts of kernels.h.
HEADERS = [*sorted(CORE.glob("*.h")), CORE / "kernels" / "kernels.h", ROOT / "converter" / "pack.h"]
each_header = pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)


def system_compiler():
    words = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    return words


def compile_strictly(compiler, source, output):
    done = subprocess.run(
        [*compiler, *FLAGS, *STRICT, "-c", source, "-o", output], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@each_header
def test_a_header_compiles_alone_without_a_warning(header, tmp_path):
    source = tmp_path / "alone.c"
    source.write_text(f'#include "{header.as_posix()}"\nextern int not_empty;\n', encoding="utf-8")
    compile_strictly(system_compiler(), source, tmp_path / "alone.o")


@each_header
def test_a_header_does_not_include_python(header):
    assert "#include <Python.h>" not in header.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_all_headers_compile_for_other_systems(target, tmp_path):
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")
    for header in HEADERS:
        source = tmp_path / "alone.c"
        source.write_text(f'#include "{header.as_posix()}"\nextern int not_empty;\n', encoding="utf-8")
        compile_strictly([sys.executable, "-m", "ziglang", "cc", "-target", target], source, tmp_path / "alone.o")
    compile_strictly([sys.executable, "-m", "ziglang", "cc", "-target", target], CORE / "main.c", tmp_path / "main.o")


@pytest.mark.slow
def test_the_standalone_program_compiles_without_a_warning(tmp_path):
    compile_strictly(system_compiler(), CORE / "main.c", tmp_path / "main.o")


# --- text, in a program without Python


@pytest.fixture(scope="module")
def trained(trained_vocabulary):
    return Tokenizers(*trained_vocabulary)


def build(program, compiler, *options):
    """Compile the source of this name in tests/."""
    source = ROOT / "tests" / f"{program.name}.c"
    subprocess.run([*compiler, *FLAGS, *STRICT, *options, source, "-o", program], check=True)
    return program


def build_sanitized(program):
    """Compile the source of this name in tests/ with sanitizers, where these run."""
    options = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    nothing = program.with_name("nothing")
    nothing.with_suffix(".c").write_text("int main(void) { return 0; }\n")
    built = subprocess.run([*system_compiler(), *options, nothing.with_suffix(".c"), "-o", nothing], check=False)
    if built.returncode or subprocess.run([nothing], check=False).returncode:
        pytest.skip("the address sanitizer does not run here")
    return build(program, system_compiler(), *options)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("text") / "text", system_compiler())


@pytest.fixture(scope="module")
def sanitized_program(tmp_path_factory):
    return build_sanitized(tmp_path_factory.mktemp("sanitized") / "text")


def run(program, folder, tables, n_vocab, text, stops):
    """Return (exit status, output, message) of the program."""
    path = folder / "tables"
    path.write_bytes(struct.pack("<7I", n_vocab, *map(len, tables.values())) + b"".join(tables.values()))
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    command = [program, path, *stops]
    done = subprocess.run(command, input=text.encode(), capture_output=True, env=environment, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def expected(tables, n_vocab, text, stops):
    """Return what `run` returns, from Python's classes."""
    output = ""
    try:
        tokenizer = Tokenizer(tables, n_vocab)
        ids = tokenizer.encode(text, special=True)
        output += "".join(f"{token} " for token in ids) + "\n"
        stream, filtered = StreamDecoder(tokenizer), StopStrings(stops)
        for token in ids:
            output += filtered.feed(stream.feed(token))
    except VocabularyError as error:
        return 1, output, str(error)
    return 0, output + filtered.feed(stream.finish()) + filtered.finish(), ""


TEXT = f"the naïve café don't 12345 \n\n 日本 {'-=' * 40}{END_OF_TEXT} the end\nUser: hello"


@pytest.mark.parametrize("stops", [(), ("\nUser:",), ("never", "end", "the end", "日本語")])
@pytest.mark.parametrize("text", ["", TEXT, "a" * 100_000, "word " * 60_000], ids=len)
def test_a_program_without_python_gives_the_same_text(trained, program, tmp_path, text, stops):
    case = trained.vocabulary.tables(), trained.vocabulary.n_vocab, text, stops
    assert run(program, tmp_path, *case) == expected(*case)


@pytest.mark.parametrize("flags", [0, 1, 2, 3, 4])
def test_a_program_without_python_follows_the_controls(trained, program, tmp_path, flags):
    tables = trained.vocabulary.tables() | {"controls": struct.pack("<5I", flags, 300, 0xFFFFFFFF, 301, 302)}
    case = tables, trained.vocabulary.n_vocab, TEXT, ()
    assert run(program, tmp_path, *case) == expected(*case)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_damaged_tables_do_no_harm_under_sanitizers(trained, sanitized_program, tmp_path, seed):
    draw = random.Random(seed)
    n_vocab = trained.vocabulary.n_vocab
    words = functools.partial(draw.choice, [0, n_vocab - 1, n_vocab, 2**31, 2**32 - 2, 2**32 - 1])
    for n_changes in (0, 1, 10, 200):
        tables = {name: bytearray(table) for name, table in trained.vocabulary.tables().items()}
        tables["controls"] = bytearray(struct.pack("<5I", draw.randrange(4), 300, words(), 301, 302))
        for _ in range(n_changes):
            table = draw.choice([table for table in tables.values() if table])
            value = draw.choice([words(), draw.randrange(n_vocab), draw.randrange(2**32)])
            struct.pack_into("<I", table, draw.randrange(len(table) // 4) * 4, value)
        case = tables, n_vocab, TEXT, ("\nUser:", "end")
        assert run(sanitized_program, tmp_path, *case) == expected(*case)
