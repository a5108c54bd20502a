"""Contestants: whatever answers messages, under a name that says nothing and an identity that says everything."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from gpt2rt.arena.eliza import Script, answer_to, sentence_case
from gpt2rt.chat import MAX_TOKENS
from gpt2rt.errors import Gpt2rtError, UsageError
from gpt2rt.model import Model, open_model
from gpt2rt.model_folder import bundled_model
from gpt2rt.regular_file import open_regular, read_regular
from gpt2rt.sampling import CHAT_DEFAULTS, SAMPLING_OPTIONS, SamplingParams

Messages = Sequence[Mapping[str, str]]

KINDS = ("model", "eliza", "lstm", "url", "imported")
MAX_NAME = 60  # characters
URL_SECONDS = 30.0  # in which a server must send something
MAX_LINE = 1 << 20  # bytes of a server's event
MAX_SCRIPT = 1 << 20  # bytes of a script of ELIZA
FORMAT_SETTINGS = ("format", "user_name", "bot_name", "opening")

# Ways to sample, by the name that --preset takes.
OFF = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
PRESETS: dict[str, dict[str, Any]] = {
    "chat": {},  # the defaults of gpt2rt chat
    "greedy": {"temperature": 0.0, **OFF},
    "cool": {"temperature": 0.4},
    "warm": {"temperature": 1.0},
    "pure": {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **OFF},  # the model's own distribution
}

# What the C program of 3,000 bytes did, from which gpt2rt descends: the most likely token, again and again.
GREEDY = {
    "format": "plain",
    "user_name": "Alice",
    "bot_name": "Bob",
    "opening": "This is a conversation between Alice and Bob.\n",
    **PRESETS["greedy"],
}


class ContestantError(Gpt2rtError):
    """A contestant can't answer: its file or its server is missing, or the server answered with an error."""


@dataclass(frozen=True)
class Contestant:
    """Who answers.

    Attributes:
        name: for people. kind: one of `KINDS`.
        settings: everything that decides its answers, by name: digests of files, the sampling options, the prompt
            format and so on; JSON values only.
        source: where its file or server is; this may change without changing who it is.
        parent: the id of the contestant that it was split from, None for the others.
        retired: it plays no more; its rounds stay.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]
    source: str = ""
    parent: str | None = None
    retired: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        """Raises UsageError: the name or the kind can't be used."""
        if self.kind not in KINDS:
            kinds = ", ".join(KINDS)
            raise UsageError(f"contestant {self.name!r:.80}: got the kind {self.kind!r:.80}, expected one of {kinds}")
        name = self.name
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > MAX_NAME:
            raise UsageError(f"contestant {name!r:.80}: expected a name of 1 to {MAX_NAME} printable characters")

    @cached_property
    def id(self) -> str:
        """Its identity, of 16 hexadecimal digits: another file or another setting is another contestant."""
        content = json.dumps([self.kind, dict(self.settings)], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def details(self) -> list[str]:
        """Return what people are told after a vote: the settings that differ from the defaults, and the file."""
        settings = dict(self.settings)
        digest = settings.pop("digest", "")
        sampling = {**SamplingParams(**CHAT_DEFAULTS).as_dict(), "max_tokens": MAX_TOKENS}
        found = [
            f"{name} {value if not isinstance(value, str) else repr(value)[:60]}"
            for name, value in settings.items()
            if sampling.get(name) != value
        ]
        return [self.kind, *found, *([f"file {digest[:12]}"] if digest else [])]


class Performer(Protocol):
    """Answers for a contestant. Several threads may use it at once."""

    def answer(self, messages: Messages, seed: int) -> Iterator[str]:
        """Yield the answer to the last message in pieces.

        Args:
            messages: as for `Model.chat`, without a system message.

        Raises:
            Gpt2rtError: there is no answer.
        """
        ...


class ModelPerformer:
    """A model file, with its settings."""

    def __init__(self, model: Model, settings: Mapping[str, Any]):
        self._model = model
        self._options = {name: value for name, value in settings.items() if name != "digest"}

    def answer(self, messages: Messages, seed: int) -> Iterator[str]:
        return self._model.chat(messages, seed=seed, **self._options)


class ElizaPerformer:
    """Weizenbaum's program of 1966, with its state replayed from the conversation. It knows no chance."""

    def __init__(self, path: str, is_strict: bool = False):
        """
        Args:
            path: of a script. is_strict: whether to answer in capitals, as it did; else as sentences.

        Raises:
            UsageError: it is not a valid script. ContestantError: it can't be read.
        """
        try:
            text = read_regular(path, MAX_SCRIPT).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ContestantError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
        self._script, self._is_strict = Script.parse(text, path), is_strict

    def answer(self, messages: Messages, seed: int) -> Iterator[str]:
        answer = answer_to(self._script, messages)
        yield answer if self._is_strict else sentence_case(answer, messages[-1]["content"])


class LstmPerformer:
    """The character-level LSTM."""

    def __init__(self, path: str | None, settings: Mapping[str, Any]):
        from gpt2rt.arena.lstm import Lstm

        self._lstm = Lstm(path) if path else Lstm()
        self._options = {name: value for name, value in settings.items() if name != "digest"}

    def answer(self, messages: Messages, seed: int) -> Iterator[str]:
        yield from self._lstm.answer(messages, seed=seed, **self._options)


class UrlPerformer:
    """A server that speaks OpenAI's API."""

    def __init__(self, url: str, settings: Mapping[str, Any]):
        """
        Args:
            url: of the API, such as http://127.0.0.1:8080/v1.
            settings: `model`, `key_variable` (the environment variable with the key), and fields of the request.
        """
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"url: got {url!r:.80}, expected http:// or https://")
        self._url = url.rstrip("/") + "/chat/completions"
        self._fields = {name: value for name, value in settings.items() if name not in ("key_variable", "url")}
        self._key_variable = settings.get("key_variable")

    def answer(self, messages: Messages, seed: int) -> Iterator[str]:
        headers = {"Content-Type": "application/json"}
        if self._key_variable:
            headers["Authorization"] = f"Bearer {os.environ.get(self._key_variable, '')}"
        body = json.dumps(
            {**self._fields, "messages": list(map(dict, messages)), "seed": seed, "stream": True}
        ).encode()
        request = urllib.request.Request(self._url, body, headers)
        is_whole = False
        try:
            with urllib.request.urlopen(request, timeout=URL_SECONDS) as response:
                for event in _events(response):
                    choice = event["choices"][0] if event.get("choices") else {}
                    if "error" in event:
                        raise ContestantError("the server sent an error")
                    is_whole |= choice.get("finish_reason") is not None
                    if piece := (choice.get("delta") or {}).get("content"):
                        yield piece
        except (OSError, ValueError, KeyError, TypeError, AttributeError, urllib.error.HTTPError) as error:
            raise ContestantError(f"the server can't be used: {type(error).__name__}") from None
        if not is_whole:
            raise ContestantError("the server broke off")


