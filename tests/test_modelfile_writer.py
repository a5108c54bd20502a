"""The writer of model files: it leaves a complete file or none."""

import json
import os
import signal
import subprocess
import sys

import pytest
from small_model_file import METADATA, NUMBERS, make_writer, section, write, write_weights

from gpt2rt.errors import ModelFileError, UsageError
from gpt2rt.modelfile import ModelFile
from gpt2rt.modelfile.vocabulary import vocabulary_section


@pytest.fixture
def path(tmp_path):
    return tmp_path / "small.bin"


def interrupted(path, error, **options):
    """Write a file and fail in the middle."""
    writer = make_writer(path, **options)
    with writer:
        writer.write_tensor([bytes(writer.tensors[0].length)])
        assert len(list(path.parent.glob(".*.part"))) == 1
        raise error


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_failure_in_the_middle_leaves_nothing(tmp_path, path, error):
    with pytest.raises(type(error)):
        interrupted(path, error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_failure_in_the_middle_leaves_the_old_file(tmp_path, path, error):
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        interrupted(path, error, force=True)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_file_does_not_appear_before_it_is_complete(path):
    writer = make_writer(path)
    with writer:
        for tensor in writer.tensors:
            writer.write_tensor([bytes(tensor.length)])
            assert not path.exists()
    assert path.exists()


def test_missing_tensors_leave_nothing(tmp_path, path):
    writer = make_writer(path)
    with pytest.raises(ValueError, match="1 tensors were written, expected 28"), writer:
        writer.write_tensor([bytes(writer.tensors[0].length)])
    assert list(tmp_path.iterdir()) == []


def test_tensor_of_a_wrong_length_leaves_nothing(tmp_path, path):
    writer = make_writer(path)
    with pytest.raises(ValueError, match="wpe: got 3 bytes, expected 512"), writer:
        writer.write_tensor([b"ab", b"c"])
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_refused_unless_forced(path):
    path.write_bytes(b"old")
    with pytest.raises(UsageError, match=r"small\.bin: already exists \(use --force to overwrite it\)"):
        make_writer(path)
    assert path.read_bytes() == b"old"
    ModelFile(write(path, force=True))


def test_file_created_in_the_meantime_is_not_overwritten(tmp_path, path):
    writer = write_weights(path)
    path.write_bytes(b"another's")
    with pytest.raises(UsageError, match="already exists"):
        writer.__exit__(None, None, None)
    assert path.read_bytes() == b"another's"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_dangling_link_counts_as_an_existing_file(tmp_path, path):
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="already exists"):
        make_writer(path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full there")
@pytest.mark.parametrize("device", ["/dev/full", "/dev/null"])
def test_device_is_never_replaced(device):
    with pytest.raises(UsageError, match="is not a regular file"):
        make_writer(device, force=True)


def test_folder_as_output_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is a folder, expected the name of a file to write"):
        make_writer(tmp_path, force=True)


def test_missing_folder_is_named(tmp_path):
    with (
        pytest.raises(UsageError, match=r"gone: can't write there: No such file"),
        make_writer(tmp_path / "gone" / "x"),
    ):
        pass


def test_metadata_may_be_completed_while_the_weights_are_written(path):
    writer = make_writer(path)
    with writer:
        for tensor in writer.tensors:
            writer.write_tensor([bytes(tensor.length)])
        writer.metadata["quantization"] = {"max_error": 0.5}
    assert ModelFile(path).metadata == {**METADATA, "quantization": {"max_error": 0.5}}


def test_metadata_may_contain_any_text(path):
    metadata = {"name": "Größe 大 🙂\u2028\0", "opening": '"\\\n'}
    write(path, metadata=metadata)
    assert ModelFile(path).metadata == metadata


def test_metadata_that_grows_too_much_leaves_nothing(tmp_path, path):
    writer = write_weights(path)
    writer.metadata["name"] = "x" * 8192
    with pytest.raises(ValueError, match="the metadata grew to"):
        writer.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_long_name_still_has_a_temporary_name(tmp_path):
    name = "x" * 250 + ".bin"
    ModelFile(write(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions there")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_file_has_the_permissions_of_a_new_file(path, mask):
    old = os.umask(mask)
    try:
        write(path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("limit", [0, 4096, 10_000, 20_000])
def test_full_disk_leaves_nothing(tmp_path, path, limit):
    resource = pytest.importorskip("resource")
    path.write_bytes(b"old")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        with pytest.raises(ModelFileError, match=r"small\.bin: can't be written: File too large"):
            write(path, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


CTRL_C = """
import sys
sys.path.insert(0, {folder!r})
from small_model_file import make_writer
import pathlib
writer = make_writer(pathlib.Path({path!r}))
with writer:
    writer.write_tensor([bytes(writer.tensors[0].length)])
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
def test_ctrl_c_of_the_process_leaves_nothing(tmp_path, path):
    code = CTRL_C.format(folder=os.path.dirname(__file__), path=str(path))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == -signal.SIGINT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("numbers", "group_size", "message"),
    [
        (NUMBERS._replace(n_head=5), 16, "n_embd is 24, expected a multiple of n_head, which is 5"),
        (NUMBERS._replace(n_layer=0), 16, "n_layer is 0, expected 1 to 1024"),
        (NUMBERS, 24, "group size 24: expected one of 16, 32, 64, 128, 256"),
    ],
)
def test_writer_refuses_what_the_reader_would_refuse(path, numbers, group_size, message):
    with pytest.raises(UsageError, match=message):
        make_writer(path, numbers=numbers, group_size=group_size)


def test_vocabulary_table_of_a_wrong_length_is_refused():
    tables = dict.fromkeys(
        ("token_offsets", "byte_tokens", "special_tokens", "controls", "merge_slots", "token_bytes"), b""
    )
    with pytest.raises(ValueError, match="table 'token_offsets': got 0 bytes, expected 164"):
        vocabulary_section(40, 7, tables)


def test_metadata_is_json_followed_by_spaces(path):
    sound = write(path).read_bytes()
    offset, length = section(sound, "metadata")
    text = sound[offset : offset + length]
    assert json.loads(text) == METADATA
    assert text.rstrip(b" ").endswith(b"}")
