"""The line editor of the C core, in a small program at a pseudo-terminal; steps wait for a text, never for a time."""

import os
import pathlib
import random
import select
import signal
import subprocess
import sys
import unicodedata

import pytest
from test_core import FLAGS, STRICT, system_compiler

from gpt2rt.cli.wrap import char_width

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals", allow_module_level=True)

import pty
import termios

from line_terminal import INPUT_END, INTERRUPTED, OK, PATIENCE, PROMPT, Terminal

SOURCE = pathlib.Path(__file__).with_name("line_editor.c")
LEFT, RIGHT, UP, DOWN, HOME, END, DELETE = (f"\x1b[{end}" for end in ("D", "C", "A", "B", "H", "F", "3~"))


def ctrl(letter):
    return chr(ord(letter) - ord("@"))


def pasted(text):
    return f"\x1b[200~{text}\x1b[201~"


def build(folder, *options):
    program = folder / "line_editor"
    subprocess.run([*system_compiler(), *FLAGS, *STRICT, *options, SOURCE, "-o", program], check=True)
    return program


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return build(tmp_path_factory.mktemp("line_editor"))


@pytest.fixture(scope="module")
def sanitized_program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sanitized")
    (folder / "nothing.c").write_text("int main(void) { return 0; }\n")
    options = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
    built = subprocess.run([*system_compiler(), *options, folder / "nothing.c", "-o", folder / "nothing"], check=False)
    if built.returncode or subprocess.run([folder / "nothing"], check=False).returncode:
        pytest.skip("the address sanitizer does not run here")
    return build(folder, *options)


@pytest.fixture
def start(program):
    """start(*arguments, ...) -> a Terminal with the program, at its first prompt."""
    started = []

    def call(*arguments, program=program, prompt=PROMPT, **options):
        started.append(Terminal(program, *arguments, prompt=prompt, **options))
        if "hold" not in arguments:
            started[-1].read_to("\x1b[J")
        return started[-1]

    yield call
    for terminal in started:
        terminal.close()


# --- editing


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("hello", "hello"),
        ("", ""),
        (f"ac{LEFT}b", "abc"),
        (f"ac{ctrl('B')}b{ctrl('F')}d", "abcd"),
        (f"bc{HOME}a{END}d", "abcd"),
        (f"bc{ctrl('A')}a{ctrl('E')}d", "abcd"),
        ("bc\x1b[1~a\x1b[4~d", "abcd"),
        ("bc\x1bOHa\x1bOFd", "abcd"),
        ("abx\x7fc\x08d", "abd"),
        (f"abc{LEFT}{LEFT}{DELETE}{ctrl('D')}d", "ad"),
        (f"one two{ctrl('U')}three", "three"),
        (f"one two{LEFT * 4}{ctrl('K')}!", "one!"),
        (f"one two-three {ctrl('W')}four", "one four"),
        ("one two-three \x1b\x7ffour", "one two-four"),
        ("one two\x1bbX \x1bfY", "one X twoY"),
        ("one two\x1b[1;5DX \x1b[1;3CY", "one X twoY"),
        (f"{LEFT}{DELETE}\x7f{ctrl('U')}{ctrl('W')}a{RIGHT}{DELETE}", "a"),
        ("a\tb\x1b[15~\x1b[[A\x1bOP\x1b\x1b[D\x1bx\x1b[1;2R\x00\x16c", "acb"),
        ("first\x1b\rsecond", "first\nsecond"),
        (f"naïve日本{LEFT}x{LEFT * 2}{DELETE}y", "naïveyx本"),
        (f"e\u0301a{LEFT * 2}{DELETE}", "a"),
        ("ae\u0301\u0323\x7fb", "ab"),
        ("👍日\x7f\x7fa", "a"),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("enter", ["\r", "\n"], ids=ascii)
def test_keys_edit_the_message(start, keys, message, enter):
    assert start().read(keys + enter) == (OK, message)


def test_bytes_that_are_no_text_are_replaced(start):
    terminal = start()
    assert terminal.read(b"a\xff\xc3(\xe2\x82b\xed\xa0\x80c\r") == (OK, "a\ufffd\ufffd(\ufffdb\ufffd\ufffd\ufffdc")
    assert terminal.read(b"a\xc2\x9b31mb\r") == (OK, "a31mb")  # a control character
    assert terminal.read(b"\xc3\ra\r") == (OK, "")
    assert terminal.next_message() == (OK, "a")


def test_ctrl_d_in_an_empty_message_ends(start):
    terminal = start()
    assert terminal.read(f"a{LEFT}{ctrl('D')}{ctrl('D')}") == (INPUT_END, "")
    assert terminal.process.wait(PATIENCE) == 0


