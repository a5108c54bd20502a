"""The package's layout and build: which package is imported, and what a change rebuilds."""

import importlib.metadata
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES

import pytest
from demo import DEMO, demo_model

import gpt2rt

ROOT = pathlib.Path(__file__).parents[1]
MODULES = ("_chat", "_engine", "_kernels", "_modelfile", "_sampler", "_tokenizer")  # of the gpt2rt package itself
# As users start Python, with the current folder first in the search path.
USERS_ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
NOT_SOURCES = shutil.ignore_patterns(
    *("*.so", "*.pyd", "*.egg-info", "*.bin", "__pycache__"),
    *("build", "dist", "shared", "tests", "train"),
    ".*",
)


def python(*arguments, folder, options=("-B",), executable=sys.executable, **environment):
    """Run Python in a folder; return the finished process."""
    return subprocess.run(
        [executable, *options, *arguments],
        cwd=folder,
        env=USERS_ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def source(tmp_path):
    """A checkout with the package's sources and nothing built."""
    shutil.copytree(ROOT / "gpt2rt", tmp_path / "gpt2rt", ignore=NOT_SOURCES)
    return tmp_path


@pytest.mark.parametrize("arguments", [("--version",), ("chat",), ("bench", "model.bin")])
def test_running_a_source_folder_without_extensions_as_a_module_says_what_to_do(source, arguments):
    done = python("-m", "gpt2rt", *arguments, folder=source)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"gpt2rt: {source / 'gpt2rt'}: this source folder has no built extension modules (_chat, _engine, "
    )
    assert "pip install -e ." in line
    assert "-P" in line


@pytest.mark.parametrize("module", ["gpt2rt", "gpt2rt.model", "gpt2rt._kernels"])
def test_importing_a_source_folder_without_extensions_is_an_import_error(source, module):
    code = (
        f"try:\n    import {module}\nexcept ImportError as error:\n    print(type(error).__name__, error.name, error)"
    )
    done = python("-c", code, folder=source)
    assert done.stdout.startswith("ImportError gpt2rt gpt2rt: ")
    assert "pip install -e ." in done.stdout


def test_only_extensions_that_are_missing_are_named(source):
    for suffix, name in zip((EXTENSION_SUFFIXES[0], EXTENSION_SUFFIXES[-1]), MODULES[:2], strict=True):
        (source / "gpt2rt" / f"{name}{suffix}").touch()
    assert "(_kernels, _modelfile, _sampler, _tokenizer)" in python("-c", "import gpt2rt", folder=source).stderr


def test_the_source_folder_does_not_matter_with_safe_path(source):
    done = python("-P", "-m", "gpt2rt", "--version", folder=source)
    assert done.stdout == f"gpt2rt {gpt2rt.__version__}\n"


def test_bench_measures_the_installed_package_in_a_folder_with_another(source):
    demo_model()
    options = ["--rounds", "1", "--threads", "1", "--depths", "0", "--prompts", "8"]
    done = python("-P", "-m", "gpt2rt", "bench", str(DEMO), *options, folder=source)
    assert done.stderr == ""
    assert done.returncode == 0


def test_version_is_that_of_the_installed_package():
    assert gpt2rt.__version__ == importlib.metadata.version("gpt2rt")
    assert "__version__" in dir(gpt2rt)


def test_version_is_read_on_first_access(tmp_path):
    code = (
        "import sys, gpt2rt; before = 'importlib.metadata' in sys.modules; gpt2rt.__version__;"
        " print(before, 'importlib.metadata' in sys.modules, '__version__' in vars(gpt2rt))"
    )
    where = str(pathlib.Path(gpt2rt.__file__).parents[1])
    assert python("-S", "-c", code, folder=tmp_path, PYTHONPATH=where).stdout.split() == ["False", "True", "True"]


def test_version_of_a_source_folder_that_was_never_installed_is_unknown(source):
    for name in MODULES:
        (source / "gpt2rt" / f"{name}{EXTENSION_SUFFIXES[-1]}").touch()
    done = python("-S", "-c", "import gpt2rt; print(gpt2rt.__version__)", folder=source)
    assert done.stdout == "0+unknown\n"


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="an sdist has no links")
def test_type_checkers_find_the_converter_in_the_checkout():
    link = ROOT / "gpt2rt" / "converter"
    if link.is_file():
        pytest.skip("links are not checked out here")
    assert os.readlink(link) == os.path.join("..", "converter")
    assert link.samefile(ROOT / "converter")


