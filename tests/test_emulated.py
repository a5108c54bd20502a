"""The kernels without Python, on emulated processors, which must give the same bits.

A C program prints a digest of each operation on each instruction set that it finds. It is built for this machine and,
where a cross compiler and qemu's user mode are installed (Debian: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and
qemu-user-static), for 64-bit Arm, with and without dot products. No emulator at hand runs AMX, so its instructions are
functions in C (emulated_amx.h).
"""

import collections
import os
import pathlib
import platform
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.slow

SOURCE = pathlib.Path(__file__).with_name("emulated_kernels.c")
PACKAGE = SOURCE.parents[1] / "gpt2rt"
FLAGS = ["-std=c11", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{PACKAGE / 'core'}"]
X86_64 = platform.machine() in ("x86_64", "AMD64")


def tool(name):
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def digests(program, *runner):
    """Return {instruction set: {operation: digests}}, as printed by the program."""
    output = subprocess.run([*runner, program], capture_output=True, text=True, check=True).stdout
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for line in output.splitlines():
        operation, isa, digest = line.split()
        found[isa][operation].append(digest)
    return found


def build(compiler, target, *options):
    subprocess.run([tool(compiler), *FLAGS, *options, SOURCE, "-o", target, "-lm"], check=True)
    return target


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """The digests of this machine's instruction sets."""
    compiler = os.environ.get("CC", "cc")
    return digests(build(compiler, tmp_path_factory.mktemp("native") / "kernels"))


@pytest.fixture(scope="module")
def expected(native):
    """The digests of the portable reference."""
    return native["portable"]


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_all_available_instruction_sets_give_the_same_bits(compiler, native, expected, tmp_path):
    options = ["-DEVEX_FOR_AVX_VNNI"] if X86_64 and "avxvnni" not in native else []
    found = digests(build(compiler, tmp_path / "kernels", *options))
    assert found
    for isa, operations in found.items():
        assert operations == expected, isa


@pytest.mark.skipif(not X86_64, reason="AMX is of x86-64 processors")
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_amx_gives_the_same_bits(compiler, native, expected, tmp_path):
    if "avx512" not in native:
        pytest.skip("all of amx but its own instructions is avx512, which this processor doesn't have")
    found = digests(build(compiler, tmp_path / "kernels", "-DEMULATED_AMX"))
    assert found == {"amx": expected}
    for isa, operations in found.items():
        assert operations == expected, isa


@pytest.fixture(scope="module")
def arm_program(tmp_path_factory):
    return build("aarch64-linux-gnu-gcc", tmp_path_factory.mktemp("arm") / "kernels", "-static")


@pytest.mark.parametrize(
    ("cpu", "isas"), [("cortex-a53", {"portable", "neon"}), ("max", {"portable", "neon", "neon_dotprod"})]
)
def test_arm_gives_the_same_bits(cpu, isas, arm_program, expected):
    found = digests(arm_program, tool("qemu-aarch64-static"), "-cpu", cpu)
    assert set(found) == isas
    for isa, operations in found.items():
        assert operations == expected, isa