def test_ctrl_c_discards_the_message(start):
    terminal = start()
    assert terminal.read(f"one two{LEFT}{ctrl('C')}") == (INTERRUPTED, "one two")
    assert "User: one two^C" in terminal.screen.text()
    assert terminal.read(f"three{UP}\r") == (OK, "three")


def test_an_interrupt_that_the_program_handles_is_as_ctrl_c(start):
    terminal = start()
    terminal.type("one")
    terminal.wait_for("User: one", 0, 9)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.next_message() == (INTERRUPTED, "one")
    assert terminal.read("two\r") == (OK, "two")


# --- history


def test_arrows_recall_messages(start):
    terminal = start()
    for message in ("one", "two", "three"):
        assert terminal.read(f"{message}\r") == (OK, message)
    assert terminal.read(f"{UP}{UP}!\r") == (OK, "two!")
    assert terminal.read(f"{ctrl('P')}{ctrl('P')}{UP}{ctrl('N')}\r") == (OK, "three")
    assert terminal.read(f"{UP * 9}\r") == (OK, "one")


def test_the_new_message_is_kept_while_old_ones_are_recalled(start):
    terminal = start()
    assert terminal.read("one\r") == (OK, "one")
    assert terminal.read(f"new{UP}{UP}?{DOWN}{DOWN}er\r") == (OK, "newer")


def test_a_repeated_and_an_empty_message_are_no_history(start):
    terminal = start()
    for message in ("one", "two", "two", "", "two"):
        assert terminal.read(f"{message}\r") == (OK, message)
    assert terminal.read(f"{UP}{UP}\r") == (OK, "one")


def test_the_last_100_messages_are_kept(start):
    terminal = start()
    for i in range(150):
        assert terminal.read(f"{i}\r") == (OK, str(i))
    assert terminal.read(f"draft{UP * 101}\r") == (OK, "50")
    assert terminal.read(f"draft{UP * 50}{DOWN * 70}\r") == (OK, "draft")


# --- pasting, and typing ahead


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("first\rsecond", "first\nsecond"),
        ("first\nsecond\n", "first\nsecond\n"),
        ("first\r\nsecond\r\n\r\nthird", "first\nsecond\n\nthird"),
        ("\tx = 1;\ty", "\tx = 1;\ty"),
        ("/quit\r", "/quit\n"),
        (f"a{ctrl('D')}{ctrl('U')}{ctrl('Z')}\x7f\x00b{ctrl('D')}", "ab"),
        ("a\x1b[31mb\x1b]0;title\x07\x9b31m\x1b[Dc", "ab0;title31mc"),
        ("日本\r" * 2000, "日本\n" * 2000),
    ],
    ids=lambda text: ascii(text[:40]),
)
def test_what_is_pasted_is_one_message(start, content, message):
    assert start().read(f"{pasted(content)}\r") == (OK, message)


def test_what_is_pasted_is_edited_like_what_is_typed(start):
    terminal = start()
    content = pasted("b\rc")
    assert terminal.read(f"ad{LEFT}{content}{LEFT}!\r") == (OK, "ab\n!cd")
    assert terminal.read(f"{pasted('')}{pasted(ctrl('D'))}{ctrl('D')}") == (INPUT_END, "")


def test_ctrl_c_ends_a_paste_that_has_no_end(start):
    terminal = start()
    assert terminal.read(f"\x1b[200~a\rb{ctrl('C')}") == (INTERRUPTED, "a\nb")
    assert terminal.read("c\r") == (OK, "c")


def test_messages_that_are_typed_at_once_are_all_read(start):
    terminal = start()
    terminal.type("one\rtwo\nthr")
    assert [terminal.next_message() for _ in range(2)] == [(OK, "one"), (OK, "two")]
    assert terminal.read("ee\r") == (OK, "three")


def test_what_is_typed_before_the_program_asks_is_read(start):
    terminal = start("hold")
    terminal.read_to("<hold>")
    assert terminal.is_cooked()
    terminal.type("one\ntwo\nthr")
    terminal.read_to("thr")  # the terminal's own echo
    for message in ("one", "two"):
        os.write(terminal.hold, b"x")
        assert terminal.next_message() == (OK, message)
        terminal.read_to("<hold>")
    os.write(terminal.hold, b"x")
    terminal.read_to("User: thr")
    assert terminal.read("ee\r") == (OK, "three")


# --- the screen


def test_a_prompt_may_have_colors(start):
    terminal = start(prompt="\x1b[1;32mUser:\x1b[0m ", columns=10)
    terminal.type("abcd")
    terminal.wait_for("User: abcd", 1, 0)
    terminal.type(f"e{LEFT}")
    terminal.wait_for("User: abcd\ne", 1, 0)
    assert terminal.read("\r") == (OK, "abcde")


