"""Muon: momentum whose update is made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

torch.optim.Muon computes the same, one matrix at a time; here all matrices of a shape are orthogonalized together,
which saves a GPU a thousand small kernels per step.
"""

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration, for fast growth of small singular values
N_ITERATIONS = 5


def orthogonalized(matrices):
    """Return the matrices (n, n_out, n_in) with all singular values near one, in bf16."""
    x = matrices.bfloat16()
    is_tall = x.shape[1] > x.shape[2]
    if is_tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(N_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for matrices alone."""

    def __init__(self, matrices, lr=0.02, momentum=0.95, weight_decay=0.1):
        shapes = {}
        for matrix in matrices:
            shapes.setdefault(matrix.shape, []).append(matrix)
        groups = [{"params": group} for group in shapes.values()]
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            parameters = group["params"]
            gradients = torch.stack([parameter.grad for parameter in parameters])
            state = self.state[parameters[0]]  # one for the whole group
            if not state:
                state["momentum"] = torch.zeros_like(gradients)
            momentum = state["momentum"].lerp_(gradients, 1 - group["momentum"])
            updates = orthogonalized(gradients.lerp(momentum, group["momentum"])).to(gradients.dtype)
            n_out, n_in = gradients.shape[1:]
            scale = max(1.0, n_out / n_in) ** 0.5
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, list(updates.unbind()), alpha=-group["lr"] * scale)
