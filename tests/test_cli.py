"""The command line: what it prints, and its exit codes."""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from demo import DEMO, demo_model
from random_models import random_tensors, write_model

from gpt2rt.__main__ import read_ahead
from gpt2rt.cli.convert import sizes
from gpt2rt.converter import Conversion
from gpt2rt.modelfile import Hyperparameters

COMMAND = [sys.executable, "-m", "gpt2rt"]


@pytest.fixture
def demo():
    demo_model()
    return str(DEMO)


# --- errors, exit codes


def test_version(cli):
    code, out, _ = cli("--version")
    assert code == 0
    assert out.startswith("gpt2rt 0.")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["frobnicate"], 2, "gpt2rt: frobnicate: no such command (gpt2rt -h lists them)\n"),
        (["tokenize"], 2, "gpt2rt: TEXT: missing (see gpt2rt tokenize -h)\n"),
        (["export"], 2, "gpt2rt: MODEL: missing (see gpt2rt export -h)\n"),
        (["chta"], 2, "gpt2rt: chta: no such command (did you mean chat?)\n"),
        (["help", "chta"], 2, "gpt2rt: chta: no such command (did you mean chat?)\n"),
        (["chat", "--temprature", "1"], 2, "gpt2rt: --temprature: no such option (did you mean --temperature?)\n"),
        (["info", "--frobnicate"], 2, "gpt2rt: --frobnicate: no such option (see gpt2rt info -h)\n"),
        (["generate", "-n", "x"], 2, "gpt2rt: --max-tokens: 'x' is not a valid integer (see gpt2rt generate -h)\n"),
        (["generate", "--seed"], 2, "gpt2rt: --seed: requires an argument (see gpt2rt generate -h)\n"),
        (["info", "--json=1"], 2, "gpt2rt: --json: does not take a value (see gpt2rt info -h)\n"),
        (["info", "a", "b"], 2, "gpt2rt: got unexpected extra argument (b) (see gpt2rt info -h)\n"),
        (["convert", "x", "--type", "int3"], 2, "gpt2rt: --type: got 'int3', expected one of int8, int4, f16, f32\n"),
        (["requantize", "x.bin"], 2, "gpt2rt: --type: missing (see gpt2rt requantize -h)\n"),
        (["info", "none.bin"], 1, "gpt2rt: none.bin: no such file (gpt2rt convert makes one from a checkpoint)\n"),
        (["generate", "DEMO", "--top-p", "3"], 2, "gpt2rt: top_p: got 3.0, expected a number from 0.0 to 1.0\n"),
        (["generate", "DEMO", "-n", "0"], 2, "gpt2rt: max_tokens: got 0, expected a whole number from 1\n"),
        (
            ["generate", "DEMO", "--threads", "0"],
            2,
            "gpt2rt: n_threads: got 0, expected a whole number from 1 to 256\n",
        ),
        (
            ["generate", "DEMO", "a " * 600],
            1,
            "gpt2rt: prompt: 601 tokens, but the model has 512 positions (shorten it)\n",
        ),
        (
            ["chat", "DEMO", "--format", "x"],
            2,
            "gpt2rt: --format: got 'x', expected one of plain, dialogpt, template, raw\n",
        ),
        (
            ["chat", "DEMO", "--opening", "none.txt"],
            2,
            "gpt2rt: none.txt: no such file\n",
        ),
    ],
)
def test_mistakes_give_one_line_messages(cli, demo, arguments, code, message):
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


def test_a_random_seed_reproduces_the_text(cli, demo):
    _, out, err = cli("generate", demo, "Once", "-n", "20")
    seed = err.split()[1].rstrip(";")
    assert cli("generate", demo, "Once", "-n", "20", "--seed", seed)[1] == out


@pytest.mark.filterwarnings("ignore:n_threads:UserWarning")
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


