"""gpt2rt batch with bad folders, full disks and other jobs beside it: a sentence, and nothing lost."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest
from job_runs import Batch, ended, is_running, start, tiny_model, without_privileges

from gpt2rt._kernels import available_isas

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def batch(cli, model, tmp_path):
    return Batch(cli, model, tmp_path)


def limited(limit):
    """Return what limits the size of the files of a process."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


class TestFolder:
    @pytest.mark.parametrize(
        ("options", "task", "difference"),
        [
            (["--no-bos"], "score", "settings.bos is true, not false"),
            (["--shard-size", 9], "score", "shard_size is 128, not 9"),
            ([], "perplexity", 'settings.task is "score", not "perplexity"'),
            (["--copy"], "score", "settings.copy is false, not true"),
        ],
    )
    def test_other_settings_are_another_job(self, batch, options, task, difference):
        source = batch.source()
        assert batch.run(source)[0] == 0
        error = batch.refused(source, *options, task=task)
        assert error == f"{batch.out}: it has another job: {difference} (use another folder, or remove it)"

    def test_another_model_input_or_version_is_another_job(self, batch):
        source, manifest = batch.source(), batch.out / "manifest.json"
        assert batch.run(source)[0] == 0
        content = manifest.read_text()
        there = json.loads(content)
        for name, other in (("format", 2), ("gpt2rt", "0.0.1")):
            manifest.write_text(json.dumps({**there, name: other}))
            expected = f"it has another job: {name} is {json.dumps(other)}, not {json.dumps(there[name])} ("
            assert expected in batch.refused(source)
        for part, name in (("model", "sha256"), ("input", "name"), ("input", "n_rows")):
            manifest.write_text(json.dumps({**there, part: {**there[part], name: "other"}}))
            assert f'it has another job: {part}.{name} is "other", not ' in batch.refused(source)
        manifest.write_text(content)
        assert batch.run(source)[0] == 0

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\x00", b"[" * 100_000, b'{"format": 1}'])
    def test_a_damaged_manifest_is_refused(self, batch, content):
        source = batch.source()
        assert batch.run(source)[0] == 0
        (batch.out / "manifest.json").write_bytes(content)
        error = batch.refused(source)
        assert error.startswith(f"{batch.out / 'manifest.json'}: not a manifest: ") or " is null, not " in error
        assert (batch.out / "manifest.json").read_bytes() == content

    def test_a_manifest_that_is_missing_or_a_folder_is_refused(self, batch):
        source, manifest = batch.source(), batch.out / "manifest.json"
        assert batch.run(source)[0] == 0
        manifest.unlink()
        expected = f"{batch.out}: it has no manifest.json, but 'shards' (use another folder)"
        assert batch.refused(source) == expected
        manifest.mkdir()
        assert batch.refused(source) == f"{manifest}: Is a directory"

    def test_a_folder_that_can_not_be_one_is_refused(self, batch):
        source = batch.source()
        assert batch.refused(source, out=source) == f"{source}: File exists"
        assert batch.refused(source, out=source / "out") == f"{source / 'out'}: Not a directory"
        assert ": it has no manifest.json, but 'rows.jsonl' (" in batch.refused(source, out=batch.folder)
        assert batch.refused(source, out="\0") == "\\x00: embedded null byte"
        code, error = batch.cli("batch", batch.model, source, "", "--task", "score")[::2]
        assert (code, error) == (2, "gpt2rt: OUT_DIR: got '', expected the name of a folder\n")

    @pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are text")
    def test_names_may_have_any_bytes(self, batch):
        source = batch.source(name="rows-\udcff.jsonl")
        merged = batch.folder / "merged-\udcff.jsonl"
        for _ in range(2):
            assert batch.run(source, "--merge", merged, out=batch.folder / "\udcff")[0] == 0
        assert len(merged.read_bytes().splitlines()) == 20

    @pytest.mark.skipif(sys.platform != "linux", reason="root may write anything")
    def test_a_folder_without_permission_is_refused_unless_all_is_done(self, batch):
        source = batch.source()
        line = batch.model, source, batch.out, "--task", "score", "--processes", 1, "--shard-size", 4
        assert ended(start(*line))[0] == 0
        for folder in (batch.out, batch.out / "shards"):
            folder.chmod(0o555)
        merged = "--merge", batch.merged
        assert ended(start(*line, *merged, preexec_fn=without_privileges))[0] == 0
        (batch.out / "shards" / "000002.jsonl").unlink()
        code, error = ended(start(*line, preexec_fn=without_privileges))
        assert code == 2
        assert error == f"gpt2rt: {batch.out}: can't write there: Permission denied\n"

    @needs_posix
    def test_a_folder_removed_while_it_runs_is_one_sentence(self, batch):
        line = batch.model, batch.source(n_rows=20_000), batch.out, "--task", "score", "--processes", 2
        process = start(*line, "--shard-size", 4)
        while not (batch.out / "shards" / "000001.jsonl").exists() and is_running(process, 0.001):
            pass
        while (batch.out / "shards").exists() and is_running(process, 0.001):
            shutil.rmtree(batch.out, ignore_errors=True)
        code, error = ended(process)
        assert code in (1, 2)
        assert error.splitlines()[-1].startswith(f"gpt2rt: {batch.out}")
        assert len(error.splitlines()) <= 2


class TestDisk:
    @needs_posix
    @pytest.mark.parametrize("processes", [1, 2])
    @pytest.mark.parametrize("limit", [100, 1200])
    def test_a_full_disk_is_a_sentence_and_the_job_continues_later(self, batch, limit, processes):
        line = batch.model, batch.source(), batch.out, "--task", "score", "--shard-size", 8, "--processes", processes
        code, error = ended(start(*line, preexec_fn=limited(limit)))
        assert code == 1
        last = error.splitlines()[-1]
        assert last.startswith(f"gpt2rt: {batch.out}{os.sep}")
        assert last.endswith(": File too large")
        assert [name for name in os.listdir(batch.out) if name.startswith(".")] == []
        assert ended(start(*line, "--merge", batch.merged))[0] == 0
        alone = batch.folder / "alone.jsonl"
        assert batch.run(line[1], "--merge", alone, "--shard-size", 8, out=batch.folder / "alone")[0] == 0
        assert batch.merged.read_bytes() == alone.read_bytes()

    @needs_posix
    def test_a_full_disk_leaves_nothing_of_merged_answers(self, batch):
        source = batch.source()
        assert batch.run(source, "--shard-size", 4)[0] == 0
        line = batch.model, source, batch.out, "--task", "score", "--shard-size", 4, "--merge", batch.merged
        code, error = ended(start(*line, preexec_fn=limited(3000)))
        assert code == 1
        assert error.splitlines()[-1] == f"gpt2rt: {batch.merged}: File too large"
        assert sorted(os.listdir(batch.folder)) == ["out", "rows.jsonl"]

    @pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a small disk")
    def test_a_small_disk_gets_full_and_later_has_room(self, batch):
        disk = batch.folder / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(disk)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            source = batch.source(n_rows=1000)
            error = batch.refused(source, "--shard-size", 8, out=disk / "out")
            assert error.endswith(": No space left on device")
            n_done = len(os.listdir(disk / "out" / "shards"))
            assert n_done > 1
            assert sorted(os.listdir(disk / "out")) == ["manifest.json", "shards"]
            subprocess.run([*mount[:4], "remount,size=64m", *mount[5:]], check=True)
            code, error = batch.run(source, "--shard-size", 8, out=disk / "out")
            assert code == 0
            assert error.startswith(f"1000 of 1000 rows done, {8 * n_done} of them before")
        finally:
            subprocess.run(["umount", str(disk)], check=True)


class TestMerge:
    @pytest.fixture
    def source(self, batch):
        source = batch.source()
        assert batch.run(source, "--shard-size", 4)[0] == 0
        return source

    @pytest.mark.parametrize(
        ("edit", "found"),
        [
            (lambda content: content[:-1], "line 4 is not the answer to its row"),
            (lambda content: content[:-40], "line 4 is not the answer to its row"),
            (lambda content: b"", "0 rows, expected 4"),
            (lambda content: content[: content.index(b"\n") + 1], "1 rows, expected 4"),
            (lambda content: content + b"\n", "line 5 is not the answer to its row"),
            (lambda content: content + content, "line 5 is not the answer to its row"),
            (lambda content: bytes(len(content)), "line 1 is not the answer to its row"),
            (lambda content: b"".join(content.splitlines(True)[::-1]), "line 1 is not the answer to its row"),
            (lambda content: content.replace(b"\n", b"\r\n"), "line 1 is not the answer to its row"),
        ],
    )
    def test_a_shard_that_was_damaged_is_named(self, batch, source, edit, found):
        shard = batch.out / "shards" / "000002.jsonl"
        content = shard.read_bytes()
        shard.write_bytes(edit(content))
        options = "--shard-size", 4, "--merge", batch.merged
        assert batch.refused(source, *options) == f"{shard}: {found} (delete it, and run the job again)"
        assert not batch.merged.exists()
        shard.unlink()
        assert batch.run(source, *options)[0] == 0
        assert shard.read_bytes() == content

    def test_shards_that_were_swapped_are_noticed(self, batch, source):
        shards = batch.out / "shards"
        for old, new in (("000001", "x"), ("000002", "000001"), ("x", "000002")):
            (shards / f"{old}.jsonl").rename(shards / f"{new}.jsonl")
        error = batch.refused(source, "--shard-size", 4, "--merge", batch.merged)
        assert error.startswith(f"{shards / '000001.jsonl'}: line 1 is not the answer to its row (")

    @needs_posix
    def test_what_is_no_file_is_no_shard(self, batch, source):
        shards = batch.out / "shards"
        whole = (shards / "000001.jsonl").read_bytes()
        for path in (shards / f"00000{i}.jsonl" for i in (1, 2)):
            path.unlink()
        (shards / "000001.jsonl").symlink_to(batch.folder / "missing")
        os.mkfifo(shards / "000002.jsonl")
        (shards / "123456.jsonl").touch()  # there is no such shard
        (shards / "notes.txt").touch()
        code, error = batch.run(source, "--shard-size", 4, "--merge", batch.merged)
        assert code == 0
        assert error.startswith("20 of 20 rows done, 12 of them before")
        assert (shards / "000001.jsonl").read_bytes() == whole
        assert not (batch.folder / "missing").exists()

    def test_the_same_answers_may_be_merged_again_but_nothing_else_is_replaced(self, batch, source):
        options = "--shard-size", 4, "--merge", batch.merged
        for _ in range(2):
            assert batch.run(source, *options)[0] == 0
        content = batch.merged.read_bytes()
        batch.merged.write_bytes(b"mine")
        error = batch.refused(source, *options)
        assert error == f"{batch.merged}: it exists already, with other content (--force replaces it)"
        (batch.out / "shards" / "000001.jsonl").unlink()
        assert batch.refused(source, *options) == f"{batch.merged}: it exists already (--force replaces it)"
        assert batch.merged.read_bytes() == b"mine"
        assert batch.run(source, *options, "--force")[0] == 0
        assert batch.merged.read_bytes() == content

    def test_files_of_the_job_are_never_replaced(self, batch, source):
        for target in (source, batch.model, batch.out / "manifest.json", batch.out / "shards" / "000001.jsonl"):
            content = target.read_bytes()
            error = batch.refused(source, "--shard-size", 4, "--merge", target, "--force")
            assert error == f"{target}: the job needs this file itself (merge into another one)"
            assert target.read_bytes() == content
        link = batch.folder / "link"
        link.symlink_to(source)
        assert ": the job needs this file" in batch.refused(source, "--shard-size", 4, "--merge", link, "--force")

    def test_a_target_that_can_not_be_written_is_refused_before_the_work(self, batch):
        source = batch.source()
        for target, expected in (
            (batch.folder, "not a regular file"),
            (os.devnull, "not a regular file"),
            (batch.folder / "missing" / "x", "no such folder"),
            ("", "expected the name of a file"),
        ):
            assert expected in batch.refused(source, "--merge", target, "--force")
            assert os.listdir(batch.out / "shards") == []

    def test_answers_may_be_merged_into_the_folder(self, batch, source):
        for _ in range(2):
            assert batch.run(source, "--shard-size", 4, "--merge", batch.out / "answers.jsonl")[0] == 0
        assert sorted(os.listdir(batch.out)) == ["answers.jsonl", "manifest.json", "shards"]

    @needs_posix
    def test_standard_output_that_is_full_or_closed_is_no_traceback(self, batch, source):
        line = batch.model, source, batch.out, "--task", "score", "--shard-size", 4, "--merge", "-"
        done = "20 of 20 rows done, 20 of them before\n"
        if os.path.exists("/dev/full"):
            with open("/dev/full", "wb") as full:
                assert ended(start(*line, stdout=full)) == (1, f"{done}gpt2rt: No space left on device\n")
        reader, writer = os.pipe()
        os.close(reader)
        try:
            assert ended(start(*line, stdout=writer)) == (1, done)
        finally:
            os.close(writer)


@pytest.mark.slow
@needs_posix
class TestOthers:
    """Other processes that work in the same folder."""

    @pytest.fixture
    def line(self, batch):
        return batch.model, batch.source(n_rows=800), batch.out, "--task", "score", "--shard-size", 4, "--processes", 1

    @pytest.fixture
    def expected(self, batch, line):
        assert batch.run(line[1], "--merge", batch.merged, "--shard-size", 4, out=batch.folder / "alone")[0] == 0
        return batch.merged.read_bytes()

    def check(self, batch, line, expected):
        merged = batch.folder / "again.jsonl"
        code, error = ended(start(*line, "--merge", merged))
        assert (code, error) == (0, "800 of 800 rows done, 800 of them before\n")
        assert merged.read_bytes() == expected
        assert sorted(os.listdir(batch.out)) == ["manifest.json", "shards"]

    def test_a_second_run_is_refused_while_the_first_one_works(self, batch, line, expected):
        first = start(*line)
        while not (batch.out / "shards" / "000001.jsonl").exists() and is_running(first, 0.001):
            pass
        os.kill(first.pid, signal.SIGSTOP)
        refused = (2, f"gpt2rt: {batch.out}: another process is working on this job\n")
        for options in ((), ("--part", "1/2"), ("--merge", batch.folder / "x")):
            assert ended(start(*line, *options)) == refused
        os.kill(first.pid, signal.SIGCONT)
        assert ended(first)[0] == 0
        self.check(batch, line, expected)

    def test_a_run_of_all_is_refused_while_a_part_is_done(self, batch, line, expected):
        part = start(*line, "--part", "2/3")
        while not (batch.out / "shards" / "000001.jsonl").exists() and is_running(part, 0.001):
            pass
        os.kill(part.pid, signal.SIGSTOP)
        assert ended(start(*line))[0] == 2
        assert ended(start(*line, "--part", "1/3"))[0] == 0
        os.kill(part.pid, signal.SIGCONT)
        assert ended(part)[0] == 0
        assert ended(start(*line, "--part", "3/3"))[0] == 0
        self.check(batch, line, expected)

    @pytest.mark.parametrize("parts", [("1/2", "2/2"), ("1/3", "2/3", "3/3"), ("1/2", "1/2", "2/2", "2/2")])
    def test_parts_that_begin_at_once_are_the_whole(self, batch, line, expected, parts):
        running = [start(*line, "--part", part) for part in parts]
        for process in running:
            code, error = ended(process)
            assert code == 0, error
        self.check(batch, line, expected)

    def test_of_equal_runs_that_begin_at_once_one_does_the_work(self, batch, line, expected):
        found = [ended(process) for process in [start(*line) for _ in range(4)]]
        refused = (2, f"gpt2rt: {batch.out}: another process is working on this job\n")
        done = [one for one in found if one != refused]
        assert done
        assert all(code == 0 for code, _ in done), done
        self.check(batch, line, expected)

    def test_of_different_jobs_that_begin_at_once_one_gets_the_folder(self, batch, line):
        for i in range(3):
            out = batch.folder / f"out{i}"
            lines = [[*line[:2], out, *line[3:], *options] for options in ((), ("--no-bos",), ("--copy",))]
            found = [ended(process) for process in [start(*one) for one in lines]]
            assert sorted(code for code, _ in found) == [0, 2, 2], found
            assert all(": it has another job: settings." in error for code, error in found if code)

    def test_parts_that_merge_at_once_write_one_file(self, batch, line, expected):
        assert ended(start(*line))[0] == 0
        merged = batch.folder / "both.jsonl"
        running = [start(*line, "--part", f"{i}/4", "--merge", merged) for i in range(1, 5)]
        assert [ended(process)[0] for process in running] == [0] * 4
        assert merged.read_bytes() == expected


@pytest.mark.slow
class TestSurroundings:
    """What the bytes do not depend on."""

    @pytest.fixture
    def line(self, batch):
        return batch.model, batch.source(n_rows=60), batch.out, "--task", "generate", "-n", 20, "--shard-size", 8

    @pytest.fixture
    def expected(self, batch, line):
        code, _, error = batch.cli("batch", *line, "--processes", 1, "--merge", batch.merged)
        assert code == 0, error
        shutil.rmtree(batch.out)
        return batch.merged.read_bytes()

    def check(self, batch, line, expected, *options, **how):
        merged = batch.folder / "again.jsonl"
        code, error = ended(start(*line, "--merge", merged, "--force", *options, **how))
        assert code == 0, error
        assert merged.read_bytes() == expected

    def test_runs_with_other_instruction_sets_continue_each_other(self, batch, line, expected):
        parts = available_isas()
        for i, isa in enumerate(parts, 1):
            environment = {**os.environ, "GPT2RT_ISA": isa}
            assert ended(start(*line, "--part", f"{i}/{len(parts)}", env=environment))[0] == 0
        self.check(batch, line, expected)

    @pytest.mark.parametrize("batch_size", [1, 3, 256])
    def test_runs_with_other_numbers_of_texts_and_processes_continue_each_other(
        self, batch, line, expected, batch_size
    ):
        options = "--batch-size", batch_size
        assert ended(start(*line, *options, "--processes", 16, "--part", "1/2"))[0] == 0
        self.check(batch, line, expected, *options, "--processes", 3)

    @pytest.mark.parametrize("language", ["C", "POSIX", "en_US.ISO-8859-1"])
    def test_the_locale_does_not_matter(self, batch, line, expected, language):
        names = {"LC_ALL": language, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
        self.check(batch, line, expected, env={**os.environ, **names})

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors can't be chosen")
    def test_one_processor_is_enough(self, batch, line, expected):
        one = {min(os.sched_getaffinity(0))}
        self.check(batch, line, expected, preexec_fn=lambda: os.sched_setaffinity(0, one))
        shutil.rmtree(batch.out)
        self.check(batch, line, expected, "--processes", 2, preexec_fn=lambda: os.sched_setaffinity(0, one))

    def test_there_may_be_more_processes_than_shards(self, batch, line, expected):
        code, error = ended(start(*line[:-1], 60, "--processes", 256))
        assert code == 0, error
        shutil.rmtree(batch.out)
        self.check(batch, line, expected, "--processes", 256)


# Runs a command and prints the most memory, in KB, that one of its processes had. In a process of its own, since what
# the system counts begins with the memory of the process that starts another one.
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count in other units")
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(b'{"id": "row %d", "text": "a"}\n', id="errors"),
        pytest.param(b'{"id": %d, "text": "abc"}\n', id="answers"),
        pytest.param(b'{"id": "the same", "text": "abc", "number": %d}\n', id="same-id"),
    ],
)
def test_a_million_rows_need_no_more_than_200_mb(batch, row):
    n_rows = 1_000_000
    source = batch.source(b"".join(row % i for i in range(n_rows)))
    line = [sys.executable, "-c", MEASURED, sys.executable, "-m", "gpt2rt", "batch", batch.model, source, batch.out]
    line += ["--task", "score", "--processes", "2", "--merge", batch.merged]
    done = subprocess.run(list(map(str, line)), check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200 << 10
    with open(batch.merged, "rb") as file:
        for number, answer in enumerate(file):
            assert answer.startswith(b'{"row": %d, ' % number)
    assert number + 1 == n_rows
