"""Arguments: numpy numbers are accepted, and invalid values are refused with a message."""

import os

import numpy as np
import pytest
from random_models import random_tensors, write_model

import gpt2rt
from gpt2rt import Conversation, Engine, Generation, Sequence, UsageError, VocabularyError
from gpt2rt._tokenizer import StreamDecoder
from gpt2rt.converter import convert
from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=257, n_ctx=300, n_embd=16, n_head=2, n_layer=1)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "random.bin", SHAPE, random_tensors(SHAPE))


@pytest.fixture(scope="module")
def model(path):
    return gpt2rt.open_model(path, n_threads=1)


@pytest.fixture
def sequence(model):
    sequence = model.sequence()
    sequence.append([1, 2, 3])
    return sequence


# --- accepted


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64, np.uint64])
def test_numpy_integers_are_accepted(model, path, kind):
    options = {"max_tokens": 5, "seed": 7, "logprobs": 2, "top_k": 9, "repeat_last_n": 3, "no_repeat_ngram_size": 4}
    converted = {name: kind(value) for name, value in options.items()}
    expected, found = model.generate("ab", **options), model.generate("ab", **converted)
    assert found.text() == expected.text()
    assert found.top_logprobs == expected.top_logprobs
    assert type(found.seed) is int
    batch = model.generate_batch(["ab"], batch_size=kind(1), **converted)
    assert "".join(piece for _, piece in batch) == expected.text()
    assert gpt2rt.open_model(path, n_threads=kind(1)).n_threads == 1
    talk = gpt2rt.Conversation(model, max_tokens=kind(3), seed=kind(1))
    assert (talk.max_tokens, talk.seed) == (3, 1)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_numpy_floats_are_accepted(model, kind):
    options = {"temperature": 0.5, "top_p": 0.75, "min_p": 0.25, "repetition_penalty": 1.25}
    converted = {name: kind(value) for name, value in options.items()}
    expected = model.generate("ab", max_tokens=9, seed=1, **options).text()
    assert model.generate("ab", max_tokens=9, seed=1, **converted).text() == expected


@pytest.mark.parametrize("kind", [np.int16, np.uint64])
def test_a_sequence_accepts_numpy_integers(model, sequence, kind):
    sequence.append(np.array([4, 5, 6], kind), kind(2))
    assert sequence.all_logits.shape == (2, SHAPE.n_vocab)
    sequence.truncate(kind(4))
    assert sequence.tokens == [1, 2, 3, 4]
    assert all(type(token) is int for token in sequence.tokens)
    assert sequence.set_sampling(gpt2rt.SamplingParams(), seed=kind(5), logprobs=kind(0)) == 5
    model.engine().step([sequence])
    sequence.retract(kind(1))
    assert sequence.pending == []


@pytest.mark.parametrize("ids", [(1, 2), range(1, 3), iter([1, 2]), np.array([1, 2], np.uint8), [np.int64(1), 2]])
def test_ids_may_be_any_iterable(sequence, ids):
    sequence.append(ids)
    assert sequence.tokens == [1, 2, 3, 1, 2]


@pytest.mark.parametrize("wanted", [3, 100, 1 << 40, 1 << 100])
def test_n_logits_beyond_the_tokens_keeps_the_logits_of_all(model, wanted):
    sequence = model.sequence()
    sequence.append([1, 2, 3], wanted)
    assert sequence.n_logits == 3


# --- refused

NO_WHOLE_NUMBERS = [True, np.True_, 1.0, 1.5, np.float64(2), "2", b"2", -1, np.array([1, 1]), [1], -(1 << 100)]


@pytest.mark.parametrize("value", [*NO_WHOLE_NUMBERS, None], ids=repr)
def test_a_value_that_is_not_an_integer_is_refused(model, sequence, value):
    for name, call in [
        ("n_logits", lambda: sequence.append([1], value)),
        ("length", lambda: sequence.truncate(value)),
        ("retract", lambda: sequence.retract(value)),
        ("top_k", lambda: model.generate("ab", top_k=value)),
        ("batch_size", lambda: model.generate_batch(["ab"], batch_size=value)),
    ]:
        with pytest.raises(UsageError, match=rf"^{name}: got .*, expected a whole number from "):
            call()
    assert sequence.tokens == [1, 2, 3]


