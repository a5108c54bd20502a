"""PyTorch's files: what is read from them without PyTorch, that nothing in them runs, and each way to be malformed."""

import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import reference
from checkpoints import SMALL
from hf_folder import TOKENS, assert_close, logits, named, tensors_of
from pytorch_files import ARRAYS, BOTH, Call, Global, Persistent, Storages, small_file, write, write_legacy, write_zip

from gpt2rt.converter import convert
from gpt2rt.converter.pytorch import checked_tensors, read_pytorch, read_tensors
from gpt2rt.errors import CheckpointError

# --- what is read


@BOTH
def test_tensors_have_their_values(tmp_path, is_legacy):
    found = read_tensors(small_file(tmp_path / "x.bin", is_legacy))
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        values = found[name].values()
        assert values.dtype == np.float32
        assert values.shape == array.shape
        assert np.array_equal(values, array)


@BOTH
def test_a_strided_tensor_has_its_values(tmp_path, is_legacy):
    flat = np.arange(24, dtype="<f4")

    def make(storages):
        return {"t": storages.view(flat, (4, 3), (1, 4), first=2), "whole": storages.view(flat, (24,), (1,))}

    found = read_tensors(write(tmp_path / "x.bin", make, is_legacy))
    expected = flat[2:14].reshape(3, 4).T
    assert np.array_equal(found["t"].values(), expected)
    assert np.array_equal(found["t"].transposed(), expected.T)
    assert np.array_equal(found["whole"].values(), flat)
    assert found["t"].is_same(found["t"])
    assert not found["t"].is_same(found["t"]._replace(offset=found["t"].offset + 4))


@BOTH
def test_names_of_one_storage_are_one_tensor(tmp_path, is_legacy):
    flat = np.arange(6, dtype="<f4")

    def make(storages):
        return {name: storages.view(flat, (2, 3), (3, 1)) for name in ("wte.weight", "lm_head.weight")}

    found = read_tensors(write(tmp_path / "x.bin", make, is_legacy))
    assert found["wte.weight"] == found["lm_head.weight"]
    assert found["wte.weight"].is_same(found["lm_head.weight"])


def test_bfloat16_is_read_exactly(tmp_path):
    stored = np.array([0x3F80, 0xC000, 0x7F7F], "<u2")

    def make(storages):
        return {"a": storages.tensor(stored, "BFloat16Storage")}

    found = read_tensors(write(tmp_path / "x.bin", make))
    assert found["a"].dtype == "BF16"
    assert np.array_equal(found["a"].values(), (stored.astype("<u4") << 16).view("<f4"))


def test_an_archive_with_64_bit_numbers_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 40)  # the size from which zipfile writes them
    found = read_tensors(small_file(tmp_path / "x.bin"))
    assert b"PK\6\6" in (tmp_path / "x.bin").read_bytes()
    assert all(np.array_equal(found[name].values(), array) for name, array in ARRAYS.items())


@pytest.mark.parametrize(
    ("array", "dtype"), [(np.ones(3, bool), "BOOL"), (np.ones(3, "u1"), "U8"), (np.ones(3, "<i8"), "I64")]
)
def test_a_tensor_of_another_type_is_listed_with_it(tmp_path, array, dtype):
    assert read_tensors(write(tmp_path / "x.bin", lambda s: s.state({"m": array})))["m"].dtype == dtype


def test_a_parameter_is_its_tensor(tmp_path):
    def make(storages):
        arguments = storages.tensor(ARRAYS["a"]), True, Call(Global("collections", "OrderedDict"), ())
        return {"a": Call(Global("torch._utils", "_rebuild_parameter"), arguments)}

    assert np.array_equal(read_tensors(write(tmp_path / "x.bin", make))["a"].values(), ARRAYS["a"])


def test_a_type_of_its_own_over_untyped_memory_is_read(tmp_path):
    memory = np.frombuffer(ARRAYS["a"].tobytes(), "u1")

    def make(storages):
        none = Call(Global("collections", "OrderedDict"), ())
        arguments = (
            storages.storage(memory, "UntypedStorage"),
            0,
            (3, 4),
            (4, 1),
            False,
            none,
            Global("torch", "float32"),
        )
        return {"a": Call(Global("torch._utils", "_rebuild_tensor_v3"), arguments)}

    assert np.array_equal(read_tensors(write(tmp_path / "x.bin", make))["a"].values(), ARRAYS["a"])


def test_plain_values_are_read(tmp_path):
    value = {"a": [1, 2.5, True, None, "é", 2**70, -1], "b": (), "c": {3: {}}, "d": OrderedDict(e=1)}
    for protocol in (2, 3, 4, 5):
        if protocol > 2:
            value["bytes"] = b"\xff"
        write_zip(tmp_path / "x.pt", pickle.dumps(value, protocol), Storages())
        assert read_pytorch(tmp_path / "x.pt") == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_value_that_appears_twice_is_read_from_the_memo(tmp_path, protocol):
    first, second = [1], ["x"]
    value = {"a": first, "b": second, "c": first, "d": second, "e": [first, second, first]}
    write_zip(tmp_path / "x.pt", pickle.dumps(value, protocol), Storages())
    assert read_pytorch(tmp_path / "x.pt") == value


