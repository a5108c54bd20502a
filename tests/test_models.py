"""Models by name: the bundled one, the model folder, the offer to download, and which argument is a model."""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from checkpoints import write_checkpoint
from demo import DEMO, demo_model
from release_server import SIZE, cuts_after, serving

import gpt2rt
from gpt2rt import model_folder
from gpt2rt.cli import COMMANDS, group
from gpt2rt.cli.model_argument import names_model
from gpt2rt.converter.download import DATA, FILES
from gpt2rt.modelfile import ModelFile


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, an empty one; beside it is the model folder, which does not exist."""
    monkeypatch.setenv("GPT2RT_MODELS", str(tmp_path / "models"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def models(here):
    """The model folder, with `124M` and `mine`, both copies of the bundled model."""
    demo_model()
    folder = here.parent / "models"
    folder.mkdir()
    for name in ("124M", "mine"):
        shutil.copy(DEMO, folder / f"{name}.bin")
    return folder


@pytest.fixture
def cli(cli, here):
    """Runs a command line in the folder `here`."""
    return cli


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on this machine that has a tiny model as `SIZE`, and is the mirror."""
    write_checkpoint(tmp_path / "release")
    (tmp_path / "release" / "model.ckpt.meta").write_bytes(b"a graph")
    with serving({name: (tmp_path / "release" / name).read_bytes() for name in FILES}) as server:
        monkeypatch.setenv("GPT2RT_BASE_URL", server.url)
        yield server


# --- the folder