def load_build_script():
    """Load setup.py as a module, without building anything."""
    for name in ("setuptools", "Cython"):
        pytest.importorskip(name, reason=f"{name}, which builds the extensions, is not installed")
    spec = importlib.util.spec_from_file_location("gpt2rt_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build_script(monkeypatch):
    """setup.py as a module, in the folder where it runs."""
    monkeypatch.chdir(ROOT)
    for name in ("GPT2RT_DEBUG", "GPT2RT_SANITIZE"):
        monkeypatch.delenv(name, raising=False)
    return load_build_script()


@pytest.mark.parametrize(
    ("name", "value"),
    [("GPT2RT_DEBUG", "1"), ("GPT2RT_SANITIZE", "address"), ("CFLAGS", "-march=native"), ("CC", "clang")],
)
def test_build_settings_are_part_of_the_comparison(build_script, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    if name == "GPT2RT_SANITIZE" and sys.platform == "win32":
        pytest.skip("no sanitizers there")
    changed = load_build_script()
    assert changed.BUILD != build_script.BUILD
    assert load_build_script().BUILD == changed.BUILD
    # Cython generates different C only for different directives, which only a debug build has.
    assert (changed.C_FOLDER != build_script.C_FOLDER) == (name == "GPT2RT_DEBUG")


def touched_by(build_script, header):
    return {name for name, source in build_script.MODULES.items() if header in build_script.depends(source)}


def test_a_header_affects_only_the_extensions_that_include_it(build_script):
    assert touched_by(build_script, "gpt2rt/core/mapped.h") == {"gpt2rt._modelfile"}
    assert touched_by(build_script, "gpt2rt/core/reply.h") == {"gpt2rt._chat"}
    assert touched_by(build_script, "converter/pack.h") == {"gpt2rt.converter._pack"}


def test_an_indirectly_included_header_affects_all_extensions_that_reach_it(build_script):
    assert {"gpt2rt._kernels", "gpt2rt.converter._pack"} <= touched_by(build_script, "gpt2rt/core/half.h")
    assert "gpt2rt._kernels" in touched_by(
        build_script, "gpt2rt/core/kernels/lanes_avx512.h"
    )  # in the includer's folder


def test_shared_pxd_declarations_are_dependencies(build_script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build_script, "MODULES", {"p._a": "p/_a.pyx", "p._b": "p/_b.pyx"})
    monkeypatch.setattr(build_script, "INCLUDE_DIRS", ["c"])
    texts = {
        "p/_a.pyx": "from p._b cimport f\nfrom libc.math cimport exp\n",
        "p/_b.pxd": 'cdef extern from "b.h" nogil:\n    int f()\n',
        "p/_b.pyx": "",
        "c/b.h": '#include <stdint.h>\n#  include "d/e.h"\n#include "Python.h"\n',
        "c/d/e.h": '#include "f.h"\n#include "b.h"\n#include "../g.h"\n',
        "c/d/f.h": "",
        "c/f.h": "",
        "c/g.h": "",
    }
    for path, text in texts.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    assert build_script.depends("p/_a.pyx") == ["c/b.h", "c/d/e.h", "c/d/f.h", "c/g.h", "p/_b.pxd"]
    assert build_script.depends("p/_b.pyx") == ["c/b.h", "c/d/e.h", "c/d/f.h", "c/g.h", "p/_b.pxd"]


class Checkout:
    """A copy of the sources and a new virtual environment, in which the package is built offline."""

    def __init__(self, folder):
        self.root, self.elsewhere = folder / "checkout", folder / "elsewhere"
        self.elsewhere.mkdir()
        shutil.copytree(ROOT, self.root, ignore=NOT_SOURCES, symlinks=True)
        (self.root / "converter" / "prose.txt").touch()
        venv = folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
        self.python = venv / "bin" / "python"
        # All installed packages except gpt2rt itself.
        others = folder / "others"
        others.mkdir()
        for site in {pathlib.Path(importlib.util.find_spec(name).origin).parents[1] for name in NEEDED}:
            for path in site.iterdir():
                if not path.name.startswith(("gpt2rt", "__editable__", "__pycache__")) and path.suffix != ".pth":
                    (others / path.name).symlink_to(path)
        (next(venv.glob("lib/python*")) / "site-packages" / "others.pth").write_text(str(others), encoding="utf-8")

    def pip(self, *arguments, **environment):
        """Run pip and check that it succeeds."""
        command, *rest = arguments
        options = ("-m", "pip", "--python", str(self.python), "--disable-pip-version-check", command)
        done = python(*options, "--no-build-isolation", "--no-deps", *rest, folder=self.root, **environment)
        assert done.returncode == 0, done.stdout + done.stderr

    def rebuilt(self, **environment):
        """Install in editable mode again; return the names of the extensions built."""
        before = self.times()
        self.pip("install", "-e", ".", **environment)
        return {name for name, time in self.times().items() if before.get(name) != time}

    def times(self):
        return {
            path.name.partition(".")[0]: path.stat().st_mtime_ns
            for folder in ("gpt2rt", "converter")
            for path in (self.root / folder).glob("*.so")
        }

    def run(self, code, folder):
        done = python("-c", code, folder=folder, executable=self.python)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


NEEDED = ("setuptools", "Cython", "click", "numpy")
ALL = {*MODULES, "_pack"}
PLAIN = {"GPT2RT_DEBUG": "", "GPT2RT_SANITIZE": ""}
WHERE_IS_CONVERTER = "import gpt2rt.converter._pack as m; print(m.__file__)"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout with an editable install."""
    if sys.platform == "win32":
        pytest.skip("links, which make the environment, need a privilege on Windows")
    for name in ("pip", *NEEDED):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("there is no C compiler")
    made = Checkout(tmp_path_factory.mktemp("layout"))
    assert made.rebuilt(**PLAIN) == ALL
    return made


@pytest.mark.slow
@pytest.mark.parametrize("place", ["root", "elsewhere"])
def test_an_editable_install_is_the_checkout(checkout, place):
    folder = getattr(checkout, place)
    assert pathlib.Path(checkout.run("import gpt2rt; print(gpt2rt.__file__)", folder)).is_relative_to(checkout.root)
    assert pathlib.Path(checkout.run(WHERE_IS_CONVERTER, folder)).resolve().parent == checkout.root / "converter"


@pytest.mark.slow
def test_an_editable_install_sees_edits_of_the_converter(checkout):
    (checkout.root / "converter" / "edited.py").write_text("EDITED = 7\n", encoding="utf-8")
    assert checkout.run("from gpt2rt.converter.edited import EDITED; print(EDITED)", checkout.elsewhere) == "7"


@pytest.mark.slow
def test_no_top_level_converter_is_installed(checkout):
    code = "import importlib.util; print(importlib.util.find_spec('converter'))"
    assert checkout.run(code, checkout.elsewhere) == "None"


@pytest.mark.slow
def test_an_install_without_changes_builds_nothing(checkout):
    assert checkout.rebuilt(**PLAIN) == set()


@pytest.mark.slow
def test_a_changed_header_rebuilds_what_includes_it(checkout):
    (checkout.root / "gpt2rt" / "core" / "merges.h").touch()
    assert checkout.rebuilt(**PLAIN) == {"_chat", "_tokenizer"}
    (checkout.root / "converter" / "pack.h").touch()
    assert checkout.rebuilt(**PLAIN) == {"_pack"}


@pytest.mark.slow
def test_changing_settings_back_and_forth_rebuilds_everything(checkout):
    assert checkout.rebuilt(GPT2RT_DEBUG="1", GPT2RT_SANITIZE="") == ALL
    assert checkout.rebuilt(GPT2RT_DEBUG="1", GPT2RT_SANITIZE="") == set()
    assert checkout.rebuilt(**PLAIN) == ALL


@pytest.mark.slow
def test_the_listed_dependencies_include_every_header_the_compiler_reads(checkout, build_script):
    found = set()
    include = [f"-I{folder}" for folder in (*build_script.INCLUDE_DIRS, sysconfig.get_path("include"))]
    for source in build_script.MODULES.values():
        (written,) = checkout.root.glob(f"{build_script.C_FOLDER}/{source.removesuffix('.pyx')}.c")
        command = [os.environ.get("CC", "cc"), "-MM", *include, written.relative_to(checkout.root)]
        rule = subprocess.run(command, cwd=checkout.root, stdout=subprocess.PIPE, text=True, check=True).stdout
        headers = {os.path.normpath(path) for path in re.findall(r"\S+\.h\b", rule) if not os.path.isabs(path)}
        headers = {path.removeprefix(f"{build_script.C_FOLDER}/") for path in headers}
        assert headers <= set(build_script.depends(source))
        found |= headers
    assert {"gpt2rt/core/merges.h", "gpt2rt/core/kernels/ops.h", "converter/pack.h"} <= found


@pytest.mark.slow
def test_the_link_is_not_needed_to_install(checkout):
    link = checkout.root / "gpt2rt" / "converter"
    link.unlink()
    link.write_text("../converter", encoding="utf-8")  # how git checks out a link on Windows
    try:
        assert checkout.rebuilt(**PLAIN) == set()
        for folder in (checkout.root, checkout.elsewhere):
            found = pathlib.Path(checkout.run(WHERE_IS_CONVERTER, folder))
            assert found.resolve().parent == checkout.root / "converter"
    finally:
        link.unlink()
        link.symlink_to(pathlib.Path("..", "converter"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["link", "file"])
def test_an_sdist_has_the_converter_once_and_its_wheel_has_it_in_the_package(checkout, kind, tmp_path):
    link = checkout.root / "gpt2rt" / "converter"
    if kind == "file":
        link.unlink()
        link.write_text("../converter", encoding="utf-8")
    try:
        code = f"from setuptools.build_meta import build_sdist; print(build_sdist({str(tmp_path)!r}))"
        sdist = tmp_path / checkout.run(code, checkout.root).splitlines()[-1]
    finally:
        link.unlink()
        link.symlink_to(pathlib.Path("..", "converter"))
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"converter/__init__.py", "converter/pack.h", "gpt2rt/core/merges.h", "setup.py"} <= names
    assert not [name for name in names if name.startswith(("gpt2rt/converter", "build"))]
    if kind == "link":
        return  # the other wheel is built from the same files
    checkout.pip("wheel", "--wheel-dir", str(tmp_path), str(sdist))
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"gpt2rt/converter/__init__.py", "gpt2rt/converter/_pack.pyi", "gpt2rt/__main__.py"} <= names
    inside = [name for name in names if ".dist-info/" not in name and ".data/scripts/gpt2rt-chat" not in name]
    assert {name.partition("/")[0] for name in inside} == {"gpt2rt"}
