"""The standalone program says what `gpt2rt chat` and `gpt2rt generate` say, byte for byte."""

import os
import random
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from conversations import open_byte_model
from demo import DEMO, demo_model
from random_models import random_tensors, write_model
from standalone import program, run

from gpt2rt.cli import group
from gpt2rt.errors import ModelFileError
from gpt2rt.model import open_model
from gpt2rt.modelfile import Hyperparameters
from gpt2rt.sampling import SAMPLING_OPTIONS

# The program lacks avx512f, whose processors run avx2 there.
ISAS = ("avx512", "avxvnni", "avx2", "neon_dotprod", "neon", "portable")


@pytest.fixture(autouse=True)
def needs_demo():
    demo_model()


def python(*arguments, stdin=b""):
    """Return what gpt2rt prints with these arguments, in this process."""
    done = CliRunner().invoke(group, list(map(str, arguments)), input=stdin)
    assert done.exit_code == 0, done.output
    return done.stdout


# --- a text


GENERATE = {
    "seed": ("--seed", 1),
    "greedy": ("--seed", 2, "--temperature", 0),
    "wild": ("--seed", 3, "--temperature", "2.5", "--top-k", 0, "--top-p", 1),
    "filters": ("--seed", 18446744073709551615, "--top-k", 5, "--top-p", "0.5", "--min-p", "0.05"),
    "penalties": ("--seed", 4, "--repetition-penalty", "1.3", "--repeat-last-n", 20, "--presence-penalty", "0.5"),
    "more penalties": ("--seed", 5, "--frequency-penalty", "-0.25", "--no-repeat-ngram-size", 2),
    "stop": ("--seed", 6, "--stop", ".", "--stop", " the king"),
    "echo": ("--seed", 7, "--echo"),
    "one thread": ("--seed", 8, "--threads", 1),
    "read, not mapped": ("--seed", 9, "--no-mmap"),
}
PROMPTS = ["Once upon a time", "Caf\u00e9 \u65e5\u672c\u8a9e \U0001f600", "", " a  b\n\n", "<|endoftext|>"]


@pytest.mark.parametrize("options", GENERATE.values(), ids=GENERATE)
def test_a_text_is_that_of_generate(options):
    prompt = PROMPTS[0]
    found = run(DEMO, "-p", prompt, "-n", 25, *options)[0]
    assert found == python("generate", DEMO, prompt, "-n", 25, *options)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_any_prompt_is_continued_as_in_generate(prompt):
    expected = python("generate", DEMO, "-", "-n", 10, "--seed", 1, stdin=prompt)
    assert run(DEMO, "-p", "-", "-n", 10, "--seed", 1, stdin=prompt)[0] == expected
    if not prompt.endswith("\n"):
        assert run(DEMO, "--prompt", prompt, "-n", 10, "--seed=1")[0] == expected


@pytest.mark.parametrize("content", [b"One\r\nTwo\r\n", b"\xef\xbb\xbfOne\nTwo", b"a\xef", b"a\xff\xe6\x97b\r"])
def test_standard_input_is_read_as_in_python(content):
    ours = subprocess.run(
        [program(), DEMO, "-p", "-", "-n", "8", "--seed", "1"], input=content, capture_output=True, check=True
    )
    line = [sys.executable, "-m", "gpt2rt", "generate", DEMO, "-", "-n", "8", "--seed", "1"]
    assert ours.stdout == subprocess.run(line, input=content, capture_output=True, check=True).stdout


def test_the_instruction_set_changes_nothing():
    expected = python("generate", DEMO, PROMPTS[0], "-n", 20, "--seed", 1)
    n_found = 0
    for isa in ISAS:
        done = subprocess.run(
            [program(), DEMO, "-p", PROMPTS[0], "-n", "20", "--seed", "1", "--isa", isa],
            capture_output=True,
            check=False,
        )
        if b"not available" in done.stderr:
            continue
        assert done.stdout.decode() == expected, isa
        n_found += 1
    assert n_found > 0


def test_a_text_ends_where_the_context_does(tmp_path):
    path = open_byte_model(tmp_path, 40).path
    options = ("-n", 100, "--seed", 3)
    text, report = run(path, "-p", "A prompt", *options)
    assert text == python("generate", path, "A prompt", *options)
    assert "prompt 8 tokens" in report
    assert "text 33 tokens" in report
    assert "41 tokens, but the model has 40 positions" in run(path, "-p", "x" * 41, status=1)[1]


# --- a chat


def chat_model(folder, chat, n_ctx=256):
    """Write a random model whose tokens are bytes, with settings of a chat in its file."""
    h = Hyperparameters(n_vocab=257, n_ctx=n_ctx, n_embd=16, n_head=2, n_layer=1)
    metadata = {"chat": chat} if chat is not None else {}
    return write_model(folder / "chat.bin", h, random_tensors(h), **metadata)