@pytest.mark.parametrize(
    ("system", "variables", "folder"),
    [
        ("linux", {}, "~/.local/share/gpt2rt/models"),
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/gpt2rt/models"),
        ("linux", {"XDG_DATA_HOME": "data"}, "~/.local/share/gpt2rt/models"),
        ("darwin", {"XDG_DATA_HOME": "/data"}, "~/Library/Application Support/gpt2rt/models"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/gpt2rt/models"),
        ("linux", {"XDG_DATA_HOME": "/data", "GPT2RT_MODELS": "~/my models"}, "~/my models"),
        ("win32", {"LOCALAPPDATA": "/local", "GPT2RT_MODELS": "/models"}, "/models"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="the paths are POSIX's")
def test_the_model_folder_is_where_the_system_keeps_such_data(monkeypatch, system, variables, folder):
    monkeypatch.setattr(sys, "platform", system)
    for name in ("GPT2RT_MODELS", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert model_folder.model_folder() == os.path.expanduser(folder)


def test_a_file_of_the_folder_is_a_model_by_its_stem(models):
    assert model_folder.named_model("mine") == str(models / "mine.bin")
    assert model_folder.named_model("demo") == str(DEMO)


def test_sizes_may_be_written_in_lower_case(models):
    assert model_folder.named_model("124m") == str(models / "124M.bin")


@pytest.mark.parametrize("name", ["", ".", "..", "../models/mine", "mine.bin", "Once upon a time", "a\0b", "x" * 5000])
def test_what_is_no_name_names_nothing(models, name):
    assert model_folder.named_model(name) is None


@pytest.mark.parametrize("file", [".x.bin", ".mine.bin.0a1b2c3d.part", "x.bin.part", ".download/x.bin", "x.txt"])
def test_an_unfinished_or_other_file_is_no_model(models, file):
    (models / ".download").mkdir()
    shutil.copy(DEMO, models / file)
    assert model_folder.model_names() == ["demo", "124M", "mine"]
    assert model_folder.named_model(file.removesuffix(".bin")) is None


def test_a_folder_in_the_model_folder_is_no_model(models):
    (models / "x.bin").mkdir()
    assert "x" not in model_folder.model_names()
    assert model_folder.named_model("x") is None


def test_the_bundled_model_keeps_its_name(models):
    shutil.copy(models / "mine.bin", models / "demo.bin")
    assert model_folder.named_model("demo") == str(DEMO)
    assert model_folder.model_names() == ["demo", "124M", "mine"]


# --- gpt2rt models


def test_models_lists_the_bundled_model_where_there_is_no_folder(cli):
    code, out, err = cli("models")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["name", "demo"]
    assert "gpt2rt chat 124M" in err


def test_models_lists_name_type_size_parameters_and_path(cli, models):
    _, out, _ = cli("models")
    rows = [line.split("  ") for line in out.splitlines()]
    rows = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert rows[0] == ["name", "type", "size", "parameters", "path"]
    assert [row[0] for row in rows[1:]] == ["demo", "124M", "mine"]
    assert rows[2] == ["124M", "int8", f"{DEMO.stat().st_size / 1e6:.1f} MB", "21.1 million", str(models / "124M.bin")]


def test_a_name_opens_the_model_in_python_too(models):
    assert gpt2rt.open_model("demo").path == str(DEMO)
    assert gpt2rt.open_model("mine").path == str(models / "mine.bin")
    with pytest.raises(gpt2rt.ModelFileError, match="355M: no such file"):
        gpt2rt.open_model("355M")


def test_models_as_json(cli, models):
    found = json.loads(cli("models", "--json")[1])
    assert [model["name"] for model in found] == ["demo", "124M", "mine"]
    assert found[2] == {
        "name": "mine",
        "weight_type": "int8",
        "size": DEMO.stat().st_size,
        "n_parameters": 21_087_744,
        "path": str(models / "mine.bin"),
    }


def test_a_damaged_file_is_named_and_the_others_are_listed(cli, models):
    (models / "bad.bin").write_bytes(b"nothing")
    code, out, err = cli("models")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["name", "demo", "124M", "mine"]
    assert f"gpt2rt: {models / 'bad.bin'}: not a gpt2rt model file" in err


def test_a_file_name_cannot_write_to_the_terminal(cli, models):
    shutil.copy(DEMO, models / "a\x1b[2Jb.bin")
    assert "\x1b" not in cli("models")[1]


# --- the bundled model is the default


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "-n", "2", "--seed", "1"],
        ["generate", "-n", "2", "Once upon a time"],
        ["generate", "-n", "2", "-"],
        ["info"],
        ["tokenize", "Once upon a time"],
        ["tokenize", "-"],
        ["verify"],
        ["perplexity", "text.txt"],
        ["bench", "--threads", "1", "--depths", "0", "--prompts", "8", "--rounds", "1"],
        ["chat", "--seed", "1"],
    ],
    ids=" ".join,
)
def test_without_a_model_the_bundled_one_is_used(cli, here, arguments):
    demo_model()
    (here / "text.txt").write_text("Hello! How are you?")
    command, *rest = arguments
    code, out, _ = cli(*arguments, typed="Hello!\n")
    assert code == 0
    assert out
    # The same, by its name.
    assert cli(command, "demo", *rest, typed="Hello!\n")[0] == 0


def test_one_argument_of_generate_is_the_prompt(cli):
    arguments = ["-n", "5", "--temperature", "0", "--echo"]
    _, out, err = cli("generate", "Once upon a time", *arguments)
    assert out.startswith("Once upon a time")
    assert err.startswith("(the small bundled model; for OpenAI's, run gpt2rt generate 124M ...)\nseed ")
    assert cli("generate", "demo", "Once upon a time", *arguments)[1] == out


def test_one_argument_of_generate_that_names_a_model_is_the_model(cli, models, here):
    shutil.copy(DEMO, here / "here")
    for name in ("demo", "mine", "124M", "here"):
        code, out, _ = cli("generate", name, "--echo", "-n", "3", "--seed", "1")
        assert (code, out.startswith(name)) == (0, False)


@pytest.mark.parametrize(
    ("argument", "is_model"),
    [
        ("Once", False),
        ("Once upon a time", False),
        ("either/or, he said", False),
        ("-", False),
        ("", False),
        ("folder", False),
        ("demo", True),
        ("124M", True),
        ("774m", True),
        ("gpt2", True),
        ("file", True),
        ("a file", True),
        ("missing.bin", True),
        ("my missing.bin", True),
        ("models/124M", True),
        ("./Once", True),
    ],
)
def test_which_single_argument_is_a_model(here, argument, is_model):
    (here / "folder").mkdir()
    for name in ("file", "a file"):
        (here / name).touch()
    assert names_model(argument) is is_model


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["generate", "missing.bin"], 1, "missing.bin: no such file (gpt2rt convert makes one from a checkpoint)"),
        (["generate", "models/x"], 1, "models/x: no such file (gpt2rt convert makes one from a checkpoint)"),
        (
            ["generate", "Once", "upon"],
            2,
            'got the 2 texts Once, upon, expected one (in quotes: gpt2rt generate "Once up',
        ),
        (
            ["generate", "mine", "a", "b"],
            2,
            'got the 2 texts a, b, expected one (in quotes: gpt2rt generate mine "a b")',
        ),
        (["tokenize", "a", "b", "c"], 2, 'got the 3 texts a, b, c, expected one (in quotes: gpt2rt tokenize "a b c")'),
        (["generate", "xyz", "Once upon"], 1, "xyz: no file or model has this name (gpt2rt models lists the names)"),
        (["generate", "mime", "Once"], 1, "mime: no file or model has this name (did you mean mine?"),
        (["generate", "folder", "Once"], 1, "folder: is a folder, expected a model file"),
        (["bench", "xyz"], 1, "xyz: no file or model has this name (gpt2rt models lists the names)"),
        (
            ["info", "mind"],
            1,
            "mind: no file or model has this name (did you mean mine? gpt2rt models lists the",
        ),
        (["info", "folder"], 1, "folder: is a folder, expected a model file (gpt2rt convert makes one from a check"),
        (["chat", "gpt2"], 1, "gpt2: no file or model has this name (OpenAI's model of this size is 124M)"),
        (["chat", "hf:a/b"], 1, "hf:a/b: got a checkpoint, expected a model file (run gpt2rt convert hf:a/b)"),
        (["tokenize", "mine"], 2, "TEXT: missing (see gpt2rt tokenize -h)"),
        (["perplexity", "mine"], 2, "TEXT: missing (see gpt2rt perplexity -h)"),
        (["perplexity", "mine.bin"], 2, "TEXT: missing (see gpt2rt perplexity -h)"),
        (["perplexity", "none.txt"], 2, "none.txt: no such file"),
        (["perplexity", "mine", "t.txt", "--against", "min"], 1, "min: no file or model has this name (did you mean m"),
        (["requantize", "mine", "--type", "f16"], 1, "{models}/mine.bin: its weights are already quantized to int8"),
    ],
)
def test_a_model_that_is_not_there_is_a_sentence(cli, models, here, arguments, code, message):
    (here / "folder").mkdir()
    (here / "t.txt").write_text("Hello!")
    found, out, err = cli(*arguments)
    assert (found, out) == (code, "")
    assert err.startswith("gpt2rt: " + message.format(models=models))
    assert err.count("\n") == 1


