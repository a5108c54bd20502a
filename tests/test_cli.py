"""The command line: what it prints, its exit codes, and a chat at a real terminal."""

import json
import os
import pathlib
import select
import signal
import subprocess
import sys

import pytest
from demo import DEMO, demo_model
from random_models import random_tensors, write_model

from gpt2rt.__main__ import read_ahead
from gpt2rt.cli import COMMANDS, run
from gpt2rt.modelfile import Hyperparameters

# Makes the terminal the process' own first, so that its keys become signals.
AT_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from gpt2rt.__main__ import main
main()
"""
PATIENCE = 60  # seconds without a sign of life
COMMAND = [sys.executable, "-m", "gpt2rt"]


@pytest.fixture
def demo():
    demo_model()
    return str(DEMO)


@pytest.fixture
def cli(capsys, monkeypatch):
    """Runs a command line in this process: cli(*arguments, typed="") -> (exit code, stdout, stderr)."""

    def call(*arguments, typed=""):
        import io  # the real standard input has no text to replace

        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
        code = run(list(map(str, arguments)))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


# --- help, errors, exit codes


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_has_an_example(cli, command, option):
    code, out, err = cli(*command, option)
    assert (code, err) == (0, "")
    assert "Example" in out
    assert "gpt2rt " + " ".join(command) in out


def test_version(cli):
    code, out, _ = cli("--version")
    assert code == 0
    assert out.startswith("gpt2rt 0.")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["frobnicate"], 2, "gpt2rt: No such command 'frobnicate'; gpt2rt -h explains\n"),
        (["generate"], 2, "gpt2rt: Missing argument 'MODEL'; gpt2rt generate -h explains\n"),
        (["info", "none.bin"], 1, "gpt2rt: none.bin: no such file (gpt2rt convert makes one from a checkpoint)\n"),
        (["generate", "DEMO", "--top-p", "3"], 2, "gpt2rt: top_p: got 3.0, expected a number from 0.0 to 1.0\n"),
        (["generate", "DEMO", "-n", "0"], 2, "gpt2rt: max_tokens: got 0, expected a whole number from 1\n"),
        (["generate", "DEMO", "--threads", "0"], 2, "gpt2rt: threads: got 0, expected 1 to 256\n"),
        (
            ["generate", "DEMO", "a " * 600],
            1,
            "gpt2rt: prompt: 601 tokens, the model has 512 positions (shorten it)\n",
        ),
        (["chat", "DEMO", "--format", "x"], 2, "gpt2rt: chat format 'x': expected one of plain, dialogpt, raw\n"),
        (
            ["chat", "DEMO", "--opening", "none.txt"],
            2,
            "gpt2rt: none.txt: can't be read as UTF-8 text: No such file or directory\n",
        ),
    ],
)
def test_mistakes_are_sentences(cli, demo, arguments, code, message):
    found, out, err = cli(*(demo if argument == "DEMO" else argument for argument in arguments))
    assert (found, out) == (code, "")
    assert err == message


# --- generate


def test_generate_prints_the_text_and_reports_to_stderr(cli, demo):
    code, out, err = cli("generate", demo, "User: Good morning!\nBot:", "-n", "9", "--temperature", "0", "--seed", "7")
    assert (code, out) == (0, " Good morning! Did you sleep well?\n")
    assert err.startswith("seed 7; prompt 8 tokens, ")
    assert "; text 9 tokens, " in err
    assert err.count("\n") == 1


def test_generate_reads_the_prompt_from_a_pipe_and_echoes_it(cli, demo):
    prompt = "User: Good morning!\nBot:"
    code, out, _ = cli("generate", demo, "-", "--echo", "-n", "8", "--temperature", "0", typed=f"{prompt}\n")
    assert (code, out) == (0, f"{prompt} Good morning! Did you sleep well?\n")


def test_a_seed_that_was_drawn_gives_the_text_again(cli, demo):
    _, out, err = cli("generate", demo, "Once", "-n", "20")
    seed = err.split()[1].rstrip(";")
    assert cli("generate", demo, "Once", "-n", "20", "--seed", seed)[1] == out


def test_neither_threads_nor_mapping_change_the_text(cli, demo):
    arguments = ["generate", demo, "Once", "-n", "20", "--seed", "5"]
    assert cli(*arguments, "--threads", "1")[1] == cli(*arguments, "--threads", "3", "--no-mmap")[1]


def test_stop_may_be_repeated(cli, demo):
    arguments = ["generate", demo, "User: Good morning!\nBot:", "--temperature", "0"]
    assert cli(*arguments, "--stop", "well", "--stop", "you")[1] == " Good morning! Did \n"


# --- info, verify, tokenize, convert


def test_info(cli, demo):
    code, out, _ = cli("info", demo)
    assert code == 0
    rows = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in out.splitlines()}
    assert rows["weights"].startswith("int8 in groups of ")
    assert (rows["n_vocab"], rows["n_ctx"], rows["chat user_name"]) == ("8192", "512", "User")


def test_info_as_json(cli, demo):
    _, out, _ = cli("info", demo, "--json")
    document = json.loads(out)
    assert document["size"] == os.path.getsize(demo)
    assert document["n_parameters"] == 21_087_744
    assert document["metadata"]["chat"]["format"] == "plain"
    assert set(document["sections"]) == {"metadata", "vocabulary", "weights"}


def test_verify_finds_no_damage(cli, demo):
    code, out, err = cli("verify", demo)
    assert (code, err) == (0, "")
    assert out.endswith("no damage\n")


@pytest.mark.parametrize("section", ["metadata", "vocabulary", "weights"])
def test_verify_names_the_damaged_section(cli, demo, tmp_path, section):
    _, out, _ = cli("info", demo, "--json")
    content = bytearray(pathlib.Path(demo).read_bytes())
    position = 4096
    for name, found in json.loads(out)["sections"].items():
        if name == section:
            break
        position = -(-(position + found["length"]) // 4096) * 4096
    content[position + found["length"] // 2] ^= 1
    path = tmp_path / "damaged.bin"
    path.write_bytes(content)
    code, out, err = cli("verify", path)
    assert (code, out) == (1, "")
    assert err.startswith(f"gpt2rt: {path}: section '{section}' is damaged: checksum ")


def test_tokenize(cli, demo):
    assert cli("tokenize", demo, "User: Hello!")[:2] == (0, "271 25 807 0\n")
    assert cli("tokenize", demo, "-", "--json", typed="User: Hello!")[1] == "[271, 25, 807, 0]\n"
    assert cli("tokenize", demo, "--special", "<|endoftext|>")[1] == "8191\n"
    assert cli("tokenize", demo, "--pieces", "User: ÿ")[1].splitlines()[:2] == ["271\t'User'", "25\t':'"]


def test_convert(cli, tmp_path):
    source = pathlib.Path(__file__).parents[2] / "shared" / "talk"
    if not source.exists():
        pytest.skip("../shared/talk, the checkpoint to convert, is not here")
    path = tmp_path / "talk.bin"
    (tmp_path / "opening.txt").write_text("A talk.\n")
    options = ["-o", path, "--name", "small talk", "--bot-name", "Tom", "--opening", tmp_path / "opening.txt"]
    code, out, err = cli("convert", source, *options)
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: 5.1 MB of 17.4 MB (3.42 times smaller) in ")
    assert "largest error " in out
    _, out, _ = cli("info", path)
    assert "small talk" in out
    assert "Tom" in out
    code, _, err = cli("convert", source, "-o", path)
    assert (code, err) == (2, f"gpt2rt: {path}: exists already (--force overwrites it)\n")


# --- chat through a pipe


def test_a_piped_chat_prints_only_answers(cli, demo):
    code, out, err = cli("chat", "--seed", "1", typed="Hello!\n\nHow are you?\n")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "User:" not in out
    assert (
        err == "It is the small bundled model; OpenAI's: gpt2rt convert models/124M, then gpt2rt chat 124M-int8.bin.\n"
    )


def test_a_piped_chat_shows_the_seed_that_was_drawn(cli, demo):
    _, out, err = cli("chat", demo, typed="Hello!\n")
    assert cli("chat", demo, "--seed", err.split()[1], typed="Hello!\n")[1] == out


def test_chat_commands(cli, demo, tmp_path):
    path = tmp_path / "talk.json"
    commands = f"/retry\n/save {path}\n/undo\n/reset\n/load {path}\n/set top_k 7\n/set\n/stats\n/help\n/quit\n"
    typed = f"Hello!\n{commands}never said\n"
    code, out, err = cli("chat", demo, "--seed", "1", typed=typed)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert json.loads(path.read_text("utf-8"))["turns"][0]["user"] == "Hello!"
    for told in (
        f"(saved 1 turn to {path})",
        "(taken back: Hello!)",
        "(all turns are forgotten)",
        f"(loaded 1 turn from {path})",
        "(top_k is now 7)",
        "temperature         0.7",
        "of 512 tokens, 1 turn, 0 forgotten",
        "seed      1",
        "/save FILE",
    ):
        assert told in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/dance", "command /dance: there is none of that name (/help lists them)"),
        ("/undo", "undo: there is no turn to take back"),
        ("/retry", "retry: there is no answer yet"),
        ("/save", "/save: expected the name of a file"),
        ("/load none.json", "'none.json': can't be read: No such file or directory"),
        ("/set heat 1", "setting 'heat': expected one of temperature, "),
        ("/set top_k x", "/set top_k: got 'x', expected a whole number"),
        ("/set top-p 2", "top_p: got 2.0, expected a number from 0.0 to 1.0"),
        ("word " * 600, "message: "),
    ],
)
def test_a_mistake_in_a_chat_is_a_sentence_and_the_chat_goes_on(cli, demo, line, message):
    code, out, err = cli("chat", demo, "--seed", "1", typed=f"{line}\nHello!\n")
    assert code == 1
    assert err.startswith(f"gpt2rt: {message}")
    assert len(out.splitlines()) == 1


def test_a_full_context_is_told(cli, demo):
    typed = "".join(f"This is message number {n}, what do you think of it?\n" for n in range(30))
    code, out, err = cli("chat", demo, "--seed", "1", typed=typed)
    assert (code, len(out.splitlines())) == (0, 30)
    assert "(the context was full: the oldest " in err


# --- processes


def test_the_way_to_the_first_token_imports_little(demo):
    program = (
        "import sys; from gpt2rt.cli import COMMANDS, run; status = run(sys.argv[1:]);"
        "print(*(name for name in FORBIDDEN if name in sys.modules), file=sys.stderr); sys.exit(status)"
    )
    forbidden = ("numpy", "json", "dataclasses", "importlib.metadata", "tensorflow", "readline", "gpt2rt.chat")
    done = subprocess.run(
        [sys.executable, "-c", f"FORBIDDEN = {forbidden}; {program}", "generate", demo, "Once", "-n", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == ""


def test_a_reader_that_leaves_is_no_error(demo):
    with subprocess.Popen(
        [*COMMAND, "generate", demo, "Once upon a time", "-n", "400", "--stop", "~~~"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 1
    assert b"Traceback" not in errors
    assert b"Exception" not in errors


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_a_sentence(demo):
    with open("/dev/full", "w") as full:
        arguments = [*COMMAND, "generate", demo, "Once", "-n", "3"]
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "gpt2rt: No space left on device"


def test_shell_completion(demo):
    environment = {**os.environ, "_GPT2RT_COMPLETE": "bash_complete", "COMP_WORDS": "gpt2rt gen", "COMP_CWORD": "1"}
    done = subprocess.run(COMMAND, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "plain,generate\n"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
class TestTerminal:
    """A real process at a pseudo-terminal; every step waits for a text, never for a time."""

    @pytest.fixture
    def slow_model(self, tmp_path):
        """Random, and so slow that there is time to stop it."""
        h = Hyperparameters(n_vocab=256, n_ctx=1024, n_embd=512, n_head=8, n_layer=8)
        return write_model(tmp_path / "slow.bin", h, random_tensors(h, scale=0.1), "int8")

    @pytest.fixture
    def start(self, tmp_path):
        """start(*arguments) -> a Terminal with `gpt2rt chat` in it."""
        started = []

        def call(*arguments):
            started.append(Terminal(tmp_path, arguments))
            return started[-1]

        yield call
        for terminal in started:
            terminal.close()

    def test_a_chat_opens_with_what_it_is_and_how_to_leave_and_ctrl_d_leaves(self, demo, start):
        terminal = start("--seed", "1")
        opening = terminal.read_to("User: ")
        assert "a GPT-2 of 21.1 million parameters" in opening
        assert "Ctrl-D or /quit leaves" in opening
        assert "small bundled model" in opening
        terminal.type("Hello!\n")
        assert "Bot: " in terminal.read_to("\nUser: ")
        terminal.type("\x04")
        assert terminal.exit_code() == 0

    def test_ctrl_c_at_the_prompt_says_how_to_leave(self, demo, start):
        terminal = start("--seed", "1")
        terminal.read_to("User: ")
        # Python's readline may sleep on over a signal that comes just before it waits; the empty line wakes it.
        terminal.type("\x03")
        terminal.type("\n")
        assert "(Ctrl-D or /quit leaves)" in terminal.read_to("User: ")
        terminal.type("/quit\n")
        assert terminal.exit_code() == 0

    def test_ctrl_c_stops_the_answer_and_keeps_the_chat(self, slow_model, start):
        terminal = start(str(slow_model), "--format", "raw", "-n", "1024", "--seed", "1", "--threads", "1")
        terminal.read_to("> ")
        terminal.type("abc\n")
        terminal.read_to("abc\n")  # the echo
        terminal.read_more()
        terminal.type("\x03")
        terminal.read_to("\n> ")
        terminal.type("/stats\n")
        assert "1 turn, 0 forgotten" in terminal.read_to("seed      1")
        terminal.read_to("> ")
        terminal.type("\x04")
        assert terminal.exit_code() == 0

    def test_the_history_is_kept_for_the_next_chat(self, demo, start, tmp_path):
        pytest.importorskip("readline")
        terminal = start("--seed", "1")
        terminal.read_to("User: ")
        terminal.type("I like trains.\n")
        terminal.read_to("\nUser: ")
        terminal.type("\x04")
        assert terminal.exit_code() == 0
        history = tmp_path / "state" / "gpt2rt" / "history"
        assert "I like trains." in history.read_text("utf-8")
        assert history.stat().st_mode & 0o077 == 0

    def test_ctrl_c_ends_generate_with_130(self, slow_model):
        process = subprocess.Popen(
            [*COMMAND, "generate", str(slow_model), "abc", "-n", "1000", "--threads", "1"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert process.returncode == 130
        assert b"Traceback" not in errors
        assert b"seed " in errors


class Terminal:
    """A pseudo-terminal with `gpt2rt chat` in it."""

    def __init__(self, folder, arguments):
        import pty  # not on Windows

        self.master, slave = pty.openpty()
        environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "TERM": "dumb", "GPT2RT_ISA": "portable"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", AT_TERMINAL, "chat", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def read_more(self):
        """Waits for output and adds it to `text`; False at the end."""
        assert select.select([self.master], [], [], PATIENCE)[0], f"nothing more after {self.text!r}"
        try:
            content = os.read(self.master, 4096)
        except OSError:  # Linux says so that the other side is closed
            content = b""
        self.text += content.decode("utf-8", "replace").replace("\r", "")
        return bool(content)

    def read_to(self, marker):
        """The output up to and with a marker."""
        while marker not in self.text:
            assert self.read_more(), f"the chat ended before {marker!r}: {self.text}"
        at = self.text.index(marker) + len(marker)
        found, self.text = self.text[:at], self.text[at:]
        return found

    def type(self, keys):
        os.write(self.master, keys.encode())

    def exit_code(self):
        while self.read_more():
            pass
        return self.process.wait()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


# --- reading ahead


def test_reading_ahead_of_what_is_no_file_does_nothing(tmp_path):
    for path in (tmp_path, tmp_path / "missing", os.devnull, DEMO):
        assert read_ahead(str(path)) is None
