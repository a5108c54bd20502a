"""SamplingParams: how the next token is chosen."""

from __future__ import annotations

from gpt2rt.errors import UsageError

# name: (type, least, greatest, default, meaning)
SAMPLING_OPTIONS = {
    "temperature": (float, 0.0, 100.0, 0.8, "Below 1 safer, above 1 wilder; 0 always takes the most likely token."),
    "top_k": (int, 0, 1 << 20, 40, "Only the K most likely tokens; 0 for all."),
    "top_p": (float, 0.0, 1.0, 0.95, "Only the most likely tokens that together reach probability P; 1 for all."),
    "min_p": (float, 0.0, 1.0, 0.0, "Only tokens at least P times as likely as the most likely one; 0 for all."),
    "repetition_penalty": (float, 0.1, 100.0, 1.0, "Above 1 makes recently generated tokens less likely; 1 is off."),
    "penalty_window": (int, 0, 1 << 16, 64, "How many generated tokens count as recent."),
    "no_repeat_ngram": (int, 0, 1 << 10, 0, "Never generate the same N tokens in a row twice; 0 is off."),
}

# What a conversation changes. A penalty multiplies negative logits, and GPT-2's lie near -35: 1.05 is strong enough.
CHAT_DEFAULTS = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.05, "no_repeat_ngram": 4}


class SamplingParams:
    """How the next token is chosen; immutable. The order in which the options work is that of `Sampler`.

    Args:
        temperature: divides the logits; 0 takes the most likely token, the lowest id where several are.
        top_k: only the k most likely tokens, 0 for all.
        top_p: only the most likely tokens whose probabilities together reach p, 1 for all; at least one token.
        min_p: only tokens at least p times as likely as the most likely one, 0 for all.
        repetition_penalty: divides the positive and multiplies the negative logits of recently generated tokens.
        penalty_window: how many generated tokens count as recent.
        no_repeat_ngram: forbids tokens that would repeat so many generated tokens in a row; 0 is off.

    Raises:
        UsageError: an option is unknown, of the wrong type or out of range.
    """

    __slots__ = tuple(SAMPLING_OPTIONS)

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    penalty_window: int
    no_repeat_ngram: int

    def __init__(self, **options: float):
        for name in options:
            if name not in SAMPLING_OPTIONS:
                raise UsageError(f"sampling option {name!r}: expected one of {', '.join(SAMPLING_OPTIONS)}")
        for name, (kind, least, greatest, default, _) in SAMPLING_OPTIONS.items():
            value = options.get(name, default)
            is_number = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
            if not is_number or not least <= value <= greatest:  # NaN is in no range
                noun = "a number" if kind is float else "a whole number"
                raise UsageError(f"{name}: got {value!r}, expected {noun} from {least} to {greatest}")
            object.__setattr__(self, name, kind(value))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"SamplingParams is immutable; replace({name}=...) makes a changed copy")

    def as_dict(self) -> dict[str, float]:
        """All options by name."""
        return {name: getattr(self, name) for name in SAMPLING_OPTIONS}

    def replace(self, **options: float) -> SamplingParams:
        """A copy with some options changed."""
        return SamplingParams(**{**self.as_dict(), **options})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SamplingParams) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.as_dict().values()))

    def __repr__(self) -> str:
        return f"SamplingParams({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"
