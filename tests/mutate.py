"""Measure what the tests notice: change one line of the sources at random, rebuild, run the tests of that file.

    python tests/mutate.py --seed 1 --number 20 'gpt2rt/core/**/*.h' 'gpt2rt/*.pyx'
    python tests/mutate.py --seed 1 --number 20 'gpt2rt/**/*.py'

Each mutant is built in a copy of the checkout, whose packages come first on PYTHONPATH; the checkout is not changed. A
mutant whose machine code is that of the original is not counted. A mutant that no test kills is printed with its line:
it is either equivalent, or a missing test. A developer's tool, for Linux and macOS; the tests do not run it.

Mutants of Python are tested several times faster when it is known which tests run which lines. This needs the package
`coverage`, and is recorded once, in about as long as the tests take:

    python tests/mutate.py --record lines.json
    python tests/mutate.py --seed 1 --number 100 --recorded lines.json 'gpt2rt/**/*.py' 'converter/*.py'
"""

import argparse
import collections
import glob
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

import covering

ROOT = pathlib.Path(__file__).parents[1]
LIMIT = 240  # seconds of a mutant's tests; one that runs for longer hangs, which is noticed
ENOUGH = 70  # seconds of tests of a line that is recorded
NOT_IN_A_COPY = "tests/test_layout.py::test_running_a_source_folder_without_extensions_as_a_module_says_what_to_do"
HIDDEN = "build", ".git", ".venv"  # not copied

# The test files of a source file, the quickest to notice first: of the first pattern that matches.
TESTS = [
    (r"core/kernels/|core/(half|cpu|tile|matrix|float_state)\.h|_kernels\.pyx", "kernels same_bits golden controls"),
    (r"core/(forward|kvcache|network)\.h", "golden sequence same_bits engine_properties trace score"),
    (
        r"core/(engine|sequence|lock)\.h|_engine\.pyx",
        "sequence plan generate engine_properties batch logprobs generated_logprobs prompt_logprobs score lookup"
        " logit_bias penalties interrupts interrupted_calls concurrent_sequences forks failed_allocations arguments"
        " objects trace benchmark",
    ),
    (r"core/(threadpool|chunks|thread|atomics|cpus)\.h", "threadpool threads same_bits concurrent_sequences forks"),
    (
        r"core/(sampler|logprobs|random_seed)\.h|_sampler\.pyx",
        "sampler penalties logprobs generated_logprobs logit_bias golden engine_properties objects",
    ),
    (
        r"core/(modelfile|layout|mapped|crc32c|problem)\.h|_modelfile\.pyx",
        "modelfile_core modelfile modelfile_reference layout modelfile_writer vocabulary damaged_vocabulary convert"
        " objects arguments",
    ),
    (
        r"core/(tokenizer|merges|pieces|casefold|unicode)\.h|_tokenizer\.pyx",
        "tokenizer tokenizer_files vocabulary damaged_vocabulary utf8 stops generate arguments objects interrupts",
    ),
    (r"core/(stops|stream|utf8)\.h", "stops utf8 tokenizer generate"),
    (r"core/|_chat\.pyx", "json wrap chat chat_policy chat_format chat_messages standalone"),
    (r"converter/(_pack\.pyx|pack\.h|quantize|layers|calibrate|quality)", "quantization layout quality calibrate"),
    (r"converter/", "convert huggingface pytorch tensorflow_checkpoint gguf nanogpt llmc hub download model_source"),
    (r"modelfile/", "modelfile layout modelfile_reference modelfile_writer vocabulary unfinished convert models"),
    (r"gpt2rt/threads\.py", "threads"),
    (r"gpt2rt/serve/", "serve_requests serve_chat serve_completions serve_connections serve_scheduling serve_security"),
    (r"gpt2rt/jobs/|cli/batch\.py", "jobs jobs_requests jobs_bad_input jobs_faults jobs_killed lines"),
    (r"gpt2rt/arena/|cli/arena\.py", "arena_votes arena_battle arena_casting arena_command arena_exchange pairs eliza"),
    (r"cli/", "cli help completion chat_terminal models"),
    (r"", "generate batch chat models sampling_params arguments controls public_names"),
]

