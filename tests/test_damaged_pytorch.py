"""Damaged and hostile files of PyTorch: nothing in them runs, and each way to be malformed is refused."""

import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytorch_files import (
    ARRAYS,
    BOTH,
    Call,
    Global,
    Persistent,
    Storages,
    pickled,
    small_file,
    write,
    write_legacy,
    write_zip,
)

from gpt2rt.converter import convert
from gpt2rt.converter.pytorch import read_pytorch, read_tensors
from gpt2rt.converter.stored_tensor import StoredTensor
from gpt2rt.errors import CheckpointError


def values_of(found):
    """Return the values of all tensors in what was read, in comparable form."""
    if isinstance(found, StoredTensor):
        readable = found.dtype in ("F32", "F16", "BF16")
        return found.dtype, found.shape, found.stored().tobytes() if readable else None
    if isinstance(found, dict):
        return {key: values_of(value) for key, value in found.items()}
    return found


# --- nothing runs


class Attack:
    """What a pickle makes of it when it is loaded by pickle.load."""

    def __init__(self, made):
        self._made = made

    def __reduce__(self):
        return self._made


MARKER = "gpt2rt-was-here"
ATTACKS = {
    "os.system": pickle.dumps(Attack((os.system, (f"touch {MARKER}",))), 2),
    "builtins.eval": pickle.dumps(Attack((eval, (f"open({MARKER!r}, 'w')",))), 4),
    "nested": pickled({"a": [({"b": Call(Global("builtins", "exec"), (f"open({MARKER!r}, 'w')",))},)]}),
    "python 2": pickled(Call(Global("__builtin__", "eval"), ("1",))),
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    "STACK_GLOBAL without text": b"\x80\x04K\x01K\x02\x93.",
    "a name with a dot": b"\x80\x04\x8c\x05torch\x8c\x0cos.path.join\x93)R.",
    "EXT1": b"\x80\x02\x82\x01.",
    "EXT2": b"\x80\x02\x83\x01\x00.",
    "EXT4": b"\x80\x02\x84\x01\x00\x00\x00.",
    "INST": b"(S'true'\nios\nsystem\n.",
    "INST of a known name": b"(icollections\nOrderedDict\n.",
    "OBJ": b"(ccollections\nOrderedDict\no.",
    "NEWOBJ": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04ccollections\nOrderedDict\n)}\x92.",
    "BUILD": b"\x80\x02ctorch\nFloatStorage\n}b.",
    "BUILD of a dict": b"\x80\x02}}b.",
    "REDUCE of a storage": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "REDUCE of text": b"\x80\x02U\x04eval)R.",
    "a buffer": b"\x80\x05\x97.",
    "a module": pickled(Persistent(("module", Global("collections", "OrderedDict"), "file.py", "source"))),
    "a file": pickled(Call(Global("torch.storage", "_load_from_bytes"), (b"",))),
}


@pytest.mark.parametrize("name", ATTACKS)
@BOTH
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, monkeypatch, name, is_legacy):
    monkeypatch.chdir(tmp_path)
    (write_legacy if is_legacy else write_zip)(tmp_path / "x.pt", ATTACKS[name], Storages(is_legacy))
    with pytest.raises(CheckpointError, match=r"x\.pt: .*expected only tensors"):
        read_pytorch(tmp_path / "x.pt")
    assert os.listdir(tmp_path) == ["x.pt"]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("os.system", r"refers to '(posix|nt)\.system'"),
        ("builtins.eval", r"refers to 'builtins\.eval'"),
        ("NEWOBJ", r"instruction NEWOBJ with collections\.OrderedDict"),
        ("EXT1", "instruction EXT1"),
        ("STACK_GLOBAL", r"refers to 'os\.system'"),
        ("INST", r"refers to 'os\.system'"),
    ],
)
def test_what_is_refused_is_named(tmp_path, name, named):
    write_zip(tmp_path / "x.pt", ATTACKS[name], Storages())
    with pytest.raises(CheckpointError, match=named):
        read_pytorch(tmp_path / "x.pt")


def test_a_whole_pickled_model_is_refused_with_advice(tmp_path):
    model = Call(Global("transformers.models.gpt2.modeling_gpt2", "GPT2LMHeadModel"), ())
    write_zip(tmp_path / "x.pt", model, Storages())
    with pytest.raises(CheckpointError, match=r"modeling_gpt2\.GPT2LMHeadModel'.*torch\.save\(model\.state_dict\(\)"):
        read_pytorch(tmp_path / "x.pt")


# --- malformed files


HUGE = struct.pack("<Q", 1 << 50)


