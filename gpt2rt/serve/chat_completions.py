"""POST /v1/chat/completions: answer the last message of a conversation, as gpt2rt chat would."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from gpt2rt._engine import Sequence
from gpt2rt.chat import MAX_TOKENS, Conversation
from gpt2rt.chat import Answer as ConversationAnswer
from gpt2rt.errors import ContextFullError, Gpt2rtError
from gpt2rt.lookup import is_worth_it
from gpt2rt.reply import Reply
from gpt2rt.sampling import MAX_SEED
from gpt2rt.serve.answers import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Delta,
    Head,
    Usage,
    chat_logprobs,
)
from gpt2rt.serve.api_error import invalid, refused
from gpt2rt.serve.call import Text, Update
from gpt2rt.serve.requests import ChatRequest, Message
from gpt2rt.serve.served_model import ServedModel

OPENING_ROLES = ("system", "developer")
ROLES = (*OPENING_ROLES, "user", "assistant")


def read_messages(messages: list[Message], last: str = "user") -> list[dict[str, str]]:
    """Return the messages as `Model.chat` takes them: a system message at most, then user and assistant in turn.

    Messages of the same role in a row become one, joined with a line break.

    Args:
        last: the role of the last one.

    Raises:
        ApiError: a message is invalid, or in a place where it can't be.
    """
    found: list[tuple[str, list[str]]] = []  # (role, contents in a row)
    for i, message in enumerate(messages):
        if message.role not in ROLES:
            raise invalid(f"messages[{i}].role", f"got {message.role!r:.80}, expected one of {', '.join(ROLES)}")
        role = "system" if message.role in OPENING_ROLES else message.role
        content = _text(message, i)
        if role == "system" and found and found[-1][0] != "system":
            raise invalid(f"messages[{i}].role", "a system message is only possible before all others")
        if role == "assistant" and (not found or found[-1][0] == "system"):
            raise invalid(f"messages[{i}].role", "got 'assistant', expected a user's message first")
        if found and found[-1][0] == role:
            found[-1][1].append(content)
        else:
            found.append((role, [content]))
    if not found or found[-1][0] != last:
        raise invalid("messages", f"expected a message of the {last} as the last one")
    return [{"role": role, "content": "\n".join(contents)} for role, contents in found]


def _text(message: Message, i: int) -> str:
    """Return the content of a message as text."""
    if message.content is None:
        raise invalid(f"messages[{i}].content", "got null, expected text")
    if isinstance(message.content, str):
        return message.content
    parts = []
    for j, block in enumerate(message.content):
        if block.type != "text" or block.text is None:
            raise invalid(
                f"messages[{i}].content[{j}].type", f"got {block.type!r:.80}, expected 'text' with a text as `text`"
            )
        parts.append(block.text)
    return "\n".join(parts)


def chat_texts(model: ServedModel, request: ChatRequest, seed: int, truncation: str) -> list[Text]:
    """Return a text for each choice of a request.

    Args:
        seed: of the first choice; the others count up.
        truncation: "auto" drops the oldest turns of a conversation that is too long; "disabled" refuses it.

    Raises:
        ApiError: the request is invalid, or the conversation is too long.
    """
    is_continued = bool(request.continue_final_message)
    messages = read_messages(request.messages, "assistant" if is_continued else "user")
    most = request.max_completion_tokens or request.max_tokens or MAX_TOKENS
    options: dict[str, Any] = {**request.sampling_options(), "stop": request.stops}
    options["max_tokens"] = min(most, model.n_ctx)
    try:
        answer = Conversation.answer_to(model.model, messages, continue_final_message=is_continued, **options)
    except ContextFullError as error:
        raise refused(error, "messages") from None
    except Gpt2rtError as error:
        param = None if str(error).partition(":")[0] in {*ChatRequest.__struct_fields__} else "messages"
        raise refused(error, param) from None
    if answer.n_dropped and truncation != "auto":
        raise invalid(
            "messages",
            f"the conversation does not fit the model's context of {model.n_ctx} tokens (leave out old messages, or let"
            ' the server drop them with "truncation": "auto")',
            code="context_length_exceeded",
        )
    if request.logprobs:
        request.check_scores("top_logprobs", options["max_tokens"], request.top_logprobs or 0)
    arguments = {
        "logprobs": (request.top_logprobs or 0) if request.logprobs else None,
        "logit_bias": request.biases(model.n_vocab),
        "lookup": is_worth_it(model.model.weights_size),
    }
    n_positions = min(len(answer.prompt) + options["max_tokens"], model.n_ctx)
    return [
        Text(i, answer.prompt, partial(_reply, answer, {**arguments, "seed": (seed + i) % (MAX_SEED + 1)}), n_positions)
        for i in range(request.n or 1)
    ]


def _reply(answer: ConversationAnswer, arguments: dict[str, Any], sequence: Sequence) -> Reply:
    return answer.reply(sequence, **arguments)


class ChatWriter:
    """Writes the updates of answers."""

    def __init__(self, model: ServedModel, n_choices: int, seed: int, *, has_logprobs: bool, has_usage: bool):
        """has_usage: whether each chunk of the stream has a field `usage`."""
        self._model, self._head, self._n_choices = model, Head(model, "chatcmpl", seed), n_choices
        self._has_logprobs, self._has_usage = has_logprobs, has_usage

    @classmethod
    def of_request(cls, model: ServedModel, request: ChatRequest, texts: list[Text], seed: int) -> ChatWriter:
        """Return the writer for a request, given what `chat_texts` returned for it."""
        return cls(model, len(texts), seed, has_logprobs=bool(request.logprobs), has_usage=request.includes_usage)

    def _logprobs(self, update: Update) -> ChatLogprobs | None:
        return chat_logprobs(self._model, list(update.scored)) if self._has_logprobs else None

    def _chunk(self, choices: list[ChatChunkChoice]) -> ChatChunk:
        chunk = ChatChunk(*self._head.fields("chat.completion.chunk"), choices)
        if self._has_usage:
            chunk.usage = None
        return chunk

    def first_chunks(self) -> Iterable[ChatChunk]:
        for index in range(self._n_choices):
            yield self._chunk([ChatChunkChoice(index, Delta(role="assistant", content=""), None, None)])

    def chunks(self, update: Update) -> Iterable[ChatChunk]:
        index, logprobs = update.text.index, self._logprobs(update)
        if update.piece or (logprobs and logprobs.content):
            yield self._chunk([ChatChunkChoice(index, Delta(content=update.piece), logprobs, None)])
        if update.finish_reason:
            yield self._chunk([ChatChunkChoice(index, Delta(), None, _reason(update))])

    def usage_chunk(self, usage: Usage) -> ChatChunk:
        chunk = self._chunk([])
        chunk.usage = usage
        return chunk

    def whole(self, updates: Mapping[int, Update], usage: Usage) -> ChatCompletion:
        choices = [
            ChatChoice(index, AssistantMessage("assistant", update.piece), self._logprobs(update), _reason(update))
            for index, update in sorted(updates.items())
        ]
        return ChatCompletion(*self._head.fields("chat.completion"), choices, usage)


def _reason(update: Update) -> str | None:
    """Return the finish reason, of which OpenAI's API has no "blank"."""
    return "stop" if update.finish_reason == "blank" else update.finish_reason
