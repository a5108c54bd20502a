"""transformers' GPT-2 with given tensors, for comparison; skips a test where torch or transformers is missing."""

import pytest


def transformers_model(t, n_head, **options):
    """Return (GPT2LMHeadModel, the module torch). t: {name: array} as in the checkpoint, without `model/`."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    n_layer = sum(name.endswith("/ln_1/g") for name in t)
    config = transformers.GPT2Config(
        vocab_size=len(t["wte"]),
        n_positions=len(t["wpe"]),
        n_embd=t["wte"].shape[1],
        n_head=n_head,
        n_layer=n_layer,
        **options,
    )
    endings = {"g": "weight", "w": "weight", "b": "bias"}
    state = {"transformer.wte.weight": t["wte"], "transformer.wpe.weight": t["wpe"], "lm_head.weight": t["wte"]}
    for name, array in t.items():
        *path, last = name.split("/")
        if path:
            path = path if path[0] == "ln_f" else ["h", path[0][1:], *path[1:]]
            state[".".join(["transformer", *path, endings[last]])] = array.reshape(array.shape[-2:])
    model = transformers.GPT2LMHeadModel(config).eval()
    found = model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()}, strict=False)
    assert not found.unexpected_keys
    assert all(key.endswith((".attn.bias", ".attn.masked_bias")) for key in found.missing_keys)
    return model, torch
