"""Which tests run which lines of the Python sources, for tests/mutate.py; recorded with the package `coverage`.

It is a plugin of pytest, and of the interpreters that tests start, where `sitecustomize` calls `start`. The environment
variables GPT2RT_COVERED (a folder for the data) and GPT2RT_COVERED_SOURCE (the packages) say what to record. What
processes that are killed or forked have run is not recorded, nor what a test with its own trace function runs.
"""

import atexit
import collections
import json
import os
import pathlib
import sys
import time

import pytest

SITECUSTOMIZE = """
import os, sys
if os.environ.get("PYTEST_CURRENT_TEST"):  # set while a test runs, and inherited by what it starts
    sys.path.append({tests!r})
    import covering
    covering.start(os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0])
    sys.path.remove({tests!r})
"""


def start(context=None):
    """Record this process, which belongs to one test, or to none yet; the data are written when it ends."""
    import coverage

    data = os.path.join(os.environ["GPT2RT_COVERED"], "lines")
    source = [os.environ["GPT2RT_COVERED_SOURCE"]]
    recorder = coverage.Coverage(
        data_file=data, data_suffix=True, source=source, context=context, config_file=False, messages=False
    )
    recorder.set_option("run:disable_warnings", ["no-data-collected"])  # on a stream that tests compare
    recorder.start()
    if context:
        atexit.register(lambda: (recorder.stop(), recorder.save()))
    return recorder


class Plugin:
    """Records each test with the fixtures that it is the first to use."""

    def __init__(self):
        self.recorder, self.seconds = start(), {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        if sys.gettrace() is None:  # a test has set its own, and removed it
            self.recorder.stop()
            self.recorder.start()
        self.recorder.switch_context(item.nodeid)
        begin = time.monotonic()
        result = yield
        self.seconds[item.nodeid] = time.monotonic() - begin
        return result

    def pytest_sessionfinish(self):
        self.recorder.stop()
        self.recorder.save()
        path = pathlib.Path(os.environ["GPT2RT_COVERED"], f"seconds-{os.getpid()}.json")
        path.write_text(json.dumps(self.seconds), encoding="utf-8")


def pytest_configure(config):
    config.pluginmanager.register(Plugin())


def collected(folder, source):
    """Return what was recorded: {path in `source`: {line: [tests]}} and {test: seconds}."""
    import coverage

    lines, seconds = collections.defaultdict(lambda: collections.defaultdict(set)), {}
    for path in pathlib.Path(folder).glob("lines.*"):
        data = coverage.CoverageData(basename=str(path))
        data.read()
        for name in data.measured_files():
            found = lines[pathlib.Path(name).relative_to(source).as_posix()]
            for line, tests in data.contexts_by_lineno(name).items():
                found[str(line)].update(filter(None, tests))
    for path in pathlib.Path(folder).glob("seconds-*.json"):
        seconds.update(json.loads(path.read_text(encoding="utf-8")))
    return {name: {line: sorted(tests) for line, tests in found.items()} for name, found in lines.items()}, seconds
