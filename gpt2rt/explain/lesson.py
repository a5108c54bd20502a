"""The lesson: a trace as one HTML file that needs no network and no other file."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
from html import escape

import numpy as np
from numpy.typing import NDArray

from gpt2rt.errors import UsageError
from gpt2rt.explain.document import contributions_document
from gpt2rt.explain.parts import part_name
from gpt2rt.generate import Continuation, run_together
from gpt2rt.sampling import SamplingParams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from gpt2rt.explain.parts import Part
    from gpt2rt.explain.trace import TextTrace

LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"  # of the root of an attention weight
MOST_WEIGHTS = 1_300_000  # of attention in a page, a byte each, so that it has at most 2 MB
N_NEXT = 10  # tokens shown at each position
N_BRANCHES, BRANCH_TOKENS, BATCH = 4, 12, 16
N_ABLATED = 8  # heads


def most_tokens(n_layer: int, n_head: int) -> int:
    """Return the most tokens whose attention fits in a page: those where n (n + 1) / 2 weights per head do."""
    return (math.isqrt(1 + 8 * (MOST_WEIGHTS // (n_layer * n_head))) - 1) // 2


def check(trace: TextTrace) -> None:
    """Raise UsageError if a trace is too long for a page, or not of the whole model."""
    if trace.ablated:
        raise UsageError("ablate: a lesson is of the whole model (leave it out)")
    shape = trace.model.hyperparameters
    most = most_tokens(shape.n_layer, shape.n_head)
    if trace.n_tokens > most:
        raise UsageError(f"text: {trace.n_tokens} tokens, a page has room for {most} of this model (shorten it)")


def lesson_data(
    trace: TextTrace,
    sampling: SamplingParams,
    progress: Callable[[int, int], object] | None = None,
    first_branch: int = 0,
) -> dict[str, Any]:
    """Return what the page shows; `page/lesson.js` names the fields.

    Args:
        sampling: how branches are sampled.
        progress: called with the number of branches that are done, and of all.
        first_branch: the first position with branches.

    Raises:
        UsageError: the text is too long for a page, or parts of the model were left out.
    """
    check(trace)
    model, shape = trace.model, trace.model.hyperparameters
    tops = [trace.top(i)[:N_NEXT] for i in range(trace.n_tokens)]
    branches = branches_of(trace, tops, sampling, progress, first_branch)
    lens = trace.lens
    used = {*trace.ids, *(token for top in tops for token, _ in top), *lens.top_ids[..., 0].ravel().tolist()}
    used |= {token for own in branches.values() for first, rest in own.items() for token in (first, *rest)}
    used |= {token for step in trace.steps for token, _ in step.after}
    name = str(model.metadata.get("name") or os.path.basename(model.path))
    weights = model.weight_type + (f" in groups of {model.group_size}" if model.group_size else "")
    return {
        "model": {
            "name": name,
            "parameters": f"{shape.n_parameters / 1e6:.1f} million",
            "weights": f"weights are {weights}",
            "n_layer": shape.n_layer,
            "n_head": shape.n_head,
        },
        "texts": {token: model.tokenizer.decode([token]) for token in sorted(used)},
        "tokens": [
            {
                "id": token,
                "bytes": piece.hex(" "),
                "p": None if math.isnan(logprob) else digits(math.exp(logprob)),
                "rank": int(lens.ranks[-1, i - 1]) if i else None,
                "vocabulary": shape.n_vocab,
            }
            for i, (token, piece, logprob) in enumerate(
                zip(trace.ids, trace.pieces, trace.logprobs.tolist(), strict=True)
            )
        ],
        "n_prompt": trace.n_prompt,
        "seed": None if trace.seed is None else str(trace.seed),  # more digits than JavaScript's numbers have
        "next": [[(token, digits(math.exp(logprob))) for token, logprob in top] for top in tops],
        "steps": [
            {
                "position": step.position,
                "after": [(token, digits(p)) for token, p in step.after[:N_NEXT]],
                "n_candidates": step.n_candidates,
                "number": step.number,
                "low": step.low,
                "high": step.high,
            }
            for step in trace.steps
        ],
        "lens": [
            [(token, digits(math.exp(logprob)), rank) for token, logprob, rank in zip(*row, strict=True)]
            for row in zip(
                *(lens.top_ids[..., 0].tolist(), lens.top_logprobs[..., 0].tolist(), lens.ranks.tolist()), strict=True
            )
        ],
        "attention": attention_text(trace.attention),
        "sinks": [[0 if math.isnan(x) else digits(x) for x in row] for row in trace.sinks.tolist()],
        "contributions": contributions_document(trace),
        "ablations": [
            {"name": part_name(part), "change": digits(change)} for part, change in ablations_of(trace).items()
        ],
        "branches": branches,
        "sizes": [vars(stage) for stage in trace.sizes],
    }


def digits(x: float) -> float:
    """Return a number with as many digits as the page shows."""
    return float(f"{x:.4g}")


def attention_text(attention: NDArray[np.float32]) -> str:
    """Return a character of `LEVELS` for the root of each weight, (n_layer, n_head), then rows up to the diagonal."""
    n = attention.shape[-1]
    rows, columns = np.tril_indices(n)
    levels = np.rint(63 * np.sqrt(attention[:, :, rows, columns])).astype(np.uint8)
    content: bytes = np.frombuffer(LEVELS.encode(), np.uint8)[levels].tobytes()
    return content.decode()


def ablations_of(trace: TextTrace) -> dict[Part, float]:
    """Return how the log probability of the most likely token after the text changes without some parts.

    They are the heads that speak most for or against it, and all layers.
    """
    shape = trace.model.hyperparameters
    top = trace.top(-1)
    heads = trace.contributions(-1, top[0][0], top[min(1, len(top) - 1)][0]).heads[..., 0]
    order = np.argsort(-np.abs(heads), axis=None)[:N_ABLATED]
    parts: list[Part] = [(int(one) // shape.n_head, int(one) % shape.n_head) for one in order]
    return trace.ablation([*parts, *((layer, None) for layer in range(shape.n_layer))])


def branches_of(
    trace: TextTrace,
    tops: list[list[tuple[int, float]]],
    sampling: SamplingParams,
    progress: Callable[[int, int], object] | None,
    first: int,
) -> dict[int, dict[int, list[int]]]:
    """Return what the model writes after each of the most likely tokens at each position: {position: {id: ids}}."""
    wanted = [(i, token) for i, top in enumerate(tops) if i >= first for token, _ in top[:N_BRANCHES]]
    sequence = trace.model.sequence()
    sequence.append(trace.ids)
    n_ctx = sequence.n_ctx
    found: dict[int, dict[int, list[int]]] = {}
    for at in range(0, len(wanted), BATCH):
        if progress:
            progress(at, len(wanted))
        running = []
        for position, token in wanted[at : at + BATCH]:
            found.setdefault(position, {})[token] = []
            if position + 2 >= n_ctx or token in trace.model.tokenizer.eos_token_ids:
                continue
            again = sequence.fork(position + 1)
            running.append((position, token, Continuation(again, [token], sampling, max_tokens=BRANCH_TOKENS, seed=0)))
        for _ in run_together([one for _, _, one in running]):
            pass
        for position, token, continuation in running:
            found[position][token] = list(continuation.tokens)
    return found


def html_page(data: dict[str, Any], title: str) -> str:
    """Return the page. Its content security policy allows its own script and style, by their hashes, and nothing else.

    Args:
        data: from `lesson_data`.
    """
    style, script = page_file("lesson.css"), page_file("lesson.js")
    script += (
        '\nnew Lesson(JSON.parse(document.getElementById("data").textContent), document.getElementById("lesson"));\n'
    )
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}; base-uri 'none';"
        " form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n"
        '<main id="lesson" class="lesson"><noscript>This page needs JavaScript, which it contains.</noscript></main>\n'
        f'<script type="application/json" id="data">{content}</script>\n'
        f'<script type="module">{script}</script>\n</html>\n'
    )


def page_file(name: str) -> str:
    """Return a file of the page."""
    from importlib.resources import files

    return files("gpt2rt.explain").joinpath("page", name).read_text("utf-8")


def digest(text: str) -> str:
    """Return a source of a content security policy that allows this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
