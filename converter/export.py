"""Export model files as Hugging Face folders, which transformers and other tools can read."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gpt2rt._tokenizer import Tokenizer
from gpt2rt.converter.huggingface import EPSILON, hf_name
from gpt2rt.converter.model_source import ModelFileSource
from gpt2rt.converter.vocabulary import Controls, Vocabulary, byte_characters
from gpt2rt.converter.weight_files import CONFIG, INDEX, WEIGHTS
from gpt2rt.errors import CheckpointError, ModelFileError, UsageError, VocabularyError
from gpt2rt.foreign import translated
from gpt2rt.modelfile import NO_TOKEN, tensor_table
from gpt2rt.modelfile.unfinished import Unfinished, sync_file, sync_folder
from gpt2rt.modelfile.vocabulary import MERGE_SLOT

SHARD = 512 << 20  # maximum bytes of tensors in a file, unless one tensor is larger; a shard is built in memory


class Texts(NamedTuple):
    """A vocabulary in the notation of vocab.json and merges.txt.

    Attributes:
        texts: of each token, (n_vocab,). merges: "left right" in rank order. added: the ids of the added tokens.
        controls: which tokens begin and end a text.
    """

    texts: list[str]
    merges: list[str]
    added: list[int]
    controls: Controls


def export(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> int:
    """Write an f32 or f16 model file as a Hugging Face folder, completely or not at all.

    Args:
        path: the model file. folder: the folder to create; its parent must exist.

    Returns:
        The number of bytes written.

    Raises:
        UsageError: the folder exists, or can't be created.
        CheckpointError: the file is quantized, or the package safetensors is missing.
        ModelFileError: the file is damaged, or the folder can't be written, for example because the disk is full.
    """
    try:
        from safetensors import SafetensorError  # optional dependency
        from safetensors.numpy import save_file
    except ModuleNotFoundError:
        raise CheckpointError('export: requires the package safetensors (pip install "gpt2rt[huggingface]")') from None
    folder = pathlib.Path(folder)
    if os.path.lexists(folder):
        raise UsageError(f"{folder}: already exists (give the name of a new folder)")
    with translated(path):
        source = ModelFileSource(path)
        vocabulary = _read_texts(source)
    unfinished = Unfinished(str(folder), is_folder=True)
    try:
        unfinished.make()
        part = pathlib.Path(unfinished.path)
        _write_texts(source, vocabulary, part)
        _write_weights(source, part, save_file)
        size = sum(file.stat().st_size for file in part.iterdir())
        for file in part.iterdir():
            sync_file(file)
        sync_folder(part)
        part.rename(folder)
        sync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        unfinished.remove()
        what = getattr(error, "strerror", None) or error
        raise ModelFileError(f"{folder}: can't be written: {what} (free some space, or write elsewhere)") from None
    except BaseException:
        unfinished.remove()
        raise
    unfinished.release()
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
    """Return the vocabulary of a model file.

    Raises:
        ModelFileError: the vocabulary is invalid. CheckpointError: these files can't represent it.
    """
    tables, characters = source.vocabulary().tables(), byte_characters()
    slots = np.frombuffer(tables["merge_slots"], "<u4").reshape(-1, MERGE_SLOT.size // 4)
    used = slots[slots[:, 0] != NO_TOKEN]
    pairs = used[used[:, 2].argsort(), :2].tolist()
    special = np.frombuffer(tables["special_tokens"], "<u4").tolist()
    in_merges = set(used[:, :2].ravel().tolist())  # their texts are parts of merges.txt
    offsets = np.frombuffer(tables["token_offsets"], "<u4").tolist()
    content = bytes(tables["token_bytes"])
    pieces = [content[begin:end] for begin, end in itertools.pairwise(offsets)]
    texts = ["".join(characters[byte] for byte in piece) for piece in pieces]
    added = []
    for token in special:
        with contextlib.suppress(UnicodeDecodeError):  # not plain text, so that it can't be an added token
            if token not in in_merges:
                texts[token] = pieces[token].decode()
                added.append(token)
    merges = [f"{texts[left]} {texts[right]}" for left, right in pairs]
    tokenizer = Tokenizer(tables, source.hyperparameters.n_vocab)
    controls = Controls(
        tokenizer.eos_token_ids,
        tokenizer.bos_token_id,
        tokenizer.pad_token_id,
        tokenizer.add_prefix_space,
        tokenizer.add_bos_token,
    )
    try:
        written = Vocabulary.of(source.path, texts, merges, added, controls=controls)
        is_same = written.tokens == pieces
    except VocabularyError:
        is_same = False
    if not is_same:
        raise CheckpointError(f"{source.path}: its vocabulary can't be represented in vocab.json and merges.txt")
    return Texts(texts, merges, added, controls)


def _write_texts(source: ModelFileSource, vocabulary: Texts, folder: pathlib.Path) -> None:
    """Write the configuration and the tokenizer files."""
    texts, merges, added, controls = vocabulary
    n_vocab, n_ctx, n_embd, n_head, n_layer = source.hyperparameters
    eos = controls.eos[0] if len(controls.eos) == 1 else list(controls.eos) or None
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
        "bos_token_id": controls.bos,
        "eos_token_id": eos,
        "pad_token_id": controls.pad,
        "torch_dtype": "float32",
    }
    if source.chat and source.chat.get("format") == "dialogpt":
        config["task_specific_params"] = {"conversational": {"max_length": n_ctx}}
    tokenizer = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": controls.add_prefix_space,
        "add_bos_token": controls.add_bos,
        "model_max_length": n_ctx,
        "added_tokens_decoder": {str(token): {"content": texts[token], "special": True} for token in added},
    }
    named = {"bos": controls.bos, "eos": (controls.eos or (None,))[0], "pad": controls.pad}
    tokenizer |= {f"{kind}_token": texts[token] for kind, token in named.items() if token is not None}
    if controls.eos:
        tokenizer["unk_token"] = texts[controls.eos[0]]
    for name, content in {
        CONFIG: json.dumps(config, indent=1),
        "tokenizer_config.json": json.dumps(tokenizer, indent=1),
        "generation_config.json": json.dumps(
            {"bos_token_id": controls.bos, "eos_token_id": eos, "pad_token_id": controls.pad}, indent=1
        ),
        "vocab.json": json.dumps({text: token for token, text in enumerate(texts)}, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
    }.items():
        (folder / name).write_text(content, encoding="utf-8", newline="\n")
