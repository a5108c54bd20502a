"""The tokens that begin and end a text: read from a model's own files, kept in the model file, and used everywhere."""

import json
import pathlib
import re
import struct

import pytest

pytest.importorskip("safetensors.numpy", reason="the extra `huggingface` is not installed")

from byte_folders import always, write_folder

from gpt2rt import open_model
from gpt2rt.chat_format import chat_format
from gpt2rt.converter import convert
from gpt2rt.converter.export import export
from gpt2rt.errors import UsageError, VocabularyError
from gpt2rt.modelfile import ModelFile
from gpt2rt.perplexity import perplexity

ADDED = ("<s>", "</s>", "<pad>", "<|im_end|>")
BOS, EOS, PAD, IM_END = range(256, 260)


def write(path, content):
    path.write_text(json.dumps(content))


def converted(folder, tmp_path):
    convert(folder, tmp_path / "m.bin", weight_type="f32")
    return open_model(tmp_path / "m.bin")


@pytest.fixture
def folder(tmp_path):
    """A model that ends every text at once, with </s>."""
    config = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    write_folder(tmp_path / "m", ADDED, config=config, weights=lambda state: always(state, EOS))
    return tmp_path / "m"


@pytest.fixture
def model(folder, tmp_path):
    return converted(folder, tmp_path)


def controls(tokenizer):
    return tokenizer.eos_token_ids, tokenizer.bos_token_id, tokenizer.pad_token_id


def test_a_text_ends_with_the_models_own_token(model):
    generation = model.generate("Hi", temperature=0, max_tokens=6, logprobs=0)
    assert (generation.text(), generation.finish_reason, generation.tokens) == ("", "stop", [])
    ((_, piece),) = [*model.generate_batch(["Hi"], temperature=0, max_tokens=6)] or [(0, "")]
    assert piece == ""


def test_an_empty_prompt_is_the_models_own_first_token(model):
    generation = model.generate("", max_tokens=1, logit_bias={EOS: -100}, seed=3)
    assert generation.text() == model.generate([BOS], max_tokens=1, logit_bias={EOS: -100}, seed=3).text()
    assert generation.sequence.tokens[0] == BOS


def test_a_chat_closes_answers_with_the_models_own_token(model):
    made = chat_format(model, "dialogpt")
    assert made.closing_tokens == [EOS]
    assert made.prompt("Hi") == [*b"Hi", EOS]
    assert EOS in made.exempt


def test_perplexity_starts_with_the_models_own_token(model):
    found = perplexity(model, [("x", "abc")])
    scores = model.score([BOS, *b"abc"])
    assert found["texts"][0]["loss"] == pytest.approx(-sum(scores[1:]) / 3)
    assert found["texts"][0]["n_bytes"] == 3


def test_generation_config_wins_over_the_config_and_that_over_the_tokenizer(folder, tmp_path):
    write(folder / "tokenizer_config.json", {"eos_token": "<pad>", "bos_token": "<pad>"})
    assert controls(converted(folder, tmp_path).tokenizer) == ((EOS,), BOS, PAD)
    write(folder / "generation_config.json", {"eos_token_id": [IM_END, EOS]})
    (tmp_path / "m.bin").unlink()
    assert controls(converted(folder, tmp_path).tokenizer) == ((IM_END, EOS), BOS, PAD)


@pytest.mark.parametrize("token", [50256, 260, -1, None, True, "</s>", []])
def test_an_id_that_is_no_token_is_passed_over(tmp_path, token):
    write_folder(tmp_path / "m", ADDED, config={"eos_token_id": token, "bos_token_id": token})
    write(tmp_path / "m" / "special_tokens_map.json", {"eos_token": {"content": "</s>"}, "bos_token": "<s>"})
    assert controls(converted(tmp_path / "m", tmp_path).tokenizer) == ((EOS,), BOS, None)


def test_without_any_of_them_endoftext_is_used(tmp_path):
    write_folder(tmp_path / "m", ("<s>", "<|endoftext|>"))
    assert controls(converted(tmp_path / "m", tmp_path).tokenizer) == ((257,), 257, None)


