"""Hugging Face folders for tests: tensors named as in transformers, configurations, and the logits of a conversion."""

import json
import shutil

import numpy as np
from checkpoints import SMALL, random_tensors

from gpt2rt.converter import convert
from gpt2rt.model import open_model

TOLERANCE = 1e-4  # relative to the largest logit
TOKENS = [5, 300, 17, 0, 255, 256, 42]


def tensors_of(seed=0, scale=0.1):
    """Return {our name: f32 array} of a small model, matrices of the layers as (n_in, n_out)."""
    found = {}
    for full_name, array in random_tensors(SMALL, seed).items():
        name = full_name.removeprefix("model/")
        found[name] = (1 + scale * array if name.endswith("/g") else scale * array).reshape(array.shape[-2:])
    return found


def named(tensors, prefix="transformer."):
    """Return {name in transformers: array}, written out independently of the converter's rule."""
    state, endings = {}, {"g": "weight", "w": "weight", "b": "bias"}
    for name, array in tensors.items():
        if name in ("wte", "wpe"):
            state[f"{prefix}{name}.weight"] = array
        else:
            *path, kind = name.split("/")
            path = path if path == ["ln_f"] else ["h", path[0][1:], *path[1:]]
            state[prefix + ".".join([*path, endings[kind]])] = array
    return state


def write_config(folder, **changes):
    config = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "n_inner": None}
    config |= {"vocab_size": SMALL.n_vocab, "n_positions": SMALL.n_ctx, "n_embd": SMALL.n_embd}
    config |= {"n_head": SMALL.n_head, "n_layer": SMALL.n_layer}
    config = {key: value for key, value in (config | changes).items() if value != "left out"}
    (folder / "config.json").write_text(json.dumps(config))


def write_folder(folder, checkpoint):
    """Write a configuration and tokenizer files, with the vocabulary of a TensorFlow checkpoint; return the folder."""
    folder.mkdir()
    write_config(folder)
    shutil.copy(checkpoint / "encoder.json", folder / "vocab.json")
    shutil.copy(checkpoint / "vocab.bpe", folder / "merges.txt")
    return folder


def logits(source, tmp_path, weight_type="f32"):
    """Return the logits of TOKENS, (T, n_vocab)."""
    convert(source, tmp_path / "x.bin", weight_type=weight_type, force=True)
    sequence = open_model(tmp_path / "x.bin", n_threads=1).sequence()
    sequence.append(TOKENS, n_logits=len(TOKENS))
    rows = sequence.all_logits
    return np.stack([np.frombuffer(row, np.float32) for row in rows])


def assert_close(found, expected):
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