def test_a_file_comes_before_a_name(cli, models, here):
    (here / "mine").write_text("not a model")
    assert cli("info", "mine")[2].startswith("gpt2rt: mine: not a gpt2rt model file")


def test_a_name_comes_before_a_folder(cli, models, here):
    (here / "124M").mkdir()
    assert cli("info", "124M")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [["info"], ["verify"], ["tokenize", "x"], ["perplexity", "t.txt", "--against", "mine"], ["generate", "x"]],
    ids=" ".join,
)
def test_a_name_is_a_model_for_every_command(cli, models, here, arguments):
    (here / "t.txt").write_text("Hello!")
    code, out, _ = cli(arguments[0], "124M", *arguments[1:])
    assert code == 0
    assert out


# --- the offer to download


def test_a_model_that_is_not_downloaded_is_a_sentence_where_nobody_can_answer(cli, here):
    code, out, err = cli("chat", SIZE, typed="Hello!\n")
    assert (code, out) == (1, "")
    assert err == (
        f"gpt2rt: {SIZE}: not in {here.parent / 'models'} yet"
        " (run the command with --yes to download 1.4 GB from OpenAI and convert it to 0.37 GB)\n"
    )
    assert not (here.parent / "models").exists()


def test_yes_downloads_and_converts_and_keeps_the_model_alone(cli, server, here):
    code, out, err = cli("generate", SIZE, "x", "--yes", "-n", "2", "--seed", "1")
    assert code == 0, err
    assert [path.name for path in (here.parent / "models").iterdir()] == [f"{SIZE}.bin"]
    file = ModelFile(here.parent / "models" / f"{SIZE}.bin")
    assert (file.weight_type, file.metadata["name"]) == ("int8", SIZE)
    assert file.metadata["source"] == f"TensorFlow checkpoint {SIZE}/model.ckpt"
    assert list(here.iterdir()) == []
    server.requests.clear()
    assert cli("generate", SIZE, "x", "-n", "2", "--seed", "1")[1] == out
    assert server.requests == []


