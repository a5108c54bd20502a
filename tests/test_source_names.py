"""What a source's name says: how its output is called, and where a source that is missing may be found."""

import os
import pathlib

import pytest
from checkpoints import write_checkpoint

from gpt2rt.converter import convert
from gpt2rt.errors import CheckpointError
from gpt2rt.modelfile import ModelFile


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tiny checkpoint."""
    folder = tmp_path_factory.mktemp("names") / "small"
    write_checkpoint(folder)
    return folder


@pytest.fixture
def link(source, tmp_path, monkeypatch):
    """A link `models/124M` to the checkpoint, in the current folder."""
    (tmp_path / "here" / "models").mkdir(parents=True)
    (tmp_path / "here" / "models" / "124M").symlink_to(source, target_is_directory=True)
    monkeypatch.chdir(tmp_path / "here")
    return pathlib.Path("models", "124M")


@pytest.mark.parametrize("inside", ["", "model.ckpt", "model.ckpt.index"])
def test_a_link_to_a_folder_names_the_output(link, inside):
    assert convert(link / inside).path == "124M-int8.bin"
    assert ModelFile("124M-int8.bin").metadata["name"] == "124M"


def test_a_link_names_the_output_of_a_shell_inside_it(link, monkeypatch):
    monkeypatch.setenv("PWD", os.path.abspath(link))
    monkeypatch.chdir(link)
    assert convert(".", "../x.bin").path == "../x.bin"
    assert ModelFile("../x.bin").metadata["name"] == "124M"


def test_a_folder_that_the_shell_has_left_names_nothing(link, source, monkeypatch):
    monkeypatch.setenv("PWD", os.path.abspath(link))
    monkeypatch.chdir(source.parent)
    (source.parent / "x.bin").unlink(missing_ok=True)
    convert(source.name, "x.bin")
    assert ModelFile("x.bin").metadata["name"] == source.name


@pytest.mark.parametrize(
    ("source", "command"),
    [
        ("gpt2", "convert hf:openai-community/gpt2"),
        ("gpt2-medium", "convert hf:openai-community/gpt2-medium"),
        ("gpt2-large", "convert hf:openai-community/gpt2-large"),
        ("gpt2-xl", "convert hf:openai-community/gpt2-xl"),
        ("distilgpt2", "convert hf:distilbert/distilgpt2"),
        ("microsoft/DialoGPT-small", "convert hf:microsoft/DialoGPT-small"),
        ("https://huggingface.co/microsoft/DialoGPT-small", "convert hf:microsoft/DialoGPT-small"),
        ("124M", "download 124M"),
        ("models/355m", "download 355M"),
    ],
)
def test_a_model_that_is_elsewhere_is_offered(tmp_path, monkeypatch, source, command):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=rf"no such checkpoint, .*: gpt2rt {command}\)$"):
        convert(source)


@pytest.mark.parametrize("source", ["models/mine", "mine", "./mine", "../models/mine", "a/b/c", "/gpt2/x"])
def test_a_file_that_is_missing_is_not_looked_for_elsewhere(tmp_path, monkeypatch, source):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no such checkpoint, .*there is no .*\.index\)$"):
        convert(source)
