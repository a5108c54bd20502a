"""How fast a model runs on this machine, and how close that is to what its memory allows."""

from __future__ import annotations

import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter

from gpt2rt._engine import profile, read_weights
from gpt2rt.errors import Gpt2rtError
from gpt2rt.model import Model, open_model

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gpt2rt.modelfile import Hyperparameters

DECODED = 16  # tokens per measurement of decoding
READ_PASSES = 4  # per measurement of reading; the first one wakes the threads
START_PROMPT = "Hello, how are you"


class Figure:
    """A quantity that is measured repeatedly.

    Attributes:
        name: what is measured. unit: "tokens/s", "GB/s" or "s".
        threads, depth, n_tokens: the conditions, None where they don't apply.
        values: the measurements.
    """

    def __init__(self, name: str, unit: str, measure: Callable[[], float], **at: int):
        self.name, self.unit, self._measure = name, unit, measure
        self.threads, self.depth, self.n_tokens = at.get("threads"), at.get("depth"), at.get("n_tokens")
        self.values: list[float] = []

    def measure(self) -> None:
        """Add one value."""
        self.values.append(self._measure())

    def as_dict(self) -> dict[str, Any]:
        """Return everything in a JSON-serializable dict, with the median, mean, minimum and maximum of the values."""
        return {
            "name": self.name,
            "unit": self.unit,
            "threads": self.threads,
            "depth": self.depth,
            "n_tokens": self.n_tokens,
            "median": statistics.median(self.values),
            "mean": statistics.fmean(self.values),
            "min": min(self.values),
            "max": max(self.values),
            "values": self.values,
        }


class DecodeFigure(Figure):
    """The speed of decoding after `depth` tokens, and the upper limit set by memory bandwidth.

    The limit is computed from the fastest read measured: what slows down the others is not the memory.
    """

    def __init__(self, run: Run, depth: int, read: Figure):
        super().__init__(
            "decode", "tokens/s", partial(run.decode_speed, depth), threads=run.model.n_threads, depth=depth
        )
        self._token_bytes, self._read = run.token_bytes(depth), read

    def as_dict(self) -> dict[str, Any]:
        """Return the figure with `memory_limit` in tokens/s, and `of_memory_limit`, the median divided by it."""
        figure, limit = super().as_dict(), 1e9 * max(self._read.values) / self._token_bytes
        return figure | {"memory_limit": limit, "of_memory_limit": figure["median"] / limit}


def cpu_name() -> str:
    """Return the processor's name, as the system reports it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def some_tokens(n: int, n_vocab: int) -> list[int]:
    """Return n different ids; which ones does not affect the speed."""
    return [i * 7919 % n_vocab for i in range(1, n + 1)]


class Run:
    """A model with a number of threads, and its measurements."""

    def __init__(self, model: Model):
        self.model = model
        self.n_ctx, self.n_vocab = model.hyperparameters.n_ctx, model.hyperparameters.n_vocab
        self._sequence = model.sequence()

    def read_speed(self) -> float:
        """Measure GB/s for reading all weights and doing nothing else: the best of `READ_PASSES` passes."""
        seconds = []
        for _ in range(READ_PASSES):
            begin = perf_counter()
            read_weights(self.model._runtime)
            seconds.append(perf_counter() - begin)
        return self.model.weights_size / 1e9 / min(seconds)

    def token_bytes(self, depth: int) -> float:
        """Return the bytes read to decode a token after `depth` others: weights, keys and values."""
        shape: Hyperparameters = self.model.hyperparameters
        unread = 4 * (shape.n_ctx - 1) * shape.n_embd  # of the f32 position embeddings, a token reads one
        mean_length = depth + (self._n_decoded(depth) + 1) / 2
        weights: int = self.model.weights_size - unread
        cached: float = mean_length * self.model.kv_cache_bytes_per_token
        return weights + cached

    def prompt_speed(self, n_tokens: int) -> float:
        """Measure tokens/s for a prompt of `n_tokens` tokens."""
        self._sequence.truncate(0)
        tokens = some_tokens(n_tokens, self.n_vocab)
        begin = perf_counter()
        self._sequence.append(tokens)
        return n_tokens / (perf_counter() - begin)

    def decode_speed(self, depth: int) -> float:
        """Measure tokens/s for decoding one token at a time, after `depth` others."""
        n = self._n_decoded(depth)
        if len(self._sequence) < depth:
            self._sequence.append(some_tokens(depth - len(self._sequence), self.n_vocab))
        self._sequence.truncate(depth)
        begin = perf_counter()
        for token in some_tokens(n, self.n_vocab):
            self._sequence.append((token,))
        return n / (perf_counter() - begin)

    def parts(self, tokens: int, depth: int) -> dict[str, float]:
        """Measure the seconds of each part of a forward pass of `tokens` tokens, after `depth` others."""
        self._sequence.truncate(0)
        if depth:
            self._sequence.append(some_tokens(depth, self.n_vocab))
        return profile(self._sequence, some_tokens(tokens, self.n_vocab))

    def _n_decoded(self, depth: int) -> int:
        """Return how many tokens `decode_speed` decodes."""
        n_ctx: int = self.n_ctx
        return min(DECODED, n_ctx - depth)


# A small process, because a child's peak memory starts at that of its parent.
STARTER = """
import os, sys
from subprocess import DEVNULL, Popen
from time import perf_counter
begin = perf_counter()
process = Popen(sys.argv[1:], stdout=DEVNULL, stderr=DEVNULL)
if hasattr(os, "wait4"):
    _, status, usage = os.wait4(process.pid, 0)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