@pytest.mark.parametrize(
    ("pickle_bytes", "message"),
    [
        (b"", "not a valid pickle"),
        (b"\x80\x02", "not a valid pickle"),
        (b"\x80\x02.", "not a valid pickle"),
        (b"\x80\x02}q\x00", "not a valid pickle"),
        (b"\x80\x02h\x07.", "not a valid pickle: 7"),
        (b"\x80\x02\xff.", "not a valid pickle: .*opcode"),
        (b"\x80\x04\x8e" + HUGE, "not a valid pickle"),
        (b"\x80\x04\x8d" + HUGE, "not a valid pickle"),
        (b"\x80\x05\x96" + HUGE, "not a valid pickle"),
        (b"\x80\x02}r\xff\xff\xff\xff0.", "not a valid pickle"),
        (b"\x80\x02)(K\x01s.", "not a valid pickle"),
        (b"\x80\x02}]K\x01s.", "a key is a list, expected text or a number"),
        (b"\x80\x02})\x85K\x01s.", "a key is a tuple, expected text or a number"),
        (b"\x80\x02}(K\x01u.", "not a valid pickle"),
        (b"\x80\x02" + b"0" * 10, "not a valid pickle"),
        (b"\x80\x02" + b"N" * (1 << 20) + b".", "more than 250000 instructions"),
        (b"\x80\x02](" + b"]" * 100_000 + b"e" + b"q\x002" * 3 + b".", "contains a list, expected a dict"),
        (b"\x80\x02K\x01.", "contains a int, expected a dict of tensors"),
        (b"\x80\x02" + b")" + b"\x85" * 200_000 + b".", "contains a tuple, expected a dict"),
    ],
)
def test_a_malformed_pickle_is_refused(tmp_path, pickle_bytes, message):
    write_zip(tmp_path / "x.pt", pickle_bytes, Storages())
    with pytest.raises(CheckpointError, match=rf"x\.pt: .*{message}"):
        read_pytorch(tmp_path / "x.pt")


def test_copies_of_a_long_list_do_not_fill_the_memory(tmp_path):
    pairs = b"](" + b"(K\x01K\x02t" * 10_000 + b"eq\x01"
    copies = b"ccollections\nOrderedDict\nq\x02" + b"(" + b"h\x02h\x01\x85R" * 10_000 + b"l"
    write_zip(tmp_path / "x.pt", b"\x80\x02" + pairs + copies + b".", Storages())
    with pytest.raises(CheckpointError, match="more than 250000 instructions"):
        read_pytorch(tmp_path / "x.pt")


FLAT = np.arange(12, dtype="<f4")


@pytest.mark.parametrize("pairs", [["ab"], [["a"]], [["a", 1, 2]], [["a", 1], 2]], ids=str)
def test_an_ordered_dict_of_other_than_pairs_is_refused(tmp_path, pairs):
    call = Call(Global("collections", "OrderedDict"), (pairs,))
    write_zip(tmp_path / "x.pt", {"a": call}, Storages())
    with pytest.raises(CheckpointError, match="an OrderedDict of something other than pairs"):
        read_pytorch(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("shape", "strides", "first", "message"),
    [
        ((13,), (1,), 0, "ends at value 12 of 12"),
        ((12,), (1,), 1, "ends at value 12 of 12"),
        ((3, 4), (5, 1), 0, "ends at value 13 of 12"),
        ((1 << 59, 1 << 59), (1, 1), 0, "ends at value"),
        ((1 << 59,), (0,), 0, "a tensor of 576460752303423488 values that stores only 12"),
        ((1 << 80,), (1,), 0, "are not counts"),
        ((-1,), (1,), 0, "are not counts"),
        ((12,), (-1,), 0, "are not counts"),
        ((12,), (1,), -1, "are not counts"),
        ((True,), (1,), 0, "are not counts"),
        ((12.0,), (1,), 0, "are not counts"),
        ((3, 4), (1,), 0, "2 dimensions and 1 strides"),
        ((1,) * 9, (1,) * 9, 0, "at most 8"),
        ("12", (1,), 0, "at most 8"),
    ],
)
@BOTH
def test_a_tensor_outside_its_storage_is_refused(tmp_path, shape, strides, first, message, is_legacy):
    path = write(tmp_path / "x.pt", lambda s: {"a": s.view(FLAT, shape, strides, first)}, is_legacy)
    with pytest.raises(CheckpointError, match=rf"x\.pt: .*{message}"):
        read_pytorch(path)


def test_a_storage_of_another_size_is_refused(tmp_path):
    storages = Storages()
    value = {"a": storages.tensor(FLAT)}
    storages.contents["0"] = FLAT[:-1]
    write_zip(tmp_path / "x.pt", value, storages)
    with pytest.raises(CheckpointError, match=r"record data/0 has 44 bytes, expected 48"):
        read_pytorch(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "changed",
    [
        {1: Global("collections", "OrderedDict")},
        {1: "FloatStorage"},
        {2: 0},
        {4: "12"},
        {4: True},
        {4: -1},
        {4: 1 << 60},
    ],
    ids=str,
)
def test_a_storage_without_a_type_a_key_and_a_size_is_refused(tmp_path, changed):
    storages = Storages()
    storage = storages.storage(FLAT)
    saved = Persistent(tuple(changed.get(i, value) for i, value in enumerate(storage.saved)))
    write_zip(tmp_path / "x.pt", {"a": saved}, storages)
    with pytest.raises(CheckpointError, match="a storage has no valid type, key and size"):
        read_pytorch(tmp_path / "x.pt")


