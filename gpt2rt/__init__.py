"""Run GPT-2 on ordinary CPUs, straight from one memory-mapped file.

    import gpt2rt

    model = gpt2rt.open_model("124M-int8.bin")
    for piece in model.generate("Once upon a time", max_tokens=50, seed=7):
        print(piece, end="")

Names are imported on first use, so `import gpt2rt` takes almost no time.
"""

TYPE_CHECKING = False  # importing typing would take time
if TYPE_CHECKING:
    from gpt2rt._engine import Engine, Event, Sequence, Trace
    from gpt2rt._tokenizer import Tokenizer
    from gpt2rt.chat import Conversation
    from gpt2rt.errors import (
        CancelledError,
        CheckpointError,
        ContextFullError,
        DownloadError,
        Gpt2rtError,
        ModelFileError,
        UsageError,
        VocabularyError,
    )
    from gpt2rt.explain.trace import TextTrace
    from gpt2rt.generate import Generation
    from gpt2rt.model import Model, open_model
    from gpt2rt.sampling import SamplingParams

    __version__: str

__all__ = [
    "CancelledError",
    "CheckpointError",
    "ContextFullError",
    "Conversation",
    "DownloadError",
    "Engine",
    "Event",
    "Generation",
    "Gpt2rtError",
    "Model",
    "ModelFileError",
    "SamplingParams",
    "Sequence",
    "TextTrace",
    "Tokenizer",
    "Trace",
    "UsageError",
    "VocabularyError",
    "open_model",
]

_MODULES = {
    "Conversation": "chat",
    "Generation": "generate",
    "Model": "model",
    "SamplingParams": "sampling",
    "Engine": "_engine",
    "Event": "_engine",
    "Sequence": "_engine",
    "TextTrace": "explain.trace",
    "Trace": "_engine",
    "Tokenizer": "_tokenizer",
    "open_model": "model",
}


def _installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gpt2rt")
    except PackageNotFoundError:  # a source folder that was built in place but never installed
        return "0+unknown"


def __getattr__(name: str) -> object:
    value: object
    if name == "__version__":
        value = _installed_version()
    elif name in __all__:
        from importlib import import_module

        value = getattr(import_module(f"gpt2rt.{_MODULES.get(name, 'errors')}"), name)
    else:
        raise AttributeError(f"module 'gpt2rt' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), "__version__", *__all__]


def _require_extensions() -> None:
    """Stop with one message if this is a source folder whose extension modules are not built.

    Python started in a checkout finds the source folder before the installed package.

    Raises:
        ImportError: an extension module is missing.
        SystemExit: the same for `gpt2rt` and `python -m gpt2rt`, which print the message without a traceback.
    """
    import os
    import sys

    folder = os.path.dirname(os.path.abspath(__file__))
    if not os.path.exists(os.path.join(folder, "_kernels.pyx")):  # only a source folder has it
        return
    from importlib.machinery import EXTENSION_SUFFIXES

    files = set(os.listdir(folder))
    modules = sorted(name.removesuffix(".pyx") for name in files if name.endswith(".pyx"))
    missing = [name for name in modules if files.isdisjoint(name + suffix for suffix in EXTENSION_SUFFIXES)]
    if not missing:
        return
    sentence = (
        f"gpt2rt: {folder}: this source folder has no built extension modules ({', '.join(missing)})"
        f" (to build them, run `pip install -e .` in {os.path.dirname(folder)}; to use an installed gpt2rt, run the"
        " command gpt2rt, or start Python with -P or in another folder)"
    )
    by_module = sys.argv[:1] == ["-m"] and "gpt2rt" in sys.orig_argv  # while Python resolves the module of -m
    by_script = os.path.basename(sys.argv[0]) in ("gpt2rt", "gpt2rt.exe") if sys.argv else False
    if by_module or by_script:
        sys.exit(sentence)
    raise ImportError(sentence, name="gpt2rt", path=folder)


_require_extensions()
