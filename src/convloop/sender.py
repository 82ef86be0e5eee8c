"""Send to MLflow from a thread of its own, so that no training waits for a server or dies of it."""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from convloop.core.history import Point
from convloop.errors import OutputError, TrackingError
from convloop.runs import MlflowRun

HEARTBEAT = "convloop.heartbeat_s"
HEARTBEAT_EVERY_S = 15
_LONGEST_PAUSE_S = 60


class BackgroundRun:
    """Queue what is to be sent; one thread sends it in order and, when the server is away, tries again and again.

    Nothing is lost with the queue: all of it can be sent again from the files of the training.
    """

    def __init__(self, open_run: Callable[[], MlflowRun]) -> None:
        """Take `open_run`, which finds or makes the run and raises TrackingError while the server is away."""
        self._open_run = open_run
        self._run: MlflowRun | None = None
        self._waiting: deque[Callable[[MlflowRun], None] | list[Point]] = deque()
        self._changed = threading.Condition()
        self._is_ending = self._is_behind = self._is_closed = False
        self._beat_s = 0.0
        self._thread = threading.Thread(target=self._work, name="mlflow-sender", daemon=True)
        self._thread.start()

    @property
    def id(self) -> str | None:
        """Give the run's id, or None while the server has not answered yet."""
        return self._run.id if self._run else None

    def log_params(self, params: dict[str, Any]) -> None:
        self._put(lambda run: run.log_params(params))

    def log_tags(self, tags: dict[str, str]) -> None:
        self._put(lambda run: run.log_tags(tags))

    def log_inputs(self, digests: dict[str, str]) -> None:
        self._put(lambda run: run.log_inputs(digests))

    def log_points(self, points: Sequence[Point]) -> None:
        self._put(list(points))

    def log_file(self, file: Path, folder: str = "") -> None:
        self._put(lambda run: run.log_file(file, folder))

    def log_image(self, file: Path, key: str, *, step: int) -> None:
        self._put(lambda run: run.log_image(file, key, step=step))

    def tag(self, name: str) -> str | None:
        return None

    def close(self, status: str) -> None:
        """Give the run its last status; what is logged after this is still sent."""
        self._is_closed = True
        self._put(lambda run: run.close(status))

    def wait(self, patience_s: float) -> bool:
        """Wait until all is sent, or the server has failed once more, or `patience_s` is over; tell whether all is sent.

        The thread goes on for as long as this process lives.
        """
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        self._thread.join(patience_s)
        is_sent = not self._thread.is_alive() and not self._waiting
        if not is_sent and not self._is_behind:
            print("MLflow is slow. The rest is sent by the next stage, or by: convloop sync", file=sys.stderr)
        return is_sent

    def _put(self, what: Callable[[MlflowRun], None] | list[Point]) -> None:
        with self._changed:
            self._waiting.append(what)
            self._changed.notify()

    def _work(self) -> None:
        pause_s = 1
        while True:
            try:
                if not self._send_next():
                    return
                pause_s = 1
            except (TrackingError, OutputError) as error:
                if not self._is_behind:
                    say_behind(error)
                self._is_behind = True
                with self._changed:
                    if self._is_ending:
                        return
                    self._changed.wait_for(lambda: self._is_ending, pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _send_next(self) -> bool:
        """Send the oldest entry, metrics together with those after it; or a sign of life. Give False at the end."""
        if self._run is None:
            self._run = self._open_run()
        elif self._is_behind and not self._is_closed:
            self._run.reopen()  # another machine may have taken the silence for death
        if time.monotonic() - self._beat_s >= HEARTBEAT_EVERY_S and not self._is_ending:
            self._run.log_tags({HEARTBEAT: f"{time.time():.0f}"})
            self._beat_s = time.monotonic()
        with self._changed:
            if not self._waiting and not self._is_ending:
                self._changed.wait(HEARTBEAT_EVERY_S)
            if not self._waiting:
                return not self._is_ending
            entries = [self._waiting[0]]
            if isinstance(entries[0], list):
                for entry in list(self._waiting)[1:]:
                    if not isinstance(entry, list):
                        break
                    entries.append(entry)
        points = [point for entry in entries if isinstance(entry, list) for point in entry]
        if points:
            self._run.log_points(points)
        elif callable(entries[0]):
            entries[0](self._run)
        if self._is_behind:
            self._is_behind = False
            print("MLflow answers again; what it has missed is being sent.", file=sys.stderr)
        with self._changed:
            for _ in entries:
                self._waiting.popleft()
        return True


def say_behind(error: TrackingError | OutputError) -> None:
    """Tell a user once that the server is away and what that means."""
    said = str(error).partition(". ")[0]
    print(f"{said}. Training goes on; its history is kept. Send it later: convloop sync", file=sys.stderr)
