"""The reader of TensorFlow checkpoints: compared with TensorFlow and OpenAI's index, and with damaged files."""

import json
import pathlib
import re
import sys

import numpy as np
import pytest
from checkpoints import (
    SMALL,
    data_file,
    header_message,
    random_tensors,
    save_with_tensorflow,
    write_beside,
    write_checkpoint,
)

from gpt2rt.converter.checkpoint_index import UnsupportedCheckpointError, read_index
from gpt2rt.converter.tensorflow_checkpoint import TensorFlowCheckpoint
from gpt2rt.errors import CheckpointError
from gpt2rt.modelfile import tensor_table

OPENAI = pathlib.Path(__file__).parents[2] / "shared" / "gpt2"
needs_openai = pytest.mark.skipif(not OPENAI.is_dir(), reason=f"{OPENAI} is missing")


@pytest.fixture(scope="module")
def tensorflow():
    return pytest.importorskip("tensorflow")


@pytest.fixture
def folder(tmp_path):
    """A valid checkpoint."""
    write_checkpoint(tmp_path / "small")
    return tmp_path / "small"


def read_all(source):
    """Return {name in the checkpoint: array as stored there} of a complete checkpoint."""
    checkpoint = TensorFlowCheckpoint(source)
    return {
        tensor.name: checkpoint.tensor(tensor.name) for tensor in tensor_table(checkpoint.hyperparameters, "f32", 0)
    }


def assert_equal_tensors(read, written):
    assert len(read) == len(written)
    for name, array in written.items():
        got = read[name.removeprefix("model/")]
        assert got.dtype == np.float32
        assert got.tobytes() == array.astype(np.float32).tobytes(), name
        assert got.shape == (array.shape[1:] if array.ndim == 3 else array.shape)


# Checkpoints written by TensorFlow


def test_tensors_equal_those_written_by_tensorflow(tmp_path, tensorflow):
    tensors = random_tensors()
    write_beside(tmp_path)
    save_with_tensorflow(tmp_path, tensors)
    assert_equal_tensors(read_all(tmp_path), tensors)


def test_tensorflow_reads_checkpoints_of_the_test_writer(folder, tensorflow):
    reader = tensorflow.train.load_checkpoint(str(folder / "model.ckpt"))
    for name, array in random_tensors().items():
        assert reader.get_tensor(name).tobytes() == array.tobytes()


def test_several_shards_are_read(tmp_path, tensorflow):
    tensors = random_tensors()
    write_beside(tmp_path)
    config = {"allow_soft_placement": True}
    v1 = tensorflow.compat.v1
    with tensorflow.Graph().as_default():
        variables = []
        for number, (name, array) in enumerate(tensors.items()):
            with tensorflow.device(f"/cpu:{number % 3}"):
                variables.append(v1.get_variable(name, initializer=tensorflow.constant(array)))
        with v1.Session(config=v1.ConfigProto(device_count={"CPU": 3}, **config)) as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver(sharded=True).save(session, str(tmp_path / "model.ckpt"))
    assert len(list(tmp_path.glob("*.data-*-of-00003"))) == 3
    checkpoint = TensorFlowCheckpoint(tmp_path)
    assert [path.name[-14:] for path in checkpoint.files] == ["00000-of-00003", "00001-of-00003", "00002-of-00003"]
    assert_equal_tensors(read_all(tmp_path), tensors)


def test_optimizer_slots_and_global_step_are_ignored(tmp_path, tensorflow):
    tensors = random_tensors()
    v1 = tensorflow.compat.v1

    def train(variables):
        step = v1.train.get_or_create_global_step()
        with v1.variable_scope("training"):
            loss = tensorflow.add_n([tensorflow.reduce_sum(variable) for variable in variables.values()])
            optimizer = v1.train.AdamOptimizer(0.0)
            average = tensorflow.train.ExponentialMovingAverage(0.9)
            return [optimizer.minimize(loss, global_step=step), average.apply(list(variables.values()))]

    write_beside(tmp_path)
    save_with_tensorflow(tmp_path, tensors, name="model", global_step=1000, extras=train)
    names = read_index(tmp_path / "model-1000.index").entries
    assert any(name.endswith("model/wte/Adam_1") for name in names)
    assert any(name.endswith("wte/ExponentialMovingAverage") for name in names)
    assert {"global_step"} < set(names)
    assert_equal_tensors(read_all(tmp_path), tensors)  # the file `checkpoint` names model-1000
    assert_equal_tensors(read_all(tmp_path / "model-1000"), tensors)
    assert TensorFlowCheckpoint(tmp_path / "model-1000").name == "model-1000"


