"""The entry point of `gpt2rt` and of `python -m gpt2rt`."""

import _signal  # type: ignore[import-not-found]  # what signal is made of, without its enums
import _thread
import gc
import os
import stat
import sys

READING = ("chat", "generate", "next")  # commands that read the whole of the first file that is named


def read_ahead(path: str) -> None:
    """Bring a file into the page cache, without copying it. Errors are ignored: opening the model reports them."""
    try:
        source = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if stat.S_ISREG(os.fstat(source).st_mode):
            os.sendfile(os.open(os.devnull, os.O_WRONLY), source, 0, os.fstat(source).st_size)
    except OSError:
        pass


def read_beside(path: str) -> None:
    """Read ahead in a thread, if there is memory for one."""
    try:
        _thread.start_new_thread(read_ahead, (path,))
    except RuntimeError:
        return


def main() -> None:
    """Start reading the model file, then load the command line, which takes about as long from a disk."""
    # Ctrl-C would be a traceback where nobody catches it: while modules are loaded, and at the end.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

    from gpt2rt.errors import NO_MEMORY, is_lack_of_memory
    from gpt2rt.model_folder import named_model

    last_words = f"gpt2rt: {NO_MEMORY}\n".encode()
    try:
        if sys.platform == "linux" and sys.argv[1:2] and sys.argv[1] in READING:
            for argument in sys.argv[2:]:
                if not argument.startswith("-"):
                    path = argument if os.path.exists(argument) else named_model(argument) or argument
                    read_beside(path)
                    break
        gc.disable()  # all that is loaded stays; looking for garbage in it, now and at the end, takes 4 to 6 ms
        from gpt2rt.cli import main

        gc.freeze()
        gc.enable()
        main()
    except (MemoryError, ImportError, OSError, SystemError) as error:
        if not is_lack_of_memory(error) or "--debug" in sys.argv:
            raise
        try:  # noqa: SIM105 (contextlib may not be loaded)
            sys.stdout.flush()
        except Exception:
            pass
        os.write(2, last_words)
        os._exit(1)  # without memory, Python's own end prints tracebacks


if __name__ == "__main__":
    main()
