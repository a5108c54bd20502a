"""Checks of numeric arguments."""

from __future__ import annotations

import sys

from gpt2rt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return `value` as an int: an int, a numpy integer, or anything else with `__index__` except a bool.

    Raises:
        UsageError: it is of another type, or out of range. The message begins with `name`.
    """
    number = _index(value)
    if number is None or number < least or (most is not None and number > most):
        to = "" if most is None else f" to {most}"
        raise UsageError(f"{name}: got {value!r:.80}, expected a whole number from {least}{to}")
    return number


def real_number(name: str, value: Any, least: float, most: float) -> float:
    """Return `value` as a float: an int, a float or a numpy number, but not a bool, a string or an array.

    Raises:
        UsageError: it is of another type, NaN, or out of range. The message begins with `name`.
    """
    numpy = sys.modules.get("numpy")  # if it is not imported, `value` is not a numpy number
    is_float = isinstance(value, float) or (numpy is not None and isinstance(value, numpy.floating))
    number = float(value) if is_float else _index(value)
    if number is None or not least <= number <= most:  # false for NaN
        raise UsageError(f"{name}: got {value!r:.80}, expected a number from {least} to {most}")
    return float(number)


def _index(value: Any) -> int | None:
    """Return an exact int, whose comparisons are not those of a subclass; None if it is no whole number."""
    try:
        return None if isinstance(value, bool) else int.__index__(value.__index__())
    except (AttributeError, TypeError):
        return None
