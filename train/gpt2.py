"""GPT-2 in torch, to be trained.

Letters: B sequences of T tokens; n_embd is the width, n_vocab the tokens.
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

STDDEV = {"wpe": 0.01}  # of the initial weights; 0.02 else, as in the release's model.py


class Shape(NamedTuple):
    """The numbers of hparams.json."""

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_head: int
    n_layer: int


class Block(nn.Module):
    """A layer: attention, then the perceptron, each behind a layer norm and added to its input."""

    def __init__(self, shape):
        super().__init__()
        n = shape.n_embd
        self.n_head = shape.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(n), nn.LayerNorm(n)
        self.attn_c_attn, self.attn_c_proj = nn.Linear(n, 3 * n), nn.Linear(n, n)
        self.mlp_c_fc, self.mlp_c_proj = nn.Linear(n, 4 * n), nn.Linear(4 * n, n)

    def forward(self, x):  # (B, T, n_embd)
        b, t, n = x.shape
        qkv = self.attn_c_attn(self.ln_1(x)).view(b, t, 3, self.n_head, n // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, n_head, T, n_embd / n_head)
        heads = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_c_proj(heads.transpose(1, 2).reshape(b, t, n))
        return x + self.mlp_c_proj(functional.gelu(self.mlp_c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    """The whole model; its output head is `wte`."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.wte = nn.Embedding(shape.n_vocab, shape.n_embd)
        self.wpe = nn.Embedding(shape.n_ctx, shape.n_embd)
        self.h = nn.ModuleList(Block(shape) for _ in range(shape.n_layer))
        self.ln_f = nn.LayerNorm(shape.n_embd)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=STDDEV.get(name.removesuffix(".weight"), 0.02))

    def forward(self, tokens, targets):
        """The mean loss of `targets` (B, T) behind `tokens` (B, T), in nats a token."""
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        logits = functional.linear(self.ln_f(x), self.wte.weight)
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def tensors(self):
        """{name in the release's checkpoints without `model/`: parameter}; those of layers are (n_out, n_in) here."""
        return {_checkpoint_name(name): parameter for name, parameter in self.named_parameters()}

    def load(self, tensors):
        """Takes weights over: {name: f32 array}, with matrices (n_in, n_out), as in a checkpoint.

        A layer that `tensors` lack begins as a copy of the one before it that adds nothing yet, so that a model can be
        made deeper without changing what it says.
        """
        n_old = 1 + max(int(name[1:].split("/")[0]) for name in tensors if name.startswith("h"))
        with torch.no_grad():
            for name, parameter in self.tensors().items():
                array, is_new = tensors.get(name), False
                if name.startswith("h"):
                    layer, rest = name[1:].split("/", 1)
                    old = self._old_layer(int(layer), n_old)
                    array, is_new = tensors[f"h{old[0]}/{rest}"], old[1]
                value = torch.tensor(array)
                parameter.copy_(value.T if name.endswith("/w") else value)
                if is_new and "c_proj" in name:
                    parameter.zero_()

    def _old_layer(self, layer, n_old):
        """The layer that `layer` comes from, and whether it is an added one: these are spread evenly."""
        old = layer * n_old // self.shape.n_layer
        return old, layer > 0 and (layer - 1) * n_old // self.shape.n_layer == old


def _checkpoint_name(name):
    """`h.0.attn_c_attn.weight` is `h0/attn/c_attn/w`."""
    module, kind = name.rsplit(".", 1)
    if module in ("wte", "wpe"):
        return module
    letter = "b" if kind == "bias" else "g" if "ln_" in module else "w"
    module = module.replace("h.", "h", 1).replace(".", "/").replace("attn_", "attn/").replace("mlp_", "mlp/")
    return f"{module}/{letter}"
