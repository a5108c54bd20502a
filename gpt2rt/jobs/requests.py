"""Requests: the task of OpenAI's batch files, whose rows are requests to the API of gpt2rt serve."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import msgspec

from gpt2rt._engine import Sequence
from gpt2rt.errors import Gpt2rtError
from gpt2rt.jobs.row import Row, RowError, row_hash
from gpt2rt.jobs.work import Part, Work, failed
from gpt2rt.model import Model
from gpt2rt.serve.answers import usage_of
from gpt2rt.serve.api_error import ApiError, invalid, refused
from gpt2rt.serve.call import Text, Update
from gpt2rt.serve.chat_completions import ChatWriter, chat_texts
from gpt2rt.serve.completions import CompletionWriter, completion_texts
from gpt2rt.serve.requests import ChatRequest, CompletionRequest, GenerationRequest, missing_model, read_request
from gpt2rt.serve.served_model import ServedModel

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


class TextPart(Part):
    """A choice of an answer."""

    def __init__(self, text: Text):
        super().__init__(text.prompt, text.start, text.prompt_logprobs)
        self.text = text
        self.update: Update

    def end(self, sequence: Sequence) -> None:
        prompt_scores = self.text.prompt_scores(sequence)
        scored, n_tokens, reason = [], 0, "length"
        if self.sampling is not None:
            scored, n_tokens = self.sampling.scored, len(self.sampling.tokens)
            reason = self.sampling.finish_reason or reason
        self.update = Update(self.text, self.piece, scored, prompt_scores, reason, n_tokens)


@dataclass(frozen=True, kw_only=True)
class Requests:
    """Answer requests as gpt2rt serve does, with ids and seeds that follow from the rows.

    Attributes:
        model_name: that requests may name. seed: of the job, from which requests without a seed get theirs.
        truncation: as for gpt2rt serve.
    """

    name: ClassVar[str] = "requests"
    id_field: ClassVar[str] = "custom_id"
    columns: ClassVar[None] = None
    needed_field: ClassVar[str] = "url"
    hint: ClassVar[str] = "--task for rows that are not requests"
    model_name: str
    seed: int = 0
    truncation: str = "disabled"

    def settings(self) -> dict[str, Any]:
        """Return what determines the answers, for the manifest."""
        return {"task": self.name, **asdict(self)}

    def check(self, model: Model) -> None:
        """All settings are valid."""

    @cached_property
    def _served(self) -> dict[Model, ServedModel]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return asdict(self)

    def work(self, model: Model, row: Row) -> Work:
        """Return the work that a row asks for; an invalid one is answered with an error."""
        if model not in self._served:
            self._served[model] = ServedModel(self.model_name, model)
        served = self._served[model]
        custom_id: Any = None

        def line(response: dict[str, Any] | None, error: dict[str, str] | None = None) -> dict[str, Any]:
            return {"id": f"batch_req_{name}", "custom_id": custom_id, "response": response, "error": error}

        def respond(status: int, body: Any) -> dict[str, Any]:
            return line({"status_code": status, "request_id": f"req_{name}", "body": body})

        def fail(error: Exception) -> dict[str, Any]:
            if isinstance(error, RowError):
                return line(None, {"code": "invalid_row", "message": f"row {row.number}: {error}"})
            told = error if isinstance(error, ApiError) else refused(_expected(error))
            return respond(told.status, json.loads(told.content()))

        name = row_hash(self.seed, row.number, None)[8:24].hex()
        try:
            fields, key = row.read(self.id_field)
            if not isinstance(fields.get(self.id_field), str):
                raise RowError("custom_id: expected text")
            custom_id = fields[self.id_field]
            hashed = row_hash(self.seed, row.number, key)
            name = hashed[8:24].hex()
            parts, body = self._parts(served, fields, int.from_bytes(hashed[:8], "little"), name)
        except (RowError, ApiError) as error:
            return failed(error, fail)
        return Work(list(parts), lambda: respond(200, body()), fail)

    def _parts(
        self, model: ServedModel, fields: dict[str, Any], seed: int, name: str
    ) -> tuple[list[TextPart], Callable[[], dict[str, Any]]]:
        """Return the parts of a request's work, and what returns the body of the answer when they have ended.

        Raises:
            RowError, ApiError: the row or the request is invalid.
        """
        for unknown in sorted(fields.keys() - {"custom_id", "method", "url", "body"}):
            raise RowError(f"{unknown:.80}: unknown field (leave it out)")
        if fields.get("method", "POST") != "POST":
            raise RowError(f"method: got {fields['method']!a:.80}, expected POST")
        if not isinstance(fields.get("body"), dict):
            raise RowError("body: expected a JSON object")
        url, body = fields.get("url"), json.dumps(fields["body"]).encode()
        writer: CompletionWriter | ChatWriter
        if url == COMPLETIONS:
            asked, _ = read_request(body, CompletionRequest, False)
            seed = self._seed(asked, seed)
            found = completion_texts(model, asked, seed)
            texts = [text for text, _ in found]
            writer = CompletionWriter.of_request(model, asked, found, seed)
            prefix = "cmpl"
        elif url == CHAT:
            chat, _ = read_request(body, ChatRequest, False)
            seed = self._seed(chat, seed)
            texts = chat_texts(model, chat, seed, chat.truncation or self.truncation)
            writer = ChatWriter.of_request(model, chat, texts, seed)
            prefix = "chatcmpl"
        else:
            raise RowError(f"url: got {url!a:.80}, expected {COMPLETIONS} or {CHAT}")
        parts = [TextPart(text) for text in texts]

        def answer() -> dict[str, Any]:
            updates = {part.text.index: part.update for part in parts}
            usage = usage_of(texts, sum(update.n_tokens for update in updates.values()))
            answer: dict[str, Any] = msgspec.to_builtins(writer.whole(updates, usage))
            # The same in every run: neither the time nor what else was in memory.
            answer["id"], answer["created"] = f"{prefix}-{name}", 0
            del answer["usage"]["prompt_tokens_details"]
            return answer

        return parts, answer

    def _seed(self, asked: GenerationRequest, seed: int) -> int:
        """Check what differs from a server's requests, and return the seed. Raises ApiError."""
        if asked.stream:
            raise invalid("stream", "got true, but a batch has no streams (leave it out)")
        if asked.model not in (None, self.model_name):
            raise missing_model(str(asked.model), [self.model_name])
        return seed if asked.seed is None else asked.seed


def _expected(error: Exception) -> Gpt2rtError:
    assert isinstance(error, Gpt2rtError)
    return error
