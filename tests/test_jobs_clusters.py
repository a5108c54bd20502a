"""gpt2rt batch on clusters of this machine: the bytes of a single process, whatever dies."""

import contextlib
import copy
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from job_runs import Killable, ended, kill

from gpt2rt.jobs.row import Row
from gpt2rt.jobs.shard import Call, _opened, answered
from gpt2rt.jobs.shipping import answer_shard
from gpt2rt.jobs.source import Shard
from gpt2rt.jobs.tasks import Score
from gpt2rt.model import open_model


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return Killable(tmp_path_factory.mktemp("job"))


def with_ray():
    """Skip the test if Ray is not installed. It is not imported: its threads would be in the way of other tests."""
    if not importlib.util.find_spec("ray"):
        pytest.skip("the extra 'ray' is not installed")


def with_dask():
    if not importlib.util.find_spec("distributed"):
        pytest.skip("the extra 'dask' is not installed")


KINDS = pytest.mark.parametrize(("kind", "needed"), [("ray", with_ray), ("dask", with_dask)])


@contextlib.contextmanager
def ray_cluster(n_nodes, n_cpus=1):
    """A cluster on this machine, whose first node is the head; the others have one CPU each."""
    with_ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    from ray.cluster_utils import Cluster

    head = {"num_cpus": n_cpus, "include_dashboard": False}
    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": soon})
    try:
        for _ in range(n_nodes - 1):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def children(pid, mark):
    """Return the ids of the processes that the threads of one have started, and that have a mark in their command."""
    found = []
    for started in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # they come and go
            found += map(int, started.read_text().split())
    return [child for child in found if mark in command(child)]