def test_without_that_nothing_ends_a_text(tmp_path):
    write_folder(tmp_path / "m", ("<s>",))
    model = converted(tmp_path / "m", tmp_path)
    assert controls(model.tokenizer) == ((), None, None)
    with pytest.raises(UsageError, match="the vocabulary has no token to start with"):
        model.generate("")
    with pytest.raises(UsageError, match="the vocabulary has no token that ends a text"):
        model.chat([{"role": "user", "content": "Hi"}], format="dialogpt")


def test_too_many_ends_are_refused(tmp_path):
    write_folder(tmp_path / "m", config={"eos_token_id": list(range(17))})
    with pytest.raises(VocabularyError, match="17 tokens end a text, expected at most 16"):
        convert(tmp_path / "m", tmp_path / "m.bin")


def test_the_tokens_survive_export(folder, tmp_path):
    write(folder / "generation_config.json", {"eos_token_id": [IM_END, EOS]})
    before = converted(folder, tmp_path).tokenizer
    export(tmp_path / "m.bin", tmp_path / "out")
    for name in ("config.json", "generation_config.json"):
        config = json.loads((tmp_path / "out" / name).read_text())
        assert [config[f"{kind}_token_id"] for kind in ("bos", "eos", "pad")] == [BOS, [IM_END, EOS], PAD]
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert [settings[f"{kind}_token"] for kind in ("bos", "eos", "pad")] == ["<s>", "<|im_end|>", "<pad>"]
    convert(tmp_path / "out", tmp_path / "again.bin", weight_type="f32")
    assert controls(open_model(tmp_path / "again.bin").tokenizer) == controls(before)


def test_a_file_of_version_1_ends_texts_with_endoftext(tmp_path):
    """Its vocabulary has no table of controls; the bundled model is such a file."""
    from gpt2rt.model_folder import bundled_model

    file = ModelFile(bundled_model())
    assert struct.unpack_from("<I", pathlib.Path(file.path).read_bytes(), 8) == (1,)
    assert file.vocabulary()["controls"].nbytes == 0
    tokenizer = open_model(file.path).tokenizer
    (end,) = tokenizer.eos_token_ids
    assert tokenizer.decode([end]) == "<|endoftext|>"
    assert tokenizer.bos_token_id == end


def test_special_tokens_of_a_prompt_are_encoded_on_request(model):
    arguments = {"max_tokens": 1, "logit_bias": {EOS: -100}, "seed": 1}
    text = "<s>Hi<pad>"
    assert len(model.generate(text, **arguments).sequence.pending) == len(text)
    assert model.generate(text, special=True, **arguments).sequence.pending == [BOS, *b"Hi", PAD]
    assert len(model.score(text, special=True)) == 4
    batch = model.generate_batch([text, {"prompt": text, "special": False}], special=True, **arguments)
    for _ in batch:
        pass
    assert [continuation.n_prompt_tokens for continuation in batch.continuations] == [4, len(text)]


def test_a_users_message_is_never_read_as_special_tokens(model):
    from gpt2rt.chat import Conversation

    conversation = Conversation(model, format="dialogpt", max_tokens=2)
    for _ in conversation.say("<s></s>"):
        pass
    assert EOS not in conversation.sequence.tokens[:7]


# --- a chat's own control tokens ------------------------------------------------------------------------------------

TEMPLATE = "<s>user {user}</s><s>bot {bot}<|im_end|>\n"


def test_a_template_names_the_control_tokens_of_a_chat(folder, tmp_path):
    chat = {"format": "template", "template": TEMPLATE, "opening_template": "<s>{opening}</s>"}
    convert(folder, tmp_path / "m.bin", weight_type="f32", chat=chat)
    made = chat_format(open_model(tmp_path / "m.bin"), opening="Be <s>kind.")
    assert made.opening_tokens == [BOS, *b"Be <s>kind.", EOS]
    assert made.prompt("a</s>\nb") == [BOS, *b"user a</s>\nb", EOS, BOS, *b"bot "]
    assert made.answer("c<s>") == [*b"c<s>"]
    assert made.closing_tokens == [IM_END, ord("\n")]
    assert made.stop == ("<|im_end|>", "<s>user")


