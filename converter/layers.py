"""GPT-2's layers in numpy and f32, applied one at a time to whole texts, with a source's tensors.

Only one layer's tensors are in memory at a time. The kernels share no code with this module, so that each can be
checked against the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from gpt2rt.converter.source import Source

WINDOW = 1024  # the most tokens in one part
VOCABULARY_ROWS = 4096  # rows of the token embedding, or of the output head, read at a time
NAMES = (
    *("ln_1/g", "ln_1/b", "attn/c_attn/w", "attn/c_attn/b", "attn/c_proj/w", "attn/c_proj/b"),
    *("ln_2/g", "ln_2/b", "mlp/c_fc/w", "mlp/c_fc/b", "mlp/c_proj/w", "mlp/c_proj/b"),
)

Choice = Callable[[str, np.ndarray, list[np.ndarray]], np.ndarray]


def embedded(source: Source, parts: list[list[int]]) -> list[np.ndarray]:
    """Return the input of the first layer: f32 (T, n_embd) for each part, ids (T,)."""
    wpe, n_vocab = source.tensor("wpe"), source.hyperparameters.n_vocab
    ids = [np.array(part, np.int64) for part in parts]
    states = [np.empty((len(part), wpe.shape[1]), np.float32) for part in parts]
    for begin in range(0, n_vocab, VOCABULARY_ROWS):
        end = min(begin + VOCABULARY_ROWS, n_vocab)
        wte = source.rows("wte", begin, end)
        for part, x in zip(ids, states, strict=True):
            here = (begin <= part) & (part < end)
            x[here] = wte[part[here] - begin]
    return [x + wpe[: len(x)] for x in states]


def run_layer(source: Source, layer: int, states: list[np.ndarray], choose: Choice) -> list[np.ndarray]:
    """Run all parts through a layer.

    Args:
        layer: the layer's index. states: f32 (T, n_embd) for each part.
        choose: called with a matrix' name, the matrix (n_in, n_out), and its inputs, f32 (T, n_in) for each part;
            returns the matrix to multiply by.

    Returns:
        The new states.
    """
    t = {name: source.tensor(f"h{layer}/{name}") for name in NAMES}

    def product(name: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
        w = choose(f"h{layer}/{name}/w", t[f"{name}/w"], inputs)
        return [x @ w + t[f"{name}/b"] for x in inputs]

    normed = [layernorm(x, t["ln_1/g"], t["ln_1/b"]) for x in states]
    attended = [_attention(qkv, source.hyperparameters.n_head) for qkv in product("attn/c_attn", normed)]
    states = [x + out for x, out in zip(states, product("attn/c_proj", attended), strict=True)]
    normed = [layernorm(x, t["ln_2/g"], t["ln_2/b"]) for x in states]
    hidden = [_gelu(m) for m in product("mlp/c_fc", normed)]
    states = [x + out for x, out in zip(states, product("mlp/c_proj", hidden), strict=True)]
    return states


def final(source: Source, states: list[np.ndarray]) -> list[np.ndarray]:
    """Return the input of the output head, from the states after the last layer."""
    g, b = source.tensor("ln_f/g"), source.tensor("ln_f/b")
    return [layernorm(x, g, b) for x in states]


def layernorm(x: np.ndarray, g: np.ndarray, b: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    x *= g / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(1e-5))
    x += b
    return x


def _attention(qkv: np.ndarray, n_head: int) -> np.ndarray:  # (T, 3E) -> (T, E)
    q, k, v = np.split(qkv, 3, axis=-1)
    future = np.triu(np.ones((len(qkv), len(qkv)), bool), 1)
    att = np.empty_like(q)
    width = q.shape[1] // n_head
    for head in range(n_head):
        own = slice(head * width, (head + 1) * width)
        scores = q[:, own] @ k[:, own].T * np.float32(1 / math.sqrt(width))  # (T, T)
        scores[future] = -np.inf
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        att[:, own] = scores @ v[:, own] / scores.sum(axis=-1, keepdims=True)
    return att


def _gelu(m: np.ndarray) -> np.ndarray:
    found: np.ndarray = m * (
        0.5 + 0.5 * np.tanh(np.float32(math.sqrt(2 / math.pi)) * (m + np.float32(0.044715) * m * m * m))
    )
    return found
