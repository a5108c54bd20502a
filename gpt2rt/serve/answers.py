"""The answers: structs with the fields of OpenAI's API, and log probabilities in its two forms."""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Iterable

import msgspec

from gpt2rt.serve.call import Text
from gpt2rt.serve.served_model import ServedModel

ScoredTokens = list[tuple[int, float | None, list[tuple[int, float]] | None]]  # (id, log probability, most likely)


class CachedTokens(msgspec.Struct):
    """cached_tokens: those of the prompt that were not evaluated again."""

    cached_tokens: int


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


def usage_of(texts: Iterable[Text], n_sampled: int) -> Usage:
    """Return the usage of all texts of a request; a prompt that several texts continue counts once."""
    prompts = {id(text.prompt): text for text in reversed(list(texts))}  # the first text of each prompt
    n_prompt = sum(len(text.prompt) for text in prompts.values())
    n_cached = sum(text.n_cached for text in prompts.values())
    return Usage(n_prompt, n_sampled, n_prompt + n_sampled, CachedTokens(n_cached))


class Answer(msgspec.Struct):
    """What all answers and all chunks of streams begin with."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    seed: int


class TokenLogprobs(msgspec.Struct):
    """The log probabilities of a completion. text_offset: in characters, from the start of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct):
    text: str
    index: int
    logprobs: TokenLogprobs | None
    finish_reason: str | None


class Completion(Answer):
    choices: list[CompletionChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET


class LikelyToken(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class ChatToken(LikelyToken):
    top_logprobs: list[LikelyToken]


class ChatLogprobs(msgspec.Struct):
    content: list[ChatToken]
    refusal: None = None


class AssistantMessage(msgspec.Struct):
    role: str
    content: str
    refusal: None = None


class Delta(msgspec.Struct):
    """What a chunk adds to a message."""

    role: str | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatChunkChoice(msgspec.Struct):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatCompletion(Answer):
    choices: list[ChatChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET


class ChatChunk(Answer):
    choices: list[ChatChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET


class Head:
    """The beginning of an answer, the same in all its chunks."""

    def __init__(self, model: ServedModel, prefix: str, seed: int):
        self._model, self._seed = model, seed
        self._id, self._created = f"{prefix}-{uuid.uuid4().hex}", int(time.time())

    def fields(self, object: str) -> tuple[str, str, int, str, str, int]:
        """Return the values of the fields of `Answer`."""
        return self._id, object, self._created, self._model.name, self._model.fingerprint, self._seed


class CompletionLogprobs:
    """Writes the log probabilities of one choice, whose tokens come a few at a time."""

    def __init__(self, model: ServedModel):
        self._model = model
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def written(self, scored: ScoredTokens) -> TokenLogprobs:
        """Return the log probabilities of the next tokens.

        `top_logprobs` has the token itself, too, with the same number, also if it is not among the most likely ones.
        """
        name = self._model.token_name
        written = TokenLogprobs([], [], [], [])
        for token, logprob, top in scored:
            likely = None
            if logprob is not None:
                likely = {name(other): value for other, value in top or ()}
                likely.setdefault(name(token), logprob)
            written.tokens.append(name(token))
            written.token_logprobs.append(logprob)
            written.top_logprobs.append(likely)
            written.text_offset.append(self._offset)
            self._offset += len(self._decoder.decode(self._model.tokenizer.token_bytes(token)))
        return written


def chat_logprobs(model: ServedModel, scored: ScoredTokens) -> ChatLogprobs:
    """Return the log probabilities of tokens of an answer."""

    def likely(token: int, logprob: float) -> LikelyToken:
        return LikelyToken(model.token_name(token), logprob, list(model.tokenizer.token_bytes(token)))

    content = []
    for token, logprob, top in scored:
        assert logprob is not None
        one = likely(token, logprob)
        content.append(ChatToken(one.token, one.logprob, one.bytes, [likely(*pair) for pair in top or ()]))
    return ChatLogprobs(content)
