"""Executables that carry a model: the program gpt2rt-chat with the model appended or linked.

On this platform the model is appended to the installed program, where core/carried.h finds it. For others, and on
macOS, where a signature ends an executable, zig compiles the program from the C sources in this package and links the
model in.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import sysconfig

import gpt2rt
from gpt2rt.cross import TARGETS, own_target, version_macro, zig_command, zig_path
from gpt2rt.errors import Gpt2rtError, ModelFileError, UsageError
from gpt2rt.lines import lines_of
from gpt2rt.model import Model
from gpt2rt.modelfile.layout import align
from gpt2rt.modelfile.unfinished import Unfinished, check_output, errors_named, move

PROGRAM = "gpt2rt-chat"
TRAILER = struct.Struct("<8s3Q")  # magic, offset and size of the model, 0: see core/carried.h
TRAILER_MAGIC = b"GPT2RTEX"
CARRIED_ALIGNMENT = 65536  # bytes
MOST_LINKED = 1 << 31  # bytes; code reaches data up to 2 GiB away
ROOM_FOR_CODE = 64 << 20
COPY_STEP = 4 << 20

# {system: (section directive, alignment as a power of 2, prefix of symbols)} of the linked model: a page at least.
SECTIONS = {
    "linux": ('.section .rodata.gpt2rt_model,"a"', 16, ""),
    "windows": ('.section .model,"dr"', 12, ""),
    "macos": (".section __TEXT,__gpt2rt_model", 14, "_"),
}


def bundle(model: str, output: str, target: str | None = None, *, force: bool = False) -> int:
    """Write an executable that carries a model, completely or not at all.

    Args:
        model: the path of a model file.
        output: the file to write. On Windows, names of programs end in .exe.
        target: one of `TARGETS`; None for this platform.
        force: overwrite an existing file.

    Returns:
        The number of bytes written.

    Raises:
        ModelFileError: the model file is damaged, or the executable can't be written.
        UsageError: the output exists, or something is not installed that the target needs.
        Gpt2rtError: zig failed.
    """
    check_output(output, force)
    Model(model, n_threads=1)  # raises if it can't be used
    size = os.path.getsize(model)
    if os.path.exists(output) and os.path.samefile(model, output):
        raise UsageError(f"{output}: is the model itself, expected the name of another file to write")
    if is_compiled(target):
        own = target or own_target()
        command = link_command(own, model, size)
    else:
        program = installed_program()
    unfinished = Unfinished(output, is_folder=True)
    try:
        unfinished.make()
        temporary = os.path.join(unfinished.path, os.path.basename(output))
        if target and target.startswith("windows") and not temporary.lower().endswith(".exe"):
            temporary += ".exe"  # as zig does
        with errors_named(output):
            if is_compiled(target):
                link(command, own, model, temporary, output)
            else:
                append(program, model, size, temporary)
            with open(temporary, "r+b") as file:
                mode = os.stat(temporary).st_mode
                os.chmod(temporary, mode | (mode & 0o444) >> 2)
                os.fsync(file.fileno())
            written = os.path.getsize(temporary)
            move(temporary, output, force)
    finally:
        unfinished.remove()
    return written


def is_compiled(target: str | None) -> bool:
    """Whether the program is compiled for a target, instead of taken from this installation."""
    return target is not None or sys.platform == "darwin"


# --- appended


def installed_program() -> str:
    """Return the path of the installed program gpt2rt-chat. Raises UsageError if it is missing or another version."""
    path = next((path for path in _places() if os.path.isfile(path)), None)
    if path is None:
        raise UsageError(
            f"{PROGRAM}: not installed with this gpt2rt (install gpt2rt again, without GPT2RT_STUB_CC=none; or name"
            " this platform with --target, which compiles it)"
        )
    try:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=60).stdout
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise UsageError(f"{path}: does not run: {error} (install gpt2rt again)") from None
    if told != f"{PROGRAM} {gpt2rt.__version__}\n":
        raise UsageError(
            f"{path}: got version {told.strip().rpartition(' ')[2]!r:.40}, expected {gpt2rt.__version__}"
            " (install gpt2rt again)"
        )
    return path


def _places() -> list[str]:
    """Return where an installer may have put the program, the place that it has recorded first."""
    from importlib.metadata import PackageNotFoundError, distribution

    name = PROGRAM + ".exe" * (sys.platform == "win32")
    try:
        recorded = distribution("gpt2rt").files or []
    except PackageNotFoundError:
        recorded = []
    beside = os.path.join(os.path.dirname(os.path.dirname(__file__)), "bin")  # pip install --target
    folders = [sysconfig.get_path("scripts"), beside]
    return [str(file.locate()) for file in recorded if file.name == name] + [os.path.join(one, name) for one in folders]


def append(program: str, model: str, size: int, output: str) -> None:
    """Write a program, a model of `size` bytes after it, and the trailer by which the program finds it."""
    with open(output, "wb") as file:
        with open(program, "rb") as source:
            shutil.copyfileobj(source, file)
        offset = align(file.tell(), CARRIED_ALIGNMENT)
        file.write(bytes(offset - file.tell()))
        with open(model, "rb") as source:
            shutil.copyfileobj(source, file, COPY_STEP)
        if file.tell() != offset + size:
            raise ModelFileError(f"{model}: changed while it was read (is something writing it?)")
        file.write(TRAILER.pack(TRAILER_MAGIC, offset, size, 0))


# --- linked


def link_command(target: str | None, model: str, size: int) -> list[str]:
    """Return zig's command for a target, without the files. Raises UsageError if that can't be done here."""
    if target not in TARGETS:
        raise UsageError(f"target: got {target!r}, expected one of {', '.join(TARGETS)}")
    zig = zig_path()
    if zig is None:
        raise UsageError(f"a program for {target} needs the package ziglang (pip install 'gpt2rt[cross]')")
    if size > MOST_LINKED - ROOM_FOR_CODE:
        raise UsageError(
            f"{model}: {size / 1e6:.0f} MB, expected at most {(MOST_LINKED - ROOM_FOR_CODE) / 1e6:.0f} for {target}"
            " (convert it to a smaller type)"
        )
    return zig_command(zig, target)


def link(command: list[str], target: str | None, model: str, temporary: str, output: str) -> None:
    """Compile the program with the model in a section of its own. Raises Gpt2rtError.

    Args:
        command: of `link_command`.
        temporary: where to write the program; other files are left in its folder.
        output: the name for messages.
    """
    folder = os.path.dirname(temporary)
    assembly = os.path.join(folder, "model.s")
    with open(assembly, "w", encoding="utf-8") as file:
        file.write(model_assembly(str(target), os.path.abspath(model)))
    core = os.path.join(os.path.dirname(__file__), "core")
    sources = [f"-I{core}", os.path.join(core, "main.c"), assembly]
    result = subprocess.run(
        [*command, version_macro(gpt2rt.__version__), "-DGPT2RT_LINKED_MODEL", *sources, "-o", temporary],
        # zig's cache of the C libraries stays; objects that contain the model don't.
        env={**os.environ, "ZIG_LOCAL_CACHE_DIR": os.path.join(folder, "cache")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if result.returncode != 0:
        lines = lines_of(result.stderr) or [f"exit code {result.returncode}"]
        cause = next((line for line in lines if "error" in line), lines[-1])
        hint = " (free some space)" if "NoSpaceLeft" in result.stderr else ""
        raise Gpt2rtError(f"{output}: zig can't compile it for {target}: {cause:.400}{hint}")


def model_assembly(target: str, model: str) -> str:
    """Return the assembly with the two symbols that core/carried.h expects."""
    section, alignment, prefix = SECTIONS[target.partition("-")[0]]
    name = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    begin, end = f"{prefix}gpt2rt_model", f"{prefix}gpt2rt_model_end"
    return f"""{section}
.p2align {alignment}
.globl {begin}
{begin}:
.incbin "{name}"
.globl {end}
{end}:
.byte 0
"""
