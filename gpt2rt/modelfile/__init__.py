"""The model file: how it is laid out, read and written; nothing outside this package knows an offset.

`docs/format.md` is normative. `layout` is shared by the `reader` and the `writer`. What opening a file needs can be
imported from here; `writer` and `vocabulary`, which it doesn't need, stand for themselves.
"""

from gpt2rt.modelfile.layout import (
    DEFAULT_GROUP_SIZE,
    GROUP_SIZES,
    MAGIC,
    MAX_N_LAYER,
    MAX_N_VOCAB,
    MAX_TOKEN_BYTES,
    MERGE_SLOT,
    QUANTIZED,
    TILE,
    VOCABULARY_HEADER,
    WEIGHT_TYPES,
    Hyperparameters,
    Tensor,
    align,
    matrix_length,
    slots_for,
    tensor_table,
    vocabulary_tables,
)
from gpt2rt.modelfile.reader import ModelFile

__all__ = [
    "DEFAULT_GROUP_SIZE",
    "GROUP_SIZES",
    "MAGIC",
    "MAX_N_LAYER",
    "MAX_N_VOCAB",
    "MAX_TOKEN_BYTES",
    "MERGE_SLOT",
    "QUANTIZED",
    "TILE",
    "VOCABULARY_HEADER",
    "WEIGHT_TYPES",
    "Hyperparameters",
    "ModelFile",
    "Tensor",
    "align",
    "matrix_length",
    "slots_for",
    "tensor_table",
    "vocabulary_tables",
]
