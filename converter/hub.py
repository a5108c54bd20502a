"""Models on the Hugging Face Hub, downloaded by huggingface_hub into its cache."""

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
    """Open `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`; files that are not in the cache are downloaded.

    Raises:
        UsageError: `source` is not such a name.
        DownloadError: the download failed.
        CheckpointError: it is not a GPT-2 model, or the package huggingface_hub is missing.
    """
    found = re.fullmatch(r"hf:([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?", str(source))
    if not found:
        raise UsageError(f"{source}: expected {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
    repository, revision = found.groups()
    try:
        import huggingface_hub  # optional dependency
    except ImportError:
        raise CheckpointError(
            f'{source}: requires the package huggingface_hub (pip install "gpt2rt[huggingface]")'
        ) from None
    try:
        folder = huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(WANTED))
    except Exception as error:  # its own exceptions and those of its HTTP library
        raise DownloadError(f"{source}: download failed: {_first_sentence(error)}") from None
    commit = re.sub(r".*snapshots[\\/]", "", folder)
    return HuggingFaceFolder(folder, repository.rpartition("/")[2], f"Hugging Face {repository} at {commit}")


def _first_sentence(error: Exception) -> str:
    """Return the beginning of a message that may have several lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"