@pytest.mark.parametrize("value", NO_WHOLE_NUMBERS, ids=repr)
def test_a_value_that_is_neither_an_integer_nor_none_is_refused(model, path, sequence, value):
    params = gpt2rt.SamplingParams()
    for name, call in [
        ("max_tokens", lambda: model.generate("ab", max_tokens=value)),
        ("seed", lambda: model.generate("ab", seed=value)),
        ("logprobs", lambda: model.generate("ab", logprobs=value)),
        ("seed", lambda: model.generate_batch(["ab"], seed=value)),
        ("seed", lambda: sequence.set_sampling(params, seed=value)),
        ("logprobs", lambda: sequence.set_sampling(params, logprobs=value)),
        ("max_tokens", lambda: gpt2rt.Conversation(model, max_tokens=value)),
        ("seed", lambda: gpt2rt.Conversation(model, seed=value)),
        ("n_threads", lambda: gpt2rt.open_model(path, n_threads=value)),
    ]:
        with pytest.raises(UsageError, match=rf"^{name}: got .*, expected a whole number from "):
            call()
    assert sequence.sampling is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("logprobs", 33), ("max_tokens", 0), ("seed", 1 << 64), ("top_k", -1), ("temperature", np.nan), ("top_p", 1.1)],
)
def test_a_number_out_of_range_is_refused(model, name, value):
    with pytest.raises(UsageError, match=rf"^{name}: got .*, expected a (whole )?number from "):
        model.generate("ab", **{name: value})


NO_IDS = [
    ("42", r"tokens: got text '42', expected ids \(encode it with the tokenizer\)"),
    (b"42", "tokens: got text b'42', expected ids"),
    (5, "tokens: got 5, expected ids"),
    (None, "tokens: got None, expected ids"),
    (np.array(5), r"tokens: got array\(5\), expected ids"),
    ([1.9], "tokens: got an item 1.9, expected ids"),
    ([True], "tokens: got an item True, expected ids"),
    (["a"], "tokens: got an item 'a', expected ids"),
    ([None], "tokens: got an item None, expected ids"),
    (np.array([1.0]), "tokens: got an item .*1.0.*, expected ids"),
    (np.array([True]), "tokens: got an item .*True.*, expected ids"),
    (np.array([[1, 2]]), r"tokens: got an item array\(\[1, 2\]\), expected ids"),
]


@pytest.mark.parametrize(("value", "message"), NO_IDS, ids=[repr(value) for value, _ in NO_IDS])
def test_tokens_that_are_not_ids_are_refused(sequence, value, message):
    for call in (sequence.append, sequence.push, sequence.score, sequence.guess):
        with pytest.raises(UsageError, match=message):
            call(value)
    for name in ("history", "exempt", "stop_tokens"):
        if value is not None:
            with pytest.raises(UsageError, match=message):
                sequence.set_sampling(None, **{name: value})
    assert (sequence.tokens, sequence.pending) == ([1, 2, 3], [])


@pytest.mark.parametrize("value", ["42", b"42", bytearray(b"42"), 5, None, np.array(5)], ids=repr)
def test_only_ids_can_be_decoded(model, value):
    for call in (model.tokenizer.decode, model.tokenizer.decode_bytes):
        with pytest.raises(UsageError, match=r"^tokens: got .*, expected ids$"):
            call(value)


@pytest.mark.parametrize("value", [True, np.True_, 1.0, np.float64(1), "1", b"1", None, [1]], ids=repr)
def test_a_token_that_is_not_an_id_is_refused(model, value):
    tokenizer = model.tokenizer
    calls = (tokenizer.token_bytes, StreamDecoder(tokenizer).feed)
    for call in (*calls, lambda item: tokenizer.decode([item]), lambda item: tokenizer.decode_bytes([1, item])):
        with pytest.raises(UsageError, match=r"^token: got .*, expected an id$"):
            call(value)


@pytest.mark.parametrize("value", [None, 5, True, b"ab", ["ab"]], ids=repr)
def test_only_text_can_be_encoded(model, value):
    for special in (False, True):
        with pytest.raises(UsageError, match=r"^text: got .*, expected text$"):
            model.tokenizer.encode(value, special=special)


def test_a_decoder_without_a_tokenizer_is_refused():
    for call in (lambda: StreamDecoder.__new__(StreamDecoder).feed(1), StreamDecoder, lambda: StreamDecoder(None)):
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize("token", [-1, 257, np.int64(1 << 40), 1 << 100])
def test_an_id_out_of_range_is_refused(model, token):
    for call in (model.sequence().append, model.score, model.generate):
        with pytest.raises(VocabularyError, match=f"token {token}: out of range, expected 0 to 256"):
            call([1, token])


@pytest.mark.parametrize("value", [None, 5, True, b"ab", {"prompt": "x"}, np.array(5)], ids=repr)
def test_a_prompt_that_is_neither_text_nor_ids_is_refused(model, value):
    with pytest.raises(UsageError, match=r"prompt: got .*, expected text or token ids"):
        model.generate(value)
    with pytest.raises(UsageError, match=r"prompt: got .*, expected text or token ids"):
        Generation(model.sequence(), value, gpt2rt.SamplingParams())
    with pytest.raises(UsageError, match=r"text: got .*, expected text or token ids"):
        model.score(value)


