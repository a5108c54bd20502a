"""A plugin for llm (https://llm.datasette.io): the models that `gpt2rt models` lists, as models of `llm`.

llm imports every plugin for each of its commands, so the engine is imported with the first prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

import llm
from pydantic import Field, create_model

from gpt2rt.errors import UsageError
from gpt2rt.model_folder import BUNDLED, model_names, path_of
from gpt2rt.sampling import CHAT_DEFAULTS, MAX_SEED, SAMPLING_OPTIONS, SamplingParams, new_seed

if TYPE_CHECKING:
    from typing import Any

    from gpt2rt.model import Model

NAME = "gpt2rt"  # of the bundled model; the others are gpt2rt/NAME


def make_options() -> Any:
    """Return the class of the options: those of sampling, max_tokens and seed. None is the default of each."""
    defaults = SamplingParams(**CHAT_DEFAULTS).as_dict()
    fields: dict[str, Any] = {
        name: (kind | None, Field(None, ge=least, le=greatest, description=f"{meaning} Default: {defaults[name]}."))
        for name, (kind, least, greatest, meaning) in SAMPLING_OPTIONS.items()
    }
    fields["max_tokens"] = (int | None, Field(None, ge=1, description="Generate at most N tokens."))
    fields["seed"] = (
        int | None,
        Field(None, ge=0, le=MAX_SEED, description="Seed the random numbers with N. Default: a random seed."),
    )
    return create_model("Options", __base__=llm.Options, **fields)


@cache
def opened(name: str) -> Model:
    """Return the model with this name, which is opened once."""
    from gpt2rt.model import open_model

    return open_model(path_of(name))


def messages_of(prompt: Any) -> list[dict[str, str]]:
    """Return a prompt and all turns before it as `Model.chat` takes them.

    Messages of the same role in a row become one, joined with a line break: an empty answer leaves no message.

    Raises:
        UsageError: a message holds something other than text.
    """
    from llm.parts import ReasoningPart, TextPart  # llm 0.32 and newer

    found: list[dict[str, str]] = []
    for message in prompt.messages:
        parts = [part for part in message.parts if not isinstance(part, ReasoningPart)]
        for part in parts:
            if not isinstance(part, TextPart):
                raise UsageError(f"message: got a {type(part).__name__}, expected text (nothing else is supported)")
        text = "".join(part.text for part in parts)
        if found and found[-1]["role"] == message.role:
            found[-1]["content"] += f"\n{text}"
        else:
            found.append({"role": message.role, "content": text})
    return found


class _Chat:
    """What both kinds of model have in common."""

    can_stream = True
    Options = make_options()

    def __init__(self, name: str):
        self.model_id = NAME if name == BUNDLED else f"{NAME}/{name}"
        self._name = name

    def answer(self, prompt: Any, response: Any) -> Iterator[str]:
        """Answer a prompt, piece by piece, and report the usage and the seed. Raises Gpt2rtError."""
        options = {name: value for name, value in prompt.options if value is not None}
        options.setdefault("seed", new_seed())
        answer = opened(self._name).chat(messages_of(prompt), **options)
        yield from answer
        response.set_usage(input=answer.n_prompt_tokens, output=answer.n_tokens)
        response.response_json = {
            "seed": options["seed"],
            "finish_reason": answer.finish_reason,
            "n_dropped": answer.n_dropped,
        }


class Chat(_Chat, llm.Model):
    """A model of `gpt2rt models`; llm calls `execute`."""

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[str]:
        return self.answer(prompt, response)


class AsyncChat(_Chat, llm.AsyncModel):
    """The same for coroutines: each piece is generated on another thread."""

    async def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> AsyncGenerator[str]:
        pieces = self.answer(prompt, response)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    for name in model_names():
        register(Chat(name), AsyncChat(name))
