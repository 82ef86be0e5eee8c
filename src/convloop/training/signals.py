"""Stop when asked to, with every rank."""

import signal
from types import FrameType

import lightning.pytorch as pl


class StopSignals(pl.Callback):
    """Take SIGTERM over from Lightning, which would hang several ranks and exit with 0."""

    def __init__(self) -> None:
        self.terminated = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            signal.signal(signal.SIGTERM, self._stop)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _stop(self, signal_number: int, frame: FrameType | None) -> None:
        self.terminated = True
        raise KeyboardInterrupt
