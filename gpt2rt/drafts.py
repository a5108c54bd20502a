"""Drafts: sample several answers together and choose the one that fits the message best."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable, Sequence
from time import perf_counter

from gpt2rt import _engine
from gpt2rt._chat import ChatFormat
from gpt2rt.generate import Continuation, run_together
from gpt2rt.sampling import SamplingParams

MOST_SCORED = 32  # tokens of the message; more take time and change little

Draft = namedtuple("Draft", "text continuation")
Draft.__doc__ = "A text and the `Continuation` that sampled it."


def sampled_together(
    sequence: _engine.Sequence,
    prompt: Sequence[int],
    sampling: SamplingParams,
    seeds: Sequence[int],
    *,
    max_tokens: int,
    stop: Iterable[str],
    history: Sequence[int],
) -> tuple[list[Draft], float]:
    """Sample several texts after the same prompt, one token of each at a time.

    Args:
        sequence: evaluates the prompt and holds the first draft; the other drafts are forks of it.
        seeds: one for each draft. The other arguments are those of `Generation`.

    Returns:
        The drafts, and the seconds it took to evaluate the prompt.
    """
    begin = perf_counter()
    sequence.append(prompt)
    prompt_seconds = perf_counter() - begin
    sequences = [sequence, *(sequence.fork() for _ in seeds[1:])]
    continuations = [
        Continuation(one, (), sampling, max_tokens=max_tokens, stop=stop, seed=seed, history=history)
        for one, seed in zip(sequences, seeds, strict=True)
    ]
    texts = dict.fromkeys(continuations, "")
    for continuation, piece in run_together(list(continuations)):
        texts[continuation] += piece
    return [Draft(text, continuation) for continuation, text in texts.items()], prompt_seconds


def best_answer(format: ChatFormat, message: str, drafts: Sequence[Draft]) -> Draft:
    """Return the draft after which the message is most likely, so that an answer that fits any message loses.

    This is the backward score of maximum mutual information (Li et al. 2016), which DialoGPT uses to rank its drafts.
    Here the model itself computes it, with the speakers' names exchanged.
    """
    sequence = drafts[0].continuation.sequence.model.sequence()
    asked = (format.answer(message) + format.closing_tokens)[: min(MOST_SCORED, sequence.n_ctx // 2)]

    def score(draft: Draft) -> float:
        prompt = format.prompt(draft.text.strip())[-(sequence.n_ctx - len(asked)) :]
        sequence.truncate(0)
        scores = sequence.score(prompt + asked)[len(prompt) :]
        return sum((score for score in scores if score is not None), 0.0)

    return max(drafts, key=score)
