"""The stages of a forward pass: their parameters, bytes, and operations per token."""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gpt2rt.model import Model

STAGES = (  # name, what it does, parts of the names of its tensors
    ("embedding", "looks up a vector for the token and one for its position", ("wte", "wpe")),
    ("layer norms", "scale every vector to the same size", ("ln_1", "ln_2", "ln_f")),
    ("attn.c_attn", "makes queries, keys and values", ("attn/c_attn",)),
    ("attention", "compares queries with keys and adds up values", ()),
    ("attn.c_proj", "mixes what the heads found", ("attn/c_proj",)),
    ("mlp.c_fc", "four times as many features of each vector", ("mlp/c_fc",)),
    ("mlp.c_proj", "turns the features into a change of the vector", ("mlp/c_proj",)),
    ("head", "compares the last vector with every token", ("lm_head",)),
)


@dataclass(frozen=True)
class Stage:
    """A stage of all layers together.

    Attributes:
        name: as in the code. meaning: in plain words.
        parameters: how many it has; the head has none of its own if it is `wte`.
        n_bytes: what its parameters take in the file.
        operations: multiplications and additions per token, at the last position of the text.
    """

    name: str
    meaning: str
    parameters: int
    n_bytes: int
    operations: int


def stages_of(model: Model, n_tokens: int) -> list[Stage]:
    """Return the stages in the order of the forward pass, for a text of n_tokens."""
    n_vocab, _, n, n_head, n_layer = model.hyperparameters
    operations = {
        "embedding": n,
        "layer norms": 8 * n * (2 * n_layer + 1),  # mean, variance, scaling and shift
        "attn.c_attn": n_layer * 6 * n * n,
        "attention": n_layer * n_tokens * (4 * n + 4 * n_head),  # scores, softmax, weighted values
        "attn.c_proj": n_layer * 2 * n * n,
        "mlp.c_fc": n_layer * 8 * n * n,
        "mlp.c_proj": n_layer * 8 * n * n,
        "head": 2 * n_vocab * n,
    }
    found = []
    for name, meaning, parts in STAGES:
        tensors = [one for one in model.tensors if any(part in one.name for part in parts)]
        parameters = sum(_product(one.shape) for one in tensors)
        found.append(Stage(name, meaning, parameters, sum(one.length for one in tensors), operations[name]))
    return found


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total
