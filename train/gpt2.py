"""GPT-2 in torch, for training.

Letters: B sequences of T tokens; n_embd is the width, n_vocab the number of tokens.
"""

import re

import torch
from torch import nn
from torch.nn import functional

from gpt2rt.converter.huggingface import hf_name
from gpt2rt.modelfile import tensor_table

STDDEV = {"wpe": 0.01}  # of the initial weights; 0.02 else, as in the release's model.py
LAYER = re.compile(r"h(\d+)(?=/)")


class Block(nn.Module):
    """A layer: attention, then the perceptron, each after a layer norm and added to its input."""

    def __init__(self, shape, dropout):
        super().__init__()
        n = shape.n_embd
        self.n_head = shape.n_head
        self.dropout = nn.Dropout(dropout)
        self.ln_1, self.ln_2 = nn.LayerNorm(n), nn.LayerNorm(n)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(n, 3 * n), "c_proj": nn.Linear(n, n)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(n, 4 * n), "c_proj": nn.Linear(4 * n, n)})

    def forward(self, x):  # (B, T, n_embd)
        b, t, n = x.shape
        qkv = self.attn["c_attn"](self.ln_1(x)).view(b, t, 3, self.n_head, n // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, n_head, T, n_embd / n_head)
        heads = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.attn["c_proj"](heads.transpose(1, 2).reshape(b, t, n)))
        hidden = functional.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")
        return x + self.dropout(self.mlp["c_proj"](hidden))


class Gpt2(nn.Module):
    """The whole model; its output head is `wte`, its `shape` a `Hyperparameters`. Names are those of transformers.

    `dropout` is the fraction of a layer's outputs that is left out while training.
    """

    def __init__(self, shape, dropout=0.0):
        super().__init__()
        self.shape = shape
        self.wte = nn.Embedding(shape.n_vocab, shape.n_embd)
        self.wpe = nn.Embedding(shape.n_ctx, shape.n_embd)
        self.h = nn.ModuleList(Block(shape, dropout) for _ in range(shape.n_layer))
        self.ln_f = nn.LayerNorm(shape.n_embd)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=STDDEV.get(name.removesuffix(".weight"), 0.02))

    def logits(self, tokens):
        """Return the logits after each of `tokens` (B, T), (B, T, n_vocab)."""
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        return functional.linear(self.ln_f(x), self.wte.weight)

    def losses(self, tokens, targets):
        """Return the loss of each of `targets` (B, T) after `tokens` (B, T), f32 (B, T), in nats; zero for -100."""
        logits = self.logits(tokens).flatten(0, 1).float()
        return functional.cross_entropy(logits, targets.flatten(), reduction="none").view(targets.shape)

    def forward(self, tokens, targets):
        """Return the mean loss of `targets` (B, T), of those that aren't -100, after `tokens` (B, T), in nats."""
        return functional.cross_entropy(self.logits(tokens).flatten(0, 1).float(), targets.flatten())

    def tensors(self):
        """{name as in `tensor_table`: parameter}, in its order; matrices are (n_out, n_in)."""
        table = tensor_table(self.shape, "f32", 0)
        return {tensor.name: self.get_parameter(hf_name(tensor.name)) for tensor in table}

    def load(self, tensors):
        """Takes weights over: {name: f32 array}, with matrices (n_in, n_out), as in a checkpoint.

        A layer that `tensors` lack begins as a copy of the one before it that adds nothing yet, so that a model can be
        made deeper without changing what it says.
        """
        n_old = 1 + max(int(match[1]) for match in map(LAYER.match, tensors) if match)
        with torch.no_grad():
            for name, parameter in self.tensors().items():
                origin, is_new = self._origin(name, n_old)
                value = torch.tensor(tensors[origin])
                parameter.copy_(value.T if name.endswith("/w") else value)
                if is_new and "c_proj" in name:
                    parameter.zero_()

    def _origin(self, name, n_old):
        """Which of the tensors of a model of n_old layers `name` comes from, and whether it is of an added layer: these
        are spread evenly.
        """
        match = LAYER.match(name)
        if not match:
            return name, False
        layer = int(match[1])
        old = layer * n_old // self.shape.n_layer
        is_new = layer > 0 and (layer - 1) * n_old // self.shape.n_layer == old
        return f"h{old}{name[match.end() :]}", is_new
