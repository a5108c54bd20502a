"""Pickling a model stores its path and options; unpickling opens the file again."""

import copy
import multiprocessing
import pickle

import pytest
from random_models import random_tensors, write_model

import gpt2rt
from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=257, n_ctx=64, n_embd=16, n_head=2, n_layer=1)


@pytest.fixture
def path(tmp_path):
    return write_model(tmp_path / "random.bin", SHAPE, random_tensors(SHAPE))


def text_of(model):
    return model.generate("ab", seed=1, max_tokens=8).text()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_unpickling_opens_the_file_again(path, protocol):
    model = gpt2rt.open_model(path, n_threads=1)
    again = pickle.loads(pickle.dumps(model, protocol))
    assert again is not model
    assert text_of(again) == text_of(model)
    assert len(pickle.dumps(model, protocol)) < 1000


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_another_model_of_the_same_file(path, copied):
    model = gpt2rt.open_model(path, n_threads=1)
    assert text_of(copied(model)) == text_of(model)


def test_the_pickled_path_does_not_depend_on_the_folder(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(gpt2rt.open_model("random.bin", n_threads=1))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    again = pickle.loads(pickled)
    assert again.path == str(path)
    assert pickle.loads(pickle.dumps(again)).path == str(path)


def test_pickling_keeps_the_options(path, monkeypatch):
    model = gpt2rt.open_model(path, n_threads=1, use_mmap=False, isa="portable", kv_type="int8")
    monkeypatch.setenv("GPT2RT_THREADS", "2")
    again = pickle.loads(pickle.dumps(model))
    assert (again.n_threads, again.isa, again.kv_type) == (1, "portable", "int8")
    assert again._options == (1, False, "portable", "int8")
    assert again.__reduce__() == model.__reduce__()


def test_default_options_are_resolved_where_it_is_unpickled(path, monkeypatch):
    monkeypatch.setenv("GPT2RT_ISA", "portable")
    pickled = pickle.dumps(gpt2rt.open_model(path))
    monkeypatch.delenv("GPT2RT_ISA")
    assert pickle.loads(pickled).isa == gpt2rt.open_model(path).isa


def test_a_file_that_is_gone_is_reported(path):
    pickled = pickle.dumps(gpt2rt.open_model(path))
    path.unlink()
    with pytest.raises((OSError, gpt2rt.ModelFileError), match=r"random\.bin"):
        pickle.loads(pickled)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_worker_processes_receive_the_model(path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    model = gpt2rt.open_model(path, n_threads=2)
    expected = text_of(model)
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(text_of, [model] * 4) == [expected] * 4