def command(pid):
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.fixture
def dask_scheduler(tmp_path):
    """The address of a scheduler, which has no gpt2rt."""
    with_dask()
    line = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(
        [*line, "--dashboard-address", "127.0.0.1:0"],
        env={**os.environ, **without_gpt2rt(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for text in process.stderr:
            if "Scheduler at:" in text:
                break
        yield text.split()[-1]
        process.kill()


@contextlib.contextmanager
def dask_worker(address, **environment):
    """A worker process."""
    line = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
    with subprocess.Popen(
        [*line, "--no-dashboard"], env={**os.environ, **environment}, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def without_gpt2rt(folder):
    """Return the environment variables of a process for which gpt2rt is not installed."""
    (folder / "gpt2rt.py").write_text("raise ModuleNotFoundError(\"No module named 'gpt2rt'\", name='gpt2rt')")
    return {"PYTHONPATH": str(folder)}


@contextlib.contextmanager
def model_of_one_process(job):
    """A job whose path of the model is that for its process, and for none that it starts; and what Popen needs."""
    folder = os.open(os.path.dirname(job.model), os.O_RDONLY)
    alone = copy.copy(job)
    alone.model = f"/proc/self/fd/{folder}/{os.path.basename(job.model)}"
    try:
        yield alone, {"pass_fds": [folder]}
    finally:
        os.close(folder)


@pytest.mark.slow
@KINDS
def test_answers_of_a_cluster_are_those_of_a_single_process(job, kind, needed):
    needed()
    code, error = ended(job.start(kind, "--on", kind))
    assert code == 0, error
    assert error.startswith(f"{job.n_rows} of {job.n_rows} rows done")  # and nothing else
    assert error.count("\n") == 1
    job.check(kind)


@pytest.mark.slow
def test_a_node_that_dies_loses_and_repeats_nothing(job):
    with ray_cluster(3) as cluster:
        process = job.start("raylet", f"--on=ray={cluster.address}")
        job.wait_for_shards(process, "raylet", 5)
        node = cluster.worker_nodes.copy().pop()
        assert process.poll() is None
        node.kill_raylet()
        code, error = ended(process)
    assert code == 0, error
    job.check("raylet")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_process_of_ray_that_is_killed_loses_and_repeats_nothing(job):
    with ray_cluster(1) as cluster:
        process = job.start("ray-worker", f"--on=ray={cluster.address}")
        job.wait_for_shards(process, "ray-worker", 5)
        raylet = cluster.head_node.all_processes["raylet"][0].process.pid
        is_killed = False
        while not is_killed and process.poll() is None:  # between two tasks, it has another name
            is_killed = any(kill(pid) for pid in children(raylet, b"_answer"))
        code, error = ended(process)
    assert is_killed
    assert code == 0, error
    job.check("ray-worker")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_process_of_dask_that_is_killed_loses_and_repeats_nothing(job):
    with_dask()
    process = job.start("dask-worker", "--on=dask")
    job.wait_for_shards(process, "dask-worker", 5)
    killed = [kill(pid) for pid in children(process.pid, b"spawn_main")[:1]]
    assert process.poll() is None
    code, error = ended(process)
    assert any(killed)
    assert code == 0, error
    job.check("dask-worker")


@pytest.mark.slow
@KINDS
@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to a group")
def test_an_interrupt_is_quiet_and_leaves_no_process(job, kind, needed):
    needed()
    out = f"{kind}-interrupt"
    process = job.start(out, "--on", kind)
    job.wait_for_shards(process, out, 3)
    os.killpg(process.pid, signal.SIGINT)
    code, error = ended(process)
    assert code == 130
    assert error.strip().endswith(f"of {job.n_rows} rows done (run the same command again to continue)")
    assert error.strip().count("\n") == 0
    code, error = ended(job.start(out, "--on", kind))
    assert code == 0, error
    job.check(out)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a path of one process alone is one of /proc")
def test_a_node_that_joins_later_gets_tasks_and_the_model_once(job, tmp_path):
    with ray_cluster(1, n_cpus=0) as cluster, model_of_one_process(job) as (alone, how):
        process = alone.start("later", f"--on=ray={cluster.address}", **how)
        assert process.stderr.readline().decode() == (
            f"gpt2rt: --on ray={cluster.address}: the cluster has no node with 1 CPU;"
            " waiting up to 10 minutes for one\n"
        )
        cluster.add_node(num_cpus=2, env_vars={"TMPDIR": str(tmp_path)})
        code, error = ended(process)
    assert code == 0, error
    assert error.count("\n") == 1
    (copy_there,) = (path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock")
    assert copy_there.read_bytes() == pathlib.Path(job.model).read_bytes()
    job.check("later")


@pytest.mark.slow
def test_a_node_of_ray_without_gpt2rt_is_a_sentence(job, tmp_path):
    with ray_cluster(1, n_cpus=0) as cluster:
        cluster.add_node(num_cpus=1, env_vars=without_gpt2rt(tmp_path))
        code, error = ended(job.start("without", f"--on=ray={cluster.address}"))
    assert code == 1
    assert "No module named 'gpt2rt' (install gpt2rt " in error
    assert error.count("\n") == 2


@pytest.mark.slow
def test_a_worker_of_dask_without_gpt2rt_is_a_sentence(job, dask_scheduler, tmp_path):
    with dask_worker(dask_scheduler, **without_gpt2rt(tmp_path)):
        code, error = ended(job.start("without", f"--on=dask={dask_scheduler}"))
    assert code == 1
    assert "No module named 'gpt2rt' (install gpt2rt " in error


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a path of one process alone is one of /proc")
def test_a_worker_of_dask_without_the_model_is_a_sentence(job, dask_scheduler, tmp_path):
    with dask_worker(dask_scheduler, TMPDIR=str(tmp_path)), model_of_one_process(job) as (alone, how):
        code, error = ended(alone.start("without-model", f"--on=dask={dask_scheduler}", **how))
    assert code == 1
    assert f": {alone.model}: no such file" in error.splitlines()[-1]


@pytest.mark.slow
def test_a_first_process_that_is_killed_leaves_what_the_next_one_continues(job):
    with ray_cluster(2) as cluster:
        process = job.start("driver", f"--on=ray={cluster.address}")
        job.wait_for_shards(process, "driver", 5)
        assert kill(process.pid)
        process.communicate()
        n_complete = len(job.shards("driver"))
        assert 5 <= n_complete < job.n_rows // 8
        code, error = ended(job.start("driver", f"--on=ray={cluster.address}"))
    assert code == 0, error
    assert f"{8 * n_complete} of them before" in error
    job.check("driver")


@pytest.mark.slow
@KINDS
def test_an_address_without_a_cluster_is_a_sentence(job, kind, needed):
    needed()
    code, error = ended(job.start("nowhere", f"--on={kind}=127.0.0.1:1"))
    assert code == 2
    assert error == f"gpt2rt: --on {kind}=127.0.0.1:1: can't connect: Connection refused\n"


def test_another_kind_of_cluster_is_refused(job):
    code, error = ended(job.start("other", "--on", "slurm"))
    assert code == 2
    assert error == "gpt2rt: --on: got 'slurm', expected ray or dask, perhaps with =ADDRESS\n"


def forget(monkeypatch):
    """Forget the models that this process has opened, as another process would."""
    monkeypatch.setattr("gpt2rt.jobs.shipping._found", {})
    _opened.cache_clear()


class TestShipping:
    @pytest.fixture
    def shard(self):
        return Shard(0, [Row(i, b'{"text": "word %d"}' % i) for i in range(3)])

    @pytest.fixture
    def model(self, job):
        return open_model(job.model, n_threads=1)

    @pytest.fixture(autouse=True)
    def temporary(self, monkeypatch, tmp_path):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        forget(monkeypatch)
        return tmp_path

    def call(self, model, path):
        return Call(str(path), model.checksums, Score(), 1, 4)

    def test_a_node_with_the_model_needs_no_copy(self, model, job, shard, temporary):
        expected = next(answered(model, Score(), [shard], 4))
        assert answer_shard(self.call(model, job.model), shard) == expected
        assert not list(temporary.iterdir())

    def test_a_node_without_the_model_copies_it_once(self, model, job, shard, temporary):
        n_sent = 0

        def content():
            nonlocal n_sent
            n_sent += 1
            whole = pathlib.Path(job.model).read_bytes()
            return [whole[:1000], whole[1000:]]

        expected = next(answered(model, Score(), [shard], 4))
        for _ in range(2):
            assert answer_shard(self.call(model, temporary / "not here.bin"), shard, content) == expected
        assert n_sent == 1

    def test_a_copy_that_is_damaged_is_written_again(self, model, job, shard, temporary, monkeypatch):
        call = self.call(model, temporary / "not here.bin")
        whole = pathlib.Path(job.model).read_bytes()
        answer_shard(call, shard, lambda: [whole])
        forget(monkeypatch)
        (copy,) = temporary.rglob("*.bin")
        copy.write_bytes(whole[:-1] + b"!")
        expected = next(answered(model, Score(), [shard], 4))
        assert answer_shard(call, shard, lambda: [whole]) == expected
        assert copy.read_bytes() == whole
