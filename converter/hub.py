"""Models of the Hugging Face hub, fetched by huggingface_hub into its cache."""

from __future__ import annotations

import os
import re

from gpt2rt.converter.huggingface import HuggingFaceFolder
from gpt2rt.errors import CheckpointError, DownloadError, UsageError

HUB = "hf:"
WANTED = (
    *("config.json", "model*.safetensors", "model.safetensors.index.json", "README.md"),
    *("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "vocab.json", "merges.txt"),
)


def hub_source(source: str | os.PathLike[str]) -> HuggingFaceFolder:
    """The source that `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION` means; what is missing in the cache is downloaded.

    Raises:
        UsageError: it is no such name. DownloadError: it can't be had. CheckpointError: it is no GPT-2.
    """
    found = re.fullmatch(r"hf:([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?", str(source))
    if not found:
        raise UsageError(f"{source}: expected {HUB}OWNER/NAME, maybe with @REVISION behind it")
    repository, revision = found.groups()
    try:
        import huggingface_hub  # need not be installed
    except ImportError:
        raise CheckpointError(
            f'{source}: the package huggingface_hub is missing, which fetches it (pip install "gpt2rt[huggingface]")'
        ) from None
    try:
        folder = huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(WANTED))
    except Exception as error:  # its own and those of the HTTP library that it uses
        raise DownloadError(f"{source}: can't be had: {_first_sentence(error)}") from None
    commit = re.sub(r".*snapshots[\\/]", "", folder)
    return HuggingFaceFolder(folder, repository.rpartition("/")[2], f"Hugging Face {repository} at {commit}")


def _first_sentence(error: Exception) -> str:
    """The beginning of a message that may have several lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"
