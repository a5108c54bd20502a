"""SamplingParams: values are checked, copied, pickled, and read from files of older versions."""

import copy
import inspect
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest

from gpt2rt.errors import UsageError
from gpt2rt.sampling import CHAT_DEFAULTS, SAMPLING_OPTIONS, SamplingParams


def test_parameters_are_checked_by_name():
    for options, message in [
        ({"temperature": -1}, "temperature: got -1, expected a number from 0.0 to 100.0"),
        ({"temperature": math.nan}, "temperature: got nan, expected a number from 0.0 to 100.0"),
        ({"top_k": 1.5}, "top_k: got 1.5, expected a whole number from 0 to 1048576"),
        ({"top_k": True}, "top_k: got True, expected a whole number from 0 to 1048576"),
        ({"top_p": 1.01}, "top_p: got 1.01, expected a number from 0.0 to 1.0"),
        ({"min_p": "0.1"}, "min_p: got '0.1', expected a number from 0.0 to 1.0"),
        ({"repetition_penalty": 0}, "repetition_penalty: got 0, expected a number from 0.1 to 100.0"),
        ({"presence_penalty": 2.1}, "presence_penalty: got 2.1, expected a number from -2.0 to 2.0"),
        ({"frequency_penalty": -2.1}, "frequency_penalty: got -2.1, expected a number from -2.0 to 2.0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size: got -1, expected a whole number from 0 to 1024"),
        ({"top_k": "5"}, "top_k: got '5', expected a whole number from 0 to 1048576"),
        ({"temperature": True}, "temperature: got True, expected a number from 0.0 to 100.0"),
        ({"temperature": "0.5"}, "temperature: got '0.5', expected a number from 0.0 to 100.0"),
        ({"temperature": None}, "temperature: got None, expected a number from 0.0 to 100.0"),
        ({"temperature": Fraction(1, 2)}, "temperature: got Fraction(1, 2), expected a number from 0.0 to 100.0"),
        ({"temperature": 10**400}, "temperature: got 1000"),
        ({"top_k": np.float32(5)}, "top_k: got "),
        ({"top_k": np.True_}, "top_k: got "),
        ({"top_p": np.float32(math.nan)}, "top_p: got "),
        ({"top_p": np.True_}, "top_p: got "),
        ({"top_p": np.array(0.5)}, "top_p: got array(0.5), expected a number from 0.0 to 1.0"),
        ({"penalty_window": 1}, "sampling option 'penalty_window': expected one of temperature, top_k, "),
        ({"topk": 1}, "sampling option 'topk': expected one of temperature, top_k, top_p, min_p, "),
    ]:
        with pytest.raises(UsageError) as caught:
            SamplingParams(**options)
        assert str(caught.value).startswith(message)


def test_parameters_compare_and_hash_by_value():
    assert SamplingParams(top_k=5) == SamplingParams().replace(top_k=5) != SamplingParams()
    assert len({SamplingParams(), SamplingParams()}) == 1
    assert repr(SamplingParams()).startswith("SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.0,")
    with pytest.raises(AttributeError, match="immutable"):
        SamplingParams().top_k = 3
    with pytest.raises(AttributeError, match="immutable"):
        del SamplingParams().top_k
    assert SamplingParams() != {}


def test_every_option_is_a_keyword_with_a_default():
    parameters = inspect.signature(SamplingParams).parameters
    named = {name: parameter.default for name, parameter in parameters.items() if parameter.kind.name == "KEYWORD_ONLY"}
    assert list(named) == list(SAMPLING_OPTIONS)
    assert named == SamplingParams().as_dict()
    with pytest.raises(TypeError):
        SamplingParams(0.5)


@pytest.mark.parametrize("number", [np.int8(1), np.uint16(1), np.int64(1), np.float16(1), np.float32(1), np.float64(1)])
def test_numpy_integers_are_accepted(number):
    params = SamplingParams(temperature=number, repetition_penalty=number)
    assert params == SamplingParams(temperature=1.0, repetition_penalty=1.0)
    assert type(params.temperature) is float


@pytest.mark.parametrize("number", [np.int8(5), np.uint64(5), np.int64(5)])
def test_numpy_integers_are_integers(number):
    params = SamplingParams(top_k=number, repeat_last_n=number, no_repeat_ngram_size=number)
    assert params == SamplingParams(top_k=5, repeat_last_n=5, no_repeat_ngram_size=5)
    assert type(params.top_k) is int


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_copies_are_equal(copied):
    params = SamplingParams(temperature=0.3, top_k=7, no_repeat_ngram_size=3)
    assert copied(params) == params
    assert hash(copied(params)) == hash(params)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_parameters_are_equal(protocol):
    params = SamplingParams(temperature=0.3, top_k=7, no_repeat_ngram_size=3)
    assert pickle.loads(pickle.dumps(params, protocol)) == params


def test_replace_accepts_only_current_names():
    with pytest.raises(UsageError, match="sampling option 'no_repeat_ngram': expected one of"):
        SamplingParams().replace(no_repeat_ngram=3)


def test_saved_options_may_use_old_names():
    saved = {"top_k": 5, "penalty_window": 9, "no_repeat_ngram": 2}
    assert SamplingParams.from_dict(saved) == SamplingParams(top_k=5, repeat_last_n=9, no_repeat_ngram_size=2)


def test_a_saved_option_with_both_of_its_names_is_refused():
    with pytest.raises(
        UsageError, match="sampling option 'no_repeat_ngram': 'no_repeat_ngram_size', its new name, is given too"
    ):
        SamplingParams.from_dict({"no_repeat_ngram": 2, "no_repeat_ngram_size": 3})


@pytest.mark.parametrize(
    ("name", "most"),
    [
        *(("temperature", 100.0), ("top_k", 1 << 20), ("top_p", 1.0), ("min_p", 1.0), ("repetition_penalty", 100.0)),
        *(("repeat_last_n", 1 << 16), ("presence_penalty", 2.0), ("frequency_penalty", 2.0)),
        ("no_repeat_ngram_size", 1 << 10),
    ],
)
def test_the_greatest_value_of_an_option_is_accepted_and_the_next_one_refused(name, most):
    assert getattr(SamplingParams(**{name: most}), name) == most
    beyond = most + 1 if isinstance(most, int) else most * 1.001
    with pytest.raises(UsageError, match=f"{name}: got"):
        SamplingParams(**{name: beyond})


def test_the_defaults_of_a_chat_are_these():
    assert CHAT_DEFAULTS == {
        "temperature": 0.7,
        "top_p": 0.9,
        "repetition_penalty": 1.05,
        "no_repeat_ngram_size": 4,
    }
