"""The requests: their fields, and what becomes of fields that have no effect here.

A field is in one of three groups. Supported ones are the attributes of a struct. Known ones of OpenAI's API that have
no effect here are accepted only with a value that asks for nothing (`NEUTRAL`). All others are refused by name, or, by
a lenient server, ignored and reported.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from gpt2rt.sampling import MAX_SEED, SAMPLING_OPTIONS
from gpt2rt.serve.api_error import ApiError, invalid

if TYPE_CHECKING:
    from gpt2rt.sampling import SamplingKeywords

MAX_CHOICES = 128  # for each prompt, as in OpenAI's API
MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
MAX_SCORES = 1 << 20  # log probabilities in an answer; so many take about 150 MB while it is written

Count = Annotated[int, msgspec.Meta(ge=0)]


class Body(msgspec.Struct, kw_only=True):
    """The body of a request."""

    def check(self) -> None:
        """Check what the types don't say. Raises ApiError."""


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Options of a stream. Obfuscation pads chunks, to hide their lengths; it is not supported."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class GenerationRequest(Body, kw_only=True):
    """What both kinds of generation have in common. None is the default of every field."""

    model: str | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logit_bias: dict[str, float] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    no_repeat_ngram_size: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None

    def check(self) -> None:
        if self.seed is not None and self.seed > MAX_SEED:
            raise invalid("seed", f"got {self.seed!r:.80}, expected at most 2^64 - 1")
        if self.stream_options is not None:
            if not self.stream:
                raise invalid("stream_options", "got it without stream: true (add that, or leave it out)")
            if self.stream_options.include_obfuscation:
                raise invalid("stream_options", "include_obfuscation is not supported (leave it out)")
        if len(self.stops) > MAX_STOPS:
            raise invalid("stop", f"got {len(self.stops)} strings, expected at most {MAX_STOPS}")

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling_options(self) -> SamplingKeywords:
        """Return the sampling options that were given."""
        given: SamplingKeywords = {}
        for name in SAMPLING_OPTIONS:
            if (value := getattr(self, name)) is not None:
                given[name] = value  # type: ignore[literal-required]
        return given

    def check_scores(self, param: str, n_tokens: int, n_top: int) -> None:
        """Raise ApiError if too many log probabilities are asked for: of so many tokens in each choice."""
        n_scores = (self.n or 1) * n_tokens * (n_top + 1)
        if n_scores > MAX_SCORES:
            raise invalid(
                param,
                f"the request asks for up to {n_scores} numbers, expected at most {MAX_SCORES}"
                " (ask for fewer of them, or for fewer texts or tokens)",
            )

    def biases(self, n_vocab: int) -> dict[int, float]:
        """Return `logit_bias` by id. Raises ApiError."""
        biases = {}
        for key, bias in (self.logit_bias or {}).items():
            if not (key.isascii() and key.isdigit() and len(key) <= 10 and int(key) < n_vocab):
                raise invalid("logit_bias", f"got {key!r:.80}, expected ids from 0 to {n_vocab - 1} as text")
            if not -100 <= bias <= 100:
                raise invalid("logit_bias", f"got {bias!r:.80}, expected numbers from -100 to 100")
            biases[int(key)] = bias
        return biases


