"""The compiler zig, which carries the C libraries of every system, as the compiler of the program gpt2rt-chat.

setup.py runs this file, too, from a checkout in which nothing is built: it imports nothing of gpt2rt.
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig

TARGETS = {  # {our name: zig's}
    "linux-x86_64": "x86_64-linux-musl",
    "linux-aarch64": "aarch64-linux-musl",
    "windows-x86_64": "x86_64-windows-gnu",
    "windows-aarch64": "aarch64-windows-gnu",
    "macos-x86_64": "x86_64-macos.11.0",
    "macos-aarch64": "aarch64-macos.11.0",
}
SYSTEMS = {"linux": "linux", "win": "windows", "macosx": "macos"}
PROCESSORS = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def own_target() -> str | None:
    """Return the target that is this platform; None if it is not one of them."""
    parts = sysconfig.get_platform().split("-")  # such as macosx-11.0-arm64
    target = f"{SYSTEMS.get(parts[0])}-{PROCESSORS.get(parts[-1])}"
    return target if target in TARGETS else None


def zig_path() -> str | None:
    """Return the path of zig's executable in the package ziglang; None if that is not installed."""
    found = importlib.util.find_spec("ziglang")
    folders = (found.submodule_search_locations if found else None) or []
    paths = [os.path.join(folder, name) for folder in folders for name in ("zig", "zig.exe")]
    return next((path for path in paths if os.path.isfile(path)), None)


def zig_command(zig: str, target: str) -> list[str]:
    """Return the command that compiles and links the program for a target, but for its macros and files.

    clang unrolls the vector kernels with -Os, too, so that only the rest becomes smaller; what it would vectorize by
    itself is the portable kernels. On Windows, unwind tables are a part of every function.
    """
    return [
        *(zig, "cc", "-target", TARGETS[target], "-mcpu=baseline", "-std=c11", "-ffp-contract=off", "-Os", "-s"),
        *("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-fno-vectorize"),
        *(() if target.startswith("windows") else ("-fno-unwind-tables", "-fno-asynchronous-unwind-tables")),
    ]


def version_macro(version: str) -> str:
    """Return the macro with the version that the program prints."""
    return f'-DGPT2RT_VERSION="{version}"'
