"""Fork repeatedly while another thread evaluates; each child computes. Print how many found a torn sequence or engine.

python forked.py MODEL append|step
"""

import os
import signal
import sys
import threading
import traceback

from expected_sequence import assert_as_fresh

import gpt2rt
from gpt2rt._engine import Engine, Runtime
from gpt2rt.errors import UsageError

MODEL, WHAT = sys.argv[1:]
FORKS = 8
SECONDS = 30  # after which a hanging child is killed
TORN = 3  # exit status of a child whose inherited sequence or engine is torn
TEXT = [(7 * i * i + 3 * i) % 256 for i in range(1000)]


def evaluate(sequence, engine):
    if WHAT == "append":
        sequence.append(TEXT)
        return
    sequence.push(TEXT)
    while sequence.pending:
        engine.step([sequence])


def compute_in_child(sequence, engine, text, logits):
    """Return the exit status."""
    other = sequence.model.sequence()
    other.append(text)
    assert other.logits.tobytes() == logits
    ids = sequence.tokens
    assert ids == TEXT[: len(ids)]
    other.push([1])
    try:
        assert engine.step([other]) == []
        sequence.truncate(len(ids))
        sequence.append([5])
    except UsageError as error:
        if "the process was forked while" not in str(error):
            raise
        return TORN
    assert sequence.tokens == [*ids, 5]
    assert_as_fresh(sequence)
    return 0


def fork(*arguments):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(SECONDS)
    status = 1
    try:
        status = compute_in_child(*arguments)
    finally:
        if status == 1:
            traceback.print_exc()
        os._exit(status)


def main():
    model = gpt2rt.open_model(MODEL, n_threads=1)
    model._runtime = Runtime(model._runtime.weights, 2)
    trial = model.sequence()
    trial.append(TEXT[:50])
    logits = trial.logits.tobytes()
    n_running = n_torn = 0
    while n_running < FORKS:
        sequence, engine = model.sequence(), Engine(model)
        thread = threading.Thread(target=evaluate, args=(sequence, engine))
        thread.start()
        while thread.is_alive() and n_running < FORKS:
            n_running += 1
            status = fork(sequence, engine, TEXT[:50], logits)
            assert status in (0, TORN), status
            n_torn += status == TORN
        thread.join()
        assert sequence.tokens == TEXT
        assert_as_fresh(sequence)
    print(n_torn)


main()
