"""The tokenizer files of a Hugging Face folder: tokenizer.json, or vocab.json and merges.txt."""

from __future__ import annotations

import contextlib
import pathlib
from typing import Any, NamedTuple, NoReturn

from gpt2rt.bounded_json import loads
from gpt2rt.converter.vocabulary import END_OF_TEXT, Controls, Vocabulary, max_file, max_units, read_merges, unused_text
from gpt2rt.errors import CheckpointError, Gpt2rtError, VocabularyError
from gpt2rt.regular_file import read_regular

MAX_CONFIG = 4 << 20  # bytes of a JSON file without a vocabulary, and of a chat template
MAX_CONFIG_UNITS = 400_000

CHATML = {
    "format": "template",
    "template": "<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{bot}<|im_end|>\n",
    "opening_template": "<|im_start|>system\n{opening}<|im_end|>\n",
}
MAX_DIGITS = 9  # of an id
GPT2_END = 50256  # GPT2Config's bos_token_id and eos_token_id


class Files(NamedTuple):
    """What the tokenizer's files say.

    Attributes:
        ids: {text: id}, as in encoder.json. merges: "left right", as in vocab.bpe. added: (text, id) of added tokens.
        add_prefix_space: whether a text gets a space before it. first: the id of the token before a text, or None.
    """

    ids: dict[str, Any]
    merges: list[str]
    added: list[tuple[str, Any]]
    add_prefix_space: bool = False
    first: int | None = None


