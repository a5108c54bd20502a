"""The contents and sizes of the sdist and the wheels.

The packages are in the folder named by GPT2RT_PACKAGES: `python -m build --outdir DIST . && GPT2RT_PACKAGES=DIST
pytest tests/test_packages.py`.
"""

import os
import pathlib
import re
import tarfile
import zipfile

import pytest

FOLDER = os.environ.get("GPT2RT_PACKAGES")
PACKAGES = sorted(pathlib.Path(FOLDER).glob("gpt2rt-*")) if FOLDER else []
WHEELS = [path for path in PACKAGES if path.suffix == ".whl"]
SDISTS = [path for path in PACKAGES if path.name.endswith(".tar.gz")]

pytestmark = pytest.mark.skipif(not FOLDER, reason="GPT2RT_PACKAGES names no folder of packages")

SIZE_LIMIT = 24 << 20  # bytes of a wheel
CODE_SIZE_LIMIT = 1200 << 10  # bytes of a wheel, the models not counted; 295 KB of them are gpt2rt-chat and its sources
PROGRAM_SIZE_LIMIT = 350 << 10  # bytes of gpt2rt-chat, unpacked
SDIST_SIZE_LIMIT = 26 << 20
COMPILED = {
    *("gpt2rt/_chat", "gpt2rt/_engine", "gpt2rt/_kernels", "gpt2rt/_modelfile", "gpt2rt/_sampler"),
    *("gpt2rt/_tokenizer", "gpt2rt/converter/_pack"),
}
MODELS = {"gpt2rt/demo.bin", "gpt2rt/arena/lstm.npz"}
LSTM_SIZE_LIMIT = 600 << 10
DATA = {"gpt2rt/py.typed", "gpt2rt/core/main.c", "gpt2rt/arena/listener.txt", "gpt2rt/converter/prose.txt", *MODELS}
DIST_INFO = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}


def test_there_are_packages_to_check():
    assert WHEELS
    assert SDISTS


def members(path):
    """Return {name: compressed size} of a wheel's files, without the folder entries that auditwheel adds."""
    with zipfile.ZipFile(path) as wheel:
        return {one.filename: one.compress_size for one in wheel.infolist() if not one.is_dir()}


@pytest.mark.parametrize("path", WHEELS, ids=lambda path: path.name)
def test_a_wheel_is_for_every_python_from_3_11_or_for_a_free_threaded_one(path):
    made_here = "cp312-abi3-linux_"  # built by a Python newer than 3.11, which published wheels never are
    assert re.fullmatch(rf"gpt2rt-[\d.]+-({made_here}|cp311-abi3-|cp314-cp314t-)[\w.]+\.whl", path.name)


@pytest.mark.parametrize("path", WHEELS, ids=lambda path: path.name)
def test_a_wheel_holds_python_its_types_the_compiled_modules_and_the_models(path):
    compiled = set()
    for name in members(path):
        top, _, rest = name.partition("/")
        if top.endswith(".dist-info"):
            assert rest in DIST_INFO
        elif top.endswith(".data"):
            assert rest.removesuffix(".exe") == "scripts/gpt2rt-chat"
        elif name.endswith((".so", ".pyd")):
            compiled.add(name.partition(".")[0])
        else:
            is_python = re.fullmatch(r"gpt2rt/((arena|cli|converter|explain|jobs|modelfile|serve)/)?\w+\.pyi?", name)
            is_page = re.fullmatch(r"gpt2rt/(explain|serve)/page/\w+\.(html|css|js|svg)", name)
            is_core = re.fullmatch(r"gpt2rt/core/(kernels/)?\w+\.h", name)
            assert name in DATA or is_python or is_page or is_core
    assert compiled == COMPILED
    assert {f"{name}.pyi" for name in COMPILED} | {"gpt2rt/py.typed", *MODELS} <= set(members(path))


@pytest.mark.parametrize("path", WHEELS, ids=lambda path: path.name)
def test_a_wheel_is_small(path):
    size, sizes = path.stat().st_size, members(path)
    assert size <= SIZE_LIMIT
    assert sizes["gpt2rt/arena/lstm.npz"] <= LSTM_SIZE_LIMIT
    assert size - sum(sizes[name] for name in MODELS) <= CODE_SIZE_LIMIT


@pytest.mark.parametrize("path", WHEELS, ids=lambda path: path.name)
def test_a_wheel_holds_the_program_and_what_it_is_compiled_from(path):
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        [program] = [one for one in wheel.infolist() if re.search(r"\.data/scripts/gpt2rt-chat(\.exe)?$", one.filename)]
        content = wheel.read(program)
    assert len(content) <= PROGRAM_SIZE_LIMIT
    if "linux" in path.name:
        assert b"ld-linux" not in content  # it is static
        assert b"ld-musl" not in content
    assert {"gpt2rt/core/main.c", "gpt2rt/core/carried.h", "gpt2rt/core/kernels/ops.h"} <= names


@pytest.mark.parametrize("path", SDISTS, ids=lambda path: path.name)
def test_an_sdist_holds_the_sources_and_nothing_generated(path):
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {
        "setup.py",
        "gpt2rt/_kernels.pyx",
        "gpt2rt/core/kernels/ops.h",
        "gpt2rt/core/main.c",
        "converter/pack.h",
        "tests/conftest.py",
    } <= names
    assert not [name for name in names if re.search(r"\.(so|pyd|pyc|o)$|^(gpt2rt|converter)/[^/]*\.c$", name)]
    assert path.stat().st_size <= SDIST_SIZE_LIMIT
