"""gpt2rt alone: how speed depends on the model, the context, the threads and the batch, and where the time goes."""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import namedtuple
from pathlib import Path
from time import perf_counter

from models import random_checkpoint
from worker import Gpt2rt

import gpt2rt
from gpt2rt.benchmark import START_PROMPT, Run, timed
from gpt2rt.converter import convert

Scale = namedtuple("Scale", "sizes quota_seconds n_generated")
Scale.__doc__ = """How much to measure: {size: arguments of make_checkpoint.py}, the first of which is used for
everything else; the seconds of decoding under a quota; and the tokens generated with prompt lookup."""
FULL = Scale({size: [size] for size in ("124M", "355M", "774M", "1558M")}, 2.0, 200)
TINY = ["custom", "--n-vocab", "400", "--n-embd", "64", "--n-head", "2", "--n-layer", "2"]
SMOKE = Scale({"tiny": TINY}, 0.1, 40)

DEPTHS = (0, 128, 256, 512, 768, 1000)
BATCHES = (1, 2, 4, 8, 16, 32)
QUOTAS = (1.0, 1.5)  # CPUs
PROMPT = 512  # tokens
DECODED = 16  # tokens per measurement
GENERATED = 64  # tokens of the run whose memory is measured
LISTS = "One, two, three, four, five. " * 3  # repetitive text
PLAIN = "User: What did you do on your holidays?\nBot:"


def medians(measures, rounds):
    """Return {label: median of its function's results}; each is called once per round, and once to warm up."""
    values = {label: [] for label in measures}
    for i in range(rounds + 1):
        for label, measure in measures.items():
            value = measure()
            if i:
                values[label].append(value)
    return {label: statistics.median(found) for label, found in values.items()}


def generate(path, n, *options):
    """Return the command that continues a text by n tokens."""
    return [sys.executable, "-P", "-m", "gpt2rt", "generate", str(path), START_PROMPT, "-n", str(n), *options]


def measure(checkpoint, vocabulary, cache, threads, rounds, say, scale=FULL):
    """Measure everything in this module with int8 weights.

    Args:
        checkpoint: of the scale's first size.
        vocabulary: a folder with the vocabulary for checkpoints that are made, or None.
        cache: folder in which models are kept.
        threads: of a forward pass. rounds: the number of rounds.
        say: called with a line of progress. scale: how much to measure.

    Returns:
        A JSON-serializable dict {name of the table: {label: figure}}, in tokens/s, seconds and bytes.
    """
    models = cache / "ours"
    models.mkdir(exist_ok=True)
    path = models / f"{next(iter(scale.sizes))}-int8.bin"
    convert(checkpoint, path, force=True)
    found = {"threads_used": threads}
    for name, measure_one in {
        "parts": lambda: parts(path, threads, rounds),
        "depths": lambda: depths(path, threads, rounds),
        "threads": lambda: asked_threads(path, rounds),
        "quotas": lambda: quotas(path, scale.quota_seconds),
        "batches": lambda: batches(path, threads, rounds),
        "lookup": lambda: lookup(path, rounds, scale.n_generated),
        "cold": lambda: cold(path, rounds),
        "convert": lambda: converting(checkpoint, models, rounds),
        "sizes": lambda: sizes(scale.sizes, vocabulary, models, threads, rounds),
    }.items():
        say(name)
        found[name] = measure_one()
    return found


def parts(path, threads, rounds):
    """Return {"tokens at depth": {part: seconds}}."""
    run = Run(gpt2rt.open_model(path, n_threads=threads))
    passes = {
        f"{n} at {depth}": [run.parts(n, depth) for _ in range(rounds)] for n, depth in ((1, 0), (1, 900), (512, 0))
    }
    return {at: {part: statistics.median(one[part] for one in seen) for part in seen[0]} for at, seen in passes.items()}


def depths(path, threads, rounds):
    run = Run(gpt2rt.open_model(path, n_threads=threads))
    return medians({depth: lambda depth=depth: run.decode_speed(depth) for depth in DEPTHS}, rounds)


def asked_threads(path, rounds):
    """Return {requested threads: [decode, prompt]}, up to four times the number of processors."""
    runs = {n: Run(gpt2rt.open_model(path, n_threads=n)) for n in (1, 2, 4, 8) if n <= 4 * os.cpu_count()}
    decode = medians({n: lambda run=run: run.decode_speed(0) for n, run in runs.items()}, rounds)
    prompt = medians({n: lambda run=run: run.prompt_speed(PROMPT) for n, run in runs.items()}, rounds)
    return {n: [decode[n], prompt[n]] for n in runs}


LIMITED = """
import sys, time
import gpt2rt
from gpt2rt.benchmark import Run
run = Run(gpt2rt.open_model(sys.argv[1], n_threads=int(sys.argv[2]) or None))
run.decode_speed(0)
end, seconds = time.perf_counter() + float(sys.argv[3]), []
while time.perf_counter() < end:
    seconds.append(1 / run.decode_speed(0))
print(len(seconds) / sum(seconds), run.model.n_threads)
"""


