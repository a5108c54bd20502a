"""Signals that end a command: work that leaves files is undone before it ends, and no traceback is printed."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what signal is made of, without its enums
import _thread
import contextlib
import time
from collections.abc import Callable, Iterator
from types import FrameType

ENDING = [getattr(_signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(_signal, name)]
SOON = 0.001  # seconds


class Stopped(BaseException):
    """A signal asked the program to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


# --- handlers: SIG_DFL and SIG_IGN, set by a program that had another one, let Python print a traceback for a signal
#     that came just before


def end_by_signal(number: int, _frame: FrameType | None) -> None:
    """End the program as the signal does by default."""
    _signal.signal(number, _signal.SIG_DFL)
    _signal.raise_signal(number)


def ignore(_number: int, _frame: FrameType | None) -> None:
    """Do nothing."""


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt for Ctrl-C, `Stopped` for other signals."""
    if not is_postponed(number, frame):
        raise KeyboardInterrupt if number == _signal.SIGINT else Stopped(number)


def is_postponed(number: int, frame: FrameType | None) -> bool:
    """Send a signal again soon if a module is being loaded, where Python prints some exceptions and goes on.

    Returns:
        Whether it was.
    """
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    if frame is None:
        return False
    try:
        _thread.start_new_thread(_send_again, (number,))
    except RuntimeError:  # no thread can be started
        return False
    return True


def _send_again(number: int) -> None:
    time.sleep(SOON)
    _thread.interrupt_main(number)  # type: ignore[arg-type]  # any int


# --- where they hold


def is_default(number: int) -> bool:
    """Return whether a signal ends the program or raises KeyboardInterrupt. Some callers ignore it, as `nohup` does."""
    return _signal.getsignal(number) in (_signal.SIG_DFL, _signal.default_int_handler, end_by_signal, interrupt)


def is_in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt inside, if it ends the program outside: as there, nobody would catch it."""
    ends = _signal.getsignal(_signal.SIGINT) in (_signal.SIG_DFL, end_by_signal)
    try:
        if ends:
            _signal.signal(_signal.SIGINT, interrupt)
        yield
    finally:
        if ends and _signal.getsignal(_signal.SIGINT) is interrupt:  # else further ones are ignored
            _signal.signal(_signal.SIGINT, end_by_signal)


@contextlib.contextmanager
def ending_until(is_ready: Callable[[], bool]) -> Iterator[None]:
    """Let Ctrl-C end the program at once until something is ready; then it raises KeyboardInterrupt, as ever."""

    def stop(number: int, frame: FrameType | None) -> None:
        if not is_ready():
            end_by_signal(number, frame)
        interrupt(number, frame)

    is_ours = _signal.getsignal(_signal.SIGINT) is interrupt
    if is_ours:
        _signal.signal(_signal.SIGINT, stop)
    try:
        yield
    finally:
        if is_ours:
            _signal.signal(_signal.SIGINT, interrupt)


@contextlib.contextmanager
def undone_when_stopped() -> Iterator[None]:
    """Let signals that end the program raise `Stopped`, so that what runs can remove its unfinished files.

    Ctrl-C raises KeyboardInterrupt, as ever. While they do that, and until the program has ended, further signals are
    ignored. A signal that the caller of the program ignores stays ignored.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if is_postponed(number, frame):
            return
        for each in before:
            _signal.signal(each, ignore)
        before.clear()
        interrupt(number, None)

    before = {}
    if is_in_main_thread():
        before = {number: _signal.getsignal(number) for number in (_signal.SIGINT, *ENDING) if is_default(number)}
    for number in before:
        _signal.signal(number, stop)
    try:
        yield
    finally:
        for number, old in before.items():
            _signal.signal(number, end_by_signal if old == _signal.SIG_DFL else old)


@contextlib.contextmanager
def unwound_when_stopped() -> Iterator[None]:
    """Let SIGTERM and SIGHUP run the `finally` blocks inside, then end the program as they would have without this.

    From the first one on, further ones are ignored; Ctrl-C is as ever. A signal that the caller of the program ignores
    stays ignored. Within another one of these, it ends what that one holds, too.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        if is_postponed(number, frame):
            return
        for each in before:
            _signal.signal(each, ignore)
        interrupt(number, None)

    before: list[int] = []
    if is_in_main_thread():
        before = [number for number in ENDING if is_default(number)]
    for number in before:
        _signal.signal(number, stop)
    try:
        yield
    except Stopped as stopped:
        if stopped.number not in before:
            raise
        end_by_signal(stopped.number, None)
    finally:
        for number in before:
            _signal.signal(number, end_by_signal)
