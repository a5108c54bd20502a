"""The data of `gpt2rt doctor`: the machine, the choices gpt2rt makes on it, and whether its results are correct."""

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
from gpt2rt.model_folder import bundled_model
from gpt2rt.threads import default_threads, thread_limits

N_TOKENS = 300  # more than one pass, several groups of positions
# SHA-256 of the bundled model's logits behind each of these tokens, the same on every machine.
GOLDEN = "19c0db7cf9633a47f20851085114999ada684b0f08ab461f91cc7dd661678b40"


def logits_digest(model: Model, piece: int = N_TOKENS) -> str:
    """Return the SHA-256 of a model's logits (f32) after each of N_TOKENS fixed tokens, evaluated `piece` at a time."""
    digest, sequence = hashlib.sha256(), model.sequence()
    tokens = some_tokens(N_TOKENS, model.hyperparameters.n_vocab)
    for begin in range(0, N_TOKENS, piece):
        part = tokens[begin : begin + piece]
        sequence.append(part, n_logits=len(part))
        digest.update(sequence.all_logits.tobytes())
    return digest.hexdigest()


def examine() -> dict[str, Any]:
    """Collect everything that `gpt2rt doctor` reports.

    Returns:
        A JSON-serializable dict: `versions` of gpt2rt, python, numpy and click; `executable`; `system`; `cpu`;
        `available_isas`, best first; `wanted_isa`, the value of GPT2RT_ISA, or None; `isa`, the instruction set in use,
        or None if the wanted one is not available; `threads`; `thread_limits`; `golden`, the expected digest;
        `digests`, {instruction set: actual digest}, empty if the package was built without the bundled model.
    """
    wanted = os.environ.get("GPT2RT_ISA") or None
    available = available_isas(wanted)
    path = bundled_model()
    digests = {}
    if os.path.exists(path):
        digests = {isa: logits_digest(open_model(path, isa=isa)) for isa in available}
    return {
        "versions": {
            "python": platform.python_version(),
            "gpt2rt": gpt2rt.__version__,
            **{name: importlib.metadata.version(name) for name in ("numpy", "click")},
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