def test_a_missing_storage_is_refused(tmp_path):
    storages = Storages()
    value = {"a": storages.tensor(FLAT)}
    storages.contents.clear()
    write_zip(tmp_path / "x.pt", value, storages)
    with pytest.raises(CheckpointError, match=r"no record data/0"):
        read_pytorch(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": 5}, "a pickle, but not of torch.save: its magic number is wrong"),
        ({"version": 1002}, "its version is not 1001"),
        ({"is_little": False}, "written on a big-endian machine, expected a little-endian one"),
        ({"keys": []}, "the keys of its storages are not those of its tensors"),
        ({"keys": ["0", "1"]}, "the keys of its storages are not those of its tensors"),
        ({"keys": 1}, "the keys of its storages are not those of its tensors"),
    ],
)
def test_a_malformed_legacy_file_is_refused(tmp_path, changes, message):
    storages = Storages(is_legacy=True)
    write_legacy(tmp_path / "x.bin", {"a": storages.tensor(FLAT)}, storages, **changes)
    with pytest.raises(CheckpointError, match=rf"x\.bin: .*{message}"):
        read_pytorch(tmp_path / "x.bin")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({"order": b"big"}, "its byteorder is 'big', expected 'little'"),
        ({"constants.pkl": b""}, "a TorchScript archive"),
    ],
)
def test_another_kind_of_archive_is_refused_by_name(tmp_path, records, message):
    write_zip(tmp_path / "x.pt", {}, Storages(), **records)
    with pytest.raises(CheckpointError, match=message):
        read_pytorch(tmp_path / "x.pt")


def test_an_archive_without_a_byte_order_is_read(tmp_path):
    write_zip(tmp_path / "x.pt", {"a": 1}, Storages(), order=None)
    assert read_pytorch(tmp_path / "x.pt") == {"a": 1}


def test_a_compressed_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickled({"a": [0] * 1000}))
    with pytest.raises(CheckpointError, match=r"record 'x/data.pkl' is compressed"):
        read_pytorch(tmp_path / "x.pt")


def test_any_other_archive_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "text")
    with pytest.raises(CheckpointError, match=r"x\.zip: not a file of torch.save: it has no record data.pkl"):
        convert(tmp_path / "x.zip")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "x.pt").touch()
    with pytest.raises(CheckpointError, match=r"x\.pt: the file is empty"):
        read_pytorch(tmp_path / "x.pt")


@BOTH
def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path, is_legacy):
    content = small_file(tmp_path / "x.bin", is_legacy).read_bytes()
    for length in range(0, len(content), 3):
        (tmp_path / "x.bin").write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"x\.bin: "):
            read_pytorch(tmp_path / "x.bin")


def damage(data, content):
    """Return a content with a few bytes changed, removed or repeated."""
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.integers(0, 3))
        if kind == 0:
            content[at] = data.draw(st.integers(0, 255))
        elif kind == 1:
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == 2:
            del content[at : at + data.draw(st.integers(1, 8))]
        else:
            content[at:at] = content[max(0, at - data.draw(st.integers(1, 8))) : at]
    return bytes(content)


FUZZED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZED
@given(st.data())
def test_a_damaged_archive_is_refused_or_has_the_same_values(tmp_path, data):
    path = tmp_path / "x.bin"
    content = small_file(path).read_bytes()
    expected = values_of(read_tensors(path))
    path.write_bytes(damage(data, content))
    try:
        found = read_tensors(path)
    except CheckpointError as error:
        assert "x.bin" in str(error)  # noqa: PT017 (harmless damage is fine too)
    else:
        assert values_of(found) == expected or set(found) <= set(expected)


@FUZZED
@given(st.data())
def test_a_damaged_legacy_file_raises_nothing_else(tmp_path, data):
    path = tmp_path / "x.bin"
    path.write_bytes(damage(data, small_file(path, is_legacy=True).read_bytes()))
    try:
        values_of(read_pytorch(path))
    except CheckpointError as error:
        assert "x.bin" in str(error)  # noqa: PT017 (values may be damaged without notice)


@FUZZED
@given(st.data())
def test_damaged_instructions_raise_nothing_else(tmp_path, data):
    storages, path = Storages(), tmp_path / "x.bin"
    value = pickled({**storages.state(ARRAYS), "plain": [1, 2.5, "text", (None, True), {"k": [()]}]})
    write_zip(path, damage(data, value), storages)
    try:
        values_of(read_pytorch(path))
    except CheckpointError as error:
        assert "x.bin" in str(error)  # noqa: PT017 (a valid pickle by chance is fine too)


@FUZZED
@given(st.binary(max_size=60))
def test_random_instructions_raise_nothing_else(tmp_path, content):
    write_zip(tmp_path / "x.bin", b"\x80\x02" + content + b".", Storages())
    try:
        read_pytorch(tmp_path / "x.bin")
    except CheckpointError as error:
        assert "x.bin" in str(error)  # noqa: PT017
