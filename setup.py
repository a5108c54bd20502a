"""Builds the extensions; everything else about the package is in pyproject.toml."""

import glob
import os
import sys
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup

# The limited API does not exist on free-threaded builds; there a wheel is made for that one version.
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")
DEBUG = bool(os.environ.get("GPT2RT_DEBUG"))  # bounds checks, assertions and symbols

if sys.platform == "win32":
    compile_args = ["/O2", "/std:c11", "/fp:precise"]
else:
    # Contraction would fuse a multiply and an add on some machines and not on others.
    compile_args = [
        "-std=c11",
        *(["-O1", "-g"] if DEBUG else ["-O2", "-g0"]),
        "-ffp-contract=off",
        "-fvisibility=hidden",
    ]

macros = [("Py_LIMITED_API", "0x030B0000")] if LIMITED else []
if not DEBUG:
    macros.append(("CYTHON_WITHOUT_ASSERTIONS", "1"))

HEADERS = sorted(glob.glob("gpt2rt/kernels/*.h"))
MODULES = {
    "gpt2rt._kernels": "gpt2rt/_kernels.pyx",
    "gpt2rt._sampler": "gpt2rt/_sampler.pyx",
    "gpt2rt._tokenizer": "gpt2rt/_tokenizer.pyx",
    "gpt2rt.converter._pack": "converter/_pack.pyx",
}

extensions = [
    Extension(
        name,
        [source],
        include_dirs=["gpt2rt", "converter"],
        depends=[*HEADERS, "converter/pack.h"],
        define_macros=macros,
        extra_compile_args=compile_args,
        py_limited_api=LIMITED,
    )
    for name, source in MODULES.items()
    if os.path.exists(source)
]

setup(
    ext_modules=cythonize(
        extensions,
        language_level=3,
        compiler_directives={
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": DEBUG,
            "embedsignature": True,
        },
    ),
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
)
