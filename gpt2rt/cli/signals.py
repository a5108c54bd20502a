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
Handler = Callable[[int, FrameType | None], None]


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


def once(numbers: list[int]) -> Handler:
    """Return a handler that does what `interrupt` does, and lets further signals of these numbers be ignored."""

    def stop(number: int, frame: FrameType | None) -> None:
        if not is_postponed(number, frame):
            for each in numbers:
                _signal.signal(each, ignore)
            interrupt(number, None)

    return stop


def _send_again(number: int) -> None:
    time.sleep(SOON)
    _thread.interrupt_main(number)  # type: ignore[arg-type]  # any int


# --- where they hold


@contextlib.contextmanager
def handled(numbers: list[int], handler: Handler) -> Iterator[None]:
    """Let a handler take signals inside, and do what they did before it afterwards, unless they are ignored by then."""
    before = {number: _signal.getsignal(number) for number in numbers}
    try:
        for number in numbers:
            _signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            if _signal.getsignal(number) is not ignore:
                _signal.signal(number, end_by_signal if old == _signal.SIG_DFL else old)


def defaults(numbers: list[int]) -> list[int]:
    """Return the signals that end the program or raise KeyboardInterrupt. Some callers ignore one, as `nohup` does.

    In other threads than the main one there are none: they can't set handlers.
    """
    import threading

    if threading.current_thread() is not threading.main_thread():
        return []
    defaults = (_signal.SIG_DFL, _signal.default_int_handler, end_by_signal, interrupt)
    return [number for number in numbers if _signal.getsignal(number) in defaults]


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt inside, if it ends the program outside: as there, nobody would catch it."""
    is_ended = _signal.getsignal(_signal.SIGINT) in (_signal.SIG_DFL, end_by_signal)
    with handled([_signal.SIGINT] if is_ended else [], interrupt):
        yield


@contextlib.contextmanager
def ending_until(is_ready: Callable[[], bool]) -> Iterator[None]:
    """Let Ctrl-C end the program at once until something is ready; then it raises KeyboardInterrupt, as ever."""

    def stop(number: int, frame: FrameType | None) -> None:
        if not is_ready():
            end_by_signal(number, frame)
        interrupt(number, frame)

    is_ours = _signal.getsignal(_signal.SIGINT) is interrupt
    with handled([_signal.SIGINT] if is_ours else [], stop):
        yield


@contextlib.contextmanager
def undone_when_stopped() -> Iterator[None]:
    """Let signals that end the program raise `Stopped`, so that what runs can remove its unfinished files.

    Ctrl-C raises KeyboardInterrupt, as ever. While they do that, and until the program has ended, further signals are
    ignored. A signal that the caller of the program ignores stays ignored.
    """
    numbers = defaults([_signal.SIGINT, *ENDING])
    with handled(numbers, once(numbers)):
        yield


@contextlib.contextmanager
def unwound_when_stopped() -> Iterator[None]:
    """Let SIGTERM and SIGHUP run the `finally` blocks inside, then end the program as they would have without this.

    From the first one on, further ones are ignored; Ctrl-C is as ever. A signal that the caller of the program ignores
    stays ignored. Within another one of these, it ends what that one holds, too.
    """
    numbers = defaults(ENDING)
    try:
        with handled(numbers, once(numbers)):
            yield
    except Stopped as stopped:
        if stopped.number not in numbers:
            raise
        end_by_signal(stopped.number, None)
