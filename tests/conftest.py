"""What tests share: the folder of real data beside the checkout, and vocabularies."""

import os
import pathlib
import signal
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Tests import the installed package. `python -m pytest` in the checkout puts its source folder before that.
if not sys.flags.safe_path and sys.argv[0].endswith("__main__.py") and os.getcwd() == str(ROOT):
    sys.path.remove(os.getcwd())
# So do the processes that tests start.
os.environ["PYTHONSAFEPATH"] = "1"
# No test sees the models that whoever runs it has.
os.environ["GPT2RT_MODELS"] = str(ROOT / "no models")
# They also inherit an ignored Ctrl-C, which is what a shell gives to what it runs in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = pathlib.Path(__file__).parents[2] / "shared"


def shared(*parts):
    """A path in the folder of real data; skips the test where it is not there."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is missing: it is no part of the repository")
    return path


@pytest.fixture(scope="session")
def openai_vocabulary():
    """OpenAI's encoder.json and vocab.bpe: two paths."""
    return shared("gpt2", "encoder.json"), shared("gpt2", "vocab.bpe")


@pytest.fixture(scope="session")
def talk_vocabulary():
    """The bundled model's encoder.json and vocab.bpe: two paths."""
    return shared("talk", "encoder.json"), shared("talk", "vocab.bpe")


@pytest.fixture(scope="session")
def trained_vocabulary(tmp_path_factory):
    """A vocabulary of 600 tokens, trained here: two paths."""
    from vocabularies import train_vocabulary

    return train_vocabulary(tmp_path_factory.mktemp("vocabulary"))