# What is not code: comments and strings. Changes of text are not mutants.
NOT_CODE = {
    "c": re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.DOTALL),
    "python": re.compile(r'"""(?:\\.|.)*?"""|#[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL),
}
CHANGES = [  # what is found, and what may replace it
    (r"(?<![<>=!-])<(?![<=])|(?<![<>=-])>(?![>=])", {"<": ["<=", ">="], ">": [">=", "<="]}),
    (r"<=|>=|==|!=", {"<=": ["<"], ">=": [">"], "==": ["!="], "!=": ["=="]}),
    (r"&&|\|\||\band\b|\bor\b", {"&&": ["||"], "||": ["&&"], "and": ["or"], "or": ["and"]}),
    (r"\bnot (?=[\w(])|(?<![\w)\]])!(?=[\w(])", {"not ": [""], "!": [""]}),
    (r" [+*/-] |(?<=[\w)\]]) % ", {" + ": [" - "], " - ": [" + "], " * ": [" + "], " / ": [" * "], " % ": [" + "]}),
    (r"(?<=\w)\+\+|(?<=\w)--", {"++": ["--"], "--": ["++"]}),
    (r"(?<![\w.])(?<!except -)\d+(?![\w.])", {}),  # a whole number: one more or one less
    (r"\b(?:true|True|false|False)\b", {"true": ["false"], "True": ["False"], "false": ["true"], "False": ["True"]}),
    (r"\bmin\(|\bmax\(", {"min(": ["max("], "max(": ["min("]}),
]
DECLARED = re.compile(r"^\s*(?:#|cdef |cimport|from |import |include|typedef|@|class |def |raise |return\b|static )")
STATEMENT = {
    "c": re.compile(
        r"^(\s*)((?:[\w.>\[\]*()-]+ (?:[-+*/|&^]|<<|>>)?= [^;{]*|\w+\([^;{]*\)|[\w.>\[\]-]+(?:\+\+|--));)$"
    ),
    "python": re.compile(r"^(\s+)([\w.\[\], ]+ [-+*/|]?= .*[^(\[{,]|[\w.]+\(.*\))$"),
}


def mutants(path):
    """Return all mutants of a file as (line number, line, changed line)."""
    text = (ROOT / path).read_text(encoding="utf-8")
    language = "c" if path.endswith((".h", ".c")) else "python"
    masked = NOT_CODE[language].sub(lambda m: re.sub(r"[^\n]", "~", m.group()), text)
    lines = text.split("\n")
    found = []
    in_extern = False
    for number, code in enumerate(masked.split("\n")):
        line = lines[number]
        if code and not code[0].isspace():
            in_extern = "cdef extern" in code or code.startswith(("ctypedef", "@"))
        if not code.strip() or in_extern or re.match(r"\s*(#|import |from |cimport |include|@)", code):
            continue
        statement = STATEMENT[language].match(code.rstrip())
        if statement and not DECLARED.match(code) and code.count("(") == code.count(")"):
            found.append((number, line, statement[1] + (";" if language == "c" else "pass")))
        for pattern, replacements in CHANGES:
            for match in re.finditer(pattern, code):
                old = match.group()
                news = replacements.get(old, [])
                if old.isdigit():
                    news = [str(int(old) + 1)] + ([str(int(old) - 1)] if int(old) else [])
                found += [(number, line, line[: match.start()] + new + line[match.end() :]) for new in news]
    return found


def tests_of(path, root):
    """Return the test files of a source file that a copy of the checkout has."""
    names = next(names for pattern, names in TESTS if re.search(pattern, path)).split()
    stem = pathlib.Path(path).stem.strip("_")
    own = sorted(each.stem.removeprefix("test_") for each in root.glob(f"tests/test_*{stem}*.py")) if stem else []
    found = [f"tests/test_{name}.py" for name in dict.fromkeys([*own, *names])]
    return [name for name in found if (root / name).exists()]


def tests_of_line(tests, seconds, files):
    """Return the quickest of the tests that run a line, those of the source file's test files first.

    Args:
        tests: their ids. seconds: {id: of its test}. files: the test files of the source file.
    """
    by_file, left = collections.defaultdict(list), float(ENOUGH)
    for test in sorted(tests, key=lambda test: seconds.get(test, 1)):
        left -= seconds.get(test, 1)
        if left > 0 or not by_file:
            by_file[test.partition("::")[0]].append(test)
    others = sorted(by_file.keys() - set(files), key=lambda name: sum(seconds.get(test, 1) for test in by_file[name]))
    return [test for name in [*files, *others] for test in by_file.get(name, [])]


def place(path, folder):
    """Return where a Python source is in the built packages of a copy."""
    return folder / "site" / (f"gpt2rt/{path}" if path.startswith("converter/") else path)


def build(folder):
    """Build the packages of a copy; return whether that succeeded."""
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", "site"]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def binaries(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).digest() for path in (folder / "site").rglob("*.so")}


def is_changed(copy, original, path, line_number, changed, expected):
    """Make a copy of the original with a changed line; return whether it can be built, and is not the same program."""
    text = (original / path).read_text(encoding="utf-8").split("\n")
    text[line_number] = changed
    new = "\n".join(text)
    if path.endswith(".py"):  # the copy stays, and `restore` undoes this
        try:
            compile(new, path, "exec")
        except SyntaxError:
            return False
        if not copy.exists():
            shutil.copytree(original, copy, symlinks=True)
        for file in (copy / path, place(path, copy)):
            file.write_text(new, encoding="utf-8")
            os.utime(file, (time.time() + 1000,) * 2)  # no compiled file may be taken for it
        return True
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy, symlinks=True)
    (copy / path).write_text(new, encoding="utf-8")
    return build(copy) and binaries(copy) != expected


def restore(copy, original, path):
    if path.endswith(".py"):
        shutil.copy2(original / path, copy / path)
        shutil.copy2(place(path, original), place(path, copy))


