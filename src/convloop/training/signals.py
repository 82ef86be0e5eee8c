"""Stop when asked to, with every rank, and never in the middle of a write."""

import signal
import subprocess
from types import FrameType
from typing import Any

import lightning.pytorch as pl


class StopSignals(pl.Callback):
    """Take Ctrl-C and SIGTERM over from Lightning, which would hang several ranks and end a SIGTERM with 0.

    The first signal is remembered and obeyed between two batches: an exception in the middle of a checkpoint or of a
    database write would leave a half one. A second signal ends at once.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self.lost_rank: str | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            # Other ranks end with the lead, which is their parent.
            handler = self._remember if trainer.is_global_zero else signal.SIG_IGN
            self._before[number] = signal.signal(number, handler)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._obey()

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._obey()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # Asked now, since Lightning ends the other ranks right after this.
        for rank, process in enumerate(getattr(trainer.strategy.launcher, "procs", ()), 1):
            if isinstance(process, subprocess.Popen) and process.poll():
                code = process.returncode
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                self.lost_rank = f"Rank {rank} of {trainer.world_size} {how}"
                return

    def give_back(self) -> None:
        """Restore the handlers that were there before training."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        is_second = self.exit_code is not None
        self.exit_code = 128 + number
        if is_second:
            raise KeyboardInterrupt

    def _obey(self) -> None:
        if self.exit_code is not None:
            raise KeyboardInterrupt
