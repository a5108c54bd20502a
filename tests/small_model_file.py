"""A small model file, for tests of the reader and the writer."""

import struct

from gpt2rt.modelfile import Hyperparameters, slots_for
from gpt2rt.modelfile.vocabulary import vocabulary_section
from gpt2rt.modelfile.writer import Writer

NUMBERS = Hyperparameters(n_vocab=40, n_ctx=5, n_embd=24, n_head=3, n_layer=2)
METADATA = {"name": "small", "source": "a test", "quantization": {}}
N_MERGES = 7
SECTIONS = ("metadata", "vocabulary", "weights")


def vocabulary():
    """Return a section with valid lengths but meaningless content."""
    tables = {
        "token_offsets": bytes(4 * (NUMBERS.n_vocab + 1)),
        "byte_tokens": bytes(4 * 256),
        "special_tokens": bytes(4),
        "controls": b"",
        "merge_slots": b"\xff" * 16 * slots_for(N_MERGES),
        "token_bytes": b"abcdef",
    }
    return vocabulary_section(NUMBERS.n_vocab, N_MERGES, tables)


def make_writer(path, force=False, weight_type="int8", group_size=16, metadata=None, numbers=NUMBERS):
    return Writer(path, numbers, weight_type, group_size, dict(metadata or METADATA), vocabulary(), force)


def write(path, **options):
    writer = make_writer(path, **options)
    with writer:
        for number, tensor in enumerate(writer.tensors):
            writer.write_tensor([bytes([number + 1]) * tensor.length])
    return path


def write_weights(path):
    """Return a writer that has written everything but has not renamed the file yet."""
    writer = make_writer(path).__enter__()
    for tensor in writer.tensors:
        writer.write_tensor([bytes(tensor.length)])
    return writer


def section(content, name):
    """Return the (offset, length) of a section, from the header."""
    return struct.unpack_from("<QQ", content, 64 + 24 * SECTIONS.index(name))