class CompletionRequest(GenerationRequest, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[Any] | None = None
    max_tokens: Count | None = None
    best_of: int | None = None
    echo: bool | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    def check(self) -> None:
        super().check()
        if self.best_of not in (None, 1, self.n or 1):
            raise invalid("best_of", f"got {self.best_of}, but choosing the best of several is not supported")


class Block(msgspec.Struct):
    """A part of a message's content. Only text is supported; the type of others is in the error."""

    type: str
    text: str | None = None


class Message(msgspec.Struct):
    """A message. Keys that clients add for themselves, such as `id`, are ignored."""

    role: str
    content: str | list[Block] | None = None


class ChatRequest(GenerationRequest, kw_only=True):
    """POST /v1/chat/completions.

    `truncation` is a field of OpenAI's Responses API, `continue_final_message` one of vLLM.
    """

    messages: list[Message]
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    truncation: str | None = None
    continue_final_message: bool | None = None

    def check(self) -> None:
        super().check()
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs", "got it without logprobs: true (add that, or leave it out)")
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise invalid("max_tokens", "got another number as max_completion_tokens (leave one of them out)")
        if self.truncation not in (None, "auto", "disabled"):
            raise invalid("truncation", f"got {self.truncation!r:.80}, expected auto or disabled")


class TokenizeRequest(Body, kw_only=True):
    """POST /tokenize. `prompt` and `add_special_tokens` as in vLLM; few models of this kind add any."""

    model: str | None = None
    prompt: str
    add_special_tokens: bool | None = None


class DetokenizeRequest(Body, kw_only=True):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[int]


ANY = object()  # any value: the field serves the client's own administration

# The values of fields without effect that ask for nothing. None is always one of them.
NEUTRAL: dict[type, dict[str, tuple[Any, ...]]] = {
    GenerationRequest: {
        "user": (ANY,),
        "metadata": (ANY,),
        "safety_identifier": (ANY,),
        "prompt_cache_key": (ANY,),
        "prompt_cache_retention": (ANY,),
        "prompt_cache_options": (ANY,),
        "store": (False,),
        "service_tier": ("auto", "default"),
    },
    CompletionRequest: {"suffix": ()},
    ChatRequest: {
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "parallel_tool_calls": (ANY,),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "reasoning_effort": ("none",),
        "verbosity": ("medium",),
        "audio": (),
        "moderation": (),
        "prediction": (),
        "web_search_options": (),
    },
}

Request = TypeVar("Request", bound=Body)


def neutral_fields(kind: type) -> dict[str, tuple[Any, ...]]:
    """Return the fields without effect of a kind of request, with the values that are accepted."""
    shared = NEUTRAL[GenerationRequest] if issubclass(kind, GenerationRequest) else {}
    return {**shared, **NEUTRAL.get(kind, {})}


def read_request(content: bytes, kind: type[Request], is_lenient: bool) -> tuple[Request, list[str]]:
    """Read and check the body of a request.

    Args:
        is_lenient: ignore unknown fields.

    Returns:
        The request, and the names of ignored fields.

    Raises:
        ApiError: the body is not JSON, or a field is unknown, unsupported or invalid.
    """
    try:
        fields = msgspec.json.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise invalid(None, f"the request's body is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise invalid(None, f"the request's body: got a JSON {json_type(fields)}, expected an object")
    neutral: dict[str, tuple[Any, ...]] = neutral_fields(kind)
    supported: tuple[str, ...] = kind.__struct_fields__
    ignored = []
    for name in [name for name in fields if name not in supported]:
        value = fields.pop(name)
        if name in neutral:
            if value is not None and not any(one is ANY or _is_same(value, one) for one in neutral[name]):
                raise invalid(name, f"got {_brief(value)}, which this server does not support (leave it out)")
        elif is_lenient:
            ignored.append(name)
        else:
            nearest = get_close_matches(name[:80], [*supported, *neutral], 1)
            hint = f"did you mean {nearest[0]}?" if nearest else "leave it out, or start the server with --lenient"
            raise invalid(f"{name:.80}", f"unknown field ({hint})")
    try:
        request = msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$.")
        where = path.removesuffix("`")
        if what.startswith("Object missing required field `"):
            missing = what.split("`")[1]
            where, what = f"{where}.{missing}" if where else missing, "missing"
        raise invalid(where or None, f"{what[:1].lower()}{what[1:]}") from None
    except RecursionError:
        raise invalid(None, "the request's body is nested too deeply") from None
    request.check()
    return request, ignored


def json_type(value: object) -> str:
    """Return the name of a JSON type."""
    names = {type(None): "null", bool: "boolean", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "number")


def _is_same(a: object, b: object) -> bool:
    return type(a) is type(b) and a == b


def _brief(value: object) -> str:
    """Return a value for a message: short ones as JSON, long ones by their type."""
    try:
        text = msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        text = ""
    return text if text and len(text) <= 40 else f"a JSON {json_type(value)}"


def header_value(names: list[str]) -> str:
    """Return names of ignored fields for a header, which holds ASCII only, and no spaces at its ends."""
    return ", ".join(
        name[:80].encode("ascii", "backslashreplace").decode() for name in names[:20] if name.isprintable()
    ).strip()


def missing_model(name: str, known: list[str]) -> ApiError:
    """Return the error for a model that is not served."""
    return ApiError(
        404,
        f"model: got {name!r:.80}, expected one of {', '.join(known)}",
        param="model",
        code="model_not_found",
    )
