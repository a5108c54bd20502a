"""Files that others made: only regular ones are read, refusing them is cheap, and whatever is wrong is one sentence."""

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import unicodedata

import pytest
from checkpoints import INDEX_MAGIC, block_bytes, header_message, varint, with_trailer, write_checkpoint
from click.testing import CliRunner
from hf_folder import named, tensors_of, write_folder
from pytorch_files import write
from token_tables import tokenizer_with
from trainer_files import model_bytes, simple_tokens, tokenizer_bytes

from gpt2rt.arena.casting import from_toml
from gpt2rt.bounded_json import loads
from gpt2rt.chat import Conversation
from gpt2rt.cli import complain, group
from gpt2rt.cli.terminal import MOST_SHOWN, json_text, sentence
from gpt2rt.converter import convert
from gpt2rt.converter.checkpoint_index import read_index
from gpt2rt.converter.model_source import ModelFileSource
from gpt2rt.errors import CheckpointError, Gpt2rtError, ModelFileError, UsageError, VocabularyError
from gpt2rt.model import open_model
from gpt2rt.modelfile import MAX_TOKEN_LENGTH, ModelFile
from gpt2rt.transcript import load_transcript, save_transcript

ESCAPES = "\x1b]0;title\x07\x1b[2J\x7f\x9b31m\r\n\u202e"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign") / "small"
    write_checkpoint(folder)
    return folder


@pytest.fixture
def openai(checkpoint, tmp_path):
    """OpenAI's files."""
    return shutil.copytree(checkpoint, tmp_path / "openai")


@pytest.fixture
def pytorch(checkpoint, tmp_path):
    """A Hugging Face folder with the weights in PyTorch's format."""
    folder = write_folder(tmp_path / "pytorch", checkpoint)
    write(folder / "pytorch_model.bin", lambda storages: storages.state(named(tensors_of())))
    return folder


@pytest.fixture
def model(checkpoint, tmp_path):
    convert(checkpoint, tmp_path / "model.bin", weight_type="f32")
    return tmp_path / "model.bin"


@contextlib.contextmanager
def seconds(n):
    """Fail where the block waits."""

    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(n)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- sentences


def test_a_sentence_is_one_printable_line_that_shows_what_it_replaces():
    shown = sentence(f"a{ESCAPES}b")
    assert shown == r"a\x1b]0;title\x07\x1b[2J\x7f\x9b31m\r\n\u202eb"
    assert sentence("naïve 日本 'x'") == "naïve 日本 'x'"


@pytest.mark.parametrize("text", ["x" * 10**6, "\x1b" * 10**6, "\U000e0001" * 500])
def test_a_sentence_is_short_and_keeps_its_end(text):
    shown = sentence(f"path: {text} (what to do)")
    assert len(shown) <= MOST_SHOWN
    assert shown.startswith("path: ")
    assert shown.endswith(" (what to do)")


def test_what_an_undecodable_path_has_is_shown(capsys):
    complain("\udcff: no such file")
    assert capsys.readouterr().err == "gpt2rt: \\udcff: no such file\n"


def test_escape_sequences_in_names_of_a_checkpoint_do_not_reach_the_terminal(openai, cli):
    (openai / "checkpoint").write_text(f'model_checkpoint_path: "{ESCAPES.encode("unicode_escape").decode()}"\n')
    code, out, err = cli("convert", openai)
    assert code == 1
    assert "no such" in err or "does not exist" in err
    assert out + err.removesuffix("\n") == "".join(c for c in out + err if c.isprintable())


def test_json_has_no_control_characters_and_means_the_same(model, cli):
    document = {"text": f"é{ESCAPES}\ud800\U000e0001日", "n": 1.5}
    assert all(c.isprintable() for c in json_text(document))
    assert json.loads(json_text(document)) == document
    named_model = model.with_name("named\x7f\x9b2J.bin")
    model.rename(named_model)
    _, out, _ = cli("info", named_model, "--json")
    assert not any(unicodedata.category(c) == "Cc" and c != "\n" for c in out)
    assert json.loads(out)["path"] == str(named_model)


# --- tokens


def tokenizer_of(token):
    return tokenizer_with([token], special=[256])


def test_a_token_of_the_greatest_length_is_used():
    tokenizer = tokenizer_of(b"x" * MAX_TOKEN_LENGTH)
    assert tokenizer.decode([256]) == "x" * MAX_TOKEN_LENGTH
    assert tokenizer.encode("x" * MAX_TOKEN_LENGTH, special=True) == [256]
    assert tokenizer.problems() == []


