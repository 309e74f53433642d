"""SIGTERM and Ctrl-C as a flag that the loop reads, so that a run ends between two steps and not within one."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class StopRequest:
    """Within `with StopRequest() as stop`, `stop.requested` is True once SIGTERM or SIGINT has arrived.

    A second signal has its usual effect, so pressing Ctrl-C twice ends the process. Outside the main thread, where
    Python delivers no signals, `requested` stays False.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._request) for number in self.SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self.__exit__()
