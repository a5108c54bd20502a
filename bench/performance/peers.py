"""gpt2rt and its peers: every contender is measured once per round, so that background load affects all equally."""

import os
import random
import shutil
import statistics
import subprocess
import sys
import sysconfig
from collections import namedtuple
from pathlib import Path

from environments import NotInstalledError, PeerError, python_of, run, this_python
from worker import Worker, WorkerError

import gpt2rt
from gpt2rt._kernels import available_isas
from gpt2rt.benchmark import START_PROMPT, cpu_name, some_tokens, timed

HERE = Path(__file__).parent
PROMPT, DEPTH = 512, 900  # tokens
DECODED = 24  # tokens per measurement
GENERATED = 64  # tokens of the run whose memory is measured
STANDALONE = "gpt2rt-chat"  # the program without Python: only its start and its memory are measured
SAME_MODEL = 0.35  # largest error, in standard deviations of the logits; int4 is far below, another model far above

Contender = namedtuple("Contender", "runtime kind threads isa")
Contender.__doc__ = """A row of the table: runtime, weight type, threads, and for gpt2rt the instruction set, or None
for the best."""


def contenders(threads):
    """Return the contenders with `threads` threads, and some with one thread or a lesser instruction set."""
    everyone = {
        "gpt2rt": ("int8", "int4", "f16", "f32"),
        STANDALONE: ("int8",),
        "llama.cpp": ("Q8_0", "Q4_0", "F16"),
        "openvino": ("int8",),
        "ctranslate2": ("int8",),
        "torch": ("f32",),
    }
    found = [Contender(runtime, kind, threads, None) for runtime, kinds in everyone.items() for kind in kinds]
    found += [Contender("gpt2rt", "int8", 1, None), Contender("llama.cpp", "Q8_0", 1, None)]
    return [
        *found,
        *(Contender("gpt2rt", "int8", threads, isa) for isa in ("avx2", "portable") if isa in available_isas()),
    ]


class Entrant:
    """A contender with its model, its worker and its measurements.

    Attributes:
        contender: its `Contender`. version: of the runtime.
        values: {what: [one value per round]}. size: bytes of the model.
    """

    def __init__(self, contender, models, cache, installed_only=False):
        """Make the environment and the model. Raises PeerError or WorkerError if one of them can't be made.

        Args:
            installed_only: use only peers in the environment of this process, and install none.
        """
        self.contender, self.values = contender, {}
        if contender.runtime in ("gpt2rt", STANDALONE):
            self._python = sys.executable
        else:
            self._python = this_python(contender.runtime) if installed_only else python_of(contender.runtime, cache)
        self._model = self._made_model(models)
        self.size = total_size(self._model)
        self._environment = os.environ | {"PYTHONSAFEPATH": "1"}  # the installed gpt2rt, not a folder with that name
        if contender.isa:
            self._environment["GPT2RT_ISA"] = contender.isa
        self._continue = self._continuation(cache)
        self._worker = None
        if contender.runtime == STANDALONE:
            self.version = f"gpt2rt {gpt2rt.__version__}"
            return
        self._worker = Worker(
            self._python,
            contender.runtime,
            self._model,
            contender.threads,
            log=cache / "workers.log",
            environment=self._environment,
        )
        self.version, self.ask = self._worker.version, self._worker.ask

    def close(self):
        """End its worker."""
        if self._worker is not None:
            self._worker.close()

    def _made_model(self, models):
        runtime, kind = self.contender.runtime, self.contender.kind
        if runtime in ("gpt2rt", STANDALONE):
            return models.gpt2rt(kind)
        if runtime == "torch":
            return models.hugging_face()
        make = {"llama.cpp": models.gguf, "ctranslate2": models.ctranslate2, "openvino": models.openvino}[runtime]
        return make(kind, self._python)

    def _continuation(self, cache):
        """Return the command that continues a text, without the number of tokens, by the runtime's shortest program."""
        model, threads = str(self._model), str(self.contender.threads)
        if self.contender.runtime == "gpt2rt":
            return [self._python, "-m", "gpt2rt", "generate", model, START_PROMPT, "--threads", threads, "-n"]
        if self.contender.runtime == STANDALONE:
            return [str(standalone_program()), model, "--threads", threads, "-p", START_PROMPT, "-n"]
        if self.contender.runtime == "llama.cpp":
            return [str(continue_text(self._python, cache)), model, threads, START_PROMPT]
        return [self._python, str(HERE / "continue_text.py"), self.contender.runtime, model, threads, START_PROMPT]

    def measure(self, tokens):
        """Add one value to each figure, in tokens/s or seconds. Tokens differ each time, because some cache prompts."""
        self._add("start", timed([*self._continue, "1"], self._environment)[0])
        if self._worker is None:
            return
        first, prompt, deep = tokens[:1], tokens[:PROMPT], tokens[-DEPTH:]
        if self.contender.runtime == "gpt2rt":
            self._add("memory_limit", self.ask("memory_limit"))
        self._add("decode", DECODED / self.ask("decode", tokens=first, n=DECODED))
        self._add("deep", DECODED / self.ask("decode", tokens=deep, n=DECODED))
        self._add("prompt", PROMPT / self.ask("prompt", tokens=prompt))

    def measure_memory(self):
        """Add the peak memory of a process that continues a text."""
        self._add("memory", timed([*self._continue, str(GENERATED)], self._environment)[1])

    def _add(self, what, value):
        self.values.setdefault(what, []).append(value)

    def as_dict(self):
        """Return the contender, its medians and all values, JSON-serializable."""
        medians = {what: statistics.median(values) for what, values in self.values.items()}
        return self.contender._asdict() | {
            "version": self.version,
            "size": self.size,
            "medians": medians,
            "values": self.values,
        }