def test_version_1_is_read_by_tensorflow(tmp_path, tensorflow):
    tensors = random_tensors()
    write_beside(tmp_path)
    version = tensorflow.compat.v1.train.SaverDef.V1
    save_with_tensorflow(tmp_path, tensors, name="model", global_step=7, write_version=version)
    assert not list(tmp_path.glob("*.index"))
    assert_equal_tensors(read_all(tmp_path), tensors)
    assert TensorFlowCheckpoint(tmp_path / "model-7").files == [tmp_path / "model-7"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_float_types_are_read_by_tensorflow(tmp_path, tensorflow, dtype):
    tensors = {name: np.round(array * 16) / 16 for name, array in random_tensors().items()}  # exact in every type
    write_beside(tmp_path)
    save_with_tensorflow(tmp_path, tensors, dtype=dtype)
    assert_equal_tensors(read_all(tmp_path), tensors)


def test_a_partitioned_tensor_is_read_by_tensorflow(tmp_path, tensorflow):
    tensors = random_tensors()
    v1 = tensorflow.compat.v1
    write_beside(tmp_path)
    with tensorflow.Graph().as_default(), v1.Session() as session:
        for name, array in tensors.items():

            def part(shape, dtype=None, partition_info=None, array=array):
                begin = partition_info.var_offset[0] if partition_info else 0
                return tensorflow.constant(array[begin : begin + shape[0]])

            partitioner = v1.fixed_size_partitioner(3) if name == "model/wte" else None
            v1.get_variable(name, array.shape, initializer=part, partitioner=partitioner)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    assert read_index(tmp_path / "model.ckpt.index").entries["model/wte"].is_sliced
    assert_equal_tensors(read_all(tmp_path), tensors)


def test_a_compressed_index_is_read_by_tensorflow(tmp_path, tensorflow):
    tensors = write_checkpoint(tmp_path, is_compressed=True)
    with pytest.raises(UnsupportedCheckpointError, match="compressed"):
        read_index(tmp_path / "model.ckpt.index")
    assert_equal_tensors(read_all(tmp_path), tensors)


def test_damage_found_by_tensorflow_names_the_tensor(tmp_path, tensorflow):
    write_checkpoint(tmp_path, is_compressed=True)
    content = bytearray(data_file(tmp_path).read_bytes())
    content[3] ^= 1
    data_file(tmp_path).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tensor 'model/h0/attn/c_attn/b' is damaged"):
        read_all(tmp_path)


def test_a_checkpoint_that_needs_tensorflow_is_refused_without_it_and_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # makes the import fail
    write_checkpoint(tmp_path, is_compressed=True)
    with pytest.raises(CheckpointError, match=r'blocks are compressed.*pip install "gpt2rt\[tensorflow\]"'):
        TensorFlowCheckpoint(tmp_path)
    (tmp_path / "model.ckpt.index").rename(tmp_path / "model-7")
    with pytest.raises(CheckpointError, match=r"model-7: is a checkpoint of version 1.*gpt2rt\[tensorflow\]"):
        TensorFlowCheckpoint(tmp_path / "model-7")

    def halve(entries):
        entries["model/wpe"]["dtype"] = 19

    write_checkpoint(tmp_path, edit=halve)
    with pytest.raises(CheckpointError, match=r"tensor 'model/wpe' is of type float16.*gpt2rt\[tensorflow\]"):
        TensorFlowCheckpoint(tmp_path)


# OpenAI's release


@needs_openai
def test_openais_index_has_148_tensors():
    index = read_index(OPENAI / "model.ckpt.index")
    assert index.n_shards == 1
    assert len(index.entries) == 148
    assert index.entries["model/wte"].shape == (50257, 768)
    assert index.entries["model/h11/mlp/c_fc/w"].shape == (1, 768, 3072)
    assert sum(entry.size for entry in index.entries.values()) == 497_759_232


@needs_openai
def test_genuine_tensors_are_verified_and_missing_ones_rejected(tmp_path):
    for name in ("model.ckpt.index", "hparams.json", "checkpoint"):
        (tmp_path / name).write_bytes((OPENAI / name).read_bytes())
    entries = read_index(OPENAI / "model.ckpt.index").entries
    true = np.load(OPENAI / "true_tensors.npz")
    with data_file(tmp_path).open("wb") as file:
        file.truncate(497_759_232)
        for name in true.files:
            file.seek(entries[name].offset)
            file.write(true[name].tobytes())
    checkpoint = TensorFlowCheckpoint(tmp_path)
    assert "MIT" in checkpoint.licence
    n_verified = 0
    for tensor in tensor_table(checkpoint.hyperparameters, "f32", 0):
        name = f"model/{tensor.name}"
        if name in true.files:
            assert checkpoint.tensor(tensor.name).tobytes() == true[name].tobytes()
            n_verified += 1
        else:
            with pytest.raises(CheckpointError, match=f"tensor '{name}' is damaged: checksum"):
                checkpoint.tensor(tensor.name)
    assert n_verified == len(true.files) == 103


# Forms of a source


@pytest.mark.parametrize("form", [".", "model.ckpt", "model.ckpt.index"])
def test_folder_prefix_and_index_select_the_same_checkpoint(folder, form):
    checkpoint = TensorFlowCheckpoint(folder / form)
    assert checkpoint.path == folder / "model.ckpt"
    assert checkpoint.name == "small"
    assert checkpoint.hyperparameters == SMALL


def test_path_as_text_is_accepted(folder):
    assert TensorFlowCheckpoint(str(folder)).name == "small"


@pytest.mark.parametrize("named", ["/home/joe/run1/model-5", "C:\\\\runs\\\\model-5", "run1/model-5"])
def test_checkpoint_file_may_name_the_folder_it_was_saved_in(tmp_path, named):
    write_checkpoint(tmp_path, name="model-5")
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{named}"\n')
    assert TensorFlowCheckpoint(tmp_path).path == tmp_path / "model-5"


def test_checkpoint_file_may_contain_a_name_that_is_not_ascii(tmp_path):
    write_checkpoint(tmp_path, name="modèle-5")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "mod\\303\\250le-5"\n')
    assert TensorFlowCheckpoint(tmp_path).path == tmp_path / "modèle-5"


def test_folder_without_checkpoint_file_may_hold_one_checkpoint(folder):
    (folder / "checkpoint").unlink()
    assert TensorFlowCheckpoint(folder).path == folder / "model.ckpt"


def test_folder_without_checkpoint_file_must_not_hold_two_checkpoints(folder):
    (folder / "checkpoint").unlink()
    (folder / "model-7.index").touch()
    with pytest.raises(CheckpointError, match=r"several checkpoints .* \(give one of them: model-7, model\.ckpt\)"):
        TensorFlowCheckpoint(folder)


@pytest.mark.parametrize("scope", ["", "gpt2/model/"])
def test_another_scope_is_accepted_if_it_is_the_only_one(tmp_path, scope):
    def rename(entries):
        for name in list(entries):
            entries[scope + name.removeprefix("model/")] = entries.pop(name)

    tensors = write_checkpoint(tmp_path, edit=rename)
    assert_equal_tensors(read_all(tmp_path), tensors)


def test_two_other_scopes_are_refused(tmp_path):
    def double(entries):
        for name in list(entries):
            entries["a" + name] = entries["b" + name] = entries.pop(name)

    write_checkpoint(tmp_path, edit=double)
    with pytest.raises(CheckpointError, match=r"several tensors 'wte'.*amodel/, bmodel/"):
        TensorFlowCheckpoint(tmp_path)


def test_tensors_at_an_unaligned_offset_are_read(tmp_path):
    tensors = write_checkpoint(tmp_path)
    data_file(tmp_path).write_bytes(b"x" + data_file(tmp_path).read_bytes())

    def shift(entries):
        for entry in entries.values():
            entry["offset"] += 1

    content = b"x" + data_file(tmp_path).read_bytes()[1:]
    write_checkpoint(tmp_path, edit=shift)
    data_file(tmp_path).write_bytes(content)
    read = read_all(tmp_path)
    assert_equal_tensors(read, tensors)
    assert all(array.flags.aligned for array in read.values())


# Refused, each with its own message, before any weight is read


def edited(change):
    """Return a case that rewrites the checkpoint with changed entries."""

    def apply(folder):
        write_checkpoint(folder, edit=change)

    return apply


def hparams(**changes):
    """Return a case that changes hparams.json; None removes a key."""

    def apply(folder):
        content = {**SMALL._asdict(), **changes}
        (folder / "hparams.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return apply


def removed(name):
    return lambda folder: (folder / name).unlink()


def written(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def truncated_data(folder):
    with data_file(folder).open("r+b") as file:
        file.truncate(data_file(folder).stat().st_size - 1)


REFUSED = {
    "missing_tensor": (
        edited(lambda e: e.pop("model/h1/mlp/c_fc/w")),
        r"1 of 28 tensors are missing, the first is 'model/h1/mlp/c_fc/w'",
    ),
    "missing_layer": (
        hparams(n_layer=3),
        r"12 of 40 tensors are missing, the first is 'model/h2/ln_1/g'.*n_layer is 3",
    ),
    "extra_layer": (hparams(n_layer=1), r"unexpected tensor 'model/h1/attn/c_attn/b' for a GPT-2 of 1 layers"),
    "unknown_tensor": (
        edited(lambda e: e.update({"other": e["model/ln_f/g"]})),
        r"unexpected tensor 'other' for a GPT-2",
    ),
    "misshapen_tensor": (hparams(n_ctx=18), r"tensor 'model/wpe' has shape \[17, 24\], expected \[18, 24\]"),
    "other_n_vocab": (hparams(n_vocab=302), r"tensor 'model/wte' has shape \[301, 24\], expected \[302, 24\]"),
    "no_gpt2": (
        edited(lambda e: [e.pop(name) for name in list(e) if name != "model/h0/ln_1/b"]),
        r"not a GPT-2 model: no tensor 'model/wte'",
    ),
    "short_data_file": (
        truncated_data,
        r"data-00000-of-00001: has \d+ bytes, but tensor 'model/wte' ends at byte \d+ \(trunc",
    ),
    "empty_data_file": (
        written("model.ckpt.data-00000-of-00001", b""),
        r"data-00000-of-00001: has 0 bytes, but tensor",
    ),
    "missing_data_file": (removed("model.ckpt.data-00000-of-00001"), r"data-00000-of-00001: no such file"),
    "missing_second_shard": (
        lambda folder: write_checkpoint(
            folder, edit=lambda e: e["model/wte"].update(shard=1), header=header_message(n_shards=2)
        ),
        r"data-0000\d-of-00002: no such file",
    ),
    "shard_out_of_range": (
        edited(lambda e: e["model/wte"].update(shard=1)),
        r"'model/wte' is in data file 1, expected 0 to 0",
    ),
    "size_not_by_shape": (edited(lambda e: e["model/wte"].update(size=8)), r"'model/wte' has 8 bytes, expected 28896"),
    "huge_offset": (edited(lambda e: e["model/wte"].update(offset=2**63 - 1)), r"tensor 'model/wte' ends at byte 9223"),
    "negative_offset": (edited(lambda e: e["model/wte"].update(offset=-4)), r"an entry contains a negative number"),
    "integers": (edited(lambda e: e["model/wte"].update(dtype=3)), r"tensor 'model/wte' is of type int32"),
    "missing_index": (
        removed("model.ckpt.index"),
        r"checkpoint: names 'model.ckpt', but model.ckpt.index does not exist",
    ),
    "checkpoint_names_nothing": (written("checkpoint", b"all: 'x'\n"), r"does not name a checkpoint"),
    "checkpoint_names_a_gap": (
        written("checkpoint", b'model_checkpoint_path: "m-9"'),
        r"names 'm-9', but",
    ),
    "checkpoint_no_text": (written("checkpoint", b"\xff\xfe"), r"checkpoint: not UTF-8 text"),
    "checkpoint_huge": (
        written("checkpoint", b" " * (1 << 21)),
        r"checkpoint: can't be read: 2097152 bytes, expected at most 1048576",
    ),
    "no_hparams": (removed("hparams.json"), r"hparams.json: no such file"),
    "hparams_no_json": (written("hparams.json", b"{"), r"hparams.json: not valid JSON"),
    "hparams_deep": (written("hparams.json", b"[" * 100_000), r"hparams.json: not valid JSON"),
    "hparams_long_number": (written("hparams.json", b"9" * 5000), r"hparams.json: not valid JSON"),
    "hparams_list": (written("hparams.json", b"[]"), r"hparams.json: contains a list, expected an object"),
    "hparams_lacks_n_head": (hparams(n_head=None), r"hparams.json: has no n_head"),
    "hparams_bool": (hparams(n_layer=True), r"n_layer is True, expected an integer"),
    "hparams_float": (hparams(n_layer=2.0), r"n_layer is 2.0, expected an integer"),
    "hparams_string": (hparams(n_ctx="17"), r"n_ctx is '17', expected an integer"),
    "hparams_negative": (hparams(n_ctx=-17), r"n_ctx is -17, expected 1 to 65536"),
    "hparams_zero": (hparams(n_layer=0), r"n_layer is 0, expected 1 to 1024"),
    "hparams_huge": (hparams(n_embd=10**30), r"n_embd is 1000000000000000000000000000000, expected 1 to 16384"),
    "hparams_heads": (hparams(n_head=5), r"n_embd is 24, expected a multiple of n_head, which is 5"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_checkpoint_is_refused_before_weights_are_read(folder, case, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    damage, message = REFUSED[case]
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        TensorFlowCheckpoint(folder)
    assert str(folder) in str(raised.value)


def test_missing_source_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"run1: no such checkpoint.*there is no .*run1\.index"):
        TensorFlowCheckpoint(tmp_path / "run1")


@pytest.mark.parametrize("name", [".index", "x" * 300, "a\0b"])
def test_odd_name_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"no such checkpoint|File name too long"):
        TensorFlowCheckpoint(tmp_path / name)


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no TensorFlow checkpoint found"):
        TensorFlowCheckpoint(tmp_path)


def test_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK" * 100)
    with pytest.raises(
        CheckpointError, match=r"not a TensorFlow checkpoint, expected a folder, a prefix or a \.index file"
    ):
        TensorFlowCheckpoint(tmp_path / "pytorch_model.bin")


def test_flipped_bit_in_any_tensor_names_it(folder):
    entries = read_index(folder / "model.ckpt.index").entries
    sound = data_file(folder).read_bytes()
    for name, entry in entries.items():
        damaged = bytearray(sound)
        damaged[entry.offset + entry.size // 2] ^= 16
        data_file(folder).write_bytes(damaged)
        checkpoint = TensorFlowCheckpoint(folder)
        with pytest.raises(CheckpointError, match=f"tensor '{name}' is damaged: checksum [0-9a-f]{{8}}, expected"):
            checkpoint.tensor(name.removeprefix("model/"))


def test_messages_with_odd_names_stay_on_one_line(folder):
    data_file(folder).unlink()
    with pytest.raises(CheckpointError) as raised:
        TensorFlowCheckpoint(folder)
    assert re.fullmatch(r".+: no such file, but the index refers to it \(incomplete download\?\)", str(raised.value))
