"""The fuzz targets: the committed corpus breaks nothing, and neither does a short run of each."""

import json
import pathlib
import random
import subprocess
import sys

import pytest
from test_threadpool import system_compiler

from gpt2rt.arguments import whole_number
from gpt2rt.errors import UsageError

FUZZ = pathlib.Path(__file__).parents[1] / "fuzz"
SECONDS = 5
MOST_CORPUS = 300_000

sys.path.insert(0, str(FUZZ))
import search  # noqa: E402
from run import C_TARGETS, CORPUS, ENVIRONMENT, READERS, SANITIZERS, build_replay, fuzzing_compiler  # noqa: E402

# But for the one with the kernels, which take GCC minutes to build with sanitizers; its short run replays it.
REPLAYED = [target for target in C_TARGETS if target != "modelfile"]


def replay(target, folder):
    """Run the committed corpus, without libFuzzer."""
    compiler = system_compiler()
    (folder / "nothing.c").write_text("int main(void) { return 0; }\n")
    built = subprocess.run([*compiler, *SANITIZERS, folder / "nothing.c", "-o", folder / "nothing"], check=False)
    if built.returncode or subprocess.run([folder / "nothing"], check=False).returncode:
        pytest.skip("the address sanitizer does not run here")
    program = build_replay(target, folder, compiler)
    inputs = sorted((CORPUS / target).iterdir())
    done = subprocess.run([program, *inputs], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == f"{len(inputs)} inputs\n"


def short_run(target):
    command = [sys.executable, FUZZ / "run.py", target, "--seconds", str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " 0 inputs" not in done.stdout


def test_the_corpus_is_small():
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert 0 < sum(sizes) <= MOST_CORPUS


@pytest.mark.skipif(sys.platform != "linux", reason="the targets are built for Linux")
@pytest.mark.parametrize("target", REPLAYED)
def test_the_corpus_breaks_nothing(target, tmp_path):
    replay(target, tmp_path)


def raises(error):
    def take(_data):
        raise error

    return take


@pytest.mark.parametrize(
    ("take", "slow", "most_peak"),
    [
        (raises(KeyError("a")), 2, None),
        (raises(MemoryError()), 2, None),
        (raises(UsageError("x" * 1001)), 2, None),
        (len, -1, None),
        (len, 2, -1),
    ],
    ids=["another exception", "no memory", "a long message", "too slow", "too much memory"],
)
def test_an_input_that_breaks_the_rule_ends_the_run_and_is_kept(tmp_path, monkeypatch, take, slow, most_peak):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "SLOW", slow)
    with pytest.raises(SystemExit, match="1"):
        search.checked("x", take, most_peak)(b"input")
    assert (tmp_path / "crash-x").read_bytes() == b"input"


def test_an_input_that_is_refused_with_a_sentence_breaks_nothing():
    search.checked("x", raises(UsageError("x" * 1000)), 1 << 20)(b"")


def test_the_smallest_inputs_that_cover_the_same_are_kept():
    def take(data):
        whole_number("n", int(data), 0, 9)

    assert search.fewest(take, [b"5"], [b"100", b"6", b"50"], 100) == [b"50"]
    assert search.fewest(take, [b"5"], [b"100", b"6", b"50"], 1) == []


def test_changed_documents_are_documents_and_differ():
    draw = random.Random(1)
    document = {"a": [1, {"b": "text"}], "c": None, "d": {}}
    found = {search.mutated_document(draw, [document]) for _ in range(300)}
    assert len(found) > 100
    assert all(isinstance(json.loads(content), dict) for content in found)
    assert document == {"a": [1, {"b": "text"}], "c": None, "d": {}}


@pytest.mark.slow
@pytest.mark.parametrize("target", C_TARGETS)
def test_a_short_run_over_the_core_finds_nothing(target, tmp_path, monkeypatch):
    if fuzzing_compiler() is None:
        pytest.skip("no clang with libFuzzer (Debian: clang and libclang-rt-14-dev)")
    monkeypatch.chdir(tmp_path)
    short_run(target)


@pytest.mark.slow
@pytest.mark.parametrize("target", READERS)
def test_a_short_run_over_a_reader_finds_nothing(target, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short_run(target)
