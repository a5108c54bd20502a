"""Call everything in the compiled modules with objects that lie and that call back. A crash ends this process.

python hostile_calls.py MODEL SEED CALLS
"""

import contextlib
import faulthandler
import importlib
import os
import random
import sys

import gpt2rt
from gpt2rt import _engine, _kernels, _modelfile, _sampler, _tokenizer
from gpt2rt.converter import _pack

MODULES = ("_chat", "_engine", "_kernels", "_modelfile", "_sampler", "_tokenizer", "converter._pack")
LOGITS = bytes(4 * 257)


class LyingInt(int):
    """Compares as the caller wants."""

    def __lt__(self, _):
        return True

    __le__ = __gt__ = __ge__ = __eq__ = __lt__
    __hash__ = int.__hash__

    def __index__(self):
        return self


class LyingFloat(float):
    def __lt__(self, _):
        return True

    __le__ = __gt__ = __ge__ = __lt__


class LyingStr(str):
    __slots__ = ()

    def __len__(self):
        return 3

    def isascii(self):
        return True

    def encode(self, *_):
        return b"abc"


class LyingList(list):
    def __len__(self):
        return 2


class Callback:
    """Runs a function whenever it is asked for its value."""

    def __init__(self, function, value):
        self.function, self.value = function, value

    def __index__(self):
        self.function()
        return self.value

    __int__ = __len__ = __index__

    def __iter__(self):
        for _ in range(3):
            self.function()
            yield self.value

    def __getitem__(self, _):
        self.function()
        return self.value

    def __float__(self):
        return float(self.__index__())

    def __str__(self):
        return str(self.__index__())


def shrinking(values):
    """Return a list that is emptied when its first item is read."""
    items = list(values)
    items.insert(0, Callback(items.clear, 1))
    return items


def classes():
    for name in MODULES:
        module = importlib.import_module(f"gpt2rt.{name}")
        for found in vars(module).values():
            if isinstance(found, type) and found.__module__ == module.__name__:
                yield found


def members(subject):
    return [name for name in dir(type(subject)) if not name.startswith("__") or name in ("__len__", "__repr__")]


def attempt(call, *arguments, **keywords):
    """Call it. Any exception will do, except those of a broken extension module."""
    try:
        return call(*arguments, **keywords)
    except SystemError:
        raise
    except Exception:  # all that counts is that the process lives
        return None


def call_members(subject, random_arguments):
    for name in members(subject):
        found = attempt(getattr, subject, name)
        if callable(found):
            for arguments in random_arguments:
                attempt(found, *arguments)


MOST_MEMORY = 4 << 30  # bytes, of addresses: some calls ask for much, and get a MemoryError


def main():
    faulthandler.enable()
    with contextlib.suppress(ImportError):  # Windows
        import resource

        if "ASAN_OPTIONS" not in os.environ:  # a sanitizer needs terabytes of addresses
            resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    path, seed, n_calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    choose = random.Random(seed)
    n_classes = 0
    for kind in classes():
        n_classes += 1
        bare = attempt(kind.__new__, kind)
        if bare is not None:
            call_members(bare, [(), (None,), (1,), ("",), ([],), ([1],), (1, 1), ([1], 1)])

    model = gpt2rt.open_model(path, n_threads=1)
    content = open(path, "rb").read()  # noqa: SIM115 (the process ends soon)
    tokenizer = model.tokenizer
    file = _modelfile.CheckedFile(content, "x")
    subjects = [
        model.sequence(),
        model.sequence(),
        model.engine(),
        _sampler.Sampler(gpt2rt.SamplingParams(repetition_penalty=1.5, no_repeat_ngram_size=2), 1),
        tokenizer,
        _tokenizer.StreamDecoder(tokenizer),
        _tokenizer.StopStrings(("stop", "ab")),
        _tokenizer.TextStream(tokenizer, ("stop",)),
        *(file, file.shape, model._runtime, model._runtime.weights),
    ]
    functions = [
        *(_engine.step_together, _engine.read_weights, _engine.profile, _sampler.log_probabilities),
        *(_sampler.most_likely, _sampler.exp_of, _kernels.evaluate, _kernels.read_bytes, _kernels.available_isas),
        *(_modelfile.crc32c, _modelfile.problem_of, _modelfile.matrix_length, _modelfile.slots_for),
        *(_modelfile.vocabulary_tables, _modelfile.vocabulary_header, _modelfile.header, _pack.pack_rows),
        *(_tokenizer.stop_strings, _modelfile.Shape, _modelfile.CheckedFile, _kernels.Weights),
        *(_engine.Sequence, _engine.Engine, _tokenizer.Tokenizer, _tokenizer.StreamDecoder, _tokenizer.StopStrings),
        *(_tokenizer.TextStream, _sampler.Sampler),
    ]
    calls = [(subject, name) for subject in subjects for name in members(subject)]
    depth = 0

    def again():
        """Call something else in the middle of a call, but not for ever."""
        nonlocal depth
        if depth < 3:
            depth += 1
            one_call()
            depth -= 1

    def value():
        number = choose.choice([-1, 0, 1, 2, 31, 256, 257, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1, -(1 << 63)])
        return choose.choice(
            [
                *(None, True, number, number, LyingInt(number), LyingFloat(number), float("nan"), 1e308, "", "abc"),
                *("\ud800", LyingStr("x" * 10_000), b"", LOGITS, bytearray(LOGITS), memoryview(LOGITS)[::2]),
                *([number], [1, 2, 3], (1, 2), [LyingInt(number)] * 3, LyingList([1] * 100), {number: 1.0}),
                *(Callback(again, number), [Callback(again, 1)] * 3, shrinking([2] * 1000), {1: LyingFloat(1e30)}),
                *(choose.choice(subjects), [choose.choice(subjects)], subjects[:2], gpt2rt.SamplingParams(top_k=3)),
                *((257, 64, 16, 2, 1), "f32", model, content, {"a": "b"}),
            ]
        )

    def one_call():
        if choose.random() < 0.3:
            call = choose.choice(functions)
        else:
            subject, name = choose.choice(calls)
            call = attempt(getattr, subject, name)
        if callable(call):
            attempt(call, *(value() for _ in range(choose.choice([0, 1, 1, 1, 2, 2, 3, 4]))))

    for _ in range(n_calls):
        one_call()
    print(n_classes)


main()
