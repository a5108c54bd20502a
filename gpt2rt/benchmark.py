"""How fast a model runs on this machine, and how near that is to what its memory allows."""

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
from gpt2rt.threads import most_threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DECODED = 16  # tokens of one measurement of decoding
START_PROMPT = "Hello, how are you"


class Figure:
    """One thing that is measured again and again.

    Attributes:
        name: what. unit: "tokens/s", "GB/s" or "s". threads, depth, n_tokens: at what; None where that says nothing.
        values: one a round.
    """

    def __init__(self, name: str, unit: str, measure: Callable[[], float], **at: int):
        self.name, self.unit, self._measure = name, unit, measure
        self.threads, self.depth, self.n_tokens = at.get("threads"), at.get("depth"), at.get("n_tokens")
        self.values: list[float] = []

    def measure(self) -> None:
        """Adds one value."""
        self.values.append(self._measure())

    def as_dict(self) -> dict[str, Any]:
        """Everything, with median, mean, least and greatest value."""
        return {
            "name": self.name,
            "unit": self.unit,
            "threads": self.threads,
            "depth": self.depth,
            "n_tokens": self.n_tokens,
            "median": statistics.median(self.values),
            "mean": statistics.fmean(self.values),
            "least": min(self.values),
            "greatest": max(self.values),
            "values": self.values,
        }


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def some_tokens(n: int, n_vocab: int) -> list[int]:
    """n ids that are not alike; speed does not depend on which."""
    return [i * 7919 % n_vocab for i in range(1, n + 1)]


class Run:
    """A model with one number of threads, and what can be measured of it."""

    def __init__(self, model: Model):
        self.model = model
        self.n_ctx, self.n_vocab = model.hyperparameters.n_ctx, model.hyperparameters.n_vocab
        self._session = model.session()

    def read_speed(self) -> float:
        """GB/s of a plain read of all weights."""
        begin = perf_counter()
        read_weights(self.model._weights, self.model._team)
        return self.model.weights_size / 1e9 / (perf_counter() - begin)

    def prompt_speed(self, n_tokens: int) -> float:
        """Tokens/s of reading a prompt."""
        self._session.rewind(len(self._session))
        tokens = some_tokens(n_tokens, self.n_vocab)
        begin = perf_counter()
        self._session.accept(tokens)
        return n_tokens / (perf_counter() - begin)

    def decode_speed(self, depth: int) -> float:
        """Tokens/s of token after token, behind `depth` of them."""
        n: int = min(DECODED, self.n_ctx - depth)
        if len(self._session) < depth:
            self._session.accept(some_tokens(depth - len(self._session), self.n_vocab))
        self._session.rewind(len(self._session) - depth)
        begin = perf_counter()
        for token in some_tokens(n, self.n_vocab):
            self._session.accept((token,))
        return n / (perf_counter() - begin)

    def parts(self, tokens: int, depth: int) -> dict[str, float]:
        """Seconds of each part of a pass of `tokens` tokens behind `depth` others."""
        self._session.rewind(len(self._session))
        if depth:
            self._session.accept(some_tokens(depth, self.n_vocab))
        return profile(self._session._state, some_tokens(tokens, self.n_vocab))


# In a small process of its own: a child's peak begins with what its parent had in memory.
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
    """Runs a command in a process of its own; what it prints is thrown away.

    Returns:
        (seconds from start to end, bytes of its resident memory at most, or None where the system does not say).

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    starter = [sys.executable, "-P", "-c", STARTER, *command]
    done = subprocess.run(starter, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    seconds, peak = map(float, done.stdout.split())
    return seconds, peak or None


def start(path: str, threads: int) -> tuple[float, float | None]:
    """`timed`, of `gpt2rt generate` for one token.

    Raises:
        Gpt2rtError: it failed.
    """
    options = ["-n", "1", "--threads", str(threads)]
    # -P: the installed package, not a folder of that name in the current directory.
    command = [sys.executable, "-P", "-m", "gpt2rt", "generate", path, START_PROMPT, *options]
    try:
        return timed(command)
    except subprocess.CalledProcessError as error:
        raise Gpt2rtError(
            f"{path}: got exit code {error.returncode} from `gpt2rt generate` in a new process, expected 0"
            f" (run it to see why: {shlex.join(command)})"
        ) from None


def benchmark(
    path: str,
    *,
    threads: Sequence[int],
    depths: Sequence[int],
    prompts: Sequence[int],
    rounds: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measures in rounds, each figure once a round, so that all see the same weather.

    Args:
        path: the model file. threads: numbers of threads, as far as the machine allows. depths: tokens before those
            that are decoded. prompts: lengths of prompts; depths and prompts that the context does not hold are left
            out. rounds: how many.
        progress: called with (done, total) rounds.

    Returns:
        A JSON-ready dict: `machine`, `model`, `rounds`, `figures` and `parts`, where the time of a pass goes.
    """
    figures, peaks = [], []

    def start_seconds(n: int) -> float:
        seconds, peak = start(path, n)
        if peak is not None:
            peaks.append(peak / 1e6)
        return seconds

    for n in sorted({min(n, most_threads()) for n in threads}):
        run = Run(open_model(path, threads=n))
        n_ctx = run.n_ctx
        figures.append(Figure("read", "GB/s", run.read_speed, threads=n))
        figures += [
            Figure("decode", "tokens/s", partial(run.decode_speed, depth), threads=n, depth=depth)
            for depth in depths
            if depth < n_ctx
        ]
        figures += [
            Figure("prompt", "tokens/s", partial(run.prompt_speed, length), threads=n, n_tokens=length)
            for length in prompts
            if length <= n_ctx
        ]
        figures.append(Figure("start", "s", partial(start_seconds, n), threads=n))
    for figure in figures:  # warms caches and starts threads
        figure.measure()
        figure.values.clear()
    passes = [(1, 0), *((1, depth) for depth in depths if 0 < depth < run.n_ctx)]
    passes += [(length, 0) for length in prompts if length <= run.n_ctx]
    parts: dict[tuple[int, int], list[dict[str, float]]] = {at: [] for at in passes}
    for i in range(rounds):
        for figure in figures:
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
        },
        "rounds": rounds,
        "peak_memory_mb": max(peaks, default=None),
        "figures": [figure.as_dict() for figure in figures],
        "parts": [
            {
                "n_tokens": n_tokens,
                "depth": depth,
                "threads": run.model.threads,
                "seconds": {name: statistics.median(one[name] for one in found) for name in found[0]},
            }
            for (n_tokens, depth), found in parts.items()
        ],
    }
