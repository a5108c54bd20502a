"""The exceptions of gpt2rt. Each message says what is wrong, what was expected, and what to do about it."""

NO_MEMORY = "not enough memory"
NOT_RAISED = "without exception set", "without setting an exception"  # as Python's own mistakes end
NOT_MAPPED = ("failed to map segment", "annot allocate memory", "out of memory")  # as loaders of libraries say it
NO_THREAD = "can't start new thread"  # as Python says it


class Gpt2rtError(Exception):
    """The base class of all errors that gpt2rt raises; the command line prints the message and exits with 1."""


class ModelFileError(Gpt2rtError):
    """A model file is damaged, truncated or of another version, or it is not a model file."""


class CheckpointError(Gpt2rtError):
    """A checkpoint to convert is incomplete, damaged, or not a GPT-2 model."""


class DownloadError(Gpt2rtError):
    """A file can't be downloaded, or the downloaded content is not the expected one."""


class VocabularyError(Gpt2rtError):
    """The files of a vocabulary are damaged or don't match each other, or a token id is out of range."""


class ContextFullError(Gpt2rtError):
    """There are more tokens than the model has positions."""


class CancelledError(Gpt2rtError):
    """The operation was cancelled from another thread; the state is that after its last completed step."""


class UsageError(Gpt2rtError, ValueError):
    """An argument or option has an invalid value; the command line exits with 2."""


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there is no memory: Python's own, or one of importing or mapping a file."""
    if isinstance(error, MemoryError):
        return True
    message = str(error)
    for sign in NOT_RAISED if isinstance(error, SystemError) else NOT_MAPPED:  # noqa: SIM110 (`any` needs memory)
        if sign in message:
            return True
    return False
