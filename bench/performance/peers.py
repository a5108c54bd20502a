"""gpt2rt beside its peers: every contender is measured once a round, so that all see the same weather."""

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

from environments import PeerError, python_of, run

from gpt2rt.benchmark import START_PROMPT, cpu_name, some_tokens, timed

HERE = Path(__file__).parent
PROMPT, DEPTH = 512, 900  # tokens
DECODED = 24  # tokens of one measurement
GENERATED = 64  # tokens of the run whose memory is measured
SAME_MODEL = 0.35  # of the logits' standard deviation: int4 stays far below, another model far above

Contender = namedtuple("Contender", "runtime kind threads isa")
Contender.__doc__ = """A row of the table: whose runtime, weights of which kind, how many threads, and for ours the
instruction set, None for the best."""


def contenders(threads):
    """Those that are compared with so many threads, and ours on smaller machines."""
    everyone = {
        "gpt2rt": ("int8", "int4", "f16", "f32"),
        "llama.cpp": ("Q8_0", "Q4_0", "F16"),
        "openvino": ("int8",),
        "ctranslate2": ("int8",),
        "torch": ("f32",),
    }
    found = [Contender(runtime, kind, threads, None) for runtime, kinds in everyone.items() for kind in kinds]
    found += [Contender("gpt2rt", "int8", 1, None), Contender("llama.cpp", "Q8_0", 1, None)]
    return [*found, *(Contender("gpt2rt", "int8", threads, isa) for isa in ("avx2", "portable"))]


class Entrant:
    """A contender with its model, its worker and what was measured of it.

    Attributes:
        contender: which. version: of the runtime. values: {what: [one value a round]}. size: bytes of the model.
    """

    def __init__(self, contender, models, cache):
        """Makes environment and model. Raises PeerError where either can't be had."""
        self.contender, self.values = contender, {}
        self._python = sys.executable if contender.runtime == "gpt2rt" else python_of(contender.runtime, cache)
        self._model = self._made_model(models)
        self.size = total_size(self._model)
        self._environment = os.environ | {"PYTHONSAFEPATH": "1"}  # the installed gpt2rt, not a folder of that name
        if contender.isa:
            self._environment["GPT2RT_ISA"] = contender.isa
        self._continue = self._continuation(cache)
        self._log = cache / "workers.log"
        command = [self._python, HERE / "worker.py", contender.runtime, self._model, str(contender.threads)]
        with self._log.open("ab") as log:
            self._worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=self._environment
            )
        self.version = self._answer()

    def _made_model(self, models):
        runtime, kind = self.contender.runtime, self.contender.kind
        if runtime == "gpt2rt":
            return models.gpt2rt(kind)
        if runtime == "torch":
            return models.hugging_face()
        make = {"llama.cpp": models.gguf, "ctranslate2": models.ctranslate2, "openvino": models.openvino}[runtime]
        return make(kind, self._python)

    def _continuation(self, cache):
        """The command that continues a text, without the number of tokens: the shortest program of each runtime."""
        model, threads = str(self._model), str(self.contender.threads)
        if self.contender.runtime == "gpt2rt":
            return [self._python, "-m", "gpt2rt", "generate", model, START_PROMPT, "--threads", threads, "-n"]
        if self.contender.runtime == "llama.cpp":
            return [str(continue_text(self._python, cache)), model, threads, START_PROMPT]
        return [self._python, str(HERE / "continue_text.py"), self.contender.runtime, model, threads, START_PROMPT]

    def _answer(self):
        line = self._worker.stdout.readline()
        if not line:
            raise PeerError(f"{self.contender.runtime}: its worker ended (see {self._log})")
        return json.loads(line)

    def ask(self, **order):
        """The worker's answer to an order (worker.py). Raises PeerError where it has ended."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(order), file=self._worker.stdin, flush=True)
        return self._answer()

    def measure(self, tokens):
        """Adds one value to each figure: tokens/s, seconds. The tokens are new each time: some keep what they read."""
        first, prompt, deep = tokens[:1], tokens[:PROMPT], tokens[-DEPTH:]
        self._add("decode", DECODED / self.ask(do="decode", tokens=first, n=DECODED))
        self._add("deep", DECODED / self.ask(do="decode", tokens=deep, n=DECODED))
        self._add("prompt", PROMPT / self.ask(do="prompt", tokens=prompt))
        self._add("start", timed([*self._continue, "1"], self._environment)[0])
        if self.contender.runtime == "gpt2rt":
            self._add("read", self.ask(do="read"))

    def measure_memory(self):
        """Adds the peak of a process that continues a text."""
        self._add("memory", timed([*self._continue, str(GENERATED)], self._environment)[1])

    def _add(self, what, value):
        self.values.setdefault(what, []).append(value)

    def end(self):
        self._worker.stdin.close()
        self._worker.wait()

    def as_dict(self):
        """JSON-ready: the contender, its medians and all values."""
        medians = {what: statistics.median(values) for what, values in self.values.items()}
        return self.contender._asdict() | {
            "version": self.version,
            "size": self.size,
            "medians": medians,
            "values": self.values,
        }


def total_size(path):
    """Bytes of a file, or of all files in a folder."""
    path = Path(path)
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def continue_text(python, cache):
    """continue_text.c, compiled against the library in llama.cpp's environment."""
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