def test_verify_finds_no_damage_and_prints_the_sha_256(cli, demo):
    code, out, err = cli("verify", demo)
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.endswith("no damage")
    assert second == f"SHA-256: {hashlib.sha256(pathlib.Path(demo).read_bytes()).hexdigest()}"


def test_info_shows_the_sha_256_when_asked(cli, demo):
    digest = hashlib.sha256(pathlib.Path(demo).read_bytes()).hexdigest()
    assert digest in cli("info", demo, "--sha256")[1]
    assert json.loads(cli("info", demo, "--sha256", "--json")[1])["sha256"] == digest
    assert "sha256" not in json.loads(cli("info", demo, "--json")[1])


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


def test_verify_fails_if_padding_is_not_zero(cli, demo, tmp_path):
    content = bytearray(pathlib.Path(demo).read_bytes())
    end = 4096
    for found in json.loads(cli("info", demo, "--json")[1])["sections"].values():
        end = -(-end // 4096) * 4096 + found["length"]
        if end % 4096:
            break
    content[end] = 1
    path = tmp_path / "damaged.bin"
    path.write_bytes(content)
    sentence = f"gpt2rt: {path}: byte {end}, between the sections, is not zero (copy or convert again)\n"
    assert cli("verify", path) == (1, "", sentence)


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
    assert out.startswith(f"{path}: 5.1 MB, down from 17.4 MB in f32 (3.4x), in ")
    assert "largest quantization error " in out
    _, out, _ = cli("info", path)
    assert "small talk" in out
    assert "Tom" in out
    code, _, err = cli("convert", source, "-o", path)
    assert (code, err) == (2, f"gpt2rt: {path}: already exists (use --force to overwrite it)\n")


@pytest.mark.parametrize(
    ("size", "source_size", "text"),
    [
        (133_700_000, 497_800_000, "133.7 MB, down from 497.8 MB in f32 (3.7x)"),
        (498_100_000, 497_800_000, "498.1 MB, from 497.8 MB in f32"),
        (497_800_000, 497_800_000, "497.8 MB, from 497.8 MB in f32"),
    ],
)
def test_a_factor_is_printed_where_the_file_is_smaller(size, source_size, text):
    assert sizes(Conversion("x.bin", size, source_size, source_size / size, 1.0, 0.0, 0.0, None, [])) == text


@pytest.mark.parametrize("option", ["--license", "--licence"])
def test_license_has_both_spellings(cli, tmp_path, option):
    shape = Hyperparameters(n_vocab=300, n_ctx=24, n_embd=32, n_head=2, n_layer=2)
    source = write_model(tmp_path / "source.bin", shape, random_tensors(shape), "f32")
    code, _, err = cli("convert", source, "-o", tmp_path / "x.bin", option, "MIT", "--no-quality-report")
    assert (code, err) == (0, "")
    assert json.loads(cli("info", tmp_path / "x.bin", "--json")[1])["metadata"]["licence"] == "MIT"


# --- chat through a pipe


def test_a_piped_chat_prints_only_answers(cli, demo):
    code, out, err = cli("chat", "--seed", "1", typed="Hello!\n\nHow are you?\n")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert "User:" not in out
    assert "\x1b" not in out + err
    assert err == "This is the small bundled model. For OpenAI's GPT-2, run gpt2rt chat 124M.\n"


def test_a_piped_chat_prints_the_seed_that_was_sampled(cli, demo):
    _, out, err = cli("chat", demo, typed="Hello!\n")
    assert cli("chat", demo, "--seed", err.split()[1], typed="Hello!\n")[1] == out


def test_chat_commands(cli, demo, tmp_path):
    path = tmp_path / "talk.json"
    commands = f"/retry\n/save {path}\n/undo\n/reset\n/load {path}\n/set top_k 7\n/set\n/stats\n/?\n/quit\n"
    typed = f"Hello!\n{commands}never said\n"
    code, out, err = cli("chat", demo, "--seed", "1", typed=typed)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert json.loads(path.read_text("utf-8"))["turns"][0]["user"] == "Hello!"
    for told in (
        f"(saved 1 turn to {path})",
        "(discarded: Hello!)",
        "(all turns dropped)",
        f"(loaded 1 turn from {path})",
        "(top_k is now 7)",
        "temperature           0.7     default",
        "top_k                 7       changed; default 40",
        "of 512 tokens, 1 turn, 0 dropped",
        "seed      1",
        "/save FILE",
    ):
        assert told in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/dance", "command /dance: unknown (/help lists the commands)"),
        ("/rety", "command /rety: unknown (did you mean /retry? /help lists the commands)"),
        ("/sav x", "command /sav: unknown (did you mean /save? /help lists the commands)"),
        ("/undo", "undo: there is no turn to discard"),
        ("/undo 2", "/undo: got '2', expected nothing after the command"),
        ("/exit now", "/exit: got 'now', expected nothing after the command"),
        ("/retry", "retry: there is no answer yet"),
        ("/save", "/save: expected the name of a file"),
        ("/load none.json", "'none.json': can't be read: No such file or directory"),
        ("/set heat 1", "setting 'heat': expected one of temperature, "),
        ("/set temprature 1", "setting 'temprature': unknown (did you mean temperature? /set lists the settings)"),
        ("/set top_k x", "/set top_k: got 'x', expected a whole number"),
        ("/set top-p 2", "top_p: got 2.0, expected a number from 0.0 to 1.0"),
        ("word " * 600, "message: "),
    ],
)
def test_a_mistake_in_a_chat_is_a_sentence_and_the_chat_continues(cli, demo, line, message):
    code, out, err = cli("chat", demo, "--seed", "1", typed=f"{line}\nHello!\n")
    assert code == 1
    assert err.startswith(f"gpt2rt: {message}")
    assert len(out.splitlines()) == 1


