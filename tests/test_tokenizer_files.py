"""The tokenizer of a Hugging Face folder: the same tokens as the package tokenizers, or a refusal that says why."""

import contextlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("safetensors.numpy", reason="the extra `huggingface` is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

from byte_folders import write_folder  # noqa: E402

from gpt2rt.converter import convert  # noqa: E402
from gpt2rt.converter.export import export  # noqa: E402
from gpt2rt.errors import Gpt2rtError, VocabularyError  # noqa: E402
from gpt2rt.model import open_model  # noqa: E402
from gpt2rt.modelfile import ModelFile  # noqa: E402

TEXTS = ("hello ab", " hello", "", "\nab", "ab<|endoftext|>hello", "<|endoftext|>", "naïve <|endoftext|> 東京")


def template(*parts):
    """Return a post_processor that makes a text of these parts: "A" is the text, others are added tokens."""

    def change(content):
        ids = {token["content"]: token["id"] for token in content["added_tokens"]}
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}} if part == "A" else {"SpecialToken": {"id": part, "type_id": 0}}
                for part in parts
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in parts if text != "A"
            },
        }

    return change


def prefixed(content):
    content["pre_tokenizer"]["add_prefix_space"] = True


def both(content):
    prefixed(content)
    template("<|endoftext|>", "A")(content)


def in_sequences(content):
    content["post_processor"] = dict(content["decoder"])
    for name, members in (
        ("pre_tokenizer", "pretokenizers"),
        ("decoder", "decoders"),
        ("post_processor", "processors"),
    ):
        content[name] = {"type": "Sequence", members: [content[name]]}


def tokenizer_of(folder, tmp_path):
    convert(folder, tmp_path / "x.bin", weight_type="f32")
    return open_model(tmp_path / "x.bin").tokenizer


@pytest.mark.parametrize("change", [None, prefixed, template("<|endoftext|>", "A"), template("A"), both, in_sequences])
def test_a_text_has_the_tokens_of_tokenizers(tmp_path, change):
    write_folder(tmp_path / "m", merges=[("a", "b")], words=["hello"], tokenizer=change)
    ours = tokenizer_of(tmp_path / "m", tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    for text in TEXTS:
        assert ours.encode(text, special=True) == theirs.encode(text).ids
        without = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, special=True, add_special_tokens=False) == without


@pytest.mark.parametrize("change", [prefixed, both])
def test_the_rest_of_a_text_gets_no_space_and_no_token(tmp_path, change):
    write_folder(tmp_path / "m", tokenizer=change)
    ours = tokenizer_of(tmp_path / "m", tmp_path)
    assert ours.encode("hi", continues=True) == [ord("h"), ord("i")]
    assert ours.encode("hi<|endoftext|>hi", special=True, continues=True) == [*b"hi", 256, *b" hi"]


def model_changed(**changes):
    return lambda content: content["model"].update(changes)


def template_of(*ids):
    """Return a change to a post_processor whose token has other ids."""

    def change(content):
        template("<|endoftext|>", "A")(content)
        content["post_processor"]["special_tokens"]["<|endoftext|>"]["ids"] = list(ids)

    return change


def token_changed(**changes):
    return lambda content: content["added_tokens"][0].update(changes)


REFUSED = {
    "dropout": (model_changed(dropout=0.1), "dropout is 0.1, expected nothing"),
    "ignore_merges": (model_changed(ignore_merges=True), "ignore_merges is True, expected nothing"),
    "suffix": (model_changed(end_of_word_suffix="d"), "end_of_word_suffix is 'd', expected nothing"),
    "prefix": (model_changed(continuing_subword_prefix="##"), "continuing_subword_prefix is '##', expected nothing"),
    "lstrip": (token_changed(lstrip=True), "lstrip of the added token '<|endoftext|>' is True, expected false"),
    "rstrip": (token_changed(rstrip=True), "rstrip of the added token"),
    "single_word": (token_changed(single_word=True), "single_word of the added token"),
    "normalizer": (lambda content: content.update(normalizer={"type": "NFC"}), "normalizer is 'NFC', expected none"),
    "regex": (lambda content: content["pre_tokenizer"].update(use_regex=False), "pre_tokenizer is "),
    "digits": (
        lambda content: content.update(
            pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel"}]}
        ),
        "pre_tokenizer is ['Digits', 'ByteLevel'], expected GPT-2's ByteLevel",
    ),
    "decoder": (lambda content: content.update(decoder={"type": "Metaspace"}), "decoder is 'Metaspace'"),
    "end": (template("A", "<|endoftext|>"), "the template of post_processor is ['Sequence', 'SpecialToken']"),
    "id": (
        template_of(300),
        "post_processor adds token 300, expected 0 to 256",
    ),
    "ids": (template_of(1, 2), "the token '<|endoftext|>' in the template of post_processor is [1, 2], expected an id"),
    "text": (lambda content: content.update(post_processor="Sequence"), "post_processor is 'a str', expected"),
    "bert": (lambda content: content.update(post_processor={"type": "BertProcessing"}), "post_processor is 'BertPro"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_setting_that_changes_tokens_is_refused_by_name(tmp_path, name):
    change, message = REFUSED[name]
    write_folder(tmp_path / "m", tokenizer=change)
    with pytest.raises(VocabularyError) as raised:
        convert(tmp_path / "m", tmp_path / "x.bin")
    assert f"tokenizer.json: {message}" in str(raised.value)
    assert not (tmp_path / "x.bin").exists()


@pytest.mark.parametrize(("given", "expected"), [(True, True), (False, False), (None, True)])
def test_the_configuration_of_the_tokenizer_wins(tmp_path, given, expected):
    write_folder(tmp_path / "m", tokenizer=prefixed)
    settings = {} if given is None else {"add_prefix_space": given}
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(settings))
    assert tokenizer_of(tmp_path / "m", tmp_path).add_prefix_space is expected


def test_a_bos_token_may_be_asked_for_in_the_configuration(tmp_path):
    write_folder(tmp_path / "m", added=("<s>", "</s>"))
    settings = {"add_bos_token": True, "bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(settings))
    assert tokenizer_of(tmp_path / "m", tmp_path).encode("a") == [256, ord("a")]
    model = open_model(tmp_path / "x.bin")
    sequence = model.sequence()
    sequence.append(model.tokenizer.encode("a"))
    assert model.generate("a", max_tokens=3, seed=1).text() == model.generate([256, 97], max_tokens=3, seed=1).text()
    assert len(model.score("abc")) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"add_bos_token": True}, "texts begin with a bos token, but none is named"),
        ({"add_eos_token": True}, "add_eos_token is True, expected false"),
        ({"added_tokens_decoder": {"256": {"content": "<x>", "lstrip": True}}}, "lstrip of the added token '<x>' is"),
        ({"added_tokens_decoder": {"9" * 5000: {"content": "<x>"}}}, "token '<x>' has id '9999"),
        ({"added_tokens_decoder": [1]}, "added_tokens_decoder must be an object"),
        ({"added_tokens_decoder": {"256": 1}}, "added token 256: expected an object"),
    ],
)
def test_other_settings_of_the_configuration_are_refused(tmp_path, settings, message):
    write_folder(tmp_path / "m", added=("<x>",))
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(VocabularyError) as raised:
        convert(tmp_path / "m", tmp_path / "x.bin")
    assert message in str(raised.value)


