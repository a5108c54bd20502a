"""Build the extension modules and the program gpt2rt-chat; the rest of the package is described in pyproject.toml.

The environment variable GPT2RT_DEBUG=1 builds with bounds checks, assertions and symbols;
GPT2RT_SANITIZE=address,undefined builds with these sanitizers of GCC or clang. GPT2RT_STUB_CC is the compiler of
gpt2rt-chat: a command; `zig`, which the build then installs from PyPI, and which is the default where it is installed;
or `none`, to do without the program. A changed header, directive, flag or variable rebuilds what depends on it and
nothing else.
"""

import hashlib
import importlib.util
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig

import Cython
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

from distutils.ccompiler import new_compiler  # isort: skip (setuptools has replaced distutils)
from distutils.command.build_scripts import build_scripts  # isort: skip

MODULES = {
    "gpt2rt._chat": "gpt2rt/_chat.pyx",
    "gpt2rt._engine": "gpt2rt/_engine.pyx",
    "gpt2rt._kernels": "gpt2rt/_kernels.pyx",
    "gpt2rt._modelfile": "gpt2rt/_modelfile.pyx",
    "gpt2rt._sampler": "gpt2rt/_sampler.pyx",
    "gpt2rt._tokenizer": "gpt2rt/_tokenizer.pyx",
    "gpt2rt.converter._pack": "converter/_pack.pyx",
}
INCLUDE_DIRS = ["gpt2rt/core", "converter"]
PROGRAM = "gpt2rt/core/main.c"

# Free-threaded builds have no limited API; a wheel made there is for that one version. The headers of some 3.12 and
# 3.13 releases treat None and True as immortal, which they are not in 3.11: a wheel built there does not support 3.11.
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")
OLDEST = min(sys.version_info.minor, 12)
DEBUG = bool(os.environ.get("GPT2RT_DEBUG"))
SANITIZE = os.environ.get("GPT2RT_SANITIZE")

DIRECTIVES = {
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": DEBUG,
    "embedsignature": True,
    "embedsignature.format": "clinic",  # the format that inspect.signature reads
    # Plain built-in functions, and no code to refuse pickling, which Python does anyway: each module is about 10 KB
    # smaller in a wheel.
    "binding": False,
    "auto_pickle": False,
}

small_args: dict[str, list[str]] = {}  # of single modules
if sys.platform == "win32":
    compile_args, link_args = ["/O2", "/std:c11", "/fp:precise"], []
else:
    # Contraction would fuse a multiply and an add on some machines and not on others.
    compile_args, link_args = ["-std=c11", "-ffp-contract=off", "-fvisibility=hidden"], []
    # With sanitizers, GCC takes much longer to follow variables than to do the rest; reports need only lines.
    compile_args += ["-O1", "-g1" if SANITIZE else "-g"] if DEBUG else ["-O2", "-g0"]
    if not DEBUG:  # a quarter smaller; not for the engine and the tokenizer, which would lose 4% and 10% of their speed
        small_args = {name: ["-Os"] for name in ("gpt2rt._chat", "gpt2rt._modelfile", "gpt2rt._sampler")}
    if sys.platform == "linux" and not DEBUG:  # what only a debugger asks for is a tenth of the size
        compile_args.append("-fno-asynchronous-unwind-tables")
        link_args.append("-s")
    if SANITIZE:
        sanitizers = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
        compile_args += sanitizers
        link_args += sanitizers

macros = [("Py_LIMITED_API", f"0x03{OLDEST:02X}0000")] if LIMITED else []
if not DEBUG:
    macros.append(("CYTHON_WITHOUT_ASSERTIONS", "1"))

# Everything that affects an extension module besides its sources.
BUILD = repr((
    *(Cython.__version__, sorted(DIRECTIVES.items()), macros, compile_args, small_args, link_args, INCLUDE_DIRS),
    *(sysconfig.get_config_var("EXT_SUFFIX"), sysconfig.get_platform()),
    *(os.environ.get(name) for name in ("CC", "CFLAGS", "CPPFLAGS", "LDSHARED", "LDFLAGS", "ARCHFLAGS")),
))  # fmt: skip
IN_PLACE = pathlib.Path("build", "in-place-built-with")
C_FOLDER = f"build/cython-{hashlib.sha256(repr(sorted(DIRECTIVES.items())).encode()).hexdigest()[:8]}"

