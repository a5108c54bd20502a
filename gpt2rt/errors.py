"""The exceptions of gpt2rt: each message is a sentence that says what was got, what was expected and what to do."""


class Gpt2rtError(Exception):
    """Base of every error that gpt2rt raises on purpose; the command line prints it and exits with 1."""


class ModelFileError(Gpt2rtError):
    """A model file is damaged, cut, of another version, or not one at all."""


class CheckpointError(Gpt2rtError):
    """A checkpoint that is to be converted is incomplete, damaged, or not a GPT-2."""


class DownloadError(Gpt2rtError):
    """A file can't be fetched, or what came is not what it should be."""


class VocabularyError(Gpt2rtError):
    """A vocabulary's files are damaged or don't fit each other, or a token id is out of range."""


class ContextFullError(Gpt2rtError):
    """More tokens than the model has positions for."""


class CancelledError(Gpt2rtError):
    """What was running was cancelled from another thread; it is where its last step ended."""


class UsageError(Gpt2rtError, ValueError):
    """An argument or option has a value that can't be used; the command line exits with 2."""