def test_a_longer_token_is_refused():
    tokenizer = tokenizer_of(b"x" * (MAX_TOKEN_LENGTH + 1))
    message = f"token 256: has {MAX_TOKEN_LENGTH + 1} bytes, expected at most {MAX_TOKEN_LENGTH}"
    for use in (lambda: tokenizer.decode([256]), lambda: tokenizer.encode("x", special=True)):
        with pytest.raises(VocabularyError, match=message):
            use()
    assert tokenizer.problems() == [message]


def test_a_longer_token_of_a_checkpoint_is_refused(openai):
    path = openai / "encoder.json"
    path.write_text(path.read_text().replace("<|endoftext|>", "é" * 600))
    with pytest.raises(VocabularyError, match=r"encoder\.json: token 300 is 'é+, of 1200 bytes, expected at most 1024"):
        convert(openai, openai / "x.bin")


# --- what a refusal costs

MEASURE = """
import pathlib, sys, time
from gpt2rt.converter import convert
from gpt2rt.errors import Gpt2rtError
import numpy, safetensors.numpy

def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

for folder in sys.argv[1:]:
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before, begin = peak(), time.process_time()
    try:
        convert(folder, "x.bin")
    except Gpt2rtError:
        print(time.process_time() - begin, peak() - before)
"""


def hostile(folder, checkpoint):
    """Yield the paths of checkpoints that claim much, or have many small values; and the size of what they have."""

    def made(number, name, content):
        path = write_folder(folder / f"{number}", checkpoint)
        if name == "x.gguf":
            path = path / name
        elif name in ("tokenizer.json", "merges.txt"):
            write(path / "pytorch_model.bin", lambda storages: storages.state(named(tensors_of())))
        (path if path.name == name else path / name).write_bytes(content)
        return path, len(content)

    header = (
        b"{" + b",".join(b'"%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(60_000)) + b"}"
    )
    key = struct.pack("<Q", 1) + b"k"
    contents = [
        ("config.json", b'{"x":[' + b"[]," * 1_300_000 + b"0]}"),
        ("config.json", b'{"x":[' + b'{"a":1},' * 400_000 + b"0]}"),
        ("tokenizer.json", b'{"x":[' + b'"ab",' * 690_000 + b"0]}"),
        ("merges.txt", b"\n" * 16_000_000),
        ("model.safetensors", struct.pack("<Q", len(header)) + header),
        ("model.safetensors", struct.pack("<Q", 97_000_000) + b'{"":"' + bytes(97_000_000)),
        ("pytorch_model.bin", b"\x80\x02" + b"\x8f" * 4_000_000),
        (
            "x.gguf",
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + key + struct.pack("<IIQ", 9, 8, 900_000) + bytes(7_200_000),
        ),
    ]
    for number, (name, content) in enumerate(contents):
        yield made(number, name, content)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux does")
def test_a_refusal_takes_at_most_a_second_and_64_mb_more_than_the_file(checkpoint, tmp_path):
    pytest.importorskip("safetensors.numpy", reason="the extra `huggingface` is not installed")
    paths, sizes = zip(*hostile(tmp_path, checkpoint), strict=True)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *paths], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stderr == ""
    costs = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    assert len(costs) == len(paths)
    for (elapsed, memory), size in zip(costs, sizes, strict=True):
        assert elapsed < 1
        assert memory < size + 64e6


@pytest.mark.parametrize("content", [b"[]," * 200, b'{"a":1},' * 100, b'"a",' * 500, b'"a":1,' * 250])
def test_json_with_many_values_is_not_parsed(content):
    whole = b"[" + content.replace(b'"a":1,' * 250, b"{" + b'"a":1,' * 250 + b'"b":0},') + b"0]"
    assert loads(whole, 1100) == json.loads(whole)
    with pytest.raises(ValueError, match="too many values"):
        loads(whole, 400)


