"""Row: one line of the input, its fields and its id."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any, NamedTuple, NoReturn

# Limits of a row. Those of Python depend on the interpreter and on what it is doing, and so would the answer.
MAX_ROW_BYTES = 16 << 20
MAX_DEPTH = 256  # of nested lists and objects
MAX_DIGITS = 1000  # of a whole number


class RowError(Exception):
    """A row can't be answered; the message says why. It becomes the row's answer, and stops nothing."""


class Row(NamedTuple):
    """A row of the input.

    Attributes:
        number: of the row, from 0. content: its JSON; None if it is longer than `MAX_ROW_BYTES`.
        earlier: an earlier row with the same id, None if there is none.
    """

    number: int
    content: bytes | None
    earlier: int | None = None

    def read(self, id_field: str) -> tuple[dict[str, Any], str | None]:
        """Return its fields, and its id as JSON, None if it has none.

        Raises:
            RowError: it is not a JSON object, too long, or its id is not its own.
        """
        fields = parsed(self.content)
        key = row_key(fields, id_field)
        if self.earlier is not None:
            raise RowError(f"{id_field}: row {self.earlier} has the same, {fields[id_field]!a:.80}")
        return fields, key


def parsed(content: bytes | None) -> dict[str, Any]:
    """Return the fields of a row. Raises RowError: it is not a JSON object, or too long."""
    if content is None:
        raise RowError(f"it is longer than {MAX_ROW_BYTES >> 20} MB")
    if content.count(b"[") + content.count(b"{") > MAX_DEPTH and _is_too_deep(content):
        raise RowError(f"its values are nested more than {MAX_DEPTH} deep")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise RowError(f"not valid JSON: byte {error.start} is not UTF-8") from None
    try:
        fields = DECODER.decode(text)
    except ValueError:  # what it says depends on the version of Python
        raise RowError(f"not valid JSON: got {text!a:.80}") from None
    if not isinstance(fields, dict):
        raise RowError(f"got {json.dumps(fields):.80}, expected a JSON object")
    return fields


def _is_too_deep(content: bytes) -> bool:
    depth = 0
    for token in re.finditer(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', content):  # a text, or a bracket
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
        if depth > MAX_DEPTH:
            return True
    return False


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise RowError(f"a number has more than {MAX_DIGITS} digits")
    return int(digits)


def _finite(digits: str) -> float:
    if math.isinf(value := float(digits)):
        raise RowError(f"a number is too large: {digits:.80}")
    return value


def _no_number(name: str) -> NoReturn:
    raise RowError(f"not valid JSON: {name} (use null)")  # which Python would accept


DECODER = json.JSONDecoder(parse_float=_finite, parse_int=_whole, parse_constant=_no_number)


def row_key(fields: dict[str, Any], id_field: str) -> str | None:
    """Return a row's id as JSON; None if it has none. Raises RowError: it is neither text nor a whole number."""
    if fields.get(id_field) is None:
        return None
    value = fields[id_field]
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise RowError(f"{id_field}: got {json.dumps(value):.80}, expected text or a whole number")
    return json.dumps(value)


def row_hash(seed: int, number: int, key: str | None) -> bytes:
    """Return the 32 bytes from which a row gets its seed and its names.

    They depend on the job's seed and on the row's id (its number if it has none) alone, so that a row's answer does
    not depend on the rows around it.
    """
    return hashlib.sha256(f"{seed} {key if key is not None else number}".encode()).digest()


def row_seed(seed: int, number: int, key: str | None) -> int:
    """Return the seed of a row's random generator: the first 8 bytes of its hash."""
    return int.from_bytes(row_hash(seed, number, key)[:8], "little")
