"""Casting: contestants from files of models, from TOML files, and by mutation of others."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gpt2rt.arena.contestants import (
    PRESETS,
    Contestant,
    builtin_contestants,
    digest_of,
    model_contestant,
)
from gpt2rt.errors import UsageError
from gpt2rt.model_folder import SUFFIX, named_model
from gpt2rt.regular_file import read_regular
from gpt2rt.sampling import SAMPLING_OPTIONS

MAX_CHILDREN = 16
MAX_FILE = 1 << 20  # bytes of TOML
RANGE = re.compile(r"(\w+)=(-?[\d.]+)\.\.(-?[\d.]+)")


def from_models(paths: Sequence[str], presets: Sequence[str]) -> list[Contestant]:
    """Return a contestant for each model file with each preset.

    Raises:
        UsageError: a preset is unknown. ContestantError: a file can't be read.
    """
    for preset in presets:
        if preset not in PRESETS:
            raise UsageError(f"preset {preset!r:.80}: expected one of {', '.join(PRESETS)}")
    found = []
    for path in paths:
        name = os.path.basename(path).removesuffix(SUFFIX)
        for preset in presets or ("chat",):
            label = name if preset == "chat" else f"{name} {preset}"
            found.append(model_contestant(label, path, PRESETS[preset]))
    return found


def from_toml(path: str) -> list[Contestant]:
    """Return the contestants of a TOML file, each a table `[[contestant]]`.

    A table has `name` and one of `model` (a file or the name of a model), `builtin`, `eliza` (a script) or `url`; with
    `model`, `preset` and any option of a conversation; with `url`, fields of its requests and `key_variable`.

    Raises:
        UsageError: the file is not valid, or a table is not. ContestantError: a file that it names can't be read.
    """
    try:
        tables = tomllib.loads(read_regular(path, MAX_FILE).decode("utf-8-sig")).get("contestant")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, or of a number with thousands of digits
        raise UsageError(f"{path}: not valid TOML: {error!s:.200}") from error
    if not isinstance(tables, list) or not tables:
        raise UsageError(f"{path}: got no table [[contestant]], expected at least one")
    found = []
    for i, table in enumerate(tables, 1):
        try:
            found.append(_from_table(dict(table), os.path.dirname(path)))
        except UsageError as error:
            raise UsageError(f"{path}: contestant {i}: {error}") from None
    return found


def _from_table(table: dict[str, Any], folder: str) -> Contestant:
    name = table.pop("name", None)
    if not isinstance(name, str):
        raise UsageError("name: missing, expected text")
    kinds = [kind for kind in ("url", "builtin", "eliza", "model") if kind in table]
    if not kinds or (len(kinds) > 1 and kinds != ["url", "model"]):
        raise UsageError(f"got {', '.join(kinds) or 'none'} of model, builtin, eliza and url, expected one")
    kind = kinds[0]
    value = table.pop(kind)
    if not isinstance(value, str):
        raise UsageError(f"{kind}: got {value!r:.80}, expected text")
    if kind == "url":
        return Contestant(name, "url", {"url": value, **table}, value)
    if kind == "builtin":
        known = builtin_contestants()
        if value not in known or table:
            raise UsageError(f"builtin: got {value!r:.80}, expected one of {', '.join(known)}, and no options")
        return replace(known[value], name=name)
    path = os.path.join(folder, value)
    if kind == "eliza":
        return Contestant(name, "eliza", {"digest": digest_of(path), **table}, os.path.abspath(path))
    preset = table.pop("preset", "chat")
    if preset not in PRESETS:
        raise UsageError(f"preset: got {preset!r:.80}, expected one of {', '.join(PRESETS)}")
    if not os.path.exists(path):
        path = named_model(value) or path
    return model_contestant(name, path, {**PRESETS[preset], **table})


def split(parent: Contestant, ranges: Sequence[str], n: int) -> list[Contestant]:
    """Return variants of a contestant whose options go evenly from one end of a range to the other.

    Args:
        ranges: such as temperature=0.5..1.0. n: how many.

    Raises:
        UsageError: the contestant has no such option, or a range is invalid.
    """
    if parent.kind != "model":
        raise UsageError(f"{parent.name}: got the kind {parent.kind}, expected a model, whose options can be varied")
    if not 1 <= n <= MAX_CHILDREN:
        raise UsageError(f"children: got {n}, expected 1 to {MAX_CHILDREN}")
    parsed = []
    for text in ranges:
        match = RANGE.fullmatch(text)
        if match is None or match[1] not in (*SAMPLING_OPTIONS, "max_tokens"):
            known = ", ".join((*SAMPLING_OPTIONS, "max_tokens"))
            raise UsageError(f"vary: got {text!r:.80}, expected OPTION=LOW..HIGH with any of {known}")
        try:
            parsed.append((match[1], float(match[2]), float(match[3])))
        except ValueError:
            raise UsageError(f"vary: got {text!r:.80}, expected numbers") from None
    children = []
    for i in range(n):
        at = i / (n - 1) if n > 1 else 0.5
        changes: dict[str, Any] = {}
        for option, low, high in parsed:
            value = round(low + at * (high - low), 6)
            is_whole = option == "max_tokens" or SAMPLING_OPTIONS[option][0] is int
            changes[option] = round(value) if is_whole else value
        label = ", ".join(f"{option} {value:g}" for option, value in changes.items())
        options = {name: value for name, value in parent.settings.items() if name != "digest"}
        children.append(
            model_contestant(f"{parent.name} · {label}"[:60], parent.source, {**options, **changes}, parent.id)
        )
    return children
