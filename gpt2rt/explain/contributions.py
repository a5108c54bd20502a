"""Direct contributions to a logit: what each head, each MLP and the embedding add to it.

The residual stream after the last layer is a sum: the embedding, and what each layer's attention and MLP have added.
The final layer norm divides by the size of the whole sum; with this size held fixed, a logit is a sum, too, with a term
for each part (direct logit attribution, as in "A Mathematical Framework for Transformer Circuits", Elhage et al. 2021).
What a part does to later parts is not counted: ablation shows that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt._engine import Trace
    from gpt2rt.explain.trace import TextTrace
    from gpt2rt.model import Model

    Numbers = NDArray[np.float64]

EPSILON = 1e-5  # of the layer norm


@dataclass(frozen=True)
class Contributions:
    """The terms of a logit, or of the difference of two, at n positions: arrays of f64.

    Attributes:
        heads: (n_layer, n_head, n).
        biases: (n_layer, n): of attn.c_proj, and what quantized inputs round away.
        mlps: (n_layer, n).
        embedding: (n,): of token and position.
        constant: (n,): of the final layer norm's bias.
    """

    heads: Numbers
    biases: Numbers
    mlps: Numbers
    embedding: Numbers
    constant: Numbers

    @property
    def total(self) -> Numbers:
        """Their sum, (n,): the logit, or the difference."""
        total: Numbers = self.heads.sum((0, 1)) + self.biases.sum(0) + self.mlps.sum(0) + self.embedding + self.constant
        return total


def contributions_of(
    model: Model, trace: Trace | TextTrace, positions: list[int], tokens: list[int], against: list[int] | None = None
) -> Contributions:
    """Return the contributions to the logit of a token after each position.

    Args:
        trace: of the text.
        positions: n positions. tokens: n ids.
        against: n ids, whose logits are subtracted; None for none.
    """
    n_layer, n_head = model.hyperparameters.n_layer, model.hyperparameters.n_head
    head = "lm_head" if any(one.name == "lm_head" for one in model.tensors) else "wte"
    rows = model.tensor(head, tokens).astype(np.float64)  # (n, n_embd)
    if against is not None:
        rows -= model.tensor(head, against)
    direction = rows * model.tensor("ln_f/g")
    direction -= direction.mean(-1, keepdims=True)  # the layer norm subtracts the mean
    final = trace.hidden[-1][positions].astype(np.float64)
    direction /= np.sqrt(final.var(-1, keepdims=True) + EPSILON)

    def along(vectors: NDArray[np.float32]) -> Numbers:  # (..., n_tokens, n_embd) -> (..., n)
        found: Numbers = np.einsum("...ne,ne->...n", vectors[..., positions, :], direction, dtype=np.float64)
        return found

    heads = np.empty((n_layer, n_head, len(positions)))
    for layer in range(n_layer):
        seen = direction @ model.tensor(f"h{layer}/attn/c_proj/w")  # (n, n_embd): the direction, seen by the heads
        out = trace.heads[layer][positions]  # (n, n_head, head_dim)
        heads[layer] = (out * seen.reshape(out.shape)).sum(-1).T
    return Contributions(
        heads=heads,
        biases=along(trace.middle - trace.hidden[:-1]) - heads.sum(1),
        mlps=along(trace.hidden[1:] - trace.middle),
        embedding=along(trace.hidden[0]),
        constant=rows @ model.tensor("ln_f/b").astype(np.float64),
    )
