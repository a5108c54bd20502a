"""A trace as plain lists and dicts, for JSON."""

from __future__ import annotations

import math

import numpy as np

from gpt2rt.explain.contributions import contributions_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gpt2rt.explain.parts import Part
    from gpt2rt.explain.steps import Step
    from gpt2rt.explain.trace import TextTrace


def trace_document(trace: TextTrace, head: Part | None = None) -> dict[str, Any]:
    """Return all of a trace but its vectors. Log probabilities are natural logarithms.

    Args:
        head: (layer, head) whose attention is included; None for none.
    """
    lens = trace.lens
    return {
        "model": trace.model.path,
        "text": trace.text,
        "n_prompt": trace.n_prompt,
        "seed": trace.seed,
        "ablated": [list(part) for part in trace.ablated],
        "tokens": [
            {
                "id": token,
                "text": trace.model.tokenizer.decode([token]),
                "bytes": list(piece),
                "logprob": None if math.isnan(logprob) else logprob,
                "rank": int(lens.ranks[-1, i - 1]) if i else None,
                "next": [named(trace, *one) for one in trace.top(i)],
            }
            for i, (token, piece, logprob) in enumerate(
                zip(trace.ids, trace.pieces, trace.logprobs.tolist(), strict=True)
            )
        ],
        "steps": [step_document(trace, step) for step in trace.steps],
        "lens": [
            [
                {"target_logprob": logprob, "target_rank": rank, **named(trace, token, top)}
                for logprob, rank, token, top in zip(*layer, strict=True)
            ]
            for layer in zip(
                *(lens.logprobs.tolist(), lens.ranks.tolist()),
                *(lens.top_ids[..., 0].tolist(), lens.top_logprobs[..., 0].tolist()),
                strict=True,
            )
        ],
        "first_token_attention": [[None if math.isnan(x) else x for x in row] for row in trace.sinks.tolist()],
        "contributions": contributions_document(trace),
        "attention": None
        if head is None
        else {"layer": head[0], "head": head[1], "weights": trace.attention[head[0], head[1]].tolist()},
        "sizes": [vars(stage) for stage in trace.sizes],
    }


def named(trace: TextTrace, token: int, logprob: float) -> dict[str, Any]:
    """Return a token with its text and log probability."""
    return {"id": token, "text": trace.model.tokenizer.decode([token]), "logprob": logprob}


def step_document(trace: TextTrace, step: Step) -> dict[str, Any]:
    """Return a step of sampling, with probabilities."""

    def likely(tokens: list[tuple[int, float]]) -> list[dict[str, Any]]:
        text = trace.model.tokenizer.decode
        return [{"id": token, "text": text([token]), "probability": probability} for token, probability in tokens]

    return {**vars(step), "before": likely(step.before), "after": likely(step.after)}


def contributions_document(trace: TextTrace) -> list[dict[str, Any]]:
    """Return for each position what speaks for the most likely token against the second one: logits."""
    n_top = trace.lens.top_ids.shape[-1]
    first, second = (trace.lens.top_ids[-1, :, min(i, n_top - 1)].tolist() for i in (0, 1))
    found = contributions_of(trace.model, trace, list(range(trace.n_tokens)), first, second)
    rest = found.embedding + found.constant + found.biases.sum(0)
    return [
        {
            "token": first[i],
            "against": second[i],
            "heads": np.round(found.heads[..., i], 3).tolist(),
            "mlps": np.round(found.mlps[..., i], 3).tolist(),
            "rest": round(float(rest[i]), 3),
        }
        for i in range(trace.n_tokens)
    ]
