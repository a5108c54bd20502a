"""gpt2rt batch on clusters of this machine: the bytes of a single process, whatever dies."""

import contextlib
import os
import pathlib

import pytest
from job_runs import Killable, ended, kill

from gpt2rt.jobs.row import Row
from gpt2rt.jobs.shard import _opened, answered
from gpt2rt.jobs.shipping import Call, answer_shard
from gpt2rt.jobs.source import Shard
from gpt2rt.jobs.tasks import Score
from gpt2rt.model import open_model


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    return Killable(tmp_path_factory.mktemp("job"))


@contextlib.contextmanager
def ray_cluster(n_nodes):
    """A cluster of nodes with one CPU each, on this machine; its first node is the head."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(n_nodes - 1):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "package"), [("ray", "ray"), ("dask", "distributed")])
def test_answers_of_a_cluster_are_those_of_a_single_process(job, kind, package):
    pytest.importorskip(package, reason=f"{package} is not installed")
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
@pytest.mark.parametrize(("kind", "package"), [("ray", "ray"), ("dask", "distributed")])
def test_an_address_without_a_cluster_is_a_sentence(job, kind, package):
    pytest.importorskip(package, reason=f"{package} is not installed")
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