def total_size(path):
    """Return the bytes of a file, or of all files in a folder."""
    path = Path(path)
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def continue_text(python, cache):
    """Return the program continue_text.c, compiled against the library in llama.cpp's environment."""
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    folder = Path(site.stdout.strip())
    program, source = cache / "continue_text", HERE / "continue_text.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        libraries = folder / "lib"
        links = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", f"-Wl,-rpath-link,{libraries}", "-lllama"]
        run(["cc", "-O2", f"-I{folder / 'include'}", source, "-o", program, *links], cache / "continue_text.log")
    return program


def standalone_program():
    """Return the path of gpt2rt-chat. Raises PeerError if it is not installed."""
    found = shutil.which("gpt2rt-chat", path=sysconfig.get_path("scripts"))
    if found is None:
        raise NotInstalledError("gpt2rt-chat: skipped, the package was built without it")
    return found


def check_same_model(entrants, n_vocab):
    """Record the error of each runtime's logits. Raises PeerError if they are those of another model."""
    tokens = some_tokens(32, n_vocab)
    reference = next(entrant for entrant in entrants if entrant.contender[:2] == ("gpt2rt", "f32"))
    expected = reference.ask("logits", tokens=tokens)[:n_vocab]
    mean = statistics.fmean(expected)
    spread = statistics.fmean((a - mean) ** 2 for a in expected) ** 0.5
    for entrant in entrants:
        if entrant.contender.runtime == STANDALONE:
            continue
        logits = entrant.ask("logits", tokens=tokens)[:n_vocab]
        off = statistics.fmean((a - b) ** 2 for a, b in zip(expected, logits, strict=True)) ** 0.5 / spread
        if not off < SAME_MODEL:
            contender = entrant.contender
            raise PeerError(f"{contender.runtime} {contender.kind}: its logits are off by {off:.0%}: another model?")
        entrant.values["off"] = [off]


def compare(models, cache, threads, rounds, say, installed_only=False):
    """Measure all contenders that are available.

    Args:
        models: `PeerModels`. cache: the folder in which environments are kept.
        threads: of each contender, except those with their own number. rounds: the number of rounds.
        say: called with a line of progress.
        installed_only: as for `Entrant`.

    Returns:
        A JSON-serializable dict: the machine, the rounds, the contenders, and a message for each missing peer.

    Raises:
        PeerError, WorkerError: gpt2rt itself fails, or, with `installed_only`, an installed peer.
    """
    shape, entrants, missing = models.hyperparameters, [], {}
    for contender in contenders(threads):
        say(f"{contender.runtime} {contender.kind}, threads {contender.threads}")
        try:
            entrants.append(Entrant(contender, models, cache, installed_only))
        except (PeerError, WorkerError) as error:
            if installed_only and not isinstance(error, NotInstalledError):
                raise
            missing[str(error)] = None  # several rows of a peer have the same reason
    for reason in missing:
        say(reason)
    try:
        check_same_model(entrants, shape.n_vocab)
        for i in range(rounds + 1):  # the first round warms caches and is discarded
            tokens = random.Random(i).choices(range(shape.n_vocab), k=PROMPT + DEPTH)
            for entrant in entrants:
                entrant.measure(tokens)
            if i == 0:
                for entrant in entrants:
                    entrant.values = {what: entrant.values[what] for what in ("off",) if what in entrant.values}
            say(f"round {i} of {rounds}")
        for entrant in entrants:
            entrant.measure_memory()
    finally:
        for entrant in entrants:
            entrant.close()
    return {
        "machine": {"cpu": cpu_name(), "cpus": os.cpu_count()},
        "rounds": rounds,
        "threads": threads,
        "generated_kv_cache": 2 * 2 * shape.n_layer * shape.n_embd * GENERATED,
        "contenders": [entrant.as_dict() for entrant in entrants],
        "missing": list(missing),
    }
