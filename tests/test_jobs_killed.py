"""gpt2rt batch whose processes are killed: every row is answered once, with the bytes of a run in peace."""

import os
import pathlib
import random
import re
import signal
import sys
from functools import partial
from itertools import product

import pytest
from dying_task import DEADLY, DyingScore
from job_runs import SHARD_SIZE, Killable, ended, is_running, kill, start, workers

import gpt2rt
from gpt2rt.errors import Gpt2rtError
from gpt2rt.jobs.job import Job
from gpt2rt.jobs.local import MOST_DEATHS, in_processes
from gpt2rt.jobs.shard import Call
from gpt2rt.jobs.source import Source

GIVEN_UP = f"{MOST_DEATHS} processes have died with it, the last one with exit code -9 (not enough memory?)"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
needs_proc = pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(), reason="it finds processes in /proc")
each_number = pytest.mark.parametrize(
    "n", [pytest.param(1, id="few"), pytest.param(50, id="many", marks=pytest.mark.slow)]
)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return Killable(tmp_path_factory.mktemp("job"))


@pytest.mark.slow
@each_number
def test_kills_of_the_first_process_lose_and_repeat_nothing(job, tmp_path, n):
    moments, n_killed, n_runs = random.Random(n), 0, 0
    while n_killed < n:
        n_runs += 1
        out, is_complete = str(tmp_path / f"out{n_runs}"), False
        while not is_complete:
            process = job.start(out, "--processes", 2)
            # All of a run, or what is left after some kills.
            if n_killed < n and is_running(process, moments.uniform(0, 1.1) * job.seconds):
                process.kill()
            code, error = ended(process)  # with all that it has started
            # A process complains if the one that starts it is killed before it has said what it is to do.
            assert "Traceback" not in error or "Ran out of input" in error
            assert code in (0, -signal.SIGKILL)
            n_killed += code != 0
            is_complete = code == 0
        job.check(out)


@needs_proc
@each_number
def test_kills_of_workers_lose_and_repeat_nothing(job, tmp_path, n):
    moments, n_killed, n_runs = random.Random(n), 0, 0
    while n_killed < n:
        n_runs += 1
        out, code = str(tmp_path / f"out{n_runs}"), None
        while code != 0:
            process = job.start(out, "--processes", 2)
            while n_killed < n and is_running(process, moments.uniform(0, 0.5) * job.seconds):
                found = workers(process)
                n_killed += bool(found) and kill(moments.choice(found))
            code, error = ended(process)
            assert "Traceback" not in error
            assert code == 0 or GIVEN_UP in error
        job.check(out)


@pytest.mark.slow
@each_number
def test_kills_while_answers_are_merged_leave_all_or_nothing(job, tmp_path, n):
    source, out, merged = tmp_path / "long.jsonl", tmp_path / "out", tmp_path / "merged.jsonl"
    source.write_bytes(b"".join(b'{"text": "abc", "long": "%s"}\n' % (b"%d" % i * 50_000) for i in range(400)))
    line = [job.model, source, out, "--task", "score", "--copy", "--processes", 1]
    assert ended(start(*line, "--merge", tmp_path / "expected.jsonl"))[0] == 0
    expected = (tmp_path / "expected.jsonl").read_bytes()
    n_killed = 0
    while n_killed < n:
        process = start(*line, "--merge", merged)
        while not list(tmp_path.glob(".merged.jsonl.*.part")) and is_running(process, 0.001):
            pass
        is_running(process, random.Random(n_killed).uniform(0, 0.05))
        process.kill()
        assert "Traceback" not in ended(process)[1]
        n_killed += 1
        if merged.exists():
            assert merged.read_bytes() == expected
            merged.unlink()
    assert ended(start(*line, "--merge", merged))[0] == 0
    assert merged.read_bytes() == expected
    assert list(tmp_path.glob(".*")) == []


SIGNALS = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]


def check_stopped(code, error, number, *, is_early=False):
    """Check what a process that got a signal says, and all that it has started."""
    allowed = {128 + number, -number, 0} if is_early else {128 + number}
    assert code in allowed, error
    assert "Traceback" not in error
    assert "Error" not in error
    lines = error.splitlines()
    assert len(lines) <= 2
    if code == 128 + number:
        assert (
            number == signal.SIGINT
            or lines[-1] == f"gpt2rt: stopped by signal {number}; what was unfinished is removed"
        )