def test_a_download_that_failed_is_no_model_and_is_resumed(cli, server, here):
    server.fail(DATA, cuts_after(50_000))
    server.fail(DATA, lambda handler: handler.say(403) or True)
    code, _, err = cli("info", SIZE, "--yes")
    assert code == 1
    assert f"{SIZE}/{DATA}: the server answers 403" in err
    assert [line.split()[0] for line in cli("models")[1].splitlines()] == ["name", "demo"]
    assert cli("info", SIZE)[0] == 1
    assert cli("info", SIZE, "--yes")[0] == 0
    assert server.asked("GET", DATA)[-1]["Range"] == "bytes=50000-"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 0), ("n", 1), ("\x03", 130)])
def test_a_terminal_is_asked(server, here, answer, code):
    import pty

    control, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", AT_TERMINAL, "info", SIZE],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    text = b""
    while b"[Y/n]: " not in text:
        text += os.read(control, 1000)
    os.write(control, answer.encode())
    with contextlib.suppress(OSError):  # the process has left already
        os.write(control, b"\n")  # also wakes a readline that sleeps on over a signal that came just before it waited
    while True:
        try:
            more = os.read(control, 1000)
        except OSError:
            break
        if not more:
            break
        text += more
    os.close(control)
    assert process.wait() == code, text
    assert f"{SIZE} is not in {here.parent / 'models'} yet." in text.decode()
    assert b"Download 1.4 GB from OpenAI and convert it to 0.37 GB there? [Y/n]: " in text
    assert (here.parent / "models" / f"{SIZE}.bin").exists() is (code == 0)


AT_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from gpt2rt.__main__ import main
main()
"""


# --- completion


def complete(shell, line, folder):
    """The lines that the shell's script gets."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "_GPT2RT_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "gpt2rt"], env=environment, capture_output=True, text=True, check=True, cwd=folder
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gpt2rt chat 12", ["plain,124M", "plain,124M-int8.bin"]),
        ("gpt2rt chat d", ["plain,demo", "plain,drafts/"]),
        ("gpt2rt info mi", ["plain,mine"]),
        ("gpt2rt generate 7", ["plain,774M"]),
        ("gpt2rt tokenize ./12", ["file,./12"]),
        ("gpt2rt verify x", ["file,x"]),
        ("gpt2rt perplexity demo x", ["file,x"]),
        ("gpt2rt perplexity --against mi", ["plain,mine"]),
    ],
)
def test_bash_completes_names_and_files(models, here, line, expected):
    for name in ("124M-int8.bin", "124M with a space.bin"):
        (here / name).touch()
    (here / "drafts").mkdir()
    assert complete("bash", line, here) == expected


def test_an_empty_word_completes_all_names_and_files(models, here):
    for name in ("x.bin", ".hidden.bin"):
        (here / name).touch()
    names = ["demo", "124M", "mine", "355M", "774M", "1558M", "x.bin"]
    assert complete("bash", "gpt2rt chat ", here) == [f"plain,{name}" for name in names]


def test_completion_downloads_nothing(server, here):
    assert complete("bash", "gpt2rt generate 355M --y", here) == ["plain,--yes"]
    assert server.requests == []


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("word", "replies"),
    [("12", ["124M", "124M-int8.bin"]), ("124M-", ["compopt -o default"]), ("./12", ["compopt -o default"])],
)
def test_a_real_bash_completes_names_and_files(models, here, word, replies):
    (here / "124M-int8.bin").touch()
    script = (
        'compopt() { echo compopt "$@"; }; eval "$(_GPT2RT_COMPLETE=bash_source gpt2rt)";'
        f"COMP_WORDS=(gpt2rt chat {word}); COMP_CWORD=2; _gpt2rt_completion gpt2rt;"
        "printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[: len(replies)] == replies


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_that_is_a_model_completes_models(command):
    for parameter in group.get_command(None, command).params:
        if parameter.name in ("model", "against"):
            assert parameter.type.name == "model"
