"""Small Hugging Face folders: a GPT-2 of one layer whose vocabulary is the bytes, some merges and added tokens."""

import json

import numpy as np
import safetensors.numpy

from gpt2rt.converter.vocabulary import byte_characters

N_CTX, N_EMBD = 64, 16


def state(n_vocab, seed=0):
    """Return {name in transformers: f32 array}, written out independently of the converter."""
    random = np.random.default_rng(seed)

    def values(*shape):
        return (random.standard_normal(shape) * 0.1).astype(np.float32)

    h = "transformer.h.0."
    found = {"transformer.wte.weight": values(n_vocab, N_EMBD), "transformer.wpe.weight": values(N_CTX, N_EMBD)}
    for norm in ("transformer.ln_f", h + "ln_1", h + "ln_2"):
        found |= {f"{norm}.weight": 1 + values(N_EMBD), f"{norm}.bias": values(N_EMBD)}
    for module, n_in, n_out in (
        ("attn.c_attn", N_EMBD, 3 * N_EMBD),
        ("attn.c_proj", N_EMBD, N_EMBD),
        ("mlp.c_fc", N_EMBD, 4 * N_EMBD),
        ("mlp.c_proj", 4 * N_EMBD, N_EMBD),
    ):
        found |= {f"{h}{module}.weight": values(n_in, n_out), f"{h}{module}.bias": values(n_out)}
    return found


def always(state, token):
    """Change a model so that one token is the most likely one after everything, and another one is the second."""
    bias = state["transformer.ln_f.bias"]
    state["transformer.ln_f.weight"][:] = 0
    state["transformer.wte.weight"][token] = 9 * bias
    return state


def write_folder(folder, added=("<|endoftext|>",), merges=(), words=(), config=(), tokenizer=None, weights=None):
    """Write config.json, tokenizer.json and model.safetensors.

    Args:
        added: texts of the added tokens, which come last. merges: [(left, right)]. words: texts that no merge makes.
        config: what differs in config.json. tokenizer: called with the content of tokenizer.json, to change it.
        weights: called with the state, to change it.

    Returns:
        {text: id}, in the notation of vocab.json.
    """
    folder.mkdir(exist_ok=True)
    texts = [*byte_characters(), *(left + right for left, right in merges), *words, *added]
    ids = {text: token for token, text in enumerate(texts)}
    numbers = {"vocab_size": len(texts), "n_positions": N_CTX, "n_embd": N_EMBD, "n_head": 2, "n_layer": 1}
    numbers |= {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    (folder / "config.json").write_text(json.dumps({**numbers, **dict(config)}))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[text], "content": text, **flags} for text in added],
        "normalizer": None,
        "pre_tokenizer": dict(byte_level),
        "post_processor": None,
        "decoder": dict(byte_level),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": ids,
            "merges": [list(merge) for merge in merges],
        },
    }
    if tokenizer:
        tokenizer(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tensors = state(len(texts))
    if weights:
        weights(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return ids
