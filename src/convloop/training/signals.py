"""Stop when asked to, with every rank, and never in the middle of a write; end when a rank is lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from convloop.errors import TrainingError

LOST_RANK = (
    "so the others cannot go on. What it said itself is above; SIGKILL without a word is often too little memory. "
    "The same command goes on from the last state that was written."
)
_LOOK_EVERY_S, _GRACE_S = 0.5, 5.0


class StopSignals(pl.Callback):
    """Take Ctrl-C and SIGTERM over from Lightning, which would hang several ranks and end a SIGTERM with 0.

    The first signal is remembered; `States` obeys it between two batches, with all ranks, once the state is written: an
    exception in the middle of a checkpoint or of a database write would leave a half one. A second one ends at once.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self.lost_rank: str | None = None
        self._before: dict[int, Any] = {}
        self._ranks: list[subprocess.Popen[bytes]] = []  # the others, where this process has started them
        self._is_over = threading.Event()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_is_over": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _is_over=threading.Event())  # a child made by Python has one of its own

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Other ranks hear of it from the lead, and end with it where it is their parent.
            handler = self._remember if trainer.is_global_zero else signal.SIG_IGN
            self._before[number] = signal.signal(number, handler)
        # Lightning has all ranks wait for the lead's word in each step. Ours hear it from States now and then.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

        self._watch_over(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._is_over.set()
        self.lost_rank = self._lost_rank()
        self._end_ranks()

    def _watch_over(self, trainer: pl.Trainer) -> None:
        """Take the other ranks over from Lightning, whose own watch kills this process before it can say anything."""
        started = getattr(trainer.strategy.launcher, "procs", [])
        if not all(isinstance(process, subprocess.Popen) for process in started):
            return  # children made by Python, which `children` watches
        self._ranks, started[:] = list(started), []
        if self._ranks:
            threading.Thread(target=self.watch, daemon=True, name="rank-watch").start()

    def watch(self) -> None:
        """End this process when a rank is lost and the step that waits for it does not fail by itself."""
        while not self._is_over.wait(_LOOK_EVERY_S):
            lost_rank = self._lost_rank()
            if lost_rank and not self._is_over.wait(_GRACE_S):
                print(f"convloop: {lost_rank}, {LOST_RANK}", file=sys.stderr, flush=True)
                self._end_ranks(patience_s=0)
                os._exit(TrainingError.exit_code)

    def _lost_rank(self) -> str | None:
        for rank, process in enumerate(self._ranks, 1):
            if process.poll():
                code = process.returncode
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return f"Rank {rank} of {len(self._ranks) + 1} {how}"
        return None

    def _end_ranks(self, patience_s: float = 3) -> None:
        """Leave the other ranks time to say why they end, and end them."""
        give_up_s = time.monotonic() + patience_s
        while time.monotonic() < give_up_s and any(process.poll() is None for process in self._ranks):
            time.sleep(0.05)
        for process in self._ranks:
            process.kill()

    def give_back(self) -> None:
        """Restore the handlers that were there before training, and leave the other ranks alone."""
        self._is_over.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        is_second = self.exit_code is not None
        self.exit_code = 128 + number
        if is_second:
            raise KeyboardInterrupt
