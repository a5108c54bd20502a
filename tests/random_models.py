"""Random models, written as model files without a checkpoint, for tests of the engine."""

import numpy as np

import gpt2rt
from gpt2rt import modelfile
from gpt2rt._engine import Engine, Runtime
from gpt2rt._kernels import available_isas
from gpt2rt.converter._pack import pack_rows
from gpt2rt.modelfile.vocabulary import vocabulary_section
from gpt2rt.modelfile.writer import Writer

ISAS = available_isas()


def random_tensors(hyperparameters, seed=0, scale=0.3):
    """Return {name: f32 array} with the checkpoint's names and shapes, and larger values than an untrained model's."""
    random = np.random.default_rng(seed)
    tensors = {}
    for tensor in modelfile.tensor_table(hyperparameters, "f32", 0):
        shape = tensor.shape
        if tensor.is_matrix and tensor.name != "wte":
            shape = (1, *shape[::-1])
        values = random.standard_normal(shape)
        if tensor.is_matrix:
            values *= scale * 3 / np.sqrt(hyperparameters.n_embd)
        elif tensor.name.endswith("/g"):
            values = 1 + 0.2 * values
        else:
            values *= 0.1
        tensors[tensor.name] = values.astype(np.float32)
    return tensors


def byte_vocabulary(n_vocab):
    """Return a vocabulary section of the 256 bytes and special tokens; n_vocab is at least 256."""
    offsets = np.concatenate([np.arange(257), 256 + np.arange(1, n_vocab - 256 + 1)]).astype("<u4")
    tables = {
        "token_offsets": offsets.tobytes(),
        "byte_tokens": np.arange(256, dtype="<u4").tobytes(),
        "special_tokens": np.arange(256, n_vocab, dtype="<u4").tobytes(),
        "controls": b"",
        "merge_slots": b"\xff" * 16 * 16,
        "token_bytes": bytes(range(256)) + b"?" * (n_vocab - 256),
    }
    return vocabulary_section(n_vocab, 0, tables)


def write_model(path, hyperparameters, tensors, weight_type="f32", group_size=None, **metadata):
    """Write tensors as a model file at `path`; return `path`. metadata: besides the name."""
    if group_size is None:
        group_size = modelfile.DEFAULT_GROUP_SIZE[weight_type]
    vocabulary = byte_vocabulary(hyperparameters.n_vocab)
    with Writer(path, hyperparameters, weight_type, group_size, {"name": "random", **metadata}, vocabulary) as writer:
        for tensor in writer.tensors:
            values = tensors[tensor.name]
            content = bytearray(tensor.length)
            if tensor.is_matrix:
                matrix = values.reshape(values.shape[-2:])
                pack_rows(matrix, content, values.ndim == 3, weight_type, group_size, 0, tensor.shape[0])
            else:
                content[: values.nbytes] = values.tobytes()
            writer.write_tensor([content])
    return path


def open_sequence(path, isa=None, threads=1, kv_type=None):
    """Return an empty sequence of a model file, with exactly this many threads even if the machine has fewer."""
    model = gpt2rt.open_model(path, isa=isa, kv_type=kv_type)
    model._runtime = Runtime(model._runtime.weights, threads)
    return model.sequence()


def evaluate_together(sequences, tokens):
    """Evaluate ids for each sequence, all in the same steps."""
    for sequence, ids in zip(sequences, tokens, strict=True):
        sequence.push(ids)
    engine = Engine(sequences[0].model)
    while running := [sequence for sequence in sequences if sequence.pending]:
        engine.step(running)
