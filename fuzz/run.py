"""Build the fuzz targets and run each: `python fuzz/run.py [TARGET ...] [--seconds N] [--inputs N]`.

The C targets need clang with libFuzzer; those of readers.py need gpt2rt, and use atheris if it is installed. Each
starts from the committed corpus and its seeds. Prints executions, coverage and peak memory. Exits with 1 if something
was found; the input is then in the current folder. `--minimize` replaces the committed corpus by the fewest and
smallest inputs.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

FUZZ = pathlib.Path(__file__).parent
CORE = FUZZ.parent / "gpt2rt" / "core"
CORPUS = FUZZ / "corpus"
C_TARGETS = ("json", "carried", "stream", "sampler", "tokenizer", "chat", "modelfile")
READERS = (
    *("batch", "config", "gguf", "merges", "pickle", "pytorch", "pytorch_legacy", "safetensors", "server_body"),
    *("tensorflow_index", "tokenizer_config", "tokenizer_json", "transcript", "vocab_json"),
)
FLAGS = ["-std=c11", "-g", "-ffp-contract=off", "-DGPT2RT_STANDALONE", f"-I{FUZZ}", f"-I{CORE}"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
MOST = 2048  # bytes of an input
MOST_CORPUS = 40_000  # bytes of one target's
# So that the peak of memory is that of the target: the sanitizer keeps 256 MB of freed memory otherwise.
ENVIRONMENT = {**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=8:allocator_may_return_null=1"}


def fuzzing_compiler():
    """Return the words of a clang that has libFuzzer, or None."""
    for name in filter(None, [os.environ.get("CLANG"), "clang", *(f"clang-{n}" for n in range(25, 10, -1))]):
        words = shlex.split(name)
        if not shutil.which(words[0]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder) / "nothing.c"
            source.write_text("int LLVMFuzzerTestOneInput(const void *p, unsigned long n) { return p && n > 9; }\n")
            command = [*words, "-fsanitize=fuzzer,address,undefined", source, "-o", f"{folder}/nothing"]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return words
    return None


def build(target, folder, compiler, *options):
    """Build a target; return its program."""
    program = pathlib.Path(folder) / target
    subprocess.run(
        [*compiler, *FLAGS, *SANITIZERS, FUZZ / f"{target}.c", *options, "-o", program, "-lm", "-lpthread"], check=True
    )
    return program


def build_replay(target, folder, compiler):
    """Build a target that runs files, without libFuzzer; return its program."""
    return build(target, folder, compiler, "-O0", FUZZ / "replay.c")


def run_c(target, folder, compiler, options):
    """Fuzz a target of the core. Returns whether nothing was found."""
    sys.path.insert(0, str(FUZZ))
    from seeds import write_seeds

    program = build(target, folder, compiler, "-O1", "-fsanitize=fuzzer")
    found, seeds = pathlib.Path(folder) / f"{target}-corpus", pathlib.Path(folder) / f"{target}-seeds"
    found.mkdir()
    write_seeds(seeds, target)
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    limits = [f"-max_total_time={options.seconds:.0f}", f"-runs={options.inputs}", f"-max_len={MOST}"]
    limits += [f"-artifact_prefix={target}-", "-print_final_stats=1", "-timeout=10", "-rss_limit_mb=1024"]
    command = [program, *limits, found, CORPUS / target, seeds]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=ENVIRONMENT, check=False)
    report(target, done)
    if done.returncode == 0 and options.minimize:
        minimize(target, program, [found, CORPUS / target, seeds, *options.more], folder)
    return done.returncode == 0


def run_reader(target, folder, options):
    """Fuzz a reader in Python. Returns whether nothing was found."""
    command = [sys.executable, FUZZ / "readers.py", target]
    for more in [pathlib.Path(folder) / f"{target}-corpus", *options.more]:
        command += ["--corpus", more]
    limits = ["--seconds", str(options.seconds), "--inputs", str(options.inputs)]
    done = subprocess.run([*command, *limits], capture_output=True, text=True, errors="replace", check=False)
    report(target, done)
    if done.returncode == 0 and options.minimize:
        subprocess.run([*command, "--minimize"], check=True)
    return done.returncode == 0


def report(target, done):
    """Print one line, and the end of what the target said if it found something."""
    output = done.stderr + done.stdout
    n = re.findall(r"number_of_executed_units: (\d+)", output) or re.findall(r": (\d+) inputs", output)
    peak = re.findall(r"peak_rss_mb: +(\d+)", output) or re.findall(r"peak (\d+) MB", output)
    covered = re.findall(r"cov: (\d+)", output)
    shown = [f"{int(n[-1]):,} inputs" if n else "stopped"]
    shown += [f"{covered[-1]} edges"] if covered else []
    shown += [f"peak {peak[-1]} MB"] if peak else []
    print(f"{target:18}{', '.join(shown)}, {'FOUND SOMETHING' if done.returncode else 'no findings'}", flush=True)
    if done.returncode:
        print("\n".join(output.splitlines()[-60:]), flush=True)


def minimize(target, program, folders, folder):
    """Replace the corpus of a target by few small inputs that cover the same edges, as many as there is room for."""
    merged = pathlib.Path(folder) / f"{target}-merged"
    merged.mkdir()
    command = [program, "-merge=1", "-use_counters=0", f"-max_len={MOST}", merged, *map(str, folders)]
    subprocess.run(command, capture_output=True, env=ENVIRONMENT, check=True)
    kept = CORPUS / target
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    left = MOST_CORPUS
    for path in sorted(merged.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
        left -= path.stat().st_size
        if left >= 0:
            shutil.copy(path, kept / path.name[:16])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"of {', '.join((*C_TARGETS, *READERS))}; default: all"
    )
    parser.add_argument("--seconds", type=float, default=60, help="for each target, at most")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for each target, at most")
    parser.add_argument("--minimize", action="store_true", help="replace the committed corpus")
    parser.add_argument("--more", action="append", default=[], help="a folder of inputs to minimize too")
    options = parser.parse_args()
    targets = options.targets or [*C_TARGETS, *READERS]
    unknown = set(targets).difference(C_TARGETS, READERS)
    if unknown:
        parser.error(f"unknown target: {', '.join(sorted(unknown))}")
    compiler = fuzzing_compiler()
    if compiler is None and set(targets).intersection(C_TARGETS):
        parser.error("no clang with libFuzzer (Debian: clang and libclang-rt-14-dev); CLANG names one")
    is_clean = True
    with tempfile.TemporaryDirectory(prefix="gpt2rt-fuzz-") as folder:
        for target in targets:
            is_clean &= (
                run_c(target, folder, compiler, options) if target in C_TARGETS else run_reader(target, folder, options)
            )
    sys.exit(0 if is_clean else 1)


if __name__ == "__main__":
    main()
