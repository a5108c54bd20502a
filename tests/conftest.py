"""Shared by tests: the command line, the folder of real data next to the checkout, and vocabularies."""

import contextlib
import io
import os
import pathlib
import signal
import sys
import tempfile

import pytest

with contextlib.suppress(ImportError):
    import setuptools  # noqa: F401 (before TensorFlow imports distutils, which setuptools has to replace first)

ROOT = pathlib.Path(__file__).parents[1]

# Tests import the installed package; `python -m pytest` in the checkout would find the source folder first.
if not sys.flags.safe_path and sys.argv[0].endswith("__main__.py") and os.getcwd() == str(ROOT):
    sys.path.remove(os.getcwd())
# So do the processes started by tests.
os.environ["PYTHONSAFEPATH"] = "1"
# No test sees the models and votes that whoever runs it has, or writes there.
HOME = tempfile.TemporaryDirectory(prefix="gpt2rt-tests-")
os.environ["GPT2RT_MODELS"] = os.path.join(HOME.name, "no models")
# They also inherit an ignored Ctrl-C, which is what a shell gives to what it runs in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = pathlib.Path(__file__).parents[2] / "shared"


def shared(*parts):
    """Return a path in the folder of real data; skip the test if it does not exist."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is missing (it is not part of the repository)")
    return path


@pytest.fixture
def cli(capsys, monkeypatch):
    """Runs a command line in this process: cli(*arguments, typed="") -> (exit code, stdout, stderr)."""
    from gpt2rt.cli import run

    def call(*arguments, typed=""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
        code = run(list(map(str, arguments)))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def openai_vocabulary():
    """The paths of OpenAI's encoder.json and vocab.bpe."""
    return shared("gpt2", "encoder.json"), shared("gpt2", "vocab.bpe")


@pytest.fixture(scope="session")
def talk_vocabulary():
    """The paths of the bundled model's encoder.json and vocab.bpe."""
    return shared("talk", "encoder.json"), shared("talk", "vocab.bpe")


@pytest.fixture(scope="session")
def trained_vocabulary(tmp_path_factory):
    """The paths of the two files of a vocabulary of 600 tokens, trained here."""
    from vocabularies import train_vocabulary

    return train_vocabulary(tmp_path_factory.mktemp("vocabulary"))


# --- the page in a browser


@pytest.fixture(scope="module")
def browser():
    """Chromium. It is closed after a module: its event loop is in the way of others."""
    from browser import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page_url(browser):
    """The address of a server of the bundled model."""
    from demo import demo_model
    from page_server import application, serving_application

    with serving_application(application({"demo": demo_model()})) as url:
        yield url


@pytest.fixture(scope="module")
def slow_page_url(browser):
    """The address of a server whose answers take their time: a test can stop them."""
    from demo import demo_model
    from page_server import application, serving_application, with_slow_link

    with serving_application(with_slow_link(application({"demo": demo_model()}), 0.03)) as url:
        yield url


@pytest.fixture
def page(browser, page_url):
    """A page of the browser, not opened yet."""
    from browser import watched_page

    with watched_page(browser, page_url) as page:
        yield page


@pytest.fixture
def slow_page(browser, slow_page_url):
    """A page whose server takes its time."""
    from browser import watched_page

    with watched_page(browser, slow_page_url) as page:
        yield page


@pytest.fixture
def arena():
    """The routes of an arena with fixed texts."""
    from arena_routes import FixedArena

    return FixedArena()


@pytest.fixture
def arena_url(browser, arena):
    """The address of the page of that arena."""
    from page_server import arena_application, serving_application

    with serving_application(arena_application(arena)) as url:
        yield f"{url}arena"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A small TensorFlow checkpoint, whose vocabulary the Hugging Face folders of the tests have."""
    from checkpoints import write_checkpoint

    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(folder)
    return folder


@pytest.fixture
def folder(tmp_path, checkpoint):
    """A Hugging Face folder with a configuration and tokenizer files, without weights."""
    from hf_folder import write_folder

    return write_folder(tmp_path / "small", checkpoint)
