"""Inputs for the targets of readers.py: checks of each, mutations at random, and the fewest that cover the same.

atheris finds what leads to new code, and mostly repeats what fails early; mutations of sound inputs and of documents
get further into a reader. So a search by coverage makes the corpus, and many random mutations of it follow.
"""

from __future__ import annotations

import json
import pathlib
import random
import sys
import time
import traceback

try:
    import resource
except ImportError:  # Windows
    resource = None

SLOW = 2.0  # seconds that no input of these sizes may take
MOST = 1 << 17  # bytes of an input
MOST_MESSAGE = 1000  # characters
MOST_MEMORY = 64  # MB that all inputs together may add to the peak after the seeds
MOST_CONTAINERS = 300  # of a document that is changed value by value
VALUES = (None, True, -1, 0, 1.5, float("inf"), 1 << 31, 10**30, "", "x", "\ud800", "<|endoftext|>", [], {}, [[]], [1])


def peak_memory():
    """Return the peak of this process in MB; 0 where it is not known."""
    if resource is None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "linux" else 1 << 20)


def ignoring_own(take):
    """Run a function; gpt2rt's own exceptions are what may come out of it."""
    from gpt2rt.errors import Gpt2rtError
    from gpt2rt.serve.api_error import ApiError

    try:
        take()
    except (Gpt2rtError, ApiError) as error:
        if len(str(error)) > MOST_MESSAGE:
            raise RuntimeError(f"a message of {len(str(error))} characters") from None


def checked(name, take, most_peak=None):
    """Return a function that takes an input, and ends the program after one that breaks the rule.

    Args:
        most_peak: of memory, in MB; None for no limit.
    """

    def one_input(data):
        begin = time.process_time()  # on a busy machine, time passes without this process
        try:
            ignoring_own(lambda: take(data))
            taken = time.process_time() - begin
            assert taken < SLOW, f"{taken:.1f} s for {len(data)} bytes"
            if most_peak is not None:
                peak = peak_memory()
                assert peak <= most_peak, f"a peak of {peak} MB, expected at most {most_peak} MB"
        except BaseException:
            pathlib.Path(f"crash-{name}").write_bytes(data)
            traceback.print_exc()
            print(f"crash: the input is in crash-{name}", flush=True)
            raise SystemExit(1) from None

    return one_input


# --- mutation at random


def mutated(draw, seeds):
    """Return a seed with a few changes: bytes, numbers, parts that are repeated or left out, and a cut."""
    content = bytearray(draw.choice(seeds))
    for _ in range(draw.choice((1, 1, 2, 3, 8))):
        at, n = draw.randrange(len(content) + 1), min(draw.choice((1, 2, 4, 8, 64, 1000)), len(content))
        kind = draw.randrange(7)
        if kind == 0 and content:
            content[at - 1] ^= 1 << draw.randrange(8)
        elif kind == 1:
            content[at : at + n] = b""
        elif kind == 2:
            content[at:at] = content[at - n : at]
        elif kind == 3:
            other = draw.choice(seeds)
            begin = draw.randrange(len(other) + 1)
            content[at : at + n] = other[begin : begin + n]
        elif kind == 4:
            content[at : at + 1] = draw.choice(
                (b"0", b"-1", b"1e999", b"null", b'"', b"{", b"[", b"\xff", b"9" * 30, b"\\ud800")
            )
        elif kind == 5:
            number = draw.choice((0, 1, -1, 127, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 63) - 1))
            size = draw.choice((2, 4, 8))
            content[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, "little")
        elif draw.random() < 0.1:
            del content[at:]
    return bytes(content[:MOST])


def documents_in(seeds):
    """Return the seeds that are JSON objects, parsed; not those that may be too deep to be written again."""
    found = []
    for seed in seeds:
        if seed.count(b"[") + seed.count(b"{") > MOST_CONTAINERS:
            continue
        try:
            document = json.loads(seed)
        except ValueError:
            continue
        if isinstance(document, dict) and document:
            found.append(document)
    return found


def mutated_document(draw, documents):
    """Return a JSON document in which a few members or items are replaced, renamed, repeated or left out."""
    document = draw.choice(documents)
    for _ in range(draw.choice((1, 1, 2, 4))):
        document = changed(draw, document) if document else draw.choice(documents)
    return json.dumps(document).encode()[:MOST]


def changed(draw, parent):
    """Return a dict or list with a change in it, or deeper; what does not change is shared with the old one."""
    key = draw.choice(list(parent)) if isinstance(parent, dict) else draw.randrange(len(parent))
    parent, value = parent.copy(), parent[key]
    kind = draw.randrange(7)
    if isinstance(value, (dict, list)) and value and draw.random() < 0.7:
        parent[key] = changed(draw, value)
    elif kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        name = draw.choice((key + "x", "", str(draw.choice(VALUES)), draw.choice(list(parent))))
        parent[name] = parent.pop(key)
    elif kind == 2 and isinstance(parent, list):
        parent.insert(draw.randrange(len(parent) + 1), value)
    elif kind == 3 and type(value) is int:
        parent[key] += draw.choice((-1, 1, 255, 1 << 32))
    elif kind == 4 and isinstance(value, str):
        half, long = value[: len(value) // 2], value[: MOST // 200] * 200
        parent[key] = draw.choice((value * 2, value[1:], half, value + " ", long))
    else:
        parent[key] = draw.choice(VALUES)
    return parent


def at_random(one_input, seeds, grown, options):
    """Run mutated seeds and mutated inputs of the corpus, as many of these as of those; return their number."""
    draw = random.Random(options.seed)
    end = time.monotonic() + options.seconds
    pools = [seeds, [*seeds, *grown]]
    documents = [documents_in(pool) for pool in pools]
    n = 0
    while n < options.inputs and time.monotonic() < end:
        which = n % 2
        if documents[which] and draw.random() < 0.4:
            one_input(mutated_document(draw, documents[which]))
        else:
            one_input(mutated(draw, pools[which]))
        n += 1
    return n


# --- the corpus


def covered(take, data):
    """Return the steps from line to line that an input makes in gpt2rt."""
    steps = set()

    def trace(frame, _event, _argument):
        code = frame.f_code
        if "gpt2rt" not in code.co_filename:
            return None
        last = 0

        def in_function(frame, event, _argument):
            nonlocal last
            if event == "line":
                steps.add((code, last, frame.f_lineno))
                last = frame.f_lineno
            return in_function

        return in_function

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        ignoring_own(lambda: take(data))
    finally:
        sys.settrace(before)
    return steps


def fewest(take, seeds, inputs, most):
    """Return the smallest inputs that together cover what all do, but for what the seeds cover, in `most` bytes."""
    known = set().union(*(covered(take, seed) for seed in seeds))
    kept = []
    for data in sorted(inputs, key=lambda data: (len(data), data)):
        steps = covered(take, data)
        if not steps <= known and len(data) <= most:
            known |= steps
            most -= len(data)
            kept.append(data)
    return kept
