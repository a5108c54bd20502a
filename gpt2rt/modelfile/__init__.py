"""The model file: its layout, reader and writer. No code outside this package knows an offset.

`docs/format.md` is normative. `reader` and `writer` share `layout`. This module exports what opening a file needs;
import `writer` and `vocabulary` separately.
"""

from gpt2rt.modelfile.layout import (
    CONTROLS,
    DEFAULT_GROUP_SIZE,
    FLAG_BOS,
    FLAG_PREFIX_SPACE,
    GROUP_SIZES,
    MAGIC,
    MAX_EOS,
    MAX_N_LAYER,
    MAX_N_VOCAB,
    MAX_TOKEN_BYTES,
    MERGE_SLOT,
    NO_TOKEN,
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
    "CONTROLS",
    "DEFAULT_GROUP_SIZE",
    "FLAG_BOS",
    "FLAG_PREFIX_SPACE",
    "GROUP_SIZES",
    "MAGIC",
    "MAX_EOS",
    "MAX_N_LAYER",
    "MAX_N_VOCAB",
    "MAX_TOKEN_BYTES",
    "MERGE_SLOT",
    "NO_TOKEN",
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
