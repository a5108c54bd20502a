"""GPT-2 in plain numpy with float64 sums: the reference for logits and traces, with the release's names.

There is one sequence, so no letter B. T tokens, E n_embd, H n_head, D = E / H, L n_layer.
"""

import numpy as np


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_softmax(x):
    shifted = np.asarray(x, np.float64) - np.max(x, axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def layernorm(x, g, b):
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return g * (x - mean) / np.sqrt(variance + 1e-5) + b


def attention(x, t, name, n_head):  # (T, E) -> (T, E), (H, T, T)
    n_tokens = len(x)
    qkv = x @ t[f"{name}/c_attn/w"] + t[f"{name}/c_attn/b"]  # (T, 3E)
    q, k, v = (part.reshape(n_tokens, n_head, -1).swapaxes(0, 1) for part in np.split(qkv, 3, axis=-1))  # (H, T, D)
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])  # (H, T, T)
    scores = np.where(np.tri(n_tokens, dtype=bool), scores, -np.inf)
    weights = softmax(scores)
    out = (weights @ v).swapaxes(0, 1).reshape(n_tokens, -1)  # (T, E)
    return out @ t[f"{name}/c_proj/w"] + t[f"{name}/c_proj/b"], weights


def trace(tensors, n_head, tokens):
    """Return logits (T, n_vocab), hidden states (L + 1, T, E) and attention (L, H, T, T) of ids (T,).

    tensors: {name: array} as in the checkpoint, without `model/`.
    """
    t = {name: np.asarray(array, np.float64) for name, array in tensors.items()}
    t = {name: array[0] if array.ndim == 3 else array for name, array in t.items()}  # conv1d: (1, n_in, n_out)
    x = t["wte"][tokens] + t["wpe"][: len(tokens)]  # (T, E)
    hidden, attended = [x], []
    while (h := f"h{len(attended)}") + "/ln_1/g" in t:
        out, weights = attention(layernorm(x, t[f"{h}/ln_1/g"], t[f"{h}/ln_1/b"]), t, f"{h}/attn", n_head)
        x = x + out
        m = layernorm(x, t[f"{h}/ln_2/g"], t[f"{h}/ln_2/b"])
        m = gelu(m @ t[f"{h}/mlp/c_fc/w"] + t[f"{h}/mlp/c_fc/b"])  # (T, 4E)
        x = x + m @ t[f"{h}/mlp/c_proj/w"] + t[f"{h}/mlp/c_proj/b"]
        hidden.append(x)
        attended.append(weights)
    return layernorm(x, t["ln_f/g"], t["ln_f/b"]) @ t["wte"].T, np.array(hidden), np.array(attended)


def logits(tensors, n_head, tokens):
    """Return the logits, (T, n_vocab), of ids (T,); see `trace`."""
    return trace(tensors, n_head, tokens)[0]
