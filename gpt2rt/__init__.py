"""GPT-2 on ordinary CPUs, straight from one mapped file.

    import gpt2rt

    model = gpt2rt.open_model("124M-int8.bin")
    for piece in model.generate("Once upon a time", max_tokens=50, seed=7):
        print(piece, end="")

Names are imported when they are first used: `import gpt2rt` costs next to nothing.
"""

TYPE_CHECKING = False  # typing's own would cost the import of typing
if TYPE_CHECKING:
    from gpt2rt._tokenizer import Tokenizer
    from gpt2rt.chat import Conversation
    from gpt2rt.errors import (
        CheckpointError,
        ContextFullError,
        DownloadError,
        Gpt2rtError,
        ModelFileError,
        UsageError,
        VocabularyError,
    )
    from gpt2rt.generate import Generation
    from gpt2rt.model import Model, open_model
    from gpt2rt.sampling import SamplingParams


__all__ = [
    "CheckpointError",
    "ContextFullError",
    "Conversation",
    "DownloadError",
    "Generation",
    "Gpt2rtError",
    "Model",
    "ModelFileError",
    "SamplingParams",
    "Engine",
    "Sequence",
    "Tokenizer",
    "UsageError",
    "VocabularyError",
    "open_model",
]

_MODULES = {
    "Conversation": "chat",
    "Generation": "generate",
    "Model": "model",
    "SamplingParams": "sampling",
    "Sequence": "_engine",
    "Engine": "_engine",
    "Tokenizer": "_tokenizer",
    "open_model": "model",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'gpt2rt' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"gpt2rt.{_MODULES.get(name, 'errors')}"), name)
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
