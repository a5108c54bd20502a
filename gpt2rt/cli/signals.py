"""Signals that end a command: work that leaves files is undone before it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from gpt2rt.cli import Stopped

NAMES = ("SIGTERM", "SIGHUP")


def ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: with SIG_IGN, Python prints a traceback for a signal that came just before."""


@contextlib.contextmanager
def undone_when_stopped() -> Iterator[None]:
    """Let signals that end the program raise `Stopped`, so that what runs can remove its unfinished files.

    Ctrl-C raises KeyboardInterrupt, as ever. While they do that, and until the program has ended, further signals are
    ignored. A signal that the caller of the program ignores, as `nohup` does, stays ignored.
    """

    def stop(number: int, _: FrameType | None) -> None:
        for each in before:
            signal.signal(each, ignore)
        before.clear()
        raise KeyboardInterrupt if number == signal.SIGINT else Stopped(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        numbers = [signal.SIGINT, *(getattr(signal, name) for name in NAMES if hasattr(signal, name))]
        before = {number: signal.getsignal(number) for number in numbers}
        before = {one: old for one, old in before.items() if old in (signal.SIG_DFL, signal.default_int_handler)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def unwound_when_stopped() -> Iterator[None]:
    """Let SIGTERM and SIGHUP run the `finally` blocks inside, then end the program as they would have without this.

    From the first one on, further ones are ignored; Ctrl-C is as ever. A signal that the caller of the program ignores
    stays ignored.
    """

    def stop(number: int, _: FrameType | None) -> None:
        for each in before:
            signal.signal(each, ignore)
        raise Stopped(number)

    before: list[int] = []
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
        before = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except Stopped as stopped:
        signal.signal(stopped.number, signal.SIG_DFL)
        os.kill(os.getpid(), stopped.number)
    finally:
        for number in before:
            signal.signal(number, signal.SIG_DFL)
