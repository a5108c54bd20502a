"""Models that have a name: the bundled one, and the files of the user's model folder."""

import os
import sys

BUNDLED = "demo"
SIZES = ("124M", "355M", "774M", "1558M")  # OpenAI's four models
SUFFIX = ".bin"  # NAME.bin in the model folder is the model NAME
FOLDER_VARIABLE = "GPT2RT_MODELS"


def bundled_model() -> str:
    """Return the path of the bundled model."""
    return os.path.join(os.path.dirname(__file__), BUNDLED + SUFFIX)


def model_folder() -> str:
    """Return the user's model folder, which may not exist: GPT2RT_MODELS, else the system's place for such data."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        return os.path.expanduser(folder)
    if sys.platform == "win32":
        data = os.environ.get("LOCALAPPDATA") or os.path.expanduser(r"~\AppData\Local")
    elif sys.platform == "darwin":
        data = os.path.expanduser("~/Library/Application Support")
    else:
        data = os.environ.get("XDG_DATA_HOME", "")
        if not os.path.isabs(data):  # the XDG specification ignores relative paths
            data = os.path.expanduser("~/.local/share")
    return os.path.join(data, "gpt2rt", "models")


def released_size(name: str) -> str | None:
    """Return which of OpenAI's four models a name means, in upper or lower case; None for any other name."""
    return name.upper() if name.upper() in SIZES else None


def path_of(name: str) -> str:
    """Return where the model with this name is, or would be. The bundled model's name is never another's."""
    return bundled_model() if name == BUNDLED else os.path.join(model_folder(), name + SUFFIX)


def named_model(name: str) -> str | None:
    """Return the path of the model that has this name, None where there is no such model."""
    name = released_size(name) or name
    if not _is_plain(name):
        return None
    path = path_of(name)
    return path if os.path.isfile(path) else None


def model_names() -> list[str]:
    """Return the names of all models that exist, the bundled one first."""
    try:
        files = os.listdir(model_folder())
    except OSError:  # there is no such folder yet
        files = []
    names = {file.removesuffix(SUFFIX) for file in files if file.endswith(SUFFIX)} - {BUNDLED}
    return [name for name in (BUNDLED, *sorted(names, key=str.casefold)) if named_model(name)]


def _is_plain(name: str) -> bool:
    """Whether this is a name and no path. Files that begin with a dot are unfinished."""
    return bool(name) and not name.startswith(".") and os.path.basename(name) == name
