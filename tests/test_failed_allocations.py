"""Every allocation of every operation fails once: this raises MemoryError and leaves the sequences unchanged."""

import pathlib
import subprocess
import sys

import pytest
from preloaded import build_failing_malloc
from random_models import random_tensors, write_model

from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=260, n_ctx=512, n_embd=32, n_head=2, n_layer=1)
FOLDER = pathlib.Path(__file__).parent
OPERATIONS = {  # {operation: minimum number of allocations}
    "append": 2,
    "append_chunk_of_many_logits": 2,
    "append_traced": 4,
    "push": 1,
    "score": 4,
    "score_after_pending": 4,
    "fork": 6,
    "fork_of_a_prefix": 4,
    "logits": 1,
    "logits_again": 2,
    "set_sampling": 6,
    "guess": 1,
    "step": 8,
    "step_with_prompt_logprobs": 8,
    "engine": 8,
    "encode": 3,
    "encode_special": 3,
    "decode": 2,
    "stream": 1,
    "stop_strings": 2,
    "text_stream": 3,
    "reply_text": 3,
    "words": 1,
    "chat_format": 5,
    "chat_format_of_a_scene": 5,
    "chat_clean": 1,
    "chat_prompt": 3,
    "chat_answer": 2,
    "prompt_of": 6,
    "earlier_answers": 3,
    "kept_answer": 5,
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "random.bin", SHAPE, random_tensors(SHAPE))


@pytest.fixture(scope="module")
def failing_malloc(tmp_path_factory):
    """A library to preload."""
    return build_failing_malloc(tmp_path_factory.mktemp("library"))


def number_of_failures(path, failing_malloc, operation, allocator):
    command = [sys.executable, FOLDER / "failed_allocations.py", path, operation]
    environment = {
        "LD_PRELOAD": str(failing_malloc),
        "PYTHONMALLOC": allocator,
        "PYTHONPATH": str(FOLDER),
        "PYTHONSAFEPATH": "1",
    }
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_failed_allocation_changes_nothing(path, failing_malloc, operation):
    assert number_of_failures(path, failing_malloc, operation, "pymalloc") >= OPERATIONS[operation]


@pytest.mark.parametrize(
    "operation",
    [
        *("append", "score", "fork", "logits_again", "step", "encode", "decode", "stream", "stop_strings"),
        *("text_stream", "reply_text", "chat_format", "prompt_of", "earlier_answers", "kept_answer"),
    ],
)
def test_a_failed_allocation_of_a_python_object_leaves_usable_sequences(path, failing_malloc, operation):
    assert number_of_failures(path, failing_malloc, operation, "malloc") > OPERATIONS[operation]
