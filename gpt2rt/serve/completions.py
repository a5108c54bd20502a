"""POST /v1/completions: continue texts, or score them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from gpt2rt._engine import Sequence
from gpt2rt.errors import Gpt2rtError
from gpt2rt.generate import Continuation, stop_strings
from gpt2rt.lookup import is_worth_it
from gpt2rt.sampling import MAX_SEED, SamplingParams
from gpt2rt.serve.answers import Completion, CompletionChoice, CompletionLogprobs, Head, ScoredTokens, Usage
from gpt2rt.serve.api_error import invalid, refused
from gpt2rt.serve.call import Text, Update
from gpt2rt.serve.requests import CompletionRequest
from gpt2rt.serve.served_model import ServedModel

MAX_TOKENS = 200  # of a text, unless the request says otherwise; as for gpt2rt generate
MAX_PROMPTS = 128  # of a request


def read_prompts(model: ServedModel, prompt: str | list[Any] | None) -> list[tuple[list[int], str]]:
    """Return (ids, text that echo repeats) for each prompt of a request: a text, ids, or a list of either.

    Raises:
        ApiError: a prompt is invalid or too long.
    """
    if prompt is None or isinstance(prompt, str):
        return [_prompt(model, prompt or "", "prompt")]
    if not prompt:
        raise invalid("prompt", "it is an empty list, expected text, ids, or a list of either")
    if type(prompt[0]) is int:
        return [_prompt(model, prompt, "prompt")]
    if len(prompt) > MAX_PROMPTS:
        raise invalid("prompt", f"got {len(prompt)} prompts, expected at most {MAX_PROMPTS}")
    return [_prompt(model, one, f"prompt[{i}]") for i, one in enumerate(prompt)]


def _prompt(model: ServedModel, given: Any, param: str) -> tuple[list[int], str]:
    if isinstance(given, str):
        ids = model.encode(given, param)
    elif isinstance(given, list) and all(type(token) is int for token in given):
        ids = model.checked_ids(given, param)
    else:
        raise invalid(param, "expected text or a list of ids")
    if not ids:
        return model.start_of_text(param), ""
    return ids, model.tokenizer.decode(ids)


def completion_texts(model: ServedModel, request: CompletionRequest, seed: int) -> list[tuple[Text, str]]:
    """Return a text for each choice of a request, and the text that `echo` puts before it.

    Args:
        seed: of the first choice; the others count up.

    Raises:
        ApiError: the request is invalid.
    """
    prompts = read_prompts(model, request.prompt)
    try:
        sampling = SamplingParams(**request.sampling_options())
        stop = stop_strings(request.stops)
    except Gpt2rtError as error:
        raise refused(error) from None
    max_tokens = MAX_TOKENS if request.max_tokens is None else request.max_tokens
    if max_tokens == 0 and not request.echo:
        raise invalid("max_tokens", "got 0, expected at least 1 without echo: true")
    arguments = {
        "sampling": sampling,
        "max_tokens": max_tokens,
        "stop": stop,
        "logprobs": request.logprobs,
        "logit_bias": request.biases(model.n_vocab),
        "lookup": is_worth_it(model.model.weights_size),
    }
    prompt_logprobs = request.logprobs if request.echo else None
    if request.logprobs is not None:
        n_scored = sum(min((len(prompt) if request.echo else 0) + max_tokens, model.n_ctx) for prompt, _ in prompts)
        request.check_scores("logprobs", n_scored, request.logprobs)
    texts: list[tuple[Text, str]] = []
    for prompt, echo in prompts:
        for _ in range(request.n or 1):
            index = len(texts)
            one = {**arguments, "seed": (seed + index) % (MAX_SEED + 1), "prompt_logprobs": prompt_logprobs}
            start = partial(_continuation, prompt, one) if max_tokens else None
            n_positions = min(len(prompt) + max_tokens, model.n_ctx)
            texts.append((Text(index, prompt, start, n_positions, prompt_logprobs), echo if request.echo else ""))
    return texts


def _continuation(prompt: list[int], arguments: dict[str, Any], sequence: Sequence) -> Continuation:
    """Continue a sequence that has evaluated the first tokens of a prompt."""
    return Continuation(sequence, prompt[len(sequence) :], exempt=(), **arguments)


class CompletionWriter:
    """Writes the updates of completions."""

    def __init__(
        self, model: ServedModel, echoes: list[str], seed: int, *, has_logprobs: bool, is_echo: bool, has_usage: bool
    ):
        """
        Args:
            echoes: what each choice's text begins with.
            has_usage: whether each chunk of the stream has a field `usage`.
        """
        self._head, self._echoes = Head(model, "cmpl", seed), echoes
        self._logprobs = [CompletionLogprobs(model) for _ in echoes] if has_logprobs else None
        self._is_echo, self._has_usage = is_echo, has_usage

    @classmethod
    def of_request(
        cls, model: ServedModel, request: CompletionRequest, texts: list[tuple[Text, str]], seed: int
    ) -> CompletionWriter:
        """Return the writer for a request, given what `completion_texts` returned for it."""
        return cls(
            model,
            [echo for _, echo in texts],
            seed,
            has_logprobs=request.logprobs is not None,
            is_echo=bool(request.echo),
            has_usage=request.includes_usage,
        )

    def _choice(self, update: Update) -> CompletionChoice:
        index = update.text.index
        echo, self._echoes[index] = self._echoes[index], ""
        logprobs = None
        if self._logprobs is not None:
            scored: ScoredTokens = list(update.scored)
            if self._is_echo and update.prompt_scores is not None:
                prompt = zip(update.text.prompt, update.prompt_scores, strict=True)
                scored = [(token, logprob, top) for token, (logprob, top) in prompt] + scored
            logprobs = self._logprobs[index].written(scored)
        return CompletionChoice(echo + update.piece, index, logprobs, update.finish_reason)

    def _completion(self, choices: list[CompletionChoice]) -> Completion:
        completion = Completion(*self._head.fields("text_completion"), choices)
        if self._has_usage:
            completion.usage = None
        return completion

    def first_chunks(self) -> Iterable[Completion]:
        return ()

    def chunks(self, update: Update) -> Iterable[Completion]:
        yield self._completion([self._choice(update)])

    def usage_chunk(self, usage: Usage) -> Completion:
        completion = self._completion([])
        completion.usage = usage
        return completion

    def whole(self, updates: Mapping[int, Update], usage: Usage) -> Completion:
        completion = self._completion([self._choice(updates[index]) for index in sorted(updates)])
        completion.usage = usage
        return completion
