"""SamplingParams: how the next token is chosen."""

from __future__ import annotations

import os

from gpt2rt.arguments import real_number, whole_number
from gpt2rt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, Never, TypedDict, Unpack

    class SamplingKeywords(TypedDict, total=False):
        """The keywords of `SamplingParams`, to annotate functions: `**sampling: Unpack[SamplingKeywords]`."""

        temperature: float
        top_k: int
        top_p: float
        min_p: float
        repetition_penalty: float
        repeat_last_n: int
        presence_penalty: float
        frequency_penalty: float
        no_repeat_ngram_size: int


# name: (type, least, greatest, meaning)
SAMPLING_OPTIONS: dict[str, tuple[type[float], float, float, str]] = {
    "temperature": (float, 0.0, 100.0, "Divide the logits by X: below 1 safer, above 1 wilder; 0 is greedy."),
    "top_k": (int, 0, 1 << 20, "Sample from the N most likely tokens; 0 for all."),
    "top_p": (float, 0.0, 1.0, "Sample from the most likely tokens that together have probability X; 1 for all."),
    "min_p": (float, 0.0, 1.0, "Sample from tokens at least X times as likely as the most likely one; 0 for all."),
    "repetition_penalty": (float, 0.1, 100.0, "Make recently generated tokens less likely by an X above 1; 1 is off."),
    "repeat_last_n": (int, 0, 1 << 16, "Count the last N generated tokens as recent."),
    "presence_penalty": (float, -2.0, 2.0, "Subtract X from the logits of all generated tokens; 0 is off."),
    "frequency_penalty": (float, -2.0, 2.0, "Subtract X from a token's logit each time it is generated; 0 is off."),
    "no_repeat_ngram_size": (int, 0, 1 << 10, "Never generate the same N tokens in a row twice; 0 is off."),
}
MAX_SEED = (1 << 64) - 1
RENAMED = {"penalty_window": "repeat_last_n", "no_repeat_ngram": "no_repeat_ngram_size"}  # in files of older versions

# Defaults of conversations. A penalty multiplies negative logits, and GPT-2's are near -35: 1.05 is strong enough.
CHAT_DEFAULTS: SamplingKeywords = {
    "temperature": 0.7,
    "top_p": 0.9,
    "repetition_penalty": 1.05,
    "no_repeat_ngram_size": 4,
}


def new_seed() -> int:
    """Return a seed from the system: 32 bits, short enough to be typed, and read exactly by every JSON parser."""
    return int.from_bytes(os.urandom(4), "little")


class SamplingParams:
    """How the next token is chosen; immutable. `Sampler` documents the order in which the options apply.

    Args:
        temperature: divides the logits; 0 takes the most likely token, the lowest id if there are several.
        top_k: keeps only the k most likely tokens, 0 for all.
        top_p: keeps only the most likely tokens whose probabilities together reach p, 1 for all; at least one token.
        min_p: keeps only tokens at least p times as likely as the most likely one, 0 for all.
        repetition_penalty: divides the positive and multiplies the negative logits of recently generated tokens.
        repeat_last_n: how many generated tokens count as recent.
        presence_penalty: is subtracted from the logits of all generated tokens, as in OpenAI's API.
        frequency_penalty: is subtracted from the logits of all generated tokens as many times as each was generated.
        no_repeat_ngram_size: forbids tokens that would repeat an n-gram of this size; 0 is off.

    Raises:
        UsageError: an option is unknown, of the wrong type or out of range.
    """

    __slots__ = tuple(SAMPLING_OPTIONS)

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    repeat_last_n: int
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram_size: int

    def __init__(
        self,
        *,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        repeat_last_n: int = 64,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        no_repeat_ngram_size: int = 0,
        **unknown: Never,  # a type checker rejects unknown names
    ):
        for name in unknown:
            raise UsageError(f"sampling option {name!r}: expected one of {', '.join(SAMPLING_OPTIONS)}")
        penalties = (repetition_penalty, repeat_last_n, presence_penalty, frequency_penalty, no_repeat_ngram_size)
        for name, value in zip(SAMPLING_OPTIONS, (temperature, top_k, top_p, min_p, *penalties), strict=True):
            object.__setattr__(self, name, _checked(name, value))

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> SamplingParams:
        """Return the parameters saved in a file; options may have the names of older versions.

        Raises:
            UsageError: as for the class; or an option appears twice, under its old and new names.
        """
        for old, new in RENAMED.items():
            if old in options and new in options:
                raise UsageError(f"sampling option {old!r}: {new!r}, its new name, is given too (remove one of them)")
        return cls(**{RENAMED.get(name, name): value for name, value in options.items()})

    def as_dict(self) -> dict[str, float]:
        """Return all options by name."""
        return {name: getattr(self, name) for name in SAMPLING_OPTIONS}

    def replace(self, **options: Unpack[SamplingKeywords]) -> SamplingParams:
        """Return a copy with some options changed."""
        changed: dict[str, Any] = {**self.as_dict(), **options}
        return SamplingParams(**changed)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"SamplingParams is immutable; replace({name}=...) makes a changed copy")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"SamplingParams is immutable; {name} can't be deleted")

    def __reduce__(self) -> tuple[Callable[[Mapping[str, Any]], SamplingParams], tuple[dict[str, float]]]:
        return SamplingParams.from_dict, (self.as_dict(),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SamplingParams) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.as_dict().values()))

    def __repr__(self) -> str:
        return f"SamplingParams({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"


def sampling_with(sampling: SamplingParams | None, options: SamplingKeywords) -> SamplingParams:
    """Return the parameters, or the defaults if None, with some options changed. Raises UsageError."""
    if not (sampling is None or isinstance(sampling, SamplingParams)):
        raise UsageError(f"sampling: got {sampling!r:.80}, expected a SamplingParams or None")
    return (SamplingParams() if sampling is None else sampling).replace(**options)


def _checked(name: str, value: Any) -> float:
    """Return the value as an int or a float. Raises UsageError if it is not a number or out of range."""
    kind, least, greatest, _ = SAMPLING_OPTIONS[name]
    if kind is float:
        return real_number(name, value, least, greatest)
    return whole_number(name, value, int(least), int(greatest))