def check_same_model(entrants, n_vocab):
    """Raises PeerError where the logits of a runtime are those of another model; notes how far off they are."""
    tokens = some_tokens(32, n_vocab)
    reference = next(entrant for entrant in entrants if entrant.contender[:2] == ("gpt2rt", "f32"))
    expected = reference.ask(do="logits", tokens=tokens)[:n_vocab]
    mean = statistics.fmean(expected)
    spread = statistics.fmean((a - mean) ** 2 for a in expected) ** 0.5
    for entrant in entrants:
        logits = entrant.ask(do="logits", tokens=tokens)[:n_vocab]
        off = statistics.fmean((a - b) ** 2 for a, b in zip(expected, logits, strict=True)) ** 0.5 / spread
        if not off < SAME_MODEL:
            contender = entrant.contender
            raise PeerError(f"{contender.runtime} {contender.kind}: its logits are off by {off:.0%}: another model?")
        entrant.values["off"] = [off]


def compare(models, cache, threads, rounds, say):
    """Measures all contenders that can be had.

    Args:
        models: `PeerModels`. cache: the folder that keeps environments. threads: of each contender, but for those
            that have their own. rounds: how many. say: called with a line of progress.

    Returns:
        JSON-ready: the machine, the rounds, the contenders, and the sentences that say why one is missing.
    """
    n_vocab, entrants, missing = models.hyperparameters.n_vocab, [], []
    for contender in contenders(threads):
        say(f"{contender.runtime} {contender.kind}, threads {contender.threads}")
        try:
            entrants.append(Entrant(contender, models, cache))
        except PeerError as error:
            missing.append(str(error))
            say(f"left out: {error}")
    try:
        check_same_model(entrants, n_vocab)
        for i in range(rounds + 1):  # the first one warms caches and is forgotten
            tokens = random.Random(i).choices(range(n_vocab), k=PROMPT + DEPTH)
            for entrant in entrants:
                entrant.measure(tokens)
            if i == 0:
                for entrant in entrants:
                    entrant.values = {"off": entrant.values["off"]}
            say(f"round {i} of {rounds}")
        for entrant in entrants:
            entrant.measure_memory()
    finally:
        for entrant in entrants:
            entrant.end()
    return {
        "machine": {"cpu": cpu_name(), "cpus": os.cpu_count()},
        "rounds": rounds,
        "threads": threads,
        "contenders": [entrant.as_dict() for entrant in entrants],
        "missing": missing,
    }
