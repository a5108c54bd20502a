"""gpt2rt bundle: executables that carry a model run, say what gpt2rt says, and are written completely or not at all."""

import errno
import importlib.util
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys

import pytest
from demo import DEMO, demo_model
from standalone import PROGRAM, program

import gpt2rt
from gpt2rt import bundle as bundling
from gpt2rt.bundle import CARRIED_ALIGNMENT, TRAILER, TRAILER_MAGIC, bundle
from gpt2rt.cli.bundle import output_names
from gpt2rt.cross import TARGETS, own_target
from gpt2rt.errors import Gpt2rtError, ModelFileError, UsageError

SIZE_LIMIT = 350 << 10  # bytes of the program without a model, static
WINE = shutil.which("wine64") or next(filter(os.path.exists, ["/usr/lib/wine/wine64"]), None)
TEXT = ("-p", "Once upon a time", "-n", "12", "--seed", "1")
IS_SANITIZED = "ASAN_OPTIONS" in os.environ  # a large program, with shared libraries
is_appended = pytest.mark.skipif(sys.platform == "darwin", reason="on macOS, the model is linked")


@pytest.fixture(autouse=True)
def needs_demo():
    demo_model()


@pytest.fixture(scope="module")
def expected():
    """What gpt2rt generate prints for TEXT."""
    line = [sys.executable, "-m", "gpt2rt", "generate", DEMO, TEXT[1], *TEXT[2:]]
    return subprocess.run(line, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """The bundled model in the installed program."""
    program()
    path = tmp_path_factory.mktemp("bundled") / "demo"
    bundle(str(DEMO), str(path))
    return path


def run(*line, **options):
    return subprocess.run([*map(str, line)], capture_output=True, check=False, **options)


# --- appended


@is_appended
def test_the_program_is_small_if_it_was_compiled_by_zig():
    if importlib.util.find_spec("ziglang") is None or IS_SANITIZED:
        pytest.skip("another compiler's C library may be larger")
    assert os.path.getsize(program()) <= SIZE_LIMIT


@is_appended
def test_a_bundle_is_the_program_the_model_and_a_trailer(bundled):
    content, model = bundled.read_bytes(), DEMO.read_bytes()
    magic, offset, size, zero = TRAILER.unpack(content[-TRAILER.size :])
    assert (magic, size, zero) == (TRAILER_MAGIC, len(model), 0)
    assert offset % CARRIED_ALIGNMENT == 0
    assert content[offset : -TRAILER.size] == model
    assert content[:offset].rstrip(b"\0") == pathlib.Path(PROGRAM).read_bytes().rstrip(b"\0")


@is_appended
def test_a_bundle_says_what_generate_says(bundled, expected):
    done = run(bundled, *TEXT)
    assert (done.returncode, done.stdout) == (0, expected)


@is_appended
def test_a_bundle_chats_as_gpt2rt_does(bundled):
    typed = b"Hello!\nWho are you?\n"
    line = [sys.executable, "-m", "gpt2rt", "chat", DEMO, "--seed", "3"]
    assert run(bundled, "--seed", "3", input=typed).stdout == run(*line, input=typed).stdout


@is_appended
@pytest.mark.parametrize(
    "trailer",
    {
        "size": (CARRIED_ALIGNMENT, 10, 0),
        "alignment": (CARRIED_ALIGNMENT + 4096, 4096, 0),
        "no model": (2 * CARRIED_ALIGNMENT, 0, 0),
        "overflow": (2**64 - CARRIED_ALIGNMENT, 3 * CARRIED_ALIGNMENT, 0),
        "reserved": (CARRIED_ALIGNMENT, CARRIED_ALIGNMENT, 1),
    }.items(),
    ids=lambda case: case[0],
)
def test_a_damaged_trailer_is_refused(tmp_path, trailer):
    content = program().read_bytes()
    content += bytes(-len(content) % CARRIED_ALIGNMENT) + TRAILER.pack(TRAILER_MAGIC, *trailer[1])
    (tmp_path / "damaged").write_bytes(content)
    (tmp_path / "damaged").chmod(0o755)
    done = run(tmp_path / "damaged", "--info")
    assert done.returncode == 1
    assert b"damaged: its last bytes say" in done.stderr


@is_appended
def test_a_damaged_model_in_a_bundle_is_refused(tmp_path, bundled):
    content = bytearray(bundled.read_bytes())
    offset = TRAILER.unpack(content[-TRAILER.size :])[1]
    content[offset + 30] ^= 1
    (tmp_path / "damaged").write_bytes(content)
    (tmp_path / "damaged").chmod(0o755)
    done = run(tmp_path / "damaged", "--info")
    assert done.returncode == 1
    assert b"the header is damaged" in done.stderr


@is_appended
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such bits")
def test_everyone_who_can_read_a_bundle_can_run_it(tmp_path):
    program()
    before = os.umask(0o027)
    try:
        bundle(str(DEMO), str(tmp_path / "chat"))
    finally:
        os.umask(before)
    assert (tmp_path / "chat").stat().st_mode & 0o777 == 0o750


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="chroot needs root, and Linux")
def test_a_bundle_runs_in_an_empty_root(tmp_path, bundled, expected):
    if importlib.util.find_spec("ziglang") is None or IS_SANITIZED:
        pytest.skip("another compiler's C library may be shared")
    shutil.copy(bundled, tmp_path / "demo")
    done = run("chroot", tmp_path, "/demo", *TEXT)
    assert (done.returncode, done.stdout) == (0, expected)
    assert os.listdir(tmp_path) == ["demo"]