def test_a_large_file_is_refused_without_reading_it(openai):
    with open(openai / "encoder.json", "r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(VocabularyError, match=r"encoder\.json: can't be read: 1099511627776 bytes, expected at most"):
        convert(openai, openai / "x.bin")


def test_blocks_that_overlap_are_refused(tmp_path):
    first = block_bytes({b"": header_message()})
    empty = bytes(4 * 1000) + struct.pack("<I", 1000)  # only restart points, as long as it is
    content = with_trailer(first) + with_trailer(empty)
    handle = varint(len(first) + 5) + varint(len(empty))
    handles = {b"": varint(0) + varint(len(first)), **{b"%05d" % i: handle for i in range(1000)}}
    footer = b""
    for block in (block_bytes({}), block_bytes(handles)):
        footer += varint(len(content)) + varint(len(block))
        content += with_trailer(block)
    (tmp_path / "x.index").write_bytes(content + footer.ljust(40, b"\0") + INDEX_MAGIC)
    with pytest.raises(CheckpointError, match="its blocks overlap"):
        read_index(tmp_path / "x.index")


def test_another_file_is_refused_before_it_is_read_into_memory(tmp_path):
    with open(tmp_path / "x.bin", "wb") as file:
        file.write(b"something else")
        file.truncate(1 << 42)  # more than the memory
    with pytest.raises(ModelFileError, match="not a gpt2rt model file"):
        ModelFile(tmp_path / "x.bin", use_mmap=False)


# --- exceptions of others

DIGITS = "9" * 5000
DEEP = "[" * 100_000


@pytest.mark.parametrize("content", [f'{{"a": {DIGITS}}}', DEEP, '"\udcff"', "[1, 2", "null"])
@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "tokenizer_config.json", "vocab.json", "special_tokens_map.json", "generation_config.json"),
        *("tokenizer.json", "added_tokens.json", "pytorch_model.bin.index.json"),
    ],
)
def test_malformed_json_of_a_folder_is_a_sentence(pytorch, name, content):
    (pytorch / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    if name.endswith(".index.json"):
        (pytorch / "pytorch_model.bin").unlink()
    with pytest.raises(Gpt2rtError, match=name.replace(".", r"\.")):
        convert(pytorch, pytorch / "x.bin")


@pytest.mark.parametrize("content", [DIGITS, DEEP, f'{{"n_vocab": {DIGITS}}}', "{"])
@pytest.mark.parametrize("name", ["hparams.json", "encoder.json"])
def test_malformed_json_beside_a_checkpoint_is_a_sentence_with_its_cause(openai, name, content):
    (openai / name).write_text(content)
    with pytest.raises(Gpt2rtError, match=rf"{name[:-5]}\.json: not valid JSON") as caught:
        convert(openai, openai / "x.bin")
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("content", [f'{{"gpt2rt_transcript": {DIGITS}}}', DEEP, "{"])
def test_a_malformed_transcript_is_a_sentence(model, tmp_path, content):
    (tmp_path / "talk.json").write_text(content)
    with pytest.raises(UsageError, match=r"talk\.json: not a transcript"):
        load_transcript(Conversation(open_model(model), opening=""), str(tmp_path / "talk.json"))


def test_a_number_of_thousands_of_digits_in_toml_is_a_sentence(tmp_path):
    (tmp_path / "cast.toml").write_text(f"[[contestant]]\nname = {DIGITS}\n")
    with pytest.raises(UsageError, match=r"cast\.toml: not valid TOML"):
        from_toml(str(tmp_path / "cast.toml"))


def test_a_key_of_thousands_of_digits_is_a_sentence(pytorch):
    (pytorch / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {DIGITS: {"content": "x"}}}))
    with pytest.raises(VocabularyError, match=r"token 'x' has id '9+, expected 0 to 300"):
        convert(pytorch, pytorch / "x.bin")


def test_debug_prints_the_traceback_with_the_cause(openai, cli):
    (openai / "hparams.json").write_text("{")
    assert "Traceback" not in cli("convert", openai)[2]
    code, _, err = cli("--debug", "convert", openai)
    assert code == 1
    assert "JSONDecodeError" in err
    assert err.splitlines()[-1].startswith(f"gpt2rt: {openai / 'hparams.json'}: not valid JSON")


# --- pipes and devices


