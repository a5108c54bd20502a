"""Models on the Hugging Face Hub, downloaded by huggingface_hub into its cache.

The names of a repository's files decide what is downloaded: safetensors, else PyTorch's files, else a GGUF file.
"""

from __future__ import annotations

import glob
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from gpt2rt.converter.gguf import PART, GgufFile
from gpt2rt.converter.huggingface import HuggingFaceFolder, licence_of, read_hyperparameters
from gpt2rt.converter.source import Source
from gpt2rt.converter.tokenizer_files import read_json
from gpt2rt.converter.weight_files import CONFIG, DEFAULTS, INDEX_ENDING, SHOWN, default_weights, shard_names
from gpt2rt.errors import CheckpointError, DownloadError, UsageError
from gpt2rt.lines import lines_of
from gpt2rt.model_folder import SIZES

HUB = "hf:"
OWNERS = {
    **dict.fromkeys(("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"), "openai-community"),
    "distilgpt2": "distilbert",
}  # of repositories that are known by their names alone
CARD = "README.md"
COMPANIONS = (
    *(CONFIG, "generation_config.json", CARD, "tokenizer.json", "tokenizer_config.json"),
    *("chat_template.jinja", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt"),
)  # of the weights, where they exist
# Types in the names of GGUF files, without punctuation; the first is preferred.
GGUF_TYPES = (("F32", "FP32"), ("F16", "FP16"), ("BF16",), ("Q80",))
OTHER_GGUF_TYPE = re.compile(r"(I|T)?Q\d\w*|MXFP4")


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


def hub_source(source: str | os.PathLike[str]) -> Source:
    """Open `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`; files that are not in the cache are downloaded.

    Raises:
        UsageError: `source` is not such a name.
        DownloadError: the download failed.
        CheckpointError: it is not a GPT-2 model, or the package huggingface_hub is missing.
    """
    found = re.fullmatch(r"hf:([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?", str(source))
    if not found:
        raise UsageError(f"{source}: expected {HUB}OWNER/NAME or {HUB}OWNER/NAME@REVISION")
    try:
        import huggingface_hub  # optional dependency
    except ModuleNotFoundError:
        raise CheckpointError(
            f'{source}: requires the package huggingface_hub (pip install "gpt2rt[huggingface]")'
        ) from None
    repository = _Repository(huggingface_hub, str(source), *found.groups())
    weights = default_weights(repository.names)
    if weights and CONFIG in repository.names:
        return repository.open_weights(weights)
    ggufs = sorted((name for name in repository.names if name.endswith(".gguf")), key=_gguf_order)
    if ggufs and _gguf_order(ggufs[0])[0] <= len(GGUF_TYPES):
        return repository.open_gguf(ggufs)
    raise repository.without_model()


class _Repository:
    """A repository at one revision. `names` are those of the files in its top folder."""

    def __init__(self, hub: Any, source: str, name: str, revision: str | None):
        """
        Args:
            hub: the package huggingface_hub. source: what the user wrote, for messages.

        Raises:
            DownloadError: the files can't be listed, neither those on the hub nor, without it, those in the cache.
        """
        self._hub, self._source, self._name, self._revision = hub, source, name, revision
        self._failure: Exception | None = None  # why only the cache is known
        try:
            names = hub.HfApi().list_repo_files(name, revision=revision)
        except hub.errors.RevisionNotFoundError as error:
            raise self._error(error) from None
        except Exception as error:  # its own exceptions and those of its HTTP library
            self._failure = error
            names = self._cached_names(error)
        self._all_names = sorted(names)
        self.names = [name for name in self._all_names if "/" not in name]

    def _cached_names(self, failure: Exception) -> list[str]:
        """Return the names of the files in the cache. Raises DownloadError with the failure if there are none."""
        download = self._hub.snapshot_download
        try:
            folder = download(self._name, revision=self._revision, allow_patterns=[], local_files_only=True)
            return os.listdir(folder)
        except Exception:
            raise self._error(failure) from None

    def _error(self, error: Exception) -> DownloadError:
        return DownloadError(f"{self._source}: download failed: {_first_sentence(error)}")

    def _fetch(self, names: Iterable[str]) -> pathlib.Path:
        """Download the files with these names, unless the cache has them, and return their folder."""
        patterns = [glob.escape(name) for name in names]
        is_offline = self._failure is not None
        try:
            return pathlib.Path(
                self._hub.snapshot_download(
                    self._name, revision=self._revision, allow_patterns=patterns, local_files_only=is_offline
                )
            )
        except Exception as error:
            raise self._error(self._failure or error) from None

    def _titles(self, folder: pathlib.Path) -> tuple[str, str]:
        """Return the model's name and origin."""
        return self._name.rpartition("/")[2], f"Hugging Face {self._name} at {folder.name}"

    def open_weights(self, weights: str) -> HuggingFaceFolder:
        """Download and open the weights in a file, or those that an index lists."""
        wanted = [name for name in COMPANIONS if name in self.names]
        is_index = weights.endswith(INDEX_ENDING)
        folder = self._fetch([*wanted, weights] if is_index else wanted)
        read_hyperparameters(read_json(folder / CONFIG), folder / CONFIG)  # of another model, no weights are downloaded
        shards = shard_names(folder / weights) if is_index else []
        for shard in shards:
            if shard not in self.names:
                raise self._incomplete(f"its {weights} lists {shard}, which is not in the repository")
        folder = self._fetch([*wanted, weights, *shards])
        return HuggingFaceFolder(folder, *self._titles(folder), weights=folder / weights)

    def open_gguf(self, names: list[str]) -> GgufFile:
        """Download and open the first of some GGUF files, with all parts of a split one."""
        parts = [name for name in names if _without_part(name) == _without_part(names[0])]
        folder = self._fetch([*parts, CARD])
        source = GgufFile(folder / parts[0], *self._titles(folder))
        source.licence = source.licence or licence_of(folder / CARD)
        n_files = len(set(map(_without_part, names)))
        choice = f", one of {n_files}," if n_files > 1 else ""
        source.notes.append(
            f"the repository has no safetensors or PyTorch weights with a config.json, so its GGUF file {parts[0]}"
            f"{choice} is read"
        )
        return source

    def without_model(self) -> CheckpointError | DownloadError:
        """Return the error for a repository without files that can be read."""
        if "adapter_config.json" in self.names:
            advice = " (an adapter: merge it into its model, save that, and convert the saved folder)"
        else:
            others = [name for name in self._all_names if name not in COMPANIONS and not name.startswith(".git")]
            shown = [name if name.isprintable() else ascii(name) for name in others[:SHOWN]]
            advice = f"; found {', '.join(shown) or 'none of them'}{' ...' if len(others) > SHOWN else ''}"
        return self._incomplete(
            f"no GPT-2 model in the repository, expected {CONFIG} with {' or '.join(DEFAULTS[::2])}, or a GGUF file of"
            f" type F32, F16, BF16 or Q8_0{advice}"
        )

    def _incomplete(self, problem: str) -> CheckpointError | DownloadError:
        """Return the error for missing files; of the cache alone, it is the hub's, whose files are not known."""
        return self._error(self._failure) if self._failure else CheckpointError(f"{self._source}: {problem}")


def _gguf_order(name: str) -> tuple[int, str]:
    """Return what GGUF files are sorted by: the type in the name, those that can't be read last, then the name."""
    words = re.split("[^A-Z0-9]+", name.upper().replace("Q8_0", "Q80"))
    for rank, types in enumerate(GGUF_TYPES):
        if not set(types).isdisjoint(words):
            return rank, name
    return len(GGUF_TYPES) + any(OTHER_GGUF_TYPE.fullmatch(word) for word in words), name


def _without_part(name: str) -> str:
    """Return what the names of all parts of a split GGUF file have in common."""
    part = PART.fullmatch(name)
    return f"{part[1]}-of-{part[2]}" if part else name


def _first_sentence(error: Exception) -> str:
    """Return the beginning of a message that may have several lines."""
    lines = [line.strip() for line in lines_of(str(error)) if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"