@pytest.mark.parametrize("stop", [None, 5, True, b"ab", [None], [b"a"], [""], ["x" * 257], ["x"] * 65], ids=repr)
def test_an_invalid_stop_string_is_refused(model, stop):
    for call in (model.generate, lambda _, stop: model.generate_batch(["a"], stop=stop)):
        with pytest.raises(UsageError, match=r"stop: got .*, expected "):
            call("a", stop=stop)
    with pytest.raises(UsageError, match=r"stop: got .*, expected "):
        gpt2rt.Conversation(model, stop=stop)


@pytest.mark.parametrize("sampling", ["warm", {"top_k": 3}, {}, 0, False, gpt2rt.SamplingParams], ids=repr)
def test_sampling_of_another_type_is_refused(model, sampling):
    for call in (model.generate, lambda _, sampling: model.generate_batch(["a"], sampling=sampling)):
        with pytest.raises(UsageError, match=r"sampling: got .*, expected a SamplingParams or None"):
            call("a", sampling=sampling)


def test_an_unknown_sampling_option_is_refused(model):
    for call in (model.generate, model.generate_batch):
        with pytest.raises(UsageError, match="sampling option 'topk': expected one of temperature, top_k"):
            call(["a"], topk=3)


@pytest.mark.parametrize("value", [None, 5, "model", Sequence], ids=repr)
def test_a_model_of_another_type_is_refused(value):
    for kind in (Sequence, Engine, Conversation):
        with pytest.raises(UsageError, match=r"model: got .*, expected a Model \(open_model opens one\)"):
            kind(value)


@pytest.mark.parametrize("value", [None, 5, "ab", [1, 2]], ids=repr)
def test_a_generation_of_something_other_than_a_sequence_is_refused(value):
    with pytest.raises(UsageError, match=r"sequence: got .*, expected a Sequence \(model\.sequence\(\) returns one\)"):
        Generation(value, [1], gpt2rt.SamplingParams())


def test_a_generation_takes_a_prompt_of_text_or_ids(model):
    texts = [
        Generation(model.sequence(), prompt, gpt2rt.SamplingParams(), max_tokens=9, seed=1).text()
        for prompt in ("ab", model.tokenizer.encode("ab"))
    ]
    assert texts[0] == texts[1] == model.generate("ab", max_tokens=9, seed=1).text()


@pytest.mark.parametrize("value", [None, 5, [None], ["a"], "ab"], ids=repr)
def test_a_step_of_something_other_than_sequences_is_refused(model, value):
    with pytest.raises(UsageError, match=r"step: got .*, expected sequences"):
        model.engine().step(value)


@pytest.mark.parametrize("message", [None, 5, b"Hello", ["Hello"]], ids=repr)
def test_a_message_that_is_not_text_is_refused(model, message):
    talk = gpt2rt.Conversation(model)
    with pytest.raises(UsageError, match=r"message: got .*, expected text"):
        talk.say(message)


@pytest.mark.parametrize("value", [None, 5, True, 0.5, ["model.bin"], Sequence], ids=repr)
def test_a_path_of_another_type_is_refused(value):
    with pytest.raises(UsageError, match=r"path: got .*, expected the path of a model file"):
        gpt2rt.open_model(value)


@pytest.mark.parametrize("value", [5, True, 0.5, b"model", ["model"]], ids=repr)
def test_a_conversion_to_or_from_something_other_than_a_path_is_refused(path, value):
    for name, arguments in (("source", (value,)), ("source", (None,)), ("output", (path, value))):
        with pytest.raises(UsageError, match=f"^{name}: got .*, expected a path$"):
            convert(*arguments)


def test_a_path_may_be_bytes(path):
    model = gpt2rt.open_model(os.fsencode(path), n_threads=1)
    assert model.path == os.fspath(path)
    assert "random.bin" in repr(model)


def test_an_instruction_set_that_is_not_a_name_is_refused(path):
    with pytest.raises(UsageError, match="isa: got 5, expected the name of an instruction set or None"):
        gpt2rt.open_model(path, isa=5)


def test_a_closed_model_makes_no_more_sequences(path):
    model = gpt2rt.open_model(path, n_threads=1)
    old = model.sequence()
    model.close()
    for call in (model.sequence, lambda: Sequence(model), lambda: model.generate("a"), lambda: model.score("a")):
        with pytest.raises(UsageError, match="the model is closed"):
            call()
    old.push([1])
    fork = old.fork()
    model.engine().step([old, fork])
    assert old.tokens == fork.tokens == [1]


def test_rows_of_a_tensor_are_those_that_it_has(model):
    (n_out, _), *_ = [one.shape for one in model.tensors if one.name == "wte"]
    assert np.array_equal(model.tensor("wte", [n_out - 1, 0]), model.tensor("wte")[[n_out - 1, 0]])
    for row in (n_out, -1, 0.5, "0"):
        with pytest.raises(UsageError, match=rf"row: got .*, expected a whole number from 0 to {n_out - 1}"):
            model.tensor("wte", [row])
    with pytest.raises(UsageError, match="tensor ln_f/g: rows are those of a matrix"):
        model.tensor("ln_f/g", [0])
