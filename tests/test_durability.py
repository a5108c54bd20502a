"""What gets its name is on the disk, and does not replace what it may not replace."""

import os
import pathlib
import sys

import pytest
from demo import DEMO, demo_model
from job_runs import Batch, tiny_model
from random_models import random_tensors, write_model
from release_server import SIZE, serving
from small_model_file import write, write_weights
from standalone import program

from gpt2rt.bundle import bundle
from gpt2rt.chat import Conversation
from gpt2rt.converter.export import export
from gpt2rt.converter.mirror import Mirror, Part
from gpt2rt.errors import UsageError
from gpt2rt.modelfile import Hyperparameters, ModelFile
from gpt2rt.transcript import save_transcript


class Disk:
    """Watches the system calls that sync and name files; they do what they always do.

    Attributes:
        named: {path: whether the file was synced, as it was, before it got this name; a folder with all files in it}.
    """

    def __init__(self, monkeypatch):
        self.named, self._synced = {}, set()
        fsync, calls = os.fsync, {name: getattr(os, name) for name in ("replace", "rename", "link")}

        def watched_fsync(descriptor):
            fsync(descriptor)
            self._synced.add(self._state(descriptor))

        def watched(name, source, target, **options):
            files = pathlib.Path(source).iterdir() if os.path.isdir(source) else []
            is_synced = self._synced.issuperset(map(self._state, [source, *files]))
            calls[name](source, target, **options)
            self.named[pathlib.Path(target).name] = is_synced

        monkeypatch.setattr(os, "fsync", watched_fsync)
        for name in calls:
            monkeypatch.setattr(os, name, lambda *a, name=name, **options: watched(name, *a, **options))

    @staticmethod
    def _state(file):
        status = os.stat(file)
        return status.st_ino, status.st_size, status.st_mtime_ns


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


@pytest.mark.parametrize("force", [False, True])
def test_a_model_file_is_synced_before_it_gets_its_name(disk, tmp_path, force):
    write(tmp_path / "small.bin", force=force)
    assert disk.named == {"small.bin": True}


def test_a_transcript_is_synced_before_it_gets_its_name(disk, tmp_path):
    save_transcript(Conversation(demo_model(), seed=1), str(tmp_path / "saved.json"))
    assert disk.named == {"saved.json": True}


def test_a_download_is_synced_before_it_gets_its_name(disk, tmp_path):
    with serving({"checkpoint": b"12345"}) as server, Mirror(f"{server.url}/{SIZE}", 1, 0, 10) as mirror:
        part = Part(tmp_path / "checkpoint", 5)
        mirror.fetch("checkpoint", part, lambda _: None)
        part.finish()
    assert disk.named == {"checkpoint": True}


@pytest.mark.skipif(sys.platform == "darwin", reason="on macOS, the model is linked")
def test_an_executable_is_synced_before_it_gets_its_name(disk, tmp_path):
    program()
    bundle(str(DEMO), str(tmp_path / "chat"))
    assert disk.named == {"chat": True}


def small_model(folder):
    """Write a model file in f32 with a sound vocabulary."""
    h = Hyperparameters(n_vocab=256, n_ctx=8, n_embd=16, n_head=2, n_layer=1)
    return write_model(folder / "small.bin", h, random_tensors(h))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows syncs no folders")
@pytest.mark.parametrize("shard", [None, 10_000])
def test_an_exported_folder_is_synced_before_it_gets_its_name(disk, tmp_path, monkeypatch, shard):
    pytest.importorskip("safetensors")
    if shard:
        monkeypatch.setattr("gpt2rt.converter.export.SHARD", shard)
    model = small_model(tmp_path)
    export(model, tmp_path / "folder")
    assert disk.named["folder"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows syncs no folders")
def test_the_name_of_an_exported_folder_is_synced(tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    model = small_model(tmp_path)
    synced, fsync = [], os.fsync

    def watched(descriptor):
        fsync(descriptor)
        synced.append((os.fstat(descriptor).st_ino, (tmp_path / "folder").exists()))

    monkeypatch.setattr(os, "fsync", watched)
    export(model, tmp_path / "folder")
    assert synced[-1] == (tmp_path.stat().st_ino, True)


def test_the_files_of_a_job_are_synced_before_they_get_their_names(disk, tmp_path, cli):
    batch = Batch(cli, tiny_model(tmp_path), tmp_path)
    disk.named.clear()
    assert batch.run(batch.source(), "--shard-size", 4, "--merge", batch.merged)[0] == 0
    names = {"manifest.json", "merged.jsonl", *(f"{i:06}.jsonl" for i in range(5))}
    assert names <= disk.named.keys()
    assert all(disk.named.values())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows syncs no folders")
def test_the_folders_of_a_job_are_synced_after_the_names(tmp_path, cli, monkeypatch):
    synced, fsync = set(), os.fsync

    def watched(descriptor):
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    batch = Batch(cli, tiny_model(tmp_path), tmp_path)
    monkeypatch.setattr(os, "fsync", watched)
    assert batch.run(batch.source(), "--merge", batch.merged)[0] == 0
    assert {folder.stat().st_ino for folder in (batch.out, batch.out / "shards", tmp_path)} <= synced


# --- a file system without hard links


@pytest.fixture
def no_hard_links(monkeypatch):
    def link(*_arguments, **_options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)


@pytest.mark.usefixtures("no_hard_links")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows renames instead")
class TestWithoutHardLinks:
    def test_a_model_file_gets_its_name(self, tmp_path):
        assert ModelFile(write(tmp_path / "small.bin")).damaged_sections() is not None
        assert os.listdir(tmp_path) == ["small.bin"]

    @pytest.mark.parametrize("appears", ["file", "dangling link"])
    def test_what_appeared_in_the_meantime_is_not_overwritten(self, tmp_path, appears):
        path = tmp_path / "small.bin"
        writer = write_weights(path)
        path.write_bytes(b"theirs") if appears == "file" else path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(UsageError, match="already exists"):
            writer.__exit__(None, None, None)
        assert os.listdir(tmp_path) == ["small.bin"]
        assert path.is_symlink() or path.read_bytes() == b"theirs"