def read_json(
    path: pathlib.Path, error_class: type[Gpt2rtError] = CheckpointError, n_vocab: int | None = None
) -> dict[str, Any]:
    """Read an object from a JSON file.

    Args:
        n_vocab: the number of tokens, for a file that has a vocabulary.
    """
    try:
        if n_vocab is None:
            content = loads(read_regular(path, MAX_CONFIG), MAX_CONFIG_UNITS)
        else:
            content = loads(read_regular(path, max_file(n_vocab)), max_units(n_vocab))
    except OSError as error:
        raise error_class(f"{path}: can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise error_class(f"{path}: not valid JSON: {error!s:.200} (damaged download?)") from error
    if not isinstance(content, dict):
        raise error_class(f"{path}: contains a {type(content).__name__}, expected an object")
    return content


def read_tokenizer(folder: pathlib.Path, n_vocab: int, config: dict[str, Any]) -> Vocabulary:
    """Read the `Vocabulary` of a folder, given its config.json. Raises VocabularyError."""
    settings = _optional_json(folder / "tokenizer_config.json")
    path = folder / "tokenizer.json"
    if path.is_file():
        files = _read_tokenizer(path, n_vocab)
    else:
        path = folder / "vocab.json"
        if not path.is_file():
            raise VocabularyError(
                f"{folder}: no tokenizer in it, expected tokenizer.json, or vocab.json and merges.txt"
                " (tokenizer.save_pretrained(folder) of transformers writes them)"
            )
        files = _read_vocabulary(folder, n_vocab)
    pairs = [*files.added, *_declared_tokens(folder / "tokenizer_config.json", settings)]
    names = {**_optional_json(folder / "special_tokens_map.json"), **settings}
    named = [_content(names.get(f"{kind}_token")) for kind in ("bos", "eos", "pad", "unk")]
    pairs += [(text, files.ids[text]) for text in (*named, END_OF_TEXT) if text in files.ids]
    texts: list[str | None] = [None] * n_vocab
    for text, token in [*files.ids.items(), *pairs]:
        if type(token) is not int or not 0 <= token < n_vocab:
            raise VocabularyError(f"{path}: token {text!r:.80} has id {token!r:.80}, expected 0 to {n_vocab - 1}")
        if texts[token] not in (None, text):
            raise VocabularyError(f"{path}: tokens {texts[token]!r:.80} and {text!r:.80} both have id {token}")
        texts[token] = text
    unused = {token for token, text in enumerate(texts) if text is None}
    whole = [unused_text(token) if text is None else text for token, text in enumerate(texts)]
    controls = _controls(folder, n_vocab, config, names, {**files.ids, **dict(pairs)})
    if settings.get("add_eos_token"):
        _refuse(folder / "tokenizer_config.json", "add_eos_token", settings["add_eos_token"], "false")
    if files.first is not None:
        if not 0 <= files.first < n_vocab:
            raise VocabularyError(f"{path}: post_processor adds token {files.first}, expected 0 to {n_vocab - 1}")
        controls = controls._replace(bos=files.first)
    controls = controls._replace(
        add_prefix_space=bool(settings.get("add_prefix_space", files.add_prefix_space)),
        add_bos=files.first is not None or bool(settings.get("add_bos_token")),
    )
    if controls.add_bos and controls.bos is None:
        raise VocabularyError(f"{folder}: texts begin with a bos token, but none is named")
    return Vocabulary.of(path, whole, files.merges, {token for _, token in pairs}, unused, controls)


def chat_template(folder: pathlib.Path) -> str | None:
    """Return the folder's chat template, in Jinja, or None."""
    template = _optional_json(folder / "tokenizer_config.json").get("chat_template")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        template = read_regular(folder / "chat_template.jinja", MAX_CONFIG).decode("utf-8-sig")
    return template if isinstance(template, str) else None


def chat_settings(template: str | None, notes: list[str]) -> dict[str, str] | None:
    """Return the chat settings for a chat template, ChatML's or none; add a note about one that isn't understood."""
    if template is None:
        return None
    if "<|im_start|>" in template and "<|im_end|>" in template:
        return dict(CHATML)
    notes.append("its chat template is not understood; --chat-template describes one")
    return None


def _controls(
    folder: pathlib.Path, n_vocab: int, config: dict[str, Any], names: dict[str, Any], ids: dict[str, int]
) -> Controls:
    """Return which tokens begin and end a text.

    generation_config.json wins over config.json, as in transformers, and both over the texts that the tokenizer's files
    name. Ids out of range are passed over, and so is the id that GPT2Config has when nobody set one, where the
    vocabulary has another token there.
    """
    generation = _optional_json(folder / "generation_config.json")

    def found(kind: str) -> tuple[int, ...]:
        named = ids.get(_content(names.get(f"{kind}_token")) or "")
        for source in (generation, config):
            value = source.get(f"{kind}_token_id")
            tokens = tuple(value if isinstance(value, list) else [value])
            is_default = tokens == (GPT2_END,) and ids.get(END_OF_TEXT) != GPT2_END and named not in (None, GPT2_END)
            are_ids = bool(tokens) and all(type(token) is int and 0 <= token < n_vocab for token in tokens)
            if are_ids and not is_default:
                return tuple(dict.fromkeys(tokens))
        return () if named is None else (named,)

    bos, pad = ((found(kind) or (None,))[0] for kind in ("bos", "pad"))
    return Controls(found("eos"), bos, pad).completed(ids.get(END_OF_TEXT))


def _content(token: Any) -> str | None:
    """Return the text of a token in tokenizer_config.json or special_tokens_map.json: text, or an object with it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _optional_json(path: pathlib.Path) -> dict[str, Any]:
    """Read an object from a JSON file that may be missing."""
    return read_json(path, VocabularyError) if path.is_file() else {}


def _refuse(path: pathlib.Path, name: str, value: Any, expected: str) -> NoReturn:
    raise VocabularyError(f"{path}: {name} is {value!r:.80}, expected {expected} (this changes the tokens of a text)")


def _added_token(path: pathlib.Path, number: Any, token: Any) -> tuple[str, Any]:
    """Return (text, id) of an entry of added_tokens or added_tokens_decoder."""
    if not isinstance(token, dict) or not isinstance(token.get("content"), str):
        raise VocabularyError(f"{path}: added token {number!r:.80}: expected an object with its text as content")
    for name in ("lstrip", "rstrip", "single_word"):
        if token.get(name):
            _refuse(path, f"{name} of the added token {token['content']!r:.80}", token[name], "false")
    return token["content"], number


def _declared_tokens(path: pathlib.Path, settings: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return (text, id) of each entry of tokenizer_config.json's added_tokens_decoder."""
    tokens = settings.get("added_tokens_decoder") or {}
    if not isinstance(tokens, dict):
        raise VocabularyError(f"{path}: added_tokens_decoder must be an object")
    return [
        _added_token(path, int(number) if number.isdecimal() and len(number) < MAX_DIGITS else number, token)
        for number, token in tokens.items()
    ]


def _read_tokenizer(path: pathlib.Path, n_vocab: int) -> Files:
    """Parse tokenizer.json."""
    content = read_json(path, VocabularyError, n_vocab)
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise VocabularyError(f"{path}: unsupported tokenizer model, expected GPT-2's byte-level BPE")
    for name in ("dropout", "ignore_merges", "end_of_word_suffix", "continuing_subword_prefix"):
        if model.get(name):
            _refuse(path, name, model[name], "nothing")
    if (normalizer := content.get("normalizer")) is not None:
        _refuse(path, "normalizer", _type(normalizer), "none")
    splitters = _steps(content.get("pre_tokenizer"), "pretokenizers")
    decoders = _steps(content.get("decoder"), "decoders")
    if [_type(step) for step in splitters] != ["ByteLevel"] or not splitters[0].get("use_regex", True):
        _refuse(path, "pre_tokenizer", [_type(step) for step in splitters], "GPT-2's ByteLevel")
    for step in decoders:
        if _type(step) != "ByteLevel":
            _refuse(path, "decoder", _type(step), "ByteLevel")
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise VocabularyError(f"{path}: no merges, expected a list")
    merges = [" ".join(map(str, merge)) if isinstance(merge, list) else str(merge) for merge in merges]
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise VocabularyError(f"{path}: added_tokens must be a list of objects")
    tokens = [_added_token(path, token.get("id"), token) for token in added]
    return Files(
        model["vocab"], merges, tokens, bool(splitters[0].get("add_prefix_space", True)), _first_token(path, content)
    )


def _type(step: Any) -> Any:
    """Return the type of a step; of something else, which has none, what its Python type is called."""
    return step.get("type") if isinstance(step, dict) else f"a {type(step).__name__}"


def _steps(step: Any, members: str) -> list[Any]:
    """Return the steps of a pre_tokenizer, decoder or post_processor, which may be a sequence of them."""
    if step is None:
        return []
    inner = step.get(members) if _type(step) == "Sequence" else None
    return inner if isinstance(inner, list) else [step]


def _template_token(path: pathlib.Path, step: dict[str, Any], part: Any) -> int:
    """Return the id of a special token in a template, which it lists by a name of its own."""
    name = part.get("id") if isinstance(part, dict) else None
    listed = step.get("special_tokens")
    entry = listed.get(name) if isinstance(listed, dict) and isinstance(name, str) else None
    ids = entry.get("ids") if isinstance(entry, dict) else None
    if not isinstance(ids, list) or len(ids) != 1 or type(ids[0]) is not int:
        _refuse(path, f"the token {name!r:.80} in the template of post_processor", ids, "an id")
    return int(ids[0])


def _first_token(path: pathlib.Path, content: dict[str, Any]) -> int | None:
    """Return the id of the token that the post_processor puts before a text, or None."""
    first = None
    for step in _steps(content.get("post_processor"), "processors"):
        if _type(step) == "ByteLevel":
            continue
        template = step.get("single") if _type(step) == "TemplateProcessing" else None
        if not isinstance(template, list):
            _refuse(path, "post_processor", _type(step), "ByteLevel or a template with a token before the text")
        parts = [next(iter(part.items())) if isinstance(part, dict) and part else (None, None) for part in template]
        kinds = [kind for kind, _ in parts]
        if kinds == ["SpecialToken", "Sequence"] and first is None:
            first = _template_token(path, step, parts[0][1])
        if kinds != ["Sequence"] and (first is None or kinds != ["SpecialToken", "Sequence"]):
            _refuse(path, "the template of post_processor", kinds, "a token and the text")
    return first


def _read_vocabulary(folder: pathlib.Path, n_vocab: int) -> Files:
    """Parse vocab.json, merges.txt and added_tokens.json."""
    ids = read_json(folder / "vocab.json", VocabularyError, n_vocab)
    merges = read_merges(folder / "merges.txt", n_vocab)
    if merges and merges[0].startswith("#version"):
        del merges[0]
    while merges and not merges[-1]:
        del merges[-1]
    return Files(ids, merges, list(_optional_json(folder / "added_tokens.json").items()))
