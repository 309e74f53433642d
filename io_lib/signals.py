"""SIGTERM and Ctrl-C as a question the loop asks, so that a run ends between two steps and not within one."""

import signal
import threading
from types import FrameType


class StopRequest:
    """Within `with StopRequest() as stop`, `stop.requested` says whether the process was asked to end.

    A second signal acts as it did before, so an impatient Ctrl-C still works. Outside the main thread, where Python
    delivers no signals, nothing is ever requested.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, object] = {}

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
