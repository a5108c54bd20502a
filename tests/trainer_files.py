"""Checkpoints of nanoGPT and files of llm.c for tests, written by our own code."""

import struct

import numpy as np
from checkpoints import SMALL
from hf_folder import named, tensors_of
from pytorch_files import write

ORDER = (
    *("ln_1/g", "ln_1/b", "attn/c_attn/w", "attn/c_attn/b", "attn/c_proj/w", "attn/c_proj/b"),
    *("ln_2/g", "ln_2/b", "mlp/c_fc/w", "mlp/c_fc/b", "mlp/c_proj/w", "mlp/c_proj/b"),
)
N_ROWS = 384  # of the padded token embedding


def model_args(**changes):
    sizes = {"n_layer": SMALL.n_layer, "n_head": SMALL.n_head, "n_embd": SMALL.n_embd, "block_size": SMALL.n_ctx}
    args = {**sizes, "bias": True, "vocab_size": SMALL.n_vocab, "dropout": 0.0} | changes
    return {key: value for key, value in args.items() if value != "left out"}


def tensors_with(n_vocab=SMALL.n_vocab, has_biases=True):
    """Return {our name: f32 array} of a model, matrices of the layers as (n_in, n_out)."""
    tensors = tensors_of()
    if n_vocab > SMALL.n_vocab:
        tensors["wte"] = np.concatenate([tensors["wte"], tensors["wte"][: n_vocab - SMALL.n_vocab] + 1])
    if not has_biases:
        tensors = {name: array for name, array in tensors.items() if not name.endswith("/b")}
    return tensors


def linear(tensors, prefix="_orig_mod.transformer."):
    """Return {name in nanoGPT: array}: the matrices of the layers as (n_out, n_in)."""
    state = named(tensors, prefix)
    return {
        name: np.ascontiguousarray(array.T) if array.ndim == 2 and ".h." in name else array
        for name, array in state.items()
    }


def write_nanogpt(path, tensors=None, prefix="_orig_mod.transformer.", edit=None, is_legacy=False, **args):
    """Write a checkpoint; `edit` is called with (state dict, Storages) and may change the state dict."""
    path.parent.mkdir(exist_ok=True)
    tensors = tensors_with() if tensors is None else tensors

    def make(storages):
        state = storages.state(linear(tensors, prefix))
        state[prefix.replace("transformer.", "lm_head.weight")] = state[f"{prefix}wte.weight"]
        if edit:
            edit(state, storages)
        moments = {0: {"step": storages.tensor(np.float32(7)), "exp_avg": storages.tensor(tensors["wpe"])}}
        groups = [{"lr": 6e-4, "betas": (0.9, 0.95), "params": [0], "fused": True, "maximize": False}]
        return {
            "model": state,
            "optimizer": {"state": moments, "param_groups": groups},
            "model_args": model_args(**args),
            "iter_num": 2000,
            "best_val_loss": storages.tensor(np.float32(3.1)),
            "config": {"dataset": "openwebtext", "learning_rate": 6e-4, "compile": True},
        }

    return write(path, make, is_legacy)


def model_bytes(version=3, tensors=None, n_rows=N_ROWS, **header):
    """Return a model file; `header` has other values by index: h3=5."""
    tensors = tensors_of() if tensors is None else tensors
    numbers = [20240326, version, SMALL.n_ctx, SMALL.n_vocab, SMALL.n_layer, SMALL.n_head, SMALL.n_embd, n_rows]
    numbers += [0] * (256 - len(numbers))
    for index, number in header.items():
        numbers[int(index[1:])] = number
    padding = np.full((n_rows - SMALL.n_vocab, SMALL.n_embd), np.nan, "<f4")
    parts = [tensors["wte"], padding, tensors["wpe"]]
    for name in ORDER:
        arrays = [tensors[f"h{layer}/{name}"] for layer in range(SMALL.n_layer)]
        parts += [array.T if array.ndim == 2 else array for array in arrays]
    parts += [tensors["ln_f/g"], tensors["ln_f/b"]]
    values = np.concatenate([part.ravel() for part in parts]).astype("<f4")
    content = values.tobytes() if version != 5 else (values.view("<u4") >> 16).astype("<u2").tobytes()
    return struct.pack("<256i", *numbers) + content


def tokenizer_bytes(tokens, version=2, end=0, **header):
    numbers = [20240328, version, len(tokens), end if version == 2 else 0, *[0] * 252]
    for index, number in header.items():
        numbers[int(index[1:])] = number
    return struct.pack("<256I", *numbers) + b"".join(bytes([len(token)]) + token for token in tokens)


def simple_tokens():
    """Return the tokens of a tokenizer file of SMALL's size: bytes, merges of two, and the end of text."""
    pairs = [b"%c%c" % (97 + i // 8, 97 + i % 8) for i in range(SMALL.n_vocab - 257)]
    return [*(bytes([byte]) for byte in range(256)), *pairs, b"<|endoftext|>"]