@pytest.mark.parametrize(
    ("number", "to_group", "is_repeated"),
    [
        (signal.SIGTERM, False, False),
        (signal.SIGINT, True, True),
        *(pytest.param(*ways, marks=pytest.mark.slow) for ways in product(SIGNALS, (False, True), (False, True))),
    ],
)
def test_a_signal_ends_it_with_a_sentence(job, tmp_path, number, to_group, is_repeated):
    out = str(tmp_path / "out")
    process = job.start(out, "--processes", 2)
    job.wait_for_shards(process, out, 2)
    for _ in range(1 + is_repeated):
        (os.killpg if to_group else os.kill)(process.pid, number)
    code, error = ended(process)
    check_stopped(code, error, number)
    first = error.splitlines()[0]
    assert first.startswith("gpt2rt: ")
    assert first.endswith(f" of {job.n_rows} rows done (run the same command again to continue)")
    assert len(job.shards(out)) - int(first.split()[1]) / SHARD_SIZE in (0, 1)  # one may not be counted yet
    assert sorted(os.listdir(out)) == ["manifest.json", "shards"]
    assert ended(job.start(out, "--processes", 2))[0] == 0
    job.check(out)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_signals_at_any_moment_end_it_with_a_sentence(job, tmp_path, number):
    moments, statuses, out = random.Random(number), [], ""
    # Before its first line and after its last, a signal meets nothing of interest; how often depends on the machine.
    while len(statuses) < 50 or statuses.count(128 + number) <= 20:
        assert len(statuses) < 500
        out = str(tmp_path / f"out{len(statuses)}") if not statuses or statuses[-1] == 0 else out
        process = job.start(out, "--processes", 2)
        send = moments.choice((os.killpg, os.kill))
        is_running(process, 0.03 + moments.uniform(0, 0.8) * job.seconds)  # after the start of Python itself
        for _ in range(moments.choice((1, 1, 2, 5))):
            if process.poll() is None:
                send(process.pid, number)
            is_running(process, moments.uniform(0, 0.01))
        code, error = ended(process)
        check_stopped(code, error, number, is_early=True)
        statuses.append(code)
    assert ended(job.start(out, "--processes", 2))[0] == 0
    job.check(out)


@pytest.mark.slow
@needs_proc
def test_workers_that_always_die_are_given_up_with_a_sentence(job, tmp_path):
    out = str(tmp_path / "out")
    assert ended(job.start(out, "--processes", 2, "--part", "1/2"))[0] == 0
    before = job.shards(out)
    process = job.start(out, "--processes", 2)
    while is_running(process, 0.001):
        for worker in workers(process):
            kill(worker)
    code, error = ended(process)
    assert code == 1
    first, second = error.splitlines()
    assert (
        first
        == f"gpt2rt: {len(before) * SHARD_SIZE} of {job.n_rows} rows done (run the same command again to continue)"
    )
    assert f": {MOST_DEATHS} processes have died with it, the last one with exit code -9 (not enough memory?)" in second
    assert job.shards(out) == before
    assert ended(job.start(out, "--processes", 2))[0] == 0
    job.check(out)


@pytest.mark.slow
def test_the_shard_that_kills_its_process_is_named_and_others_stay(job, tmp_path):
    source, model, task = tmp_path / "rows.jsonl", gpt2rt.open_model(job.model), DyingScore()
    texts = ["some text"] * 40
    texts[22] = DEADLY
    source.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    made = Job(model, Source(str(source), id_field="id"), task, str(tmp_path / "out"), shard_size=4)
    call = Call(job.model, model.checksums, task, 1, 16)
    with pytest.raises(Gpt2rtError, match=re.escape(f"shard 5: {GIVEN_UP}")):
        made.run(partial(in_processes, call, n_processes=2), lambda _: None, lambda _: None)
    complete = made.folder.complete()
    assert complete >= {0, 1, 2, 3, 4}
    assert 5 not in complete


def test_large_rows_and_answers_do_not_block_each_other(job, tmp_path):
    source = tmp_path / "large.jsonl"
    source.write_bytes(b'{"text": "abc"}\n' + b'{"long": "%s"}\n' % (b"x" * 500_000) * 99)
    process = start(
        job.model, source, tmp_path / "out", "--task", "score", "--copy", "--shard-size", 3, "--processes", 2
    )
    code, error = ended(process)
    assert code == 0, error