def test_a_full_context_is_reported(cli, demo):
    typed = "".join(f"This is message number {n}, what do you think of it?\n" for n in range(30))
    code, out, err = cli("chat", demo, "--seed", "1", typed=typed)
    assert (code, len(out.splitlines())) == (0, 30)
    assert "(the context was full: the oldest " in err


# --- processes


def test_before_the_first_token_click_alone_imports_modules_of_the_standard_library(demo):
    program = (
        "import sys, click; before = set(sys.modules); from gpt2rt.cli import run; status = run(sys.argv[1:]);"
        "print(*set(sys.modules) - before, file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "generate", demo, "Once upon a time", "--max-tokens", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stderr.splitlines()[-1].split())
    assert "gpt2rt._engine" in imported
    assert {name for name in imported & sys.stdlib_module_names if name[0] != "_"} <= {"locale"}  # gettext's
    assert imported.isdisjoint({"numpy", "tensorflow", "gpt2rt.chat", "gpt2rt.cli.download", "click.shell_completion"})


def test_what_is_loaded_at_the_start_is_not_searched_for_garbage():
    program = (
        "import atexit, gc, sys; from gpt2rt.__main__ import main;"
        "atexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 1000));"
        "sys.argv[1:] = ['--version']; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True True"


def test_a_closed_output_pipe_is_not_an_error(demo):
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
def test_a_full_disk_is_reported_in_one_line(demo):
    with open("/dev/full", "w") as full:
        arguments = [*COMMAND, "generate", demo, "Once", "-n", "3"]
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "gpt2rt: No space left on device"


@pytest.fixture
def slow_model(tmp_path):
    """Random, and so slow that there is time to stop it."""
    h = Hyperparameters(n_vocab=256, n_ctx=1024, n_embd=512, n_head=8, n_layer=8)
    return write_model(tmp_path / "slow.bin", h, random_tensors(h, scale=0.1), "int8")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_ctrl_c_ends_generate_with_130(slow_model):
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


# --- reading ahead


def test_reading_ahead_ignores_what_is_not_a_file(tmp_path):
    for path in (tmp_path, tmp_path / "missing", os.devnull, DEMO):
        assert read_ahead(str(path)) is None
