"""Drafts: several answers drawn together, and which of them fits its message best."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Sequence
from time import perf_counter

from gpt2rt._sampler import Sampler
from gpt2rt.chat_format import ChatFormat
from gpt2rt.generate import Continuation
from gpt2rt.session import Session, accept_all

MOST_SCORED = 32  # tokens of a message: more of a long one cost time and memory, and tell little

Draft = namedtuple("Draft", "text continuation session")
Draft.__doc__ = "A text, the `Continuation` that drew it, and the session that has read all of it but the last token."


def drawn_together(
    session: Session,
    prompt: Sequence[int],
    sampler: Sampler,
    n: int,
    *,
    max_tokens: int,
    stop: Iterable[str],
    history: Sequence[int],
) -> tuple[list[Draft], float]:
    """Draws n texts behind the same prompt, token by token of all of them at once.

    Args:
        session: accepts the prompt and becomes the first draft's; the other ones are forks of it.
        n: drafts. The other arguments are those of `Generation`; the drafts draw from the sampler in turn.

    Returns:
        The drafts, and the seconds that the prompt took.
    """
    begin = perf_counter()
    session.accept(prompt)
    prompt_seconds = perf_counter() - begin
    sessions = [session, *(session.fork() for _ in range(n - 1))]
    tokenizer = session.model.tokenizer
    continuations = [
        Continuation(tokenizer, sampler, max_tokens=max_tokens, stop=stop, history=history) for _ in sessions
    ]
    texts, running = [""] * n, list(range(n))
    while running:
        for i in running:
            texts[i] += continuations[i].step(sessions[i].logits_view)
            if not continuations[i].finish_reason and len(sessions[i]) == session.n_ctx:
                texts[i] += continuations[i].end("context")
        running = [i for i in running if not continuations[i].finish_reason]
        accept_all([sessions[i] for i in running], [continuations[i].tokens[-1:] for i in running])
    return [Draft(*parts) for parts in zip(texts, continuations, sessions, strict=True)], prompt_seconds


def best_answer(format: ChatFormat, message: str, drafts: Sequence[Draft]) -> Draft:
    """The draft to which the message would be the likeliest answer: an answer that fits any message loses.

    That is the backward score of maximum mutual information (Li et al. 2016), by which DialoGPT ranks its drafts; here
    the model itself makes it, with the speakers' names exchanged.
    """
    import numpy as np  # only who asks for drafts needs it

    model, n_ctx = drafts[0].session.model, drafts[0].session.n_ctx
    asked = (format.answer(message) + format.closing_tokens)[: min(MOST_SCORED, n_ctx // 2)]
    prompts = [format.prompt(draft.text.strip())[-(n_ctx - len(asked)) :] for draft in drafts]
    sessions = [model.session() for _ in drafts]
    accept_all(sessions, [prompt + asked[:-1] for prompt in prompts], n_logits=len(asked))

    def score(session: Session) -> float:
        total = 0.0
        for back, token in enumerate(reversed(asked)):
            logits = np.frombuffer(session.logits_back(back), np.float32).astype(np.float64)
            total += logits[token] - np.logaddexp.reduce(logits)
        return total

    scores = [score(session) for session in sessions]
    return drafts[scores.index(max(scores))]