else:
    status, peak = process.wait(), 0
print(perf_counter() - begin, peak)
sys.exit(status != 0)
"""


def timed(command: Sequence[str], environment: dict[str, str] | None = None) -> tuple[float, float | None]:
    """Run a command in a new process and discard its output.

    Returns:
        (seconds from start to end, peak resident memory in bytes, or None if the system does not report it).

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    starter = [sys.executable, "-P", "-c", STARTER, *command]
    done = subprocess.run(starter, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak or None


def start(path: str, threads: int, kv_type: str | None = None) -> tuple[float, float | None]:
    """Run `gpt2rt generate` for one token, and return what `timed` does.

    Raises:
        Gpt2rtError: the command failed.
    """
    options = ["-n", "1", "--threads", str(threads), *(["--kv-type", kv_type] if kv_type else [])]
    # -P: run the installed package, not a folder with that name in the current directory.
    command = [sys.executable, "-P", "-m", "gpt2rt", "generate", path, START_PROMPT, *options]
    try:
        return timed(command)
    except subprocess.CalledProcessError as error:
        raise Gpt2rtError(
            f"{path}: `gpt2rt generate` failed with exit code {error.returncode} in a new process"
            f" (to see why, run: {shlex.join(command)})"
        ) from None


def benchmark(
    path: str,
    *,
    threads: Sequence[int],
    depths: Sequence[int],
    prompts: Sequence[int],
    rounds: int,
    kv_type: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure every figure in each round, so that background load affects all of them equally.

    Args:
        path: the model file.
        threads: numbers of threads; numbers above what the machine allows are reduced to that.
        depths: numbers of tokens already in the context when decoding starts.
        prompts: lengths of prompts, in tokens. Depths and prompts that do not fit the context are skipped.
        rounds: the number of rounds.
        kv_type: as for `open_model`.
        progress: called with (rounds done, all rounds) after each round.

    Returns:
        A JSON-serializable dict: `machine`, `model`, `rounds`, `peak_memory` (bytes, of a process that generates one
        token, or None), `figures`, and `parts`, the seconds of each part of a forward pass. A decode figure has
        `memory_limit`, the tokens/s that memory bandwidth allows (the fastest read of all weights with the same number
        of threads, divided by the bytes read per token), and `of_memory_limit`, the median divided by it.
    """
    figures: list[Figure] = []
    schedule: list[Figure] = []
    peaks = []

    def start_seconds(n: int) -> float:
        seconds, peak = start(path, n, kv_type)
        if peak is not None:
            peaks.append(int(peak))
        return seconds

    opened = (open_model(path, n_threads=n, kv_type=kv_type) for n in sorted(threads))
    runs = {run.model.n_threads: run for run in map(Run, opened)}
    for n, run in runs.items():
        n_ctx = run.n_ctx
        read = Figure("memory read", "GB/s", run.read_speed, threads=n)
        decode = [DecodeFigure(run, depth, read) for depth in depths if depth < n_ctx]
        others = [
            Figure("prompt", "tokens/s", partial(run.prompt_speed, length), threads=n, n_tokens=length)
            for length in prompts
            if length <= n_ctx
        ]
        others.append(Figure("first token", "s", partial(start_seconds, n), threads=n))
        figures += [read, *decode, *others]
        # Reading alternates with decoding, because memory speed varies over time.
        schedule += [read, *(figure for one in decode for figure in (one, read)), *others]
    for figure in schedule:  # warm the caches and start the threads
        figure.measure()
    for figure in figures:
        figure.values.clear()
    passes = [(1, 0), *((1, depth) for depth in depths if 0 < depth < run.n_ctx)]
    passes += [(length, 0) for length in prompts if length <= run.n_ctx]
    parts: dict[tuple[int, int], list[dict[str, float]]] = {at: [] for at in passes}
    for i in range(rounds):
        for figure in schedule:
            figure.measure()
        for at in passes:
            parts[at].append(run.parts(*at))
        if progress:
            progress(i + 1, rounds)
    model = run.model
    return {
        "machine": {
            "cpu": cpu_name(),
            "cpus": os.cpu_count(),
            "system": platform.platform(terse=True),
            "isa": model.isa,
        },
        "model": {
            "path": model.path,
            "size": model._file.size,
            "n_parameters": model.hyperparameters.n_parameters,
            "weight_type": model.weight_type,
            "weights": model.weights_size,
            "kv_type": model.kv_type,
        },
        "rounds": rounds,
        "peak_memory": max(peaks, default=None),
        "figures": [figure.as_dict() for figure in figures],
        "parts": [
            {
                "n_tokens": n_tokens,
                "depth": depth,
                "threads": run.model.n_threads,
                "seconds": {name: statistics.median(one[name] for one in found) for name in found[0]},
            }
            for (n_tokens, depth), found in parts.items()
        ],
    }
