"""Signals that end a command: work that leaves files is undone before it ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from gpt2rt.cli import Stopped

NAMES = ("SIGTERM", "SIGHUP")  # Ctrl-C raises KeyboardInterrupt by itself


@contextlib.contextmanager
def undone_when_stopped() -> Iterator[None]:
    """Let signals that end the program raise `Stopped`, so that what runs can remove its unfinished files.

    While it does that, further signals are ignored. A signal that the caller of the program ignores, as `nohup` does,
    stays ignored.
    """

    def stop(number: int, _: FrameType | None) -> None:
        for each in (signal.SIGINT, *numbers):
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
