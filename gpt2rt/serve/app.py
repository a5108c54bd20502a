"""The application: routes, and what they have in common."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from gpt2rt.sampling import new_seed
from gpt2rt.serve.api_error import ApiError, invalid, stopping
from gpt2rt.serve.arena_routes import ArenaRoutes, Opened
from gpt2rt.serve.call import Call
from gpt2rt.serve.chat_completions import ChatWriter, chat_texts
from gpt2rt.serve.completions import CompletionWriter, completion_texts
from gpt2rt.serve.delivery import Delivery
from gpt2rt.serve.explain_routes import ExplainRoutes
from gpt2rt.serve.gate import Gate
from gpt2rt.serve.metrics import CONTENT_TYPE, Metrics
from gpt2rt.serve.page import page_routes
from gpt2rt.serve.requests import (
    Body,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
    header_value,
    missing_model,
    read_request,
)
from gpt2rt.serve.scheduler import Scheduler
from gpt2rt.serve.served_model import ServedModel

END_SECONDS = 3.0  # in which the scheduler's thread ends
BODY_SECONDS = 30.0  # in which a client must send the body of a request
Asked = TypeVar("Asked", bound=Body)


@dataclass(frozen=True)
class Settings:
    """What the options of gpt2rt serve say. Their help texts describe them."""

    api_key: str | None = None
    max_queue: int = 256
    max_batch: int = 16
    kv_cache: int = 1024  # MB
    timeout: float = 600.0  # seconds
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    truncation: str = "disabled"
    is_lenient: bool = False


class Service:
    """The models, the scheduler that runs them, and the routes that lead to them."""

    def __init__(self, models: Iterable[ServedModel], settings: Settings, arena: Opened | None = None):
        """arena: opens an arena and its file of votes when it is needed; None for no arena."""
        self._arena = arena
        self._models = {model.name: model for model in models}
        self._settings = settings
        self._metrics = Metrics()
        self._scheduler = Scheduler(
            self._models.values(),
            max_batch=settings.max_batch,
            max_queue=settings.max_queue,
            kv_cache_bytes=settings.kv_cache * 1_000_000,
            metrics=self._metrics,
        )

    def application(self) -> Starlette:
        """Return the ASGI application. It runs the scheduler between its startup and its shutdown."""
        settings = self._settings
        gate = Middleware(Gate, hosts=settings.allow_hosts, key=settings.api_key, metrics=self._metrics)
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.allow_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["x-request-id", "retry-after"],
        )
        return Starlette(
            routes=[
                Route("/v1/models", self.list_models),
                Route("/v1/models/{name:path}", self.show_model),
                Route("/v1/completions", self.complete, methods=["POST"]),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/tokenize", self.tokenize, methods=["POST"]),
                Route("/detokenize", self.detokenize, methods=["POST"]),
                Route("/tokenizer_info", self.tokenizer_info),
                Route("/health", self.health),
                Route("/metrics", self.metrics),
                *(ArenaRoutes(self._arena, self._read_body).routes() if self._arena else ()),
                *ExplainRoutes(self._model, self._read_body).routes(),
                *page_routes(),
            ],
            middleware=[cors, gate] if settings.allow_origins else [gate],
            exception_handlers={ApiError: show_error, HTTPException: show_http_error, Exception: show_internal_error},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()
            end = monotonic() + END_SECONDS
            while self._scheduler.is_alive and monotonic() < end:  # another thread might have no memory to begin
                await asyncio.sleep(0.01)

    @property
    def is_running(self) -> bool:
        """Whether it takes requests."""
        return self._scheduler.is_running

    def start(self) -> None:
        """Start to take requests, from this event loop. Raises RuntimeError: there is no memory for a thread."""
        self._scheduler.start(asyncio.get_running_loop())

    def stop(self) -> None:
        """End all running requests with an error, and refuse new ones."""
        self._scheduler.stop()

    # --- requests

    async def _read(self, request: Request, kind: type[Asked]) -> tuple[Asked, dict[str, str]]:
        """Return the request, and the headers that the answer must have. Raises ApiError."""
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":  # other types can be sent by any website's page, without being asked
            raise ApiError(415, f"content-type: got {media_type!r:.80}, expected application/json")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                content = await request.body()
        except TimeoutError:
            raise ApiError(408, "the request's body did not arrive in time", headers={"connection": "close"}) from None
        except ClientDisconnect:
            raise ApiError(400, "the client left before its request was complete") from None
        asked, ignored = read_request(content, kind, self._settings.is_lenient)
        return asked, {"gpt2rt-ignored": header_value(ignored)} if ignored else {}

    async def _read_body(self, request: Request, kind: type[Asked]) -> Asked:
        """Return the request alone. Raises ApiError."""
        asked, _ = await self._read(request, kind)
        return asked

    def _model(self, name: str | None) -> ServedModel:
        """Return the model that a request names; without a name, the only one. Raises ApiError."""
        if name is None:
            if len(self._models) > 1:
                raise invalid("model", f"missing, expected one of {', '.join(self._models)}")
            return next(iter(self._models.values()))
        if name not in self._models:
            raise missing_model(name, list(self._models))
        return self._models[name]

    # --- routes

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        asked, headers = await self._read(request, CompletionRequest)
        model, seed = self._model(asked.model), seed_of(asked)
        texts = completion_texts(model, asked, seed)
        writer = CompletionWriter.of_request(model, asked, texts, seed)
        is_stream = bool(asked.stream)
        call = Call(model, [text for text, _ in texts], wants_pieces=is_stream, timeout=self._settings.timeout)
        self._scheduler.submit(call)
        return Delivery(call, writer, is_stream=is_stream, includes_usage=asked.includes_usage, headers=headers)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        asked, headers = await self._read(request, ChatRequest)
        model, seed = self._model(asked.model), seed_of(asked)
        texts = chat_texts(model, asked, seed, asked.truncation or self._settings.truncation)
        is_stream = bool(asked.stream)
        writer = ChatWriter.of_request(model, asked, texts, seed)
        call = Call(model, texts, wants_pieces=is_stream, timeout=self._settings.timeout)
        self._scheduler.submit(call)
        return Delivery(call, writer, is_stream=is_stream, includes_usage=asked.includes_usage, headers=headers)

    async def list_models(self, _: Request) -> Response:
        """GET /v1/models."""
        return json_response({"object": "list", "data": [described(model) for model in self._models.values()]})

    async def show_model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        return json_response(described(self._model(request.path_params["name"])))

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize: the ids of a text, whatever its length."""
        asked, headers = await self._read(request, TokenizeRequest)
        model = self._model(asked.model)
        add_special_tokens = asked.add_special_tokens is not False
        ids = model.tokenizer.encode(asked.prompt, special=True, add_special_tokens=add_special_tokens)
        return json_response({"count": len(ids), "max_model_len": model.n_ctx, "tokens": ids}, headers)

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize: the text of ids."""
        asked, headers = await self._read(request, DetokenizeRequest)
        model = self._model(asked.model)
        for token in asked.tokens:
            if not 0 <= token < model.n_vocab:
                raise invalid("tokens", f"token {token}: out of range, expected 0 to {model.n_vocab - 1}")
        return json_response({"prompt": model.tokenizer.decode(asked.tokens)}, headers)

    async def tokenizer_info(self, request: Request) -> Response:
        """GET /tokenizer_info: what lm-evaluation-harness needs to use /tokenize instead of its own tokenizer."""
        model = self._model(request.query_params.get("model") or next(iter(self._models)))
        tokenizer = model.tokenizer
        bos, eos = tokenizer.bos_token_id, next(iter(tokenizer.eos_token_ids), None)
        bos_text, eos_text = (None if token is None else tokenizer.decode([token]) for token in (bos, eos))
        return json_response(
            {
                "tokenizer_class": "GPT2Tokenizer",
                "bos_token": bos_text,
                "eos_token": eos_text,
                "bos_token_id": bos,
                "eos_token_id": eos,
                "vocab_size": model.n_vocab,
                "model_max_length": model.n_ctx,
                "add_bos_token": tokenizer.add_bos_token,
                "chat_template": None,
            }
        )

    async def health(self, _: Request) -> Response:
        """GET /health: whether the server takes requests."""
        if not self.is_running:
            raise stopping()
        return json_response({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        """GET /metrics, for Prometheus."""
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)


def described(model: ServedModel) -> dict[str, object]:
    """Return what /v1/models says of a model; `max_model_len` as in vLLM."""
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "gpt2rt",
        "max_model_len": model.n_ctx,
        "n_parameters": model.model.hyperparameters.n_parameters,
        "weight_type": model.model.weight_type,
    }


def seed_of(asked: CompletionRequest | ChatRequest) -> int:
    """Return the seed of a request, or one from the system."""
    return new_seed() if asked.seed is None else asked.seed


def json_response(content: object, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), headers=headers, media_type="application/json")


async def show_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return Response(error.content(), error.status, error.headers, "application/json")


async def show_http_error(request: Request, error: Exception) -> Response:
    """Turn Starlette's own errors into those of the API."""
    assert isinstance(error, HTTPException)
    messages = {
        404: f"{request.url.path[:80]}: no such path (the API is under /v1)",
        405: f"{request.url.path[:80]}: the method {request.method[:20]} is not allowed",
    }
    message = messages.get(error.status_code, error.detail)
    return await show_error(request, ApiError(error.status_code, message, headers=error.headers))


async def show_internal_error(request: Request, _: Exception) -> Response:
    """Tell the client nothing about an unexpected error; the server's log has it."""
    return await show_error(request, ApiError(500, "an internal error", type="server_error"))
