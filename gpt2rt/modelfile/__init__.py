"""The model file: its layout, reader and writer. No code outside this package knows an offset.

`docs/format.md` is normative. The rules of the layout are in C, `core/layout.h`, and the checks in `core/modelfile.h`.
This module exports what opening a file needs; import `writer` and `vocabulary` separately.
"""

from gpt2rt._modelfile import (
    GROUP_SIZES,
    MAGIC,
    MAX_EOS,
    MAX_N_LAYER,
    MAX_N_VOCAB,
    MAX_TOKEN_BYTES,
    MAX_TOKEN_LENGTH,
    TILE,
    WEIGHT_TYPES,
    Tensor,
    matrix_length,
    slots_for,
)
from gpt2rt.modelfile.layout import (
    DEFAULT_GROUP_SIZE,
    FLAG_BOS,
    FLAG_PREFIX_SPACE,
    NO_TOKEN,
    QUANTIZED,
    Hyperparameters,
    align,
    tensor_table,
)
from gpt2rt.modelfile.reader import ModelFile

__all__ = [
    "DEFAULT_GROUP_SIZE",
    "FLAG_BOS",
    "FLAG_PREFIX_SPACE",
    "GROUP_SIZES",
    "MAGIC",
    "MAX_EOS",
    "MAX_N_LAYER",
    "MAX_N_VOCAB",
    "MAX_TOKEN_BYTES",
    "MAX_TOKEN_LENGTH",
    "NO_TOKEN",
    "QUANTIZED",
    "TILE",
    "WEIGHT_TYPES",
    "Hyperparameters",
    "ModelFile",
    "Tensor",
    "align",
    "matrix_length",
    "slots_for",
    "tensor_table",
]
