"""The bundled model, for tests that need a trained model."""

import functools
import pathlib

import pytest

import gpt2rt
from gpt2rt.model import open_model

DEMO = pathlib.Path(gpt2rt.__file__).parent / "demo.bin"


@functools.cache
def demo_model():
    """Return the bundled model, opened once."""
    if not DEMO.exists():
        pytest.skip("the package was built without gpt2rt/demo.bin")
    return open_model(DEMO, n_threads=1)
