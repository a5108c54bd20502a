"""A forked child process can compute, whatever a thread of its parent was doing at the time of the fork."""

import os
import pathlib
import subprocess
import sys

import pytest
from random_models import random_tensors, write_model

from gpt2rt.modelfile import Hyperparameters

SHAPE = Hyperparameters(n_vocab=260, n_ctx=1024, n_embd=32, n_head=2, n_layer=2)
PROGRAM = pathlib.Path(__file__).with_name("forked.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("what", ["append", "step"])
def test_a_child_forked_during_a_forward_pass_can_compute(tmp_path, what):
    path = write_model(tmp_path / "random.bin", SHAPE, random_tensors(SHAPE))
    command = [sys.executable, "-W", "ignore", PROGRAM, path, what]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAM.parent), "GPT2RT_ISA": "portable"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 8  # most of the time neither the sequence nor the engine is being changed