STUB_CC = os.environ.get("GPT2RT_STUB_CC", "")

QUOTED = re.compile(r'^\s*(?:#\s*include|cdef\s+extern\s+from)\s+"([^"]+)"', re.MULTILINE)
CIMPORTED = re.compile(r"^\s*(?:from\s+(\S+)\s+cimport|cimport\s+(\S+))", re.MULTILINE)


def load_cross():
    """Return the module gpt2rt.cross, without importing gpt2rt, which is not built yet."""
    spec = importlib.util.spec_from_file_location("cross", "gpt2rt/cross.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


cross = load_cross()


def depends(source):
    """Return the .pxd files and headers that a .pyx or .c file includes, directly or indirectly.

    Args:
        source: the path of the file relative to the project's folder, as in `MODULES`.

    Returns:
        A sorted list of such paths, without `source` and without headers outside the project.
    """
    found, pending = set(), [os.path.splitext(source)[0] + ".pxd", source]
    while pending:
        path = pathlib.Path(pending.pop())
        if path.as_posix() in found or not path.is_file():
            continue
        found.add(path.as_posix())
        text = path.read_text(encoding="utf-8")
        for name in QUOTED.findall(text):
            # As compilers search: in the folder of the including file, then in the include folders.
            places = [pathlib.Path(folder, name) for folder in (path.parent, *INCLUDE_DIRS)]
            pending += [os.path.normpath(place) for place in places if place.is_file()][:1]
        if path.suffix in (".pyx", ".pxd"):
            modules = {first or second for first, second in CIMPORTED.findall(text)}
            pending += [os.path.splitext(MODULES[name])[0] + ".pxd" for name in modules & MODULES.keys()]
    return sorted(found - {source})


def record_build(path):
    """Make `path` newer than extension modules built with other settings; setuptools compares modification times."""
    if not path.exists() or path.read_text(encoding="utf-8") != BUILD:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(BUILD, encoding="utf-8")


class BuildExtensions(build_ext):
    """Rebuild what has changed, also in editable installs, and report a missing compiler or header in one message."""

    def build_extensions(self):
        if self.compiler.compiler_type == "unix":  # setuptools finds Microsoft's, and reports if it can't
            compiler = self.compiler.compiler_so[0]
            if shutil.which(compiler) is None:
                raise SystemExit(
                    f"gpt2rt: C compiler {compiler!r}: not found, expected GCC or clang to build gpt2rt from source"
                    " (install one, such as Debian's package gcc, or set CC; a wheel does not need one:"
                    " pip install --only-binary :all: gpt2rt)"
                )
            header = os.path.join(sysconfig.get_path("include"), "Python.h")
            if not os.path.exists(header):
                raise SystemExit(
                    f"gpt2rt: {header}: not found, expected Python's headers to build gpt2rt from source"
                    " (install them, such as Debian's package python3-dev)"
                )
        # An editable install builds in temporary folders and keeps only the modules in the checkout.
        record = IN_PLACE if self.editable_mode else pathlib.Path(self.build_temp, "built-with")
        record_build(record)
        for extension in self.extensions:
            extension.depends.append(str(record))
        super().build_extensions()

    def build_extension(self, ext):
        if self.editable_mode:  # modules in the checkout stay if they are newer than their dependencies
            built = self.get_ext_fullpath(ext.name)
            package = self.get_finalized_command("build_py").get_package_dir(ext.name.rpartition(".")[0])
            in_place = os.path.join(package, os.path.basename(built))
            if os.path.exists(in_place):
                self.mkpath(os.path.dirname(built))
                self.copy_file(in_place, built)
        super().build_extension(ext)

    def copy_extensions_to_source(self):
        super().copy_extensions_to_source()
        record_build(IN_PLACE)


def program_commands():
    """Return commands that compile and link gpt2rt-chat, without its macros and files: the first that works is used.

    A static program runs on every Linux, but not every system has its C library in that form.
    """
    zig, target = cross.zig_path(), cross.own_target()
    if DEBUG or SANITIZE:
        return [[*shlex.split(os.environ.get("CC", "cc")), *compile_args, *link_args]]
    if STUB_CC == "zig" and not (zig and target):
        raise SystemExit("gpt2rt: GPT2RT_STUB_CC=zig: not possible here (pip install ziglang, or set it to a compiler)")
    if STUB_CC == "zig" or (not STUB_CC and zig and target and sys.platform != "darwin"):
        return [cross.zig_command(zig, target)]
    if sys.platform == "win32" and not STUB_CC:
        return []  # Microsoft's compiler, by setuptools
    words = shlex.split(STUB_CC or os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    words += [*compile_args, *shlex.split(os.environ.get("ARCHFLAGS", "")), "-s"]
    return [words] if sys.platform == "darwin" else [[*words, "-static"], words]


class BuildProgram(build_scripts):
    """Compile the program gpt2rt-chat as the only one of the scripts."""

    def copy_scripts(self):
        version = cross.version_macro(self.distribution.get_version())
        commands = program_commands()
        digest = hashlib.sha256(repr((commands, version, BUILD)).encode()).hexdigest()[:8]
        program = pathlib.Path(f"build/program-{digest}", "gpt2rt-chat" + ".exe" * (sys.platform == "win32"))
        newest = max(os.path.getmtime(path) for path in (PROGRAM, *depends(PROGRAM)))
        if not program.exists() or program.stat().st_mtime < newest:
            program.parent.mkdir(parents=True, exist_ok=True)
            if commands:
                self.compile(commands, version, program)
            else:
                self.compile_with_setuptools(version, program)
        self.mkpath(self.build_dir)
        copy = os.path.join(self.build_dir, program.name)
        self.copy_file(str(program), copy)
        return [copy], [copy]

    def compile(self, commands, version, program):
        problems = []
        for command in commands:
            libraries = [] if "ziglang" in command[0] else ["-lm", "-pthread"]
            line = [*command, version, f"-I{INCLUDE_DIRS[0]}", PROGRAM, "-o", str(program), *libraries]
            try:
                subprocess.run(line, check=True, capture_output=True, text=True)
                return
            except OSError as error:
                problems.append(f"{command[0]}: {error.strerror}")
            except subprocess.CalledProcessError as error:
                problems.append(f"{shlex.join(line)}\n{error.stderr}")
        print(*problems, sep="\n", file=sys.stderr)
        raise SystemExit(
            "gpt2rt: the program gpt2rt-chat can't be compiled, for the reasons above (set GPT2RT_STUB_CC to another"
            " compiler, to zig, or to none, which builds gpt2rt without gpt2rt-chat)"
        )

    def compile_with_setuptools(self, version, program):
        compiler, folder = new_compiler(), program.parent
        options = {"include_dirs": INCLUDE_DIRS[:1], "extra_postargs": [*compile_args, "/MT", f"/{version[1:]}"]}
        objects = compiler.compile([PROGRAM], str(folder), **options)
        compiler.link_executable(objects, "gpt2rt-chat", str(folder))


if __name__ == "__main__":
    extensions = [
        Extension(
            name,
            [source],
            include_dirs=INCLUDE_DIRS,
            define_macros=macros,
            extra_compile_args=compile_args + small_args.get(name, []),
            extra_link_args=link_args,
            libraries=[] if sys.platform == "win32" else ["m"],
            py_limited_api=LIMITED,
        )
        for name, source in MODULES.items()
    ]
    # Different directives generate different C, so each set has its own folder.
    extensions = cythonize(extensions, language_level=3, compiler_directives=DIRECTIVES, build_dir=C_FOLDER)
    for extension in extensions:
        extension.depends = depends(MODULES[extension.name])
    setup(
        cmdclass={"build_ext": BuildExtensions, "build_scripts": BuildProgram},
        ext_modules=extensions,
        scripts=[] if STUB_CC == "none" else [PROGRAM],
        setup_requires=["ziglang"] if STUB_CC == "zig" and not cross.zig_path() else [],
        options={"bdist_wheel": {"py_limited_api": f"cp3{OLDEST}"}} if LIMITED else {},
    )