# --- added tokens are plain text -----------------------------------------------------------------------------------

ADDED = ("<|endoftext|>", "Erdoğan", "<|česky|>", "café", "Ġtest", "<|日本|>", "naïve", "đem")


def test_added_tokens_are_the_texts_that_they_are_in_tokenizers(tmp_path):
    ids = write_folder(tmp_path / "m", added=ADDED)
    ours = tokenizer_of(tmp_path / "m", tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "m" / "tokenizer.json"))
    for text in ADDED:
        assert ours.encode(f"a{text}b", special=True) == theirs.encode(f"a{text}b").ids
        assert ours.decode([ids[text]]) == text  # tokenizers maps some of them through the table of bytes


def test_added_tokens_are_exported_unchanged(tmp_path):
    ids = write_folder(tmp_path / "m", added=ADDED)
    convert(tmp_path / "m", tmp_path / "x.bin", weight_type="f32")
    export(tmp_path / "x.bin", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "vocab.json").read_text("utf-8"))
    assert {text: written[text] for text in ADDED} == {text: ids[text] for text in ADDED}
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text("utf-8"))
    assert {token["content"] for token in settings["added_tokens_decoder"].values()} == set(ADDED)
    convert(tmp_path / "out", tmp_path / "y.bin", weight_type="f32")
    assert ModelFile(tmp_path / "y.bin").sections["vocabulary"] == ModelFile(tmp_path / "x.bin").sections["vocabulary"]


def test_a_word_that_no_merge_makes_is_no_special_token(tmp_path):
    ids = write_folder(tmp_path / "m", words=["hello", "Ġworld"])
    ours = tokenizer_of(tmp_path / "m", tmp_path)
    assert ours.encode("hello world", special=True) == list(b"hello world")
    assert ours.decode([ids["hello"], ids["Ġworld"]]) == "hello world"
    assert ours.problems() == []


# --- damaged files -------------------------------------------------------------------------------------------------

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(0, 300),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
    st.sampled_from(["<|endoftext|>", "ByteLevel", "Sequence", "TemplateProcessing", "A", "256"]),
    st.lists(st.one_of(st.none(), st.integers(0, 300), st.text(max_size=2)), max_size=3),
    st.dictionaries(st.sampled_from(["type", "id", "ids", "content", "SpecialToken", "Sequence"]), st.text(max_size=2)),
)


def places(value, path=()):
    """Return the paths of all values in a JSON document, except those of the vocabulary's bytes."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, inner in list(members)[-12:]:
        found += [(*path, key), *places(inner, (*path, key))]
    return found


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_other_values_in_the_files_are_refused_or_read(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged") / "m"
    write_folder(folder, added=("<|endoftext|>", "<s>"), merges=[("a", "b")], tokenizer=both)
    tokens = {"257": {"content": "<s>", "special": True, "lstrip": False}}
    names = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    contents = {
        "tokenizer_config.json": {**names, "added_tokens_decoder": tokens, "chat_template": ""},
        "special_tokens_map.json": {"pad_token": "<s>"},
        "generation_config.json": {"eos_token_id": [256, 257], "bos_token_id": 256},
        "tokenizer.json": json.loads((folder / "tokenizer.json").read_text()),
    }
    name = data.draw(st.sampled_from(sorted(contents)))
    for _ in range(data.draw(st.integers(1, 3))):
        *path, key = data.draw(st.sampled_from(places(contents[name])))
        inner = contents[name]
        for step in path:
            inner = inner[step]
        inner[key] = data.draw(JUNK)
    for each, content in contents.items():
        (folder / each).write_text(json.dumps(content))
    with contextlib.suppress(Gpt2rtError):
        convert(folder, folder / "x.bin", weight_type="f32")
        tokenizer = open_model(folder / "x.bin").tokenizer
        assert tokenizer.problems() == []
        assert all(0 <= token < 259 for token in tokenizer.encode("ab<s>", special=True))
