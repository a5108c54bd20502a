"""Checkpoints for tests: tensors of any GPT-2, and a writer of TensorFlow's format (V2) that can write wrong values."""

import importlib.util
import json
import pathlib
import struct

import numpy as np
import pytest

from gpt2rt._modelfile import crc32c
from gpt2rt.modelfile import Hyperparameters

SMALL = Hyperparameters(n_vocab=301, n_ctx=17, n_embd=24, n_head=3, n_layer=2)
FLOAT = 1  # DT_FLOAT
INDEX_MAGIC = bytes.fromhex("57fb808b247547db")


def _load_bench():
    path = pathlib.Path(__file__).parents[1] / "bench" / "make_checkpoint.py"
    spec = importlib.util.spec_from_file_location("make_checkpoint", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_checkpoint = _load_bench()


def random_tensors(hyperparameters=SMALL, seed=0):
    """Return {name in the checkpoint: f32 array} of a whole GPT-2; all values differ."""
    n_vocab, n_ctx, n_embd, _, n_layer = hyperparameters
    generator = np.random.default_rng(seed)
    shapes = make_checkpoint.variable_shapes(n_vocab, n_ctx, n_embd, n_layer)
    return {f"model/{name}": generator.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def write_beside(folder, hyperparameters=SMALL, name="model.ckpt"):
    """Write the files that go with a checkpoint: hparams.json, a vocabulary, and `checkpoint`, which names it."""
    folder.mkdir(exist_ok=True)
    (folder / "hparams.json").write_text(json.dumps(hyperparameters._asdict()))
    make_checkpoint.write_vocabulary(folder, hyperparameters.n_vocab, seed=0)
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n')


def write_checkpoint(folder, hyperparameters=SMALL, seed=0, name="model.ckpt", **options):
    """Write a complete checkpoint with our own writer; return its tensors. Options are those of `write_bundle`."""
    write_beside(folder, hyperparameters, name)
    tensors = random_tensors(hyperparameters, seed)
    write_bundle(folder / name, tensors, **options)
    return tensors


def write_bundle(prefix, tensors, edit=None, **options):
    """Write PREFIX.index and one data file.

    Args:
        edit: called with the entries {name: dict of entry_message's arguments}, to change the index.
        options: of `index_bytes`.
    """
    content, entries = bytearray(), {}
    for name in sorted(tensors):
        data = tensors[name].tobytes()
        entries[name] = {"shape": tensors[name].shape, "offset": len(content), "size": len(data), "crc": crc32c(data)}
        content += data
    if edit:
        edit(entries)
    prefix.with_name(f"{prefix.name}.data-00000-of-00001").write_bytes(content)
    messages = {name.encode(): entry_message(**entry) for name, entry in entries.items()}
    prefix.with_name(f"{prefix.name}.index").write_bytes(index_bytes(messages, **options))


def varint(number):
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def field(number, value):
    """Encode a protobuf field: a varint, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value % 2**64)
    return varint(number << 3 | 2) + varint(len(value)) + value


def masked(checksum):
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) % 2**32


def entry_message(shape, offset, size, crc, dtype=FLOAT, shard=0, slices=b""):
    """Encode a BundleEntryProto."""
    dims = b"".join(field(2, field(1, dim)) for dim in shape)
    message = field(1, dtype) + field(2, dims) + field(3, shard) + field(4, offset) + field(5, size)
    message += varint(6 << 3 | 5) + struct.pack("<I", masked(crc))
    return message + (field(7, slices) if slices else b"")


def header_message(n_shards=1, endianness=0, min_consumer=0):
    """Encode a BundleHeaderProto."""
    return field(1, n_shards) + field(2, endianness) + field(3, field(1, 1) + field(2, min_consumer))


def block_bytes(entries):
    """Encode a block of a table: {key: value} in order, keys with shared prefixes, one restart point."""
    block, last = bytearray(), b""
    for key, value in entries.items():
        shared = 0
        while shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        block += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return bytes(block) + struct.pack("<II", 0, 1)


def literal_snappy(block):
    """Encode the block in snappy's format, without compressing anything."""
    assert len(block) <= 1 << 16
    return varint(len(block)) + bytes([61 << 2]) + struct.pack("<H", len(block) - 1) + block


def with_trailer(block, kind=0):
    """Return the block followed by its compression type and checksum."""
    block += bytes([kind])
    return block + struct.pack("<I", masked(crc32c(block)))


def index_bytes(messages, header=None, is_compressed=False, entries_per_block=7):
    """Encode an index: header and {key: message}, in blocks of a few entries."""
    messages = {b"": header_message() if header is None else header, **dict(sorted(messages.items()))}
    keys, content, handles = list(messages), b"", {}
    for begin in range(0, len(keys), entries_per_block):
        block = block_bytes({key: messages[key] for key in keys[begin : begin + entries_per_block]})
        if is_compressed:
            block = literal_snappy(block)
        handles[keys[begin : begin + entries_per_block][-1]] = varint(len(content)) + varint(len(block))
        content += with_trailer(block, int(is_compressed))
    footer = b""
    for block in (block_bytes({}), block_bytes(handles)):
        footer += varint(len(content)) + varint(len(block))
        content += with_trailer(block)
    return content + footer.ljust(40, b"\0") + INDEX_MAGIC


def save_with_tensorflow(folder, tensors, *, name="model.ckpt", global_step=None, extras=(), dtype=None, **saver):
    """Write a checkpoint with TensorFlow's Saver.

    Args:
        tensors: {name: array}. dtype: the type in which they are saved. saver: arguments of `Saver`.
        extras: called with the graph's variables {name: variable}; may add others, and returns a list of operations to
            run before saving.
    """
    tf = pytest.importorskip("tensorflow", reason="tensorflow is not installed")  # takes seconds

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        variables = {}
        for key, array in tensors.items():
            value = tf.constant(array) if dtype is None else tf.cast(tf.constant(array), dtype)
            variables[key] = v1.get_variable(key, initializer=value)
        more = extras(variables) if extras else []
        session.run(v1.global_variables_initializer())
        session.run(more)
        v1.train.Saver(**saver).save(session, str(folder / name), global_step=global_step)


def data_file(folder, name="model.ckpt"):
    return folder / f"{name}.data-00000-of-00001"