TALK = """Hello!
How are you today?

/retry
  Tell   me about\tdogs.
/undo
What is your name? My name is Zo\u00eb.
/retry
/set temperature 1.5
/set top-k 50
And now, something entirely different \u65e5\u672c.
/set seed 12
/reset
Once more: who are you?
"""
CHATS = {
    "nothing": None,
    "plain": {"format": "plain", "user_name": "Ann", "bot_name": "Bob", "opening": "A talk.\nAnn: Hi\nBob: Hello!"},
    "no opening": {"format": "plain", "opening": ""},
    "template": {
        "format": "template",
        "template": "<u>{user}<b>{bot}<e>",
        "opening_template": "[{opening}]",
        "opening": "Be kind.",
    },
    "raw": {"format": "raw"},
}


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_chat_is_that_of_gpt2rt_chat_in_every_format(tmp_path, chat, seed):
    path = chat_model(tmp_path, chat)
    options = ("--seed", seed, "--max-tokens", 30)
    assert run(path, *options, stdin=TALK)[0] == python("chat", path, *options, stdin=TALK)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_chat_with_the_bundled_model_is_that_of_gpt2rt_chat(seed):
    options = ("--seed", seed, "--bot-name", "Zed", "--max-tokens", 25)
    assert run(DEMO, *options, stdin=TALK)[0] == python("chat", DEMO, *options, stdin=TALK)


@pytest.mark.parametrize("name", ["plain", "dialogpt", "raw"])
def test_an_option_chooses_the_format(name):
    expected = python("chat", DEMO, "--seed", 1, "--format", name, "-n", 10, stdin=TALK)
    assert run(DEMO, "--seed", 1, "--chat-format", name, "-n", 10, stdin=TALK)[0] == expected


def test_a_full_context_drops_whole_turns_and_says_so(tmp_path):
    path = chat_model(tmp_path, CHATS["no opening"], n_ctx=128)
    draw = random.Random(5)
    talk = "".join("x" * draw.randrange(1, 40) + "\n" for _ in range(30))
    text, notes = run(path, "--seed", 1, "-n", 20, stdin=talk)
    assert text == python("chat", path, "--seed", 1, "-n", 20, stdin=talk)
    assert "the context was full: the oldest" in notes


def test_a_message_that_does_not_fit_is_an_error_and_the_talk_goes_on(tmp_path):
    path = chat_model(tmp_path, CHATS["no opening"], n_ctx=128)
    text, notes = run(path, "--seed", 1, stdin=f"{'x' * 500}\nHello\n", status=1)
    assert "the context has room for" in notes
    assert text.count("\n") == 1


def test_answers_are_sampled_again_as_in_python(tmp_path):
    """A model of few characters gives blank and equal answers."""
    path = chat_model(tmp_path, CHATS["no opening"])
    talk = "Hi\n" * 12
    for seed in range(6):
        options = ("--seed", seed, "-n", 1, "--top-k", 6)
        assert run(path, *options, stdin=talk)[0] == python("chat", path, *options, stdin=talk)


def test_commands_say_what_is_wrong_with_them():
    unknown = "/retry\n/undo\n/foo\n/ret now\n/retry now\n"
    wrong = unknown + "/set foo\n/set foo 1\n/set top-p 2\n/set seed -1\n/set max_tokens x\n"
    notes = run(DEMO, "--seed", 1, stdin=wrong, status=1)[1].splitlines()
    assert len(notes) == 10
    assert "no answer yet" in notes[0]
    assert "no turn to discard" in notes[1]
    assert "unknown (/help" in notes[2]
    assert "did you mean /retry?" in notes[3]
    assert "expected nothing after the command" in notes[4]
    assert all("/set" in note for note in notes[5:])


def test_settings_are_listed_as_in_python():
    explained = "".join(f"/set {name}\n" for name in SAMPLING_OPTIONS)
    commands = explained + "/set\n/set temperature 0.25\n/set repetition-penalty 1.1\n/set\n/stats\n"
    done = CliRunner().invoke(group, ["chat", str(DEMO), "--seed", "1", "--threads", "1"], input=commands)
    assert run(DEMO, "--seed", 1, "--threads", 1, stdin=commands)[1] == done.stderr


@pytest.mark.parametrize("name", SAMPLING_OPTIONS)
def test_the_limits_of_a_setting_are_those_of_python(name):
    kind, least, most, _ = SAMPLING_OPTIONS[name]
    option = f"--{name.replace('_', '-')}"
    for value in (least, most):
        assert run(DEMO, "-p", "Hi", "-n", 1, "--seed", 1, option, value)[0]
    noun = "a whole number" if kind is int else "a number"
    for value in (least - 1, most + 1):
        sentence = f"gpt2rt: {option}: got '{value}', expected {noun} from {least} to {most}\n"
        assert run(DEMO, option, value, status=2)[1] == sentence