def place(text, columns):
    """Return (rows, row, column) of a text at a terminal."""
    rows, column = [""], 0
    for char in text:
        width = 0 if char == "\n" else 1 if char == "\t" else char_width(char)
        if char == "\n" or column + width > columns:
            rows.append("")
            column = 0
        rows[-1] += {"\n": "", "\t": " "}.get(char, char)
        column += width
    if column == columns:
        rows.append("")
        column = 0
    return rows, len(rows) - 1, column


@pytest.mark.parametrize("columns", [7, 20, 80])
@pytest.mark.parametrize("seed", range(3))
def test_the_screen_shows_the_message_and_the_cursor_is_in_its_place(start, columns, seed):
    draw = random.Random(seed)
    terminal = start(columns=columns)
    text, cursor = "", 0
    for _ in range(60):
        step = draw.randrange(8)
        if step < 4:
            new = "".join(draw.choices("ab cdé日本👍\n\t", k=draw.randrange(1, 9)))
            text, cursor = text[:cursor] + new + text[cursor:], cursor + len(new)
            terminal.type(pasted(new) if "\t" in new else new.replace("\n", "\x1b\r"))
        elif step == 4:
            text, cursor = text[: max(0, cursor - 1)] + text[cursor:], max(0, cursor - 1)
            terminal.type("\x7f")
        else:
            n = draw.randrange(1, 12)
            cursor = max(0, cursor - n) if step < 7 else min(len(text), cursor + n)
            terminal.type((LEFT if step < 7 else RIGHT) * n)
        if len(place(PROMPT + text, columns)[0]) > 20:  # it must fit
            text, cursor = "", 0
            terminal.type(ctrl("E") + ctrl("U"))
        _, row, column = place(PROMPT + text[:cursor], columns)
        rows = [shown.rstrip() for shown in place(PROMPT + text, columns)[0]]
        terminal.wait_for("\n".join(rows).rstrip("\n"), row, column)
    assert terminal.read("\r") == (OK, text)


def test_a_message_with_more_rows_than_the_screen_scrolls(start):
    terminal = start(columns=10, rows=4)
    lines = [f"line {i}" for i in range(9)]
    terminal.type(pasted("\r".join(lines)))
    terminal.wait_for("line 5\nline 6\nline 7\nline 8", 3, 6)
    terminal.type(LEFT * 7 * 5)
    terminal.wait_for("line 3\nline 4\nline 5\nline 6", 0, 6)
    terminal.type(HOME)
    terminal.wait_for("User: line\n 0\nline 1\nline 2", 0, 6)
    assert terminal.read("\r") == (OK, "\n".join(lines))
    assert "\n".join(["User: line", " 0", *lines[1:], "<0 "]) in terminal.screen.text()


def test_a_narrower_window_is_found_with_the_next_key(start):
    terminal = start(columns=40)
    terminal.type("a" * 30)
    terminal.wait_for("User: " + "a" * 30, 0, 36)
    termios.tcsetwinsize(terminal.master, (24, 20))
    terminal.screen.columns = 20  # terminals wrap again what they show
    terminal.screen.rows = [list("User: " + "a" * 14), list("a" * 16 + " " * 4), *terminal.screen.rows[2:]]
    terminal.screen.row, terminal.screen.column = 1, 16
    terminal.type("b")
    terminal.wait_for("User: " + "a" * 14 + "\n" + "a" * 16 + "b", 1, 17)


def test_ctrl_l_clears_the_screen(start):
    terminal = start()
    terminal.read("one\r")
    terminal.type(f"two{LEFT}{ctrl('L')}")
    terminal.wait_for("User: two", 0, 8)


def test_keys_without_a_meaning_are_not_echoed(start):
    terminal = start()
    terminal.type("a" + "".join(map(ctrl, "@GIOQRSTVXY]^_")) + "\x1b[<0;1;1M\x1b[15~\x1bx\x1b[1;2S\x1b\x1b\x1b[5~b")
    terminal.wait_for("User: ab", 0, 8)  # Screen knows no control characters


SCRIPTS = "AéЖ\u0301אָا\u064bก\u0e31ᄀ\u1161한日本。々カ゛ｆｌ｡，👍🚀🤔🥲✅❌❓⭐—…•\u200d\ufe0f\u2060"


def test_widths_are_as_in_python(program):
    blocks = [(0x20, 0x530), (0x3041, 0x3247), (0x3400, 0x4DB6), (0x4E00, 0xA48D), (0xAC00, 0xD7A4), (0xF900, 0xFA6E)]
    chars = [*SCRIPTS, *(chr(c) for first, end in blocks for c in range(first, end))]
    chars = [char for char in chars if unicodedata.category(char) not in ("Cc", "Cn") and char != "\xad"]
    done = subprocess.run([program, "width"], input="\n".join(chars).encode(), capture_output=True, check=True)
    found = dict(zip(chars, map(int, done.stdout.split()), strict=True))
    assert found == {char: char_width(char) for char in chars}