# --- refusals


def test_the_command_says_what_it_wrote_and_how_to_run_it(cli, tmp_path, monkeypatch):
    program()
    monkeypatch.chdir(tmp_path)
    code, out, _ = cli("bundle", DEMO, "-o", "chat")
    assert code == 0
    assert re.match(r"chat: [23]\d\.\d MB", out) or sys.platform == "win32"
    assert "run it with" in out
    assert [path.name.removesuffix(".exe") for path in tmp_path.iterdir()] == ["chat"]


def test_an_existing_file_is_kept_unless_forced(cli, tmp_path):
    program()
    output = tmp_path / "chat.exe"
    output.write_text("mine")
    code, _, err = cli("bundle", DEMO, "-o", output)
    assert (code, err) == (2, f"gpt2rt: {output}: already exists (use --force to overwrite it)\n")
    assert output.read_text() == "mine"
    assert cli("bundle", DEMO, "-o", output, "--force")[0] == 0
    assert output.stat().st_size > DEMO.stat().st_size


def test_the_model_itself_is_not_overwritten(tmp_path):
    model = shutil.copy(DEMO, tmp_path / "model")
    with pytest.raises(UsageError, match="is the model itself"):
        bundle(model, model, force=True)
    assert pathlib.Path(model).read_bytes() == DEMO.read_bytes()


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "no.bin").write_bytes(b"no model" * 1000)
    with pytest.raises(ModelFileError, match="not a gpt2rt model file"):
        bundle(str(tmp_path / "no.bin"), str(tmp_path / "chat"))
    assert os.listdir(tmp_path) == ["no.bin"]


@is_appended
def test_a_full_disk_leaves_nothing(cli, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    program()
    monkeypatch.setattr(bundling.os, "fsync", fail)
    code, _, err = cli("bundle", DEMO, "-o", tmp_path / "chat")
    assert code == 1
    assert "can't be written: No space left on device (free some space, or write elsewhere with -o)" in err
    assert os.listdir(tmp_path) == []


def test_an_unknown_target_is_refused(cli, tmp_path):
    code, _, err = cli("bundle", DEMO, "-o", tmp_path / "chat", "--target", "amiga")
    assert code == 2
    assert err == f"gpt2rt: --target: got 'amiga', expected one of {', '.join(TARGETS)}\n"


def test_without_zig_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(bundling, "zig_path", lambda: None)
    with pytest.raises(UsageError, match=r"needs the package ziglang \(pip install 'gpt2rt\[cross\]'\)"):
        bundle(str(DEMO), str(tmp_path / "chat"), "macos-aarch64")


@is_appended
def test_a_missing_program_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(bundling, "PROGRAM", "gpt2rt-missing")
    with pytest.raises(UsageError, match="not installed with this gpt2rt"):
        bundle(str(DEMO), str(tmp_path / "chat"))


@is_appended
def test_a_program_of_another_version_is_refused(tmp_path, monkeypatch):
    program()
    monkeypatch.setattr(gpt2rt, "__version__", "9.9", raising=False)
    with pytest.raises(UsageError, match=r"got version '[\d.]+', expected 9.9"):
        bundle(str(DEMO), str(tmp_path / "chat"))


def test_names_of_several_targets_differ_and_windows_gets_exe():
    assert output_names("chat", ["windows-x86_64"]) == {"windows-x86_64": "chat.exe"}
    assert output_names("chat.exe", ["windows-x86_64"]) == {"windows-x86_64": "chat.exe"}
    several = output_names("chat", ["linux-aarch64", "windows-aarch64"])
    assert list(several.values()) == ["chat-linux-aarch64", "chat-windows-aarch64.exe"]


# --- linked, by zig; the first time takes a minute for each platform


@pytest.fixture(scope="module")
def linked(tmp_path_factory):
    """Return a function from a target to the bundled model, linked for it."""
    if importlib.util.find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed")
    folder, made = tmp_path_factory.mktemp("linked"), {}

    def link(target):
        if target not in made:
            made[target] = folder / target
            bundle(str(DEMO), str(made[target]), target)
        return made[target]

    return link


@pytest.mark.slow
def test_a_path_with_any_characters_can_be_linked_and_a_changed_model_is_not_taken_from_a_cache(linked, tmp_path):
    target = own_target()
    if sys.platform == "win32" or linked(target) is None:
        pytest.skip("such names are not possible there")
    model = shutil.copy(DEMO, tmp_path / 'a "model" \\ n\u00e9')
    bundle(str(model), str(tmp_path / "first"), target)
    content = bytearray(DEMO.read_bytes())
    content[-1] ^= 1
    pathlib.Path(model).write_bytes(content)
    bundle(str(model), str(tmp_path / "second"), target)
    assert run(tmp_path / "first", "--verify").returncode == 0
    assert run(tmp_path / "second", "--verify").returncode == 1


@pytest.mark.slow
def test_a_failing_compiler_leaves_nothing(linked, tmp_path, monkeypatch):
    linked(own_target())
    monkeypatch.setattr(bundling, "version_macro", lambda _: "-DGPT2RT_VERSION=unquoted")
    with pytest.raises(Gpt2rtError, match="zig can't compile it"):
        bundle(str(DEMO), str(tmp_path / "chat"), own_target())
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(own_target() != "linux-x86_64", reason="for Linux on x86-64")
def test_linux_x86_64_says_the_same(linked, expected):
    assert run(linked("linux-x86_64"), *TEXT).stdout == expected


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("qemu-aarch64-static"), reason="qemu-aarch64-static is not installed")
def test_linux_aarch64_says_the_same_under_qemu(linked, expected):
    assert run("qemu-aarch64-static", linked("linux-aarch64"), *TEXT).stdout == expected