def test_an_answer_ends_where_the_template_says(tmp_path):
    write_folder(tmp_path / "m", ADDED, config={"eos_token_id": EOS}, weights=lambda state: always(state, IM_END))
    chat = {"format": "template", "template": TEMPLATE}
    convert(tmp_path / "m", tmp_path / "m.bin", weight_type="f32", chat=chat)
    model = open_model(tmp_path / "m.bin")
    answer = model.chat([{"role": "user", "content": "Hi"}], temperature=0, max_tokens=9)
    assert (answer.text, answer.finish_reason) == ("", "blank")  # not the text of the token


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ({"format": "template"}, "template: got '', expected text with {user} and then {bot} in it, once"),
        ({"format": "template", "template": "{bot}{user}"}, "template: got '{bot}{user}', expected text with {user}"),
        ({"format": "template", "template": "{user}{bot}{bot}"}, "template: got '{user}{bot}{bot}', expected"),
        ({"format": "plain", "template": "{user}{bot}"}, "template: got format 'plain', expected 'template'"),
        ({"format": "template", "template": "{user}{bot}", "opening_template": "a"}, "opening_template: got 'a'"),
        ({"format": "template", "template": 1}, "chat template 1: expected a string"),
    ],
)
def test_other_templates_are_refused(folder, tmp_path, chat, message):
    with pytest.raises(UsageError) as raised:
        convert(folder, tmp_path / "m.bin", weight_type="f32", chat=chat)
    assert message in str(raised.value)


def test_a_file_without_a_template_says_so(model):
    with pytest.raises(UsageError, match="chat format 'template': the model file has no template"):
        chat_format(model, "template")


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja"])
def test_chatml_is_recognized(tmp_path, place):
    write_folder(tmp_path / "m", ("<|im_start|>", "<|im_end|>"))
    template = "{% for m in messages %}{{'<|im_start|>' + m['role'] + m['content'] + '<|im_end|>'}}{% endfor %}"
    content = json.dumps({"chat_template": template}) if place.endswith("json") else template
    (tmp_path / "m" / place).write_text(content)
    made = chat_format(converted(tmp_path / "m", tmp_path))
    assert made.prompt("Hi") == [256, *b"user\nHi", 257, *b"\n", 256, *b"assistant\n"]
    assert made.closing_tokens == [257, *b"\n"]


@pytest.mark.slow
def test_texts_end_where_they_end_in_transformers(folder, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    write(folder / "generation_config.json", {"eos_token_id": [IM_END, EOS]})
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder)
    prompt = torch.tensor([[*b"Hi"]])
    found = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False)
    assert found.tolist() == [[*b"Hi", EOS]]
    batch = converted(folder, tmp_path).generate_batch(["Hi"], temperature=0, max_tokens=6, logprobs=0)
    assert list(batch) == []
    assert [token for token, *_ in batch.continuations[0].scored] == [EOS]


def test_another_chat_template_is_named_in_a_note(tmp_path):
    write_folder(tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    result = convert(tmp_path / "m", tmp_path / "m.bin", weight_type="f32")
    assert result.notes == ["its chat template is not understood; --chat-template describes one"]
    assert "chat" not in ModelFile(tmp_path / "m.bin").metadata


def test_info_shows_what_begins_and_ends_a_text(tmp_path):
    from click.testing import CliRunner

    from gpt2rt.cli import group

    write_folder(tmp_path / "m", ADDED, config={"bos_token_id": BOS, "eos_token_id": [EOS, IM_END]})
    write(tmp_path / "m" / "tokenizer_config.json", {"add_prefix_space": True})
    convert(tmp_path / "m", tmp_path / "m.bin", weight_type="f32")
    shown = CliRunner().invoke(group, ["info", str(tmp_path / "m.bin")]).output
    assert re.search(r"^a text begins with +<s> \(256\) where it is empty, and a space$", shown, re.MULTILINE)
    assert re.search(r"^a text ends with +</s> \(257\), <\|im_end\|> \(259\)$", shown, re.MULTILINE)
    document = json.loads(CliRunner().invoke(group, ["info", str(tmp_path / "m.bin"), "--json"]).output)
    assert (document["bos_token_id"], document["eos_token_ids"], document["pad_token_id"]) == (BOS, [EOS, IM_END], None)
    assert (document["add_bos_token"], document["add_prefix_space"]) == (False, True)
