"""The model file: its layout, reader and writer. No code outside this package knows an offset.

`docs/format.md` is normative. `reader` and `writer` share `layout`. This module exports what opening a file needs;
import `writer` and `vocabulary` separately.
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
