"""A virtual environment for each peer, installed from the package registry once and kept in the cache folder.

Or this process's own environment, with the peers that happen to be installed in it.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
import venv
from collections import namedtuple

Environment = namedtuple("Environment", "modules requirements pip_options variables")
Environment.__doc__ = """The modules that a peer needs, and the requirements, options and environment variables with
which pip installs them."""

# Versions are pinned, so that the tables can be reproduced. All settings are the peers' defaults, except that llama.cpp
# is compiled here for this processor, because its wheels are built for old processors.
ENVIRONMENTS = {
    "llama.cpp": Environment(
        ("llama_cpp",),
        ("llama-cpp-python==0.3.36",),
        ("--no-binary=llama-cpp-python",),
        {"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"},
    ),
    "ctranslate2": Environment(
        ("ctranslate2", "tokenizers"), ("ctranslate2==4.8.5", "numpy", "safetensors", "tokenizers"), (), {}
    ),
    "openvino": Environment(
        ("openvino_genai", "optimum", "torch", "transformers"),
        ("openvino-genai==2026.4.1.0", "optimum-intel[openvino]==2.2.0", "torch==2.13.0", "transformers==5.5.4"),
        (),
        {},
    ),
    "torch": Environment(("torch", "transformers"), ("torch==2.13.0", "transformers==5.23.0", "numpy"), (), {}),
}
STAMP = "peer.txt"  # what was installed; an environment without it is incomplete


class PeerError(Exception):
    """A peer can't be installed or measured, or its model can't be made; it is skipped, and the message says why."""


class NotInstalledError(PeerError):
    """A peer is not installed in the environment of this process."""


def run(command, log, **options):
    """Run a command and append its output to the file `log`. Raises PeerError, with the last line, if it fails."""
    with open(log, "ab") as output:
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options)
    if done.returncode:
        raise PeerError(
            f"{' '.join(map(str, command[:4]))} ... ended with {done.returncode}: {last_line(log)} (see {log})"
        )


def last_line(log):
    """Return the last line of a log that is not empty."""
    lines = [line.strip() for line in pathlib.Path(log).read_text(errors="replace").split("\n") if line.strip()]
    return lines[-1] if lines else "no output"


def python_of(peer, cache):
    """Return the Python of the peer's environment, which is made first if it is missing or out of date.

    Args:
        peer: a key of ENVIRONMENTS. cache: the folder in which environments are kept.

    Raises:
        PeerError: pip failed.
    """
    environment, folder = ENVIRONMENTS[peer], pathlib.Path(cache) / "environments" / peer
    python, stamp = folder / "bin" / "python", folder / STAMP
    wanted = "\n".join([sys.version, *environment.requirements, *environment.pip_options, str(environment.variables)])
    if not stamp.is_file() or stamp.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        command = [python, "-m", "pip", "install", *environment.pip_options, *environment.requirements]
        run(command, folder / "pip.log", env=os.environ | environment.variables)
        stamp.write_text(wanted)
    return python


def this_python(peer):
    """Return the Python of this process if the peer is installed there, else raise NotInstalledError."""
    missing = [name for name in ENVIRONMENTS[peer].modules if importlib.util.find_spec(name) is None]
    if missing:
        raise NotInstalledError(f"{peer}: skipped, {' and '.join(missing)} not installed")
    return sys.executable
