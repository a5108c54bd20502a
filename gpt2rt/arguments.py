"""Checks of arguments that are numbers, before anything else happens."""

from __future__ import annotations

import sys

from gpt2rt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return `value` as an int: an int, a numpy integer, or anything else with `__index__`, but no bool.

    Raises:
        UsageError: it is of another type, or out of range. The message begins with `name`.
    """
    number = _index(value)
    if number is None or number < least or (most is not None and number > most):
        to = "" if most is None else f" to {most}"
        raise UsageError(f"{name}: got {value!r:.80}, expected a whole number from {least}{to}")
    return number


def real_number(name: str, value: Any, least: float, most: float) -> float:
    """Return `value` as a float: an int, a float or a numpy number, but no bool, no text and no array.

    Raises:
        UsageError: it is of another type, NaN, or out of range. The message begins with `name`.
    """
    numpy = sys.modules.get("numpy")  # what is not imported has made no number
    is_float = isinstance(value, float) or (numpy is not None and isinstance(value, numpy.floating))
    number = value if is_float else _index(value)
    if number is None or not least <= number <= most:  # NaN is in no range
        raise UsageError(f"{name}: got {value!r:.80}, expected a number from {least} to {most}")
    return float(number)


def _index(value: Any) -> int | None:
    try:
        index: int | None = None if isinstance(value, bool) else value.__index__()
    except (AttributeError, TypeError):
        return None
    return index
