"""Checks of arguments that are numbers or text, before anything else happens."""

from __future__ import annotations

from gpt2rt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsFloat, SupportsIndex


def whole_number(name: str, value: SupportsIndex, least: int, most: int | None = None) -> int:
    """Return `value` as an int: an int, a numpy integer, or anything else with `__index__`, but no bool.

    Raises:
        UsageError: it is of another type, or out of range. The message begins with `name`.
    """
    try:
        number = None if isinstance(value, bool) else value.__index__()
    except (AttributeError, TypeError):
        number = None
    if number is None or number < least or (most is not None and number > most):
        to = "" if most is None else f" to {most}"
        raise UsageError(f"{name}: got {value!r:.80}, expected a whole number from {least}{to}")
    return number


def real_number(name: str, value: SupportsFloat, least: float, most: float) -> float:
    """Return `value` as a float: an int, a float or a numpy number, but no bool and no text.

    Raises:
        UsageError: it is of another type, NaN, or out of range. The message begins with `name`.
    """
    try:
        number = None if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or not least <= number <= most:  # NaN is in no range
        raise UsageError(f"{name}: got {value!r:.80}, expected a number from {least} to {most}")
    return number
