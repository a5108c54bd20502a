"""Builds the extensions; everything else about the package is in pyproject.toml.

GPT2RT_DEBUG=1 in the environment builds bounds checks, assertions and symbols; GPT2RT_SANITIZE=address,undefined builds
with these sanitizers of GCC or clang.
"""

import glob
import os
import shutil
import sys
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# The limited API does not exist on free-threaded builds; there a wheel is made for that one version. The headers of
# some 3.12 and 3.13 take None and True for immortal, which they are not in 3.11: what was built there is not for 3.11.
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")
OLDEST = min(sys.version_info.minor, 12)
DEBUG = bool(os.environ.get("GPT2RT_DEBUG"))
SANITIZE = os.environ.get("GPT2RT_SANITIZE")

if sys.platform == "win32":
    compile_args, link_args = ["/O2", "/std:c11", "/fp:precise"], []
else:
    # Contraction would fuse a multiply and an add on some machines and not on others.
    compile_args, link_args = ["-std=c11", "-ffp-contract=off", "-fvisibility=hidden"], []
    compile_args += ["-O1", "-g"] if DEBUG else ["-O2", "-g0"]
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

HEADERS = sorted(glob.glob("gpt2rt/core/**/*.h", recursive=True))
MODULES = {
    "gpt2rt._engine": "gpt2rt/_engine.pyx",
    "gpt2rt._kernels": "gpt2rt/_kernels.pyx",
    "gpt2rt._sampler": "gpt2rt/_sampler.pyx",
    "gpt2rt._tokenizer": "gpt2rt/_tokenizer.pyx",
    "gpt2rt.converter._pack": "converter/_pack.pyx",
}

extensions = [
    Extension(
        name,
        [source],
        include_dirs=["gpt2rt/core", "converter"],
        depends=[*HEADERS, "converter/pack.h"],
        define_macros=macros,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        libraries=[] if sys.platform == "win32" else ["m"],
        py_limited_api=LIMITED,
    )
    for name, source in MODULES.items()
]


class BuildExtensions(build_ext):
    """Says in one sentence what the machine lacks, where it lacks a compiler or Python's headers."""

    def build_extensions(self):
        if self.compiler.compiler_type == "unix":  # setuptools finds Microsoft's by itself, and says so where it can't
            compiler = self.compiler.compiler_so[0]
            if shutil.which(compiler) is None:
                raise SystemExit(
                    f"gpt2rt: C compiler {compiler!r}: not found, expected GCC or clang to build gpt2rt from its source"
                    " (install one, such as Debian's package gcc, or name it in CC; a wheel needs none:"
                    " pip install --only-binary :all: gpt2rt)"
                )
            header = os.path.join(sysconfig.get_path("include"), "Python.h")
            if not os.path.exists(header):
                raise SystemExit(
                    f"gpt2rt: {header}: not found, expected Python's headers to build gpt2rt from its source"
                    " (install them, such as Debian's package python3-dev)"
                )
        super().build_extensions()


setup(
    cmdclass={"build_ext": BuildExtensions},
    ext_modules=cythonize(
        extensions,
        language_level=3,
        compiler_directives={
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": DEBUG,
            "embedsignature": True,
            "embedsignature.format": "clinic",  # which inspect.signature reads
            # Plain built-in functions, and no code to refuse pickling, which Python does by itself: each module is some
            # ten KB smaller in a wheel.
            "binding": False,
            "auto_pickle": False,
        },
    ),
    options={"bdist_wheel": {"py_limited_api": f"cp3{OLDEST}"}} if LIMITED else {},
)