def test_ctrl_c_ends_a_piped_chat_with_130():
    process = subprocess.Popen(
        [program(), DEMO, "--seed", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdin.write(b"Hello\n")
    process.stdin.flush()
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    process.communicate()


# --- options and files


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--foo"], "--foo: no such option"),
        (["--seed"], "--seed: expected a value"),
        (["--seed", "x"], "--seed: got 'x', expected a whole number from 0 to 18446744073709551615"),
        (["--seed", "-1"], "--seed: got '-1'"),
        (["--seed", "18446744073709551616"], "--seed: got '18446744073709551616'"),
        (["-n", "0"], "--max-tokens: got '0', expected a whole number from 1"),
        (["--temperature", "nan"], "--temperature: got 'nan', expected a number from 0.0 to 100.0"),
        (["--top-k", "1.5"], "--top-k: got '1.5', expected a whole number from 0 to 1048576"),
        (["--repetition-penalty", "0"], "--repetition-penalty: got '0', expected a number from 0.1 to 100.0"),
        (["--threads", "257"], "--threads: got '257', expected a whole number from 1 to 256"),
        (["--stop", ""], "--stop: got 0 bytes"),
        (["--isa", "sse9"], "instruction set 'sse9': not available, expected one of"),
        (["--chat-format", "foo"], "chat format 'foo': expected one of plain, dialogpt, template, raw"),
        (["--bot-name", "a:b"], "bot_name: got 'a:b', expected 1 to 40 characters"),
        (["another"], "got 'another', expected options"),
        ([b"-p\xff"], "argument 2: got bytes that are not UTF-8"),
        (["-n", "100000"], "--max-tokens: got 100000, expected a whole number from 1 to 512"),
    ],
)
def test_an_option_that_cannot_be_used_gets_a_sentence(arguments, sentence):
    done = subprocess.run([program(), DEMO, *arguments], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stderr.decode().startswith(f"gpt2rt: {sentence}")
    assert done.stderr.count(b"\n") == 1


def test_the_model_is_refused_as_in_python(tmp_path):
    content = bytearray(DEMO.read_bytes()[:100_000])
    for name, damaged in (("cut.bin", content), ("magic.bin", b"x" + content[1:]), ("empty.bin", b"")):
        path = tmp_path / name
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError) as refused:
            open_model(path)
        assert run(path, status=1)[1] == f"gpt2rt: {refused.value}\n"
    assert "no such file" in run(tmp_path / "missing.bin", status=1)[1]
    assert "is a folder" in run(tmp_path, status=1)[1]
    assert "expected a model file" in run(status=2)[1]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such names")
def test_names_of_files_do_nothing_to_a_terminal(tmp_path):
    message = run(tmp_path / "\x1b]0;title\x07", status=1)[1]
    assert "\x1b" not in message
    assert "\ufffd]0;title\ufffd" in message


def test_damage_is_found_by_verify(tmp_path):
    assert "no damage" in run(DEMO, "--verify")[0]
    content = bytearray(DEMO.read_bytes())
    content[-1] ^= 1
    path = tmp_path / "damaged.bin"
    path.write_bytes(content)
    assert "section 'weights' is damaged" in run(path, "--verify", status=1)[1]


def test_the_model_is_described():
    text = run(DEMO, "--info")[0]
    h = demo_model().hyperparameters
    assert f"n_vocab        {h.n_vocab}\n" in text
    assert f"parameters     {h.n_parameters / 1e6:.1f} million\n" in text
    assert "chat format    plain\n" in text
    assert run("--version")[0].startswith("gpt2rt-chat ")
    assert "--no-repeat-ngram-size N" in run("--help")[0]


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [(b"[]", "is not a JSON object"), (b"{", "is not a JSON object"), (b'{"chat": 1}', "metadata 'chat'")],
)
def test_metadata_that_cannot_be_used_gets_a_sentence(tmp_path, metadata, sentence):
    path = chat_model(tmp_path, {"format": "x" * 40})
    content = bytearray(path.read_bytes())
    offset, length = int.from_bytes(content[64:72], "little"), int.from_bytes(content[72:80], "little")
    content[offset : offset + length] = metadata.ljust(length)
    path.write_bytes(content)
    assert sentence in run(path, status=1)[1]


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file can't be shortened")
def test_a_model_that_is_cut_while_it_talks_ends_the_program_with_a_sentence(tmp_path):
    path = tmp_path / "cut.bin"
    path.write_bytes(DEMO.read_bytes())
    process = subprocess.Popen(
        [program(), path, "--seed", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdin.write(b"Hello\n")
    process.stdin.flush()
    assert process.stdout.readline()
    os.truncate(path, 8192)
    message = process.communicate(b"Hello\n")[1].decode()
    assert process.returncode == 1
    assert "a file was shortened while it was in use" in message


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and /sys")
def test_threads_are_those_of_python():
    expected = open_model(DEMO).n_threads
    environment = {name: value for name, value in os.environ.items() if name != "GPT2RT_THREADS"}
    done = subprocess.run([program(), DEMO], input=b"/stats\n", capture_output=True, check=True, env=environment)
    assert f"threads   {expected}\n" in done.stderr.decode()
    assert "threads   1\n" in run(DEMO, stdin="/stats\n", GPT2RT_THREADS="1")[1]
    assert "GPT2RT_THREADS: got 'x'" in run(DEMO, status=2, GPT2RT_THREADS="x")[1]
