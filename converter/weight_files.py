"""Which files hold the weights of a folder saved by transformers: one file, or the shards that an index lists."""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Collection

from gpt2rt.converter.tokenizer_files import read_json
from gpt2rt.errors import CheckpointError

CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
DEFAULTS = (WEIGHTS, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")  # the first that exists is read
INDEX_ENDING = ".index.json"
PYTORCH = (".bin", ".pt", ".pth")
SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.\w+)")
SHOWN = 8  # file names in a message


def is_weight_file(path: str | os.PathLike[str]) -> bool:
    """Return whether a file can be the weights, or the index of the weights, of the folder that it is in."""
    path = pathlib.Path(path)
    name = path.name.removesuffix(INDEX_ENDING)
    if name.endswith(".safetensors"):
        return True
    return name.endswith(PYTORCH) and path.with_name(CONFIG).is_file()


def default_weights(names: Collection[str]) -> str | None:
    """Return the file with a folder's weights, or its index, among the names of the folder's files; None without."""
    return next((name for name in DEFAULTS if name in names), None)


def weights_in(folder: pathlib.Path) -> pathlib.Path:
    """Return the file with a folder's weights, or their index. Raises CheckpointError."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise CheckpointError(f"{folder}: can't be read: {error.strerror or error}") from None
    if found := default_weights(names):
        return folder / found
    others = [repr(name) for name in names if name.endswith((".safetensors", ".gguf", *PYTORCH))]
    advice = "incomplete download?"
    if others:
        advice = f"to convert another file, give its path; here are {', '.join(others[:SHOWN])}"
        advice += " ..." if len(others) > SHOWN else ""
    raise CheckpointError(f"{folder}: has {CONFIG} but no {WEIGHTS} or {DEFAULTS[2]} ({advice})")


def weights_with(path: pathlib.Path) -> pathlib.Path:
    """Return the file to read for a file that the user named: itself, or the index of the model whose shard it is.

    Raises:
        CheckpointError: it is a shard that no index lists.
    """
    if path.name.endswith(INDEX_ENDING):
        return path
    for index in sorted(path.parent.glob(f"*{path.suffix}{INDEX_ENDING}")):
        try:
            if path.name in shard_names(index):
                return index
        except CheckpointError:
            continue  # a damaged index does not make another file unreadable
    shard = SHARD.fullmatch(path.name)
    if shard and int(shard[2]) > 1:
        index = path.with_name(f"{shard[1]}{shard[3]}{INDEX_ENDING}")
        raise CheckpointError(
            f"{path}: a shard, one of {int(shard[2])} files, which need an index, expected {index.name} in its folder"
            " (incomplete download?)"
        )
    return path


def shard_names(index: pathlib.Path) -> list[str]:
    """Return the names of the files that an index lists, sorted. Raises CheckpointError."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{index}: no weight_map, expected {{tensor: file}}")
    ending = pathlib.Path(index.name.removesuffix(INDEX_ENDING)).suffix
    names = sorted(set(map(str, shards.values())))
    for name in names:
        if not re.fullmatch(rf"[\w.-]+{re.escape(ending)}", name):
            raise CheckpointError(f"{index}: file name {name!r:.80} is not one in this folder")
    return names


def listed_files(weights: pathlib.Path) -> list[pathlib.Path]:
    """Return the files of the weights, given the one file or the index. Raises CheckpointError if one is missing."""
    if not weights.name.endswith(INDEX_ENDING):
        return [weights]
    files = [weights.with_name(name) for name in shard_names(weights)]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{weights.parent}: {file.name} is missing (incomplete download?)")
    return files
