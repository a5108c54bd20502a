"""The layout of a model file, with names for people. `docs/format.md` is normative; `core/layout.h` computes it."""

from __future__ import annotations

from collections import namedtuple

from gpt2rt._modelfile import Shape, Tensor, problem_of

QUANTIZED = ("int8", "int4")  # weight types
DEFAULT_GROUP_SIZE = {"f32": 0, "f16": 0, "int8": 64, "int4": 32}

METADATA_ROOM = 1024  # bytes by which the metadata may grow while the weights are written

FLAG_PREFIX_SPACE = 1  # in the controls: a text that begins without a space gets one
FLAG_BOS = 2  # a text begins with bos
NO_TOKEN = 0xFFFFFFFF  # the left token of an empty slot; a bos or pad that there isn't


def align(n: int, to: int) -> int:
    """Return the smallest multiple of `to` that is at least `n`."""
    return -(-n // to) * to


class Hyperparameters(namedtuple("Hyperparameters", "n_vocab n_ctx n_embd n_head n_layer")):
    """The five numbers that define the shape of a GPT-2, named as in the release's hparams.json."""

    __slots__ = ()

    def problem(self) -> str | None:
        """Return what is wrong with these numbers, as the rest of a message, or None."""
        return problem_of(self)

    @property
    def n_parameters(self) -> int:
        """The number of trained parameters; an output head that is `wte` is not counted twice."""
        n: int = self.n_embd
        per_layer = 12 * n**2 + 13 * n
        n_parameters: int = (self.n_vocab + self.n_ctx) * n + self.n_layer * per_layer + 2 * n
        return n_parameters


def tensor_table(
    hyperparameters: Hyperparameters, weight_type: str, group_size: int, is_tied: bool = True
) -> list[Tensor]:
    """Return all tensors of the weights section, in the order in which a forward pass reads them.

    Args:
        is_tied: whether the output head is `wte`, as in GPT-2; if not, `lm_head` follows.

    Returns:
        A list of `Tensor`; shapes are (n_out, n_in) for the matrices of the layers, `wte` and `lm_head`.
    """
    return Shape(hyperparameters, weight_type, group_size, is_tied).tensors()