@POSIX
@pytest.mark.parametrize("name", ["hparams.json", "encoder.json", "vocab.bpe", "model.ckpt.index"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_of_a_checkpoint_are_read(openai, name, kind):
    replace(openai / name, kind)
    with seconds(5), pytest.raises(Gpt2rtError, match=str(openai)):
        convert(openai, openai / "x.bin")


def replace(path, kind):
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()


@POSIX
@pytest.mark.parametrize("name", ["config.json", "vocab.json", "merges.txt", "pytorch_model.bin"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_only_regular_files_of_a_folder_are_read(pytorch, name, kind):
    replace(pytorch / name, kind)
    with seconds(5), pytest.raises(Gpt2rtError, match=str(pytorch)):
        convert(pytorch, pytorch / "x.bin")


@POSIX
@pytest.mark.parametrize("name", ["README.md", "chat_template.jinja", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_optional_files_that_are_not_regular_are_passed_over(pytorch, name, kind):
    replace(pytorch / name, kind)
    with seconds(5):
        assert convert(pytorch, pytorch / "x.bin").size


@POSIX
def test_a_pipe_is_refused_by_every_command_that_takes_a_model(tmp_path):
    os.mkfifo(tmp_path / "x.bin")
    for line in (["requantize", "--type", "int8"], ["info"], ["verify"], ["chat"], ["convert"], ["export"]):
        extra = [tmp_path / "out"] if line == ["export"] else []
        with seconds(5):
            done = CliRunner().invoke(group, [*line, str(tmp_path / "x.bin"), *map(str, extra)], standalone_mode=False)
        assert isinstance(done.exception, (Gpt2rtError, OSError)), line


@POSIX
def test_a_conversation_is_neither_saved_to_a_pipe_nor_loaded_from_one(model, tmp_path):
    conversation = Conversation(open_model(model), opening="")
    os.mkfifo(tmp_path / "talk.json")
    for use in (save_transcript, load_transcript):
        with seconds(5), pytest.raises(UsageError, match="is a pipe, expected a regular file"):
            use(conversation, str(tmp_path / "talk.json"))


# --- unfinished files


def test_saving_a_conversation_removes_what_a_killed_process_has_left(model, tmp_path):
    left, other = tmp_path / ".talk.json.0123abcd.part", tmp_path / ".other.json.0123abcd.part"
    left.write_text("{")
    other.write_text("{")
    save_transcript(Conversation(open_model(model), opening=""), str(tmp_path / "talk.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "model.bin", "talk.json"]
    assert sys.platform == "win32" or (tmp_path / "talk.json").stat().st_mode & 0o777 == 0o600


# --- files that are cut while they are read


def cut_while_converting(source, file):
    """Convert a source whose file is emptied after the first tensor."""
    with pytest.raises(CheckpointError, match=r"byte \d+ is missing, expected \d+ bytes as when it was opened"):
        convert(source, file.parent / "x.bin", weight_type="f32", progress=lambda *_: os.truncate(file, 0))
    assert not [path for path in file.parent.iterdir() if path.name.endswith((".part", "x.bin"))]


def test_a_checkpoint_that_is_cut_while_it_is_converted_is_an_error(openai):
    cut_while_converting(openai, openai / "model.ckpt.data-00000-of-00001")


def test_a_file_of_pytorch_that_is_cut_while_it_is_converted_is_an_error(pytorch):
    cut_while_converting(pytorch, pytorch / "pytorch_model.bin")


def test_a_safetensors_file_that_is_cut_while_it_is_converted_is_an_error(pytorch):
    safetensors = pytest.importorskip("safetensors.numpy", reason="the extra `huggingface` is not installed")
    safetensors.save_file(named(tensors_of()), pytorch / "model.safetensors")
    cut_while_converting(pytorch, pytorch / "model.safetensors")


def test_a_gguf_file_that_is_cut_while_it_is_converted_is_an_error(openai, tmp_path):
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    from test_gguf import write_gguf

    cut_while_converting(write_gguf(tmp_path / "y.gguf", openai), tmp_path / "y.gguf")


def test_a_file_of_llmc_that_is_cut_while_it_is_converted_is_an_error(tmp_path):
    (tmp_path / "gpt2_tokenizer.bin").write_bytes(tokenizer_bytes(simple_tokens()))
    (tmp_path / "gpt2.bin").write_bytes(model_bytes())
    cut_while_converting(tmp_path / "gpt2.bin", tmp_path / "gpt2.bin")


def test_a_model_file_that_is_cut_while_it_is_converted_is_an_error(model, tmp_path):
    (tmp_path / "in").mkdir()
    cut_while_converting(shutil.copy(model, tmp_path / "in" / "y.bin"), tmp_path / "in" / "y.bin")


def test_a_model_file_that_is_cut_while_it_is_exported_is_an_error(model):
    source = ModelFileSource(model)
    os.truncate(model, 0)
    for use in (lambda: source.tensor("wte"), lambda: source.rows("wte", 0, 5), lambda: source.tensor("wpe")):
        with pytest.raises(CheckpointError, match="is missing"):
            use()


@POSIX
def test_a_running_model_that_is_cut_ends_the_program_with_a_sentence(model):
    script = """
import os, sys
from gpt2rt.cli.model_argument import model_path
from gpt2rt.modelfile import ModelFile
file = ModelFile(model_path(sys.argv[1]))
os.truncate(sys.argv[1], 0)
bytes(file.sections["weights"])
"""
    done = subprocess.run([sys.executable, "-c", script, model], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gpt2rt: a file was shortened while it was in use")