# --- the terminal


def test_the_terminal_gives_single_keys_only_while_a_message_is_read(start):
    terminal = start("hold")
    for message in ("one", "two"):
        terminal.read_to("<hold>")
        assert terminal.is_cooked()
        os.write(terminal.hold, b"x")
        terminal.read_to("\x1b[?2004h")
        assert not terminal.is_cooked()
        terminal.type(f"{message}\r")
        terminal.read_to("\x1b[?2004l")
        assert terminal.next_message() == (OK, message)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGSEGV, signal.SIGABRT])
def test_the_mode_is_restored_before_a_signal_ends_the_program(start, number):
    terminal = start()
    assert not terminal.is_cooked()
    terminal.process.send_signal(number)
    assert terminal.process.wait(PATIENCE) == -number
    assert terminal.is_cooked()
    terminal.read_to("\x1b[?2004l")


def test_ctrl_backslash_ends_the_program(start):
    terminal = start()
    terminal.type(ctrl("\\"))
    assert terminal.process.wait(PATIENCE) == -signal.SIGQUIT
    assert terminal.is_cooked()


def test_ctrl_z_stops_the_program_and_the_message_is_there_when_it_continues(start):
    terminal = start("job")
    terminal.type(f"abc{LEFT}{ctrl('Z')}")
    terminal.read_to("<stopped cooked>")
    terminal.read_to("User: abc")
    assert terminal.read("d\r") == (OK, "abdc")
    assert terminal.read(ctrl("D")) == (INPUT_END, "")
    assert terminal.process.wait(PATIENCE) == 0


def test_a_program_that_is_continued_draws_the_message_again(start):
    terminal = start()
    terminal.type("abc")
    terminal.read_to("abc")
    terminal.process.send_signal(signal.SIGCONT)
    terminal.read_to("User: abc")
    assert terminal.read("d\r") == (OK, "abcd")


def test_the_end_of_the_terminal_is_the_end_of_the_input(program):
    terminal = Terminal(program)
    terminal.read_to("User: ")
    master, terminal.master = terminal.master, None
    os.close(master)
    assert terminal.process.wait(PATIENCE) in (0, -signal.SIGHUP)
    terminal.close()


@pytest.mark.parametrize(("pipe", "kind"), [("stdin", "xterm"), ("stdout", "xterm"), ("", "dumb")])
def test_pipes_and_dumb_terminals_are_refused(program, pipe, kind):
    master, slave = pty.openpty()
    files = {name: subprocess.PIPE if name == pipe else slave for name in ("stdin", "stdout")}
    process = subprocess.Popen([program, PROMPT], env={"TERM": kind}, **files)
    assert process.wait(PATIENCE) == 1
    for file in (master, slave, *filter(None, (process.stdin, process.stdout))):
        file.close() if hasattr(file, "close") else os.close(file)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_any_keys_do_no_harm_under_sanitizers(start, sanitized_program, seed):
    """Without Ctrl-D, Ctrl-Z, Ctrl-\\ and Ctrl-S, which the terminal itself takes between two messages."""
    draw = random.Random(seed)
    keys = [LEFT, RIGHT, UP, DOWN, HOME, END, DELETE, "\x7f", "\r", "\x1b\r", "\x1bb", "\x1bf", "日e\u0301", "word "]
    keys += ["\x1b[200~", "\x1b[201~"]
    letters = "".join(map(ctrl, "ABCEFHIJKLNOPQRSTUVWXY"))
    size = {"columns": draw.randrange(2, 30), "rows": draw.randrange(1, 8)}
    terminal = start(program=sanitized_program, acts=False, **size)
    for _ in range(300):
        typed = b"".join(
            draw.choice([draw.choice(keys).encode(), draw.choice(letters).encode(), draw.randbytes(3), b"text" * 9])
            for _ in range(20)
        )
        terminal.type(typed.translate(None, b"\x04\x13\x1a\x1c"))
        while select.select([terminal.master], [], [], 0)[0]:
            terminal.text = ""
            terminal.read_more()
    for _ in range(1000):  # tries, as Ctrl-D may be lost
        for end in (f"\x1b[201~{ctrl('C')}", ctrl("D")):
            if terminal.process.poll() is None:
                terminal.type(end)
            while select.select([terminal.master], [], [], 0.01)[0]:
                terminal.read_more()
        if terminal.process.poll() is not None:
            break
    assert terminal.process.returncode == 0