@pytest.mark.slow
@pytest.mark.skipif(not WINE, reason="wine64 is not installed")
def test_windows_x86_64_says_the_same_under_wine(linked, expected, tmp_path):
    environment = {**os.environ, "WINEPREFIX": str(tmp_path / "wine"), "WINEDEBUG": "-all"}
    found = run(WINE, linked("windows-x86_64"), *TEXT, env=environment, timeout=300).stdout
    assert found.replace(b"\r\n", b"\n") == expected
    typed = b"Hello!\nWho are you?\n"
    line = [sys.executable, "-m", "gpt2rt", "chat", DEMO, "--seed", "3"]
    found = run(WINE, linked("windows-x86_64"), "--seed", "3", input=typed, env=environment, timeout=300).stdout
    assert found.replace(b"\r\n", b"\n") == run(*line, input=typed).stdout


@pytest.mark.slow
@pytest.mark.parametrize(("target", "machine"), [("windows-x86_64", 0x8664), ("windows-aarch64", 0xAA64)])
def test_a_program_for_windows_is_for_its_processor_and_holds_the_model(linked, target, machine):
    content = linked(target).read_bytes()
    header = struct.unpack_from("<I", content, 0x3C)[0]
    assert content[header : header + 4] == b"PE\0\0"
    assert struct.unpack_from("<H", content, header + 4)[0] == machine
    n_sections, size_of_optional = struct.unpack_from("<H12xH", content, header + 6)
    at = header + 24 + size_of_optional
    sections = {content[one : one + 8].rstrip(b"\0"): one for one in range(at, at + 40 * n_sections, 40)}
    size, address, _, offset = struct.unpack_from("<4I", content, sections[b".model"] + 8)
    assert address % 4096 == 0
    assert content[offset : offset + size].startswith(DEMO.read_bytes())


LC_SEGMENT_64, LC_CODE_SIGNATURE, LC_MAIN = 0x19, 0x1D, 0x80000028


@pytest.mark.slow
@pytest.mark.parametrize(("target", "processor"), [("macos-x86_64", 0x01000007), ("macos-aarch64", 0x0100000C)])
def test_a_program_for_macos_is_for_its_processor_and_holds_the_model(linked, target, processor):
    content = linked(target).read_bytes()
    magic, found, _, kind, n_commands = struct.unpack_from("<5I", content)
    assert (magic, found, kind) == (0xFEEDFACF, processor, 2)
    at, commands, end, model = 32, {}, 0, None
    for _ in range(n_commands):
        command, length = struct.unpack_from("<II", content, at)
        commands[command] = at
        if command == LC_SEGMENT_64:
            offset, size = struct.unpack_from("<QQ", content, at + 40)
            end = max(end, offset + size)
            for section in range(at + 72, at + length, 80):
                if content[section : section + 16].rstrip(b"\0") == b"__gpt2rt_model":
                    model = struct.unpack_from("<QQI", content, section + 32)
        at += length
    address, size, offset = model
    assert address % 16384 == offset % 16384 == 0
    assert content[offset : offset + size - 1] == DEMO.read_bytes()
    assert LC_MAIN in commands
    assert end == len(content)  # nothing after the last segment, which the signature ends
    if target == "macos-aarch64":
        offset, size = struct.unpack_from("<II", content, commands[LC_CODE_SIGNATURE] + 8)
        assert offset + size <= len(content)
        assert content[offset : offset + 4] == b"\xfa\xde\x0c\xc0"