def _events(response: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects of a stream of events."""
    while line := response.readline(MAX_LINE):
        if line.startswith(b"data:"):
            content = line[5:].strip()
            if content == b"[DONE]":
                return
            yield json.loads(content)


class Cast:
    """Opens what contestants need, each file once."""

    def __init__(self, n_threads: int | None = None, models: Mapping[str, Model] | None = None):
        """models: those that are open already, by absolute path."""
        self._n_threads = n_threads
        self._models = dict(models or {})
        self._performers: dict[str, Performer] = {}

    def performer(self, contestant: Contestant) -> Performer:
        """Return who answers for a contestant.

        Raises:
            ContestantError: its file is another one now, or it was only imported. Gpt2rtError: it can't be opened.
        """
        found = self._performers.get(contestant.id)
        if found is None:
            found = self._performers[contestant.id] = self._open(contestant)
        return found

    def _open(self, contestant: Contestant) -> Performer:
        kind, settings, source = contestant.kind, contestant.settings, contestant.source
        if kind == "imported":
            raise ContestantError(f"{contestant.name}: it was imported, only its rounds are known")
        if kind == "url":
            return UrlPerformer(source, settings)
        if digest_of(source) != settings["digest"]:
            raise ContestantError(f"{contestant.name}: {source} has changed (retire it, and add the file again)")
        if kind == "model":
            if source not in self._models:
                self._models[source] = open_model(source, n_threads=self._n_threads)
            return ModelPerformer(self._models[source], settings)
        if kind == "eliza":
            return ElizaPerformer(source, bool(settings.get("strict")))
        return LstmPerformer(source, settings)


def digest_of(path: str) -> str:
    """Return the SHA-256 of a file.

    Raises:
        ContestantError: it can't be read.
    """
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ContestantError(f"{path}: {error.strerror or error}") from None


def missing_file(contestant: Contestant, digests: dict[str, str]) -> str:
    """Return why a contestant can't play any more, "" if it can.

    Args:
        digests: those of files that are known, by path; others are added.
    """
    path = contestant.source
    if "digest" not in contestant.settings:
        return ""
    try:
        if path not in digests:
            digests[path] = digest_of(path)
    except ContestantError as error:
        return str(error)
    return "" if digests[path] == contestant.settings["digest"] else f"{path} has changed"


def model_contestant(
    name: str, path: str, options: Mapping[str, Any] | None = None, parent: str | None = None
) -> Contestant:
    """Return a contestant that is a model file with options of `Conversation`; all others have their defaults.

    Raises:
        UsageError: an option is unknown or invalid. ContestantError: the file can't be read.
    """
    options = dict(options or {})
    for option in options:
        if option not in (*SAMPLING_OPTIONS, *FORMAT_SETTINGS, "max_tokens", "stop"):
            known = ", ".join((*SAMPLING_OPTIONS, *FORMAT_SETTINGS, "max_tokens", "stop"))
            raise UsageError(f"contestant {name}: unknown option {option!r:.80}, expected any of {known}")
    sampling = SamplingParams(**CHAT_DEFAULTS).replace(**{o: options.pop(o) for o in SAMPLING_OPTIONS if o in options})
    settings = {"digest": digest_of(path), **sampling.as_dict(), "max_tokens": MAX_TOKENS, **options}
    return Contestant(name, "model", settings, os.path.abspath(path), parent)


def _package_file(name: str) -> str:
    return os.path.join(os.path.dirname(__file__), name)


def builtin_contestants() -> dict[str, Contestant]:
    """Return the contestants that need no file of the user's, by name."""
    listener, lstm = _package_file("listener.txt"), _package_file("lstm.npz")
    return {
        "demo": model_contestant("demo", bundled_model()),
        "greedy": model_contestant("greedy", bundled_model(), GREEDY),
        "eliza": Contestant("eliza", "eliza", {"digest": digest_of(listener)}, listener),
        "lstm": Contestant("lstm", "lstm", {"digest": digest_of(lstm)}, lstm),
    }
