"""How many threads a model gets."""

import os
import subprocess
import sys

import pytest
from demo import DEMO

from gpt2rt.threads import default_threads, most_threads, thread_limits

ON_ONE_PROCESSOR = f"""
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import gpt2rt
print(gpt2rt.open_model({str(DEMO)!r}, n_threads=8).threads, gpt2rt.open_model({str(DEMO)!r}).threads)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to processors")
def test_a_model_has_no_more_threads_than_processors():
    done = subprocess.run([sys.executable, "-P", "-c", ON_ONE_PROCESSOR], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1\n"


def test_the_default_is_within_every_limit():
    assert 1 <= default_threads() <= max(1, min(thread_limits().values()))
    assert default_threads() <= most_threads()
