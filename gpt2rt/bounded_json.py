"""JSON that others wrote, parsed only if its values take a bounded amount of memory.

Python needs 24 bytes of memory for each byte of `[],[],[]`, so a limit of the file's size would have to be low.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

CONTAINER = 4  # units of an object or an array; a value in it, and a key, is one
MAX_UNITS = 1_000_000  # each takes at most 60 bytes


def loads(
    content: bytes, most: int = MAX_UNITS, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """Parse a document in UTF-8, with or without a byte order mark.

    Args:
        most: the units that it may have: one for each comma and colon, `CONTAINER` for each bracket that opens,
            those in strings included.
        object_pairs_hook: as for `json.loads`.

    Raises:
        ValueError: it is not valid JSON, or has more units.
    """
    units = content.count(b",") + content.count(b":") + CONTAINER * (content.count(b"[") + content.count(b"{"))
    if units > most:
        raise ValueError(f"too many values (got {units} commas, colons and brackets, expected at most {most})")
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=object_pairs_hook)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