def test_views_of_a_legacy_storage_are_read(tmp_path):
    storages = Storages(is_legacy=True)
    flat = np.arange(10, dtype="<f4")
    saved = storages.storage(flat).saved
    part = Persistent((*saved[:5], ("view", 4, 3)))
    none = Call(Global("collections", "OrderedDict"), ())
    tensor = Call(Global("torch._utils", "_rebuild_tensor_v2"), (part, 1, (2,), (1,), False, none))
    write_legacy(tmp_path / "x.bin", {"a": tensor}, storages)
    assert read_tensors(tmp_path / "x.bin")["a"].values().tolist() == [5, 6]


def test_an_ordered_dict_of_python_2_is_read(tmp_path):
    call = Call(Global("collections", "OrderedDict"), ([["a", 1], ["b", 2]],))
    write_zip(tmp_path / "x.pt", call, Storages())
    assert read_pytorch(tmp_path / "x.pt") == {"a": 1, "b": 2}


# --- folders of transformers


@BOTH
def test_a_folder_with_a_pytorch_file_is_converted(folder, tmp_path, is_legacy):
    tensors = tensors_of()

    def make(storages):
        state = storages.state(named(tensors))
        mask = np.tril(np.ones((1, 1, SMALL.n_ctx, SMALL.n_ctx), "u1"))
        state["transformer.h.0.attn.bias"] = storages.tensor(mask)
        state["lm_head.weight"] = state["transformer.wte.weight"]
        return state

    write(folder / "pytorch_model.bin", make, is_legacy)
    assert_close(logits(folder, tmp_path), reference.logits(tensors, SMALL.n_head, TOKENS))
    assert_close(logits(folder / "pytorch_model.bin", tmp_path), reference.logits(tensors, SMALL.n_head, TOKENS))


def test_a_folder_with_pytorch_shards_is_converted(folder, tmp_path):
    state, tensors = named(tensors_of()), tensors_of()
    files = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    for number, file in enumerate(files):
        part = dict(list(state.items())[number::2])
        write(folder / file, lambda storages, part=part: storages.state(part), is_legacy=number == 1)
    listed = ", ".join(f'"{name}": "{files[number % 2]}"' for number, name in enumerate(state))
    (folder / "pytorch_model.bin.index.json").write_text(f'{{"weight_map": {{{listed}}}}}')
    assert_close(logits(folder, tmp_path), reference.logits(tensors, SMALL.n_head, TOKENS))


def test_a_training_checkpoint_in_a_folder_is_refused(folder, tmp_path):
    write(folder / "pytorch_model.bin", lambda storages: {"epoch": 3, "state_dict": storages.state(ARRAYS)})
    with pytest.raises(CheckpointError, match=r"'epoch' is a int, expected only tensors.*save the model alone"):
        convert(folder, tmp_path / "x.bin")


def test_a_wrong_checksum_is_noticed(tmp_path):
    content = bytearray(small_file(tmp_path / "x.bin").read_bytes())
    content[content.index(ARRAYS["a"].tobytes()) + 5] ^= 1
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.bin: tensor 'a' is damaged: its checksum is wrong"):
        read_tensors(tmp_path / "x.bin")


# --- PyTorch itself


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "zip without checksums", "legacy"])
def test_files_of_pytorch_have_the_values_that_it_loads(tmp_path, kind):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    shared = torch.randn(5, 6)
    saved = {
        "model": OrderedDict(
            a=shared, t=shared.T, row=shared[2], step=shared[::2, 1:5:2], tied=shared, number=torch.tensor(2.5),
            half=torch.randn(7).half(), brain=torch.randn(7).bfloat16(), empty=torch.zeros(0, 3),
            parameter=torch.nn.Parameter(torch.randn(3)), mask=torch.ones(2, 2, dtype=torch.bool),
        ),
        "optimizer": torch.optim.AdamW([torch.nn.Parameter(torch.randn(3))]).state_dict(),
        "config": {"lr": 1e-3, "compile": True, "dataset": "owt", "betas": (0.9, 0.95), "none": None},
        "iter_num": 2000,
    }  # fmt: skip
    torch.serialization.set_crc32_options(kind == "zip")
    torch.save(saved, tmp_path / "x.pt", _use_new_zipfile_serialization=kind != "legacy")
    torch.serialization.set_crc32_options(True)
    found = read_pytorch(tmp_path / "x.pt")
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert {key: found[key] for key in ("config", "iter_num", "optimizer")} == {
        key: loaded[key] for key in ("config", "iter_num", "optimizer")
    }
    read = checked_tensors(tmp_path / "x.pt", found["model"])
    assert list(read) == list(loaded["model"])
    for name, tensor in loaded["model"].items():
        if name == "mask":
            assert read[name].dtype == "BOOL"
        else:
            assert np.array_equal(read[name].values(), tensor.detach().float().numpy()), name


@pytest.mark.slow
@pytest.mark.parametrize("is_zip", [True, False])
def test_logits_of_a_pytorch_file_equal_those_of_transformers(folder, tmp_path, is_zip):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.GPT2Config.from_pretrained(folder)
    torch.manual_seed(1)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        expected = model(torch.tensor([TOKENS])).logits[0].numpy()
    torch.save(model.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    assert_close(logits(folder, tmp_path), expected)