def quotas(path, seconds):
    """Return {CPUs of a control group: [decode with 1 thread, by default, with 8 requested]}, empty without groups."""
    found = {}
    for cpus in QUOTAS:
        with control_group(cpus) as group:
            if group is None:
                return {}
            command = [sys.executable, "-P", "-c", LIMITED, str(path)]
            enter = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
            found[cpus] = []
            for threads in ("1", "0", "8"):
                done = subprocess.run(
                    [*enter, *command, threads, str(seconds)], capture_output=True, text=True, check=True
                )
                found[cpus].append(float(done.stdout.split()[0]))
    return found


@contextlib.contextmanager
def control_group(cpus):
    """Make a control group (v2 or v1) that may use `cpus` CPUs; yield None if this user may not make one."""
    root = Path("/sys/fs/cgroup")
    is_v2 = (root / "cgroup.controllers").exists()
    group = (root if is_v2 else root / "cpu") / f"gpt2rt-{os.getpid()}"
    limits = {"cpu.max": f"{int(cpus * 1e5)} 100000"} if is_v2 else {"cpu.cfs_quota_us": str(int(cpus * 1e5))}
    try:
        group.mkdir()
        for name, limit in limits.items():
            (group / name).write_text(limit)
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield None
        return
    try:
        yield group
    finally:
        group.rmdir()


def batches(path, threads, rounds):
    """Return {sequences: total tokens/s}, including sampling."""
    worker = Gpt2rt(path, threads)
    return medians({n: lambda n=n: n * DECODED / worker.batch(n, DECODED) for n in BATCHES}, rounds)


def lookup(path, rounds, n):
    """Return {text: speedup by prompt lookup}, for repetitive text and for other text."""
    model = gpt2rt.open_model(path)

    def speed(prompt, is_on, sampling):
        begin = perf_counter()
        generation = model.generate(prompt, max_tokens=n, seed=1, lookup=is_on, **sampling)
        for _ in generation:
            pass
        return generation.n_tokens / (perf_counter() - begin)

    texts = {"repetitive text, greedy": (LISTS, {"temperature": 0}), "plain text, sampled": (PLAIN, {})}
    measures = {
        (name, is_on): lambda a=(text, is_on, s): speed(*a)
        for name, (text, s) in texts.items()
        for is_on in (True, False)
    }
    found = medians(measures, 3 * rounds)
    return {name: found[name, True] / found[name, False] for name in texts}


def cold(path, rounds):
    """Return {what: seconds}, each after dropping the file from the page cache; empty if that is not possible."""
    if not hasattr(os, "posix_fadvise"):
        return {}

    mapped, path = path, path.with_name("cold.bin")  # pages that a model of this process still maps can't be dropped
    shutil.copyfile(mapped, path)

    def dropped(command):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
        return timed(command)[0]

    found = medians(
        {
            "cat": lambda: dropped(["cat", str(path)]),
            "generate": lambda: dropped(generate(path, 1)),
            "generate, warm": lambda: timed(generate(path, 1))[0],
            "python": lambda: timed([sys.executable, "-P", "-c", "pass"])[0],
        },
        rounds,
    )
    path.unlink()
    return found


def converting(checkpoint, folder, rounds):
    """Return {what: seconds}, and the peak of convert's memory in bytes."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        copy, output = Path(scratch) / "copy", Path(scratch) / "124M.bin"
        command = [sys.executable, "-P", "-m", "gpt2rt", "convert", str(checkpoint), "-o", str(output), "--force"]
        plain = [*command, "--no-quality-report"]
        data = next(Path(checkpoint).glob("*.data-*"))

        def copied():
            copy.unlink(missing_ok=True)
            return timed(["sh", "-c", 'cp "$0" "$1" && sha256sum "$1"', str(data), str(copy)])[0]

        found = medians(
            {
                "cp and sha256sum": copied,
                "convert": lambda: timed(plain)[0],
                "convert with quality report": lambda: timed(command)[0],
            },
            min(rounds, 3),
        )
        return found | {"peak": timed(plain)[1]}


def sizes(shapes, vocabulary, folder, threads, rounds):
    """Return {size: {file, decode, memory_limit, prompt, start, memory}}; checkpoints are deleted once converted."""
    found = {}
    for size, shape in shapes.items():
        path = folder / f"{size}-int8.bin"
        if not path.exists():
            checkpoint = random_checkpoint(shape, folder / size, vocabulary, folder / "checkpoints.log")
            convert(checkpoint, path)
            shutil.rmtree(checkpoint)
        run = Run(gpt2rt.open_model(path, n_threads=threads))
        reads = []

        def decode(run=run, reads=reads):
            reads.append(run.read_speed())  # alternates with decoding, as in `gpt2rt bench`
            return run.decode_speed(0)

        speeds = medians({"decode": decode, "prompt": lambda run=run: run.prompt_speed(PROMPT)}, min(rounds, 3))
        found[size] = speeds | {
            "memory_limit": 1e9 * max(reads) / run.token_bytes(0),
            "file": path.stat().st_size,
            "start": statistics.median(timed(generate(path, 1))[0] for _ in range(3)),
            "memory": timed(generate(path, GENERATED))[1],
        }
    return found
