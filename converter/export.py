"""Export model files as Hugging Face folders, which transformers and other tools can read."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable

import numpy as np

from gpt2rt.converter.huggingface import EPSILON, hf_name
from gpt2rt.converter.model_source import ModelFileSource
from gpt2rt.converter.vocabulary import END_OF_TEXT, Vocabulary, byte_characters
from gpt2rt.converter.weight_files import CONFIG, INDEX, WEIGHTS
from gpt2rt.errors import CheckpointError, UsageError, VocabularyError
from gpt2rt.modelfile import MERGE_SLOT, tensor_table
from gpt2rt.modelfile.vocabulary import NO_TOKEN

SHARD = 512 << 20  # maximum bytes of tensors in a file, unless one tensor is larger; a shard is built in memory

Texts = tuple[list[str], list[str], list[int]]


def export(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> int:
    """Write an f32 or f16 model file as a Hugging Face folder, completely or not at all.

    Args:
        path: the model file. folder: the folder to create; its parent must exist.

    Returns:
        The number of bytes written.

    Raises:
        UsageError: the folder exists, or can't be created.
        CheckpointError: the file is quantized, or the package safetensors is missing.
        ModelFileError: the file is damaged.
        OSError: writing failed, for example because the disk is full.
    """
    try:
        from safetensors.numpy import save_file  # optional dependency
    except ImportError:
        raise CheckpointError('export: requires the package safetensors (pip install "gpt2rt[huggingface]")') from None
    folder = pathlib.Path(folder)
    if os.path.lexists(folder):
        raise UsageError(f"{folder}: already exists (give the name of a new folder)")
    source = ModelFileSource(path)
    vocabulary = _read_texts(source)
    part = folder.with_name(f".{folder.name[:200]}.{os.urandom(4).hex()}.part")
    try:
        part.mkdir()
    except OSError as error:
        raise UsageError(f"{folder.parent}: can't write there: {error.strerror or error}") from None
    try:
        _write_texts(source, vocabulary, part)
        _write_weights(source, part, save_file)
        size = sum(file.stat().st_size for file in part.iterdir())
        part.rename(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            shutil.rmtree(part)
        raise
    return size


def _write_weights(source: ModelFileSource, folder: pathlib.Path, save_file: Callable[..., None]) -> None:
    """Write the tensors, to one file or to shards with an index."""
    table = tensor_table(source.hyperparameters, "f32", 0, source.is_tied)
    shards: list[list[str]] = [[]]
    room = SHARD
    for tensor in table:
        if tensor.length > room and shards[-1]:
            shards.append([])
            room = SHARD
        shards[-1].append(tensor.name)
        room -= tensor.length
    index = {}
    for number, names in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {}
        for name in names:
            key = hf_name(name) if name == "lm_head" else f"transformer.{hf_name(name)}"
            tensors[key] = np.ascontiguousarray(source.tensor(name))
            index[key] = file
        save_file(tensors, folder / file, metadata={"format": "pt"})
        shutil.copymode(folder / CONFIG, folder / file)  # safetensors makes it readable by its owner only
    if len(shards) > 1:
        total = {"total_size": source.size}
        (folder / INDEX).write_text(json.dumps({"metadata": total, "weight_map": index}, indent=1), encoding="utf-8")


def _read_texts(source: ModelFileSource) -> Texts:
    """Return the vocabulary in the notation of vocab.json and merges.txt.

    Returns:
        (texts, merges, special): the text of each token (n_vocab,), "left right" in rank order, and the ids of the
        special tokens.

    Raises:
        ModelFileError: the vocabulary is invalid. CheckpointError: these files can't represent it.
    """
    section = source.vocabulary().section()
    tables, characters = source.file.vocabulary(), byte_characters()
    slots = np.frombuffer(tables["merge_slots"], "<u4").reshape(-1, MERGE_SLOT.size // 4)
    used = slots[slots[:, 0] != NO_TOKEN]
    pairs = used[used[:, 2].argsort(), :2].tolist()
    special = np.frombuffer(tables["special_tokens"], "<u4").tolist()
    as_they_are = set(special).difference(used[:, :2].ravel().tolist())  # other special tokens are part of a merge
    offsets = np.frombuffer(tables["token_offsets"], "<u4").tolist()
    content = bytes(tables["token_bytes"])
    texts: list[str] = []
    for token, (begin, end) in enumerate(itertools.pairwise(offsets)):
        piece = content[begin:end]
        if token in as_they_are:
            texts.append(piece.decode(errors="replace"))
        else:
            texts.append("".join(characters[byte] for byte in piece))
    merges = [f"{texts[left]} {texts[right]}" for left, right in pairs]
    try:
        is_same = Vocabulary.of(source.path, texts, merges).section() == section
    except VocabularyError:
        is_same = False
    if not is_same:
        raise CheckpointError(f"{source.path}: its vocabulary can't be represented in vocab.json and merges.txt")
    return texts, merges, special


def _write_texts(source: ModelFileSource, vocabulary: Texts, folder: pathlib.Path) -> None:
    """Write the configuration and the tokenizer files."""
    texts, merges, special = vocabulary
    n_vocab, n_ctx, n_embd, n_head, n_layer = source.hyperparameters
    end = texts.index(END_OF_TEXT) if END_OF_TEXT in texts else None
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": n_vocab,
        "n_positions": n_ctx,
        "n_ctx": n_ctx,
        "n_embd": n_embd,
        "n_head": n_head,
        "n_layer": n_layer,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": EPSILON,
        "tie_word_embeddings": source.is_tied,
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": "float32",
    }
    if source.chat and source.chat.get("format") == "dialogpt":
        config["task_specific_params"] = {"conversational": {"max_length": n_ctx}}
    tokenizer = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "model_max_length": n_ctx,
        "added_tokens_decoder": {str(token): {"content": texts[token], "special": True} for token in special},
    }
    if end is not None:
        tokenizer |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
    for name, content in {
        CONFIG: json.dumps(config, indent=1),
        "tokenizer_config.json": json.dumps(tokenizer, indent=1),
        "vocab.json": json.dumps({text: token for token, text in enumerate(texts)}, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
    }.items():
        (folder / name).write_text(content, encoding="utf-8", newline="\n")
