"""What gpt2rt finds on this machine, why it chooses as it does, and whether it computes what it should."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import sys
from typing import Any

import gpt2rt
from gpt2rt._kernels import available_isas
from gpt2rt.benchmark import cpu_name, some_tokens
from gpt2rt.model import Model, open_model
from gpt2rt.threads import default_threads, thread_limits

N_TOKENS = 300  # more than one pass, several groups of positions
# SHA-256 of the bundled model's logits behind each of these tokens, the same on every machine.
GOLDEN = "19c0db7cf9633a47f20851085114999ada684b0f08ab461f91cc7dd661678b40"


def logits_digest(model: Model, piece: int = N_TOKENS) -> str:
    """The SHA-256 of a model's logits (f32) behind each of N_TOKENS fixed tokens, read `piece` at a time."""
    digest, session = hashlib.sha256(), model.session()
    tokens = some_tokens(N_TOKENS, model.hyperparameters.n_vocab)
    for begin in range(0, N_TOKENS, piece):
        part = tokens[begin : begin + piece]
        session.accept(part, n_logits=len(part))
        for back in reversed(range(len(part))):
            digest.update(session.logits_back(back))
    return digest.hexdigest()


def examine() -> dict[str, Any]:
    """Everything that `gpt2rt doctor` tells.

    Returns:
        A JSON-ready dict: `versions` of gpt2rt, python, numpy and click; `system`; `cpu`; `available_isas`, best first;
        `wanted_isa`, what GPT2RT_ISA says, or None; `isa`, the one in use, None where the wanted one can't run here;
        `threads`; `thread_limits`; `golden`, the expected digest; `digests`, {instruction set: what it computes}, empty
        where the package was built without its model.
    """
    wanted, available = os.environ.get("GPT2RT_ISA") or None, available_isas()
    path = os.path.join(os.path.dirname(gpt2rt.__file__), "demo.bin")
    digests = {}
    if os.path.exists(path):
        digests = {isa: logits_digest(open_model(path, isa=isa)) for isa in available}
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("gpt2rt", "numpy", "click")},
        },
        "executable": sys.executable,
        "system": platform.platform(),
        "cpu": cpu_name(),
        "available_isas": available,
        "wanted_isa": wanted,
        "isa": available[0] if wanted is None else wanted if wanted in available else None,
        "threads": default_threads(),
        "thread_limits": thread_limits(),
        "golden": GOLDEN,
        "digests": digests,
    }