def environment_of(folder):
    return {**os.environ, "PYTHONPATH": str(folder / "site"), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def killer(folder, tests):
    """Run tests on a copy; return the first one that fails, "a hang", or None."""
    names = folder.with_name("tests")
    names.write_text("\n".join(tests) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider"]
    command += ["--deselect", NOT_IN_A_COPY, f"@{names}"]
    try:
        done = subprocess.run(command, cwd=folder, env=environment_of(folder), capture_output=True, text=True,
                              timeout=LIMIT, check=False, errors="replace")  # fmt: skip
    except subprocess.TimeoutExpired:
        return "a hang"
    if done.returncode == 0:
        return None
    if "found no collectors" in done.stderr + done.stdout:
        return "an error while tests are collected"
    if done.returncode in (4, 5):  # of pytest: not the tests' result
        sys.exit(done.stdout + done.stderr)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return failed[1].partition("[")[0] if failed else f"exit code {done.returncode}"


def built_original(work):
    """Return a built copy of the checkout in a folder."""
    original = pathlib.Path(work, "original")
    shutil.copytree(ROOT, original, symlinks=True, ignore=lambda folder, names: (
        [name for name in names if name in HIDDEN] if folder == str(ROOT) else []))  # fmt: skip
    if not build(original):
        sys.exit("mutate: the original can't be built")
    subprocess.run([sys.executable, "-m", "compileall", "-q", "site"], cwd=original, check=True)
    if (ROOT.parent / "shared").exists():  # the data that some tests need
        pathlib.Path(work, "shared").symlink_to(ROOT.parent / "shared")
    return original


def record(original, path, files):
    """Run test files, and write which tests run which lines."""
    site, tests = original / "site", str(original / "tests")
    with tempfile.TemporaryDirectory(prefix="gpt2rt-lines-") as folder:
        pathlib.Path(folder, "sitecustomize.py").write_text(covering.SITECUSTOMIZE.format(tests=tests))
        environment = environment_of(original)
        environment |= {"GPT2RT_COVERED": folder, "GPT2RT_COVERED_SOURCE": str(site)}
        environment["PYTHONPATH"] = os.pathsep.join([str(site), folder, tests])
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "covering", *files]
        subprocess.run(command, cwd=original, env=environment, check=False)  # failed tests are recorded, too
        lines, seconds = covering.collected(folder, site)
    pathlib.Path(path).write_text(json.dumps({"lines": lines, "seconds": seconds}), encoding="utf-8")


def measure(original, paths, options):
    """Test mutants until there are enough; print each, and the totals."""
    copies = {True: original.with_name("python"), False: original.with_name("mutant")}
    recorded = json.loads(options.recorded.read_text(encoding="utf-8")) if options.recorded else {"lines": {}}
    built = [path for path in paths if not path.endswith(".py") or place(path, original).exists()]
    each = [(path, *mutant) for path in built for mutant in mutants(path)]
    random.Random(options.seed).shuffle(each)
    expected = binaries(original)
    sound = set()  # tests that pass on the original
    n_killed = n_survived = 0
    for path, number, line, changed in each:
        if n_killed + n_survived == options.number:
            break
        copy, begin = copies[path.endswith(".py")], time.monotonic()
        if not is_changed(copy, original, path, number, changed, expected):
            continue
        files = options.tests or tests_of(path, copy)
        installed = place(path, pathlib.Path()).relative_to("site").as_posix()
        lines = recorded["lines"].get(installed, {}).get(str(number + 1), [])
        found = killer(copy, tests_of_line(lines, recorded["seconds"], files) if lines else files)
        restore(copy, original, path)
        if found and "::" in found and found not in sound:
            if killer(original, [found]):
                print(f"not counted: {found} fails without a mutant, too", flush=True)
                continue
            sound.add(found)
        n_killed += found is not None
        n_survived += found is None
        print(f"{'survived' if found is None else 'killed'} {path}:{number + 1} ({time.monotonic() - begin:.0f} s)")
        print(f"  - {line.strip()}\n  + {changed.strip()}" + (f"\n  by {found}" if found else ""), flush=True)
    total = n_killed + n_survived
    print(f"{n_killed} of {total} killed ({n_killed / max(1, total):.0%}), {n_survived} survived")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("files", nargs="*", help="source files; ** matches any folders")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--number", type=int, default=20, help="mutants that are built and tested")
    parser.add_argument(
        "--tests", nargs="*", help="test files instead of those of TESTS; with --record, instead of all"
    )
    parser.add_argument("--record", type=pathlib.Path, metavar="FILE", help="write which tests run which lines")
    parser.add_argument("--recorded", type=pathlib.Path, metavar="FILE", help="what --record has written")
    options = parser.parse_args()
    names = {name for each in options.files for name in glob.glob(each, root_dir=ROOT, recursive=True)}
    paths = sorted(name for name in names if not name.startswith("gpt2rt/converter/"))  # a link to converter/
    if not paths and not options.record:
        parser.error("no such files")
    with tempfile.TemporaryDirectory(prefix="gpt2rt-mutants-") as work:
        original = built_original(work)
        if options.record:
            record(original, options.record, options.tests or ["tests"])
        else:
            measure(original, paths, options)


if __name__ == "__main__":
    main()
