"""Models on the Hugging Face Hub, downloaded by huggingface_hub into its cache."""

from __future__ import annotations

import os
import re

from gpt2rt.converter.huggingface import HuggingFaceFolder
from gpt2rt.errors import CheckpointError, DownloadError, UsageError
from gpt2rt.model_folder import SIZES

HUB = "hf:"
OWNERS = {
    **dict.fromkeys(("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"), "openai-community"),
    "distilgpt2": "distilbert",
}  # of repositories that are known by their names alone
WANTED = (
    *("config.json", "model*.safetensors", "model.safetensors.index.json", "README.md"),
    *("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "vocab.json", "merges.txt"),
)


def suggestion(source: str) -> str | None:
    """Return what to do about a checkpoint that does not exist, if its name says where it is from; else None.

    Args:
        source: a path with slashes.
    """
    name = source.rpartition("/")[2]
    if name.upper() in SIZES:
        return f"for OpenAI's: gpt2rt download {name.upper()}"
    found = re.fullmatch(r"(?:https?:/+(?:huggingface\.co|hf\.co)/)?(\w[\w.-]*)(?:/(\w[\w.-]*))?/?", source)
    if not found:
        return None
    owner, name = found.groups() if found[2] else (OWNERS.get(found[1]), found[1])
    if owner is None or os.path.isdir(owner):  # then a folder was meant
        return None
    return f"from the Hugging Face hub: gpt2rt convert {HUB}{owner}/{name}"


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
