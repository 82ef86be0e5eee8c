"""Training in children of this process (ddp_spawn), which hold neither the run nor the lock of the training."""

import logging
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from convloop.core.history import Point
from convloop.errors import ConvloopError
from convloop.processes import end_with_parent

if TYPE_CHECKING:
    from convloop.runs import Run
    from convloop.training.signals import StopSignals


class Home(pl.Callback):
    """Be the run of a child: send what it tells, and the error that ends it, to the process that has the run."""

    def __init__(self) -> None:
        self._reader, self._writer = multiprocessing.get_context("spawn").Pipe(duplex=False)
        self.error: ConvloopError | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        quieten()  # a child that was spawned has read none of our settings

    def log_points(self, points: Sequence[Point]) -> None:
        self._writer.send(list(points))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        assert parent.pid is not None
        end_with_parent(parent.pid)
        run = trainer.fit_loop.run

        def run_and_tell() -> None:
            try:
                run()
            except ConvloopError as error:  # Lightning asks its callbacks of an error in the first process alone
                self._writer.send(error)
                raise
            except KeyboardInterrupt:  # which PyTorch takes for a good end, and Lightning then waits for a result
                raise SystemExit(1) from None

        trainer.fit_loop.run = run_and_tell  # type: ignore[method-assign]

    @contextmanager
    def heard(self, trainer: pl.Trainer, run: "Run", stop: "StopSignals") -> Iterator[None]:
        """Pass on to `run` what the children tell, and to them the signals; leave none of them behind.

        Raises:
            ConvloopError: what ended a child.
        """
        over = threading.Event()
        listener = threading.Thread(target=self._listen, args=(run, over), daemon=True)
        listener.start()

        def forward(number: int, frame: FrameType | None) -> None:
            stop.exit_code = 128 + number
            if not _processes(trainer):
                raise KeyboardInterrupt
            lead = _processes(trainer)[0]
            if lead.is_alive():
                os.kill(lead.pid, signal.SIGTERM)

        before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        except (ProcessExitedException, ProcessRaisedException):
            over.set()
            listener.join()
            if stop.exit_code is None:
                if self.error:
                    raise self.error from None
                stop.lost_rank = _lost_rank(trainer)
                raise
        finally:
            for process in _processes(trainer):
                process.kill()
                process.join()
            over.set()
            listener.join()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _listen(self, run: "Run", over: threading.Event) -> None:
        while self._reader.poll(0.1) or not over.is_set():
            if self._reader.poll():
                told = self._reader.recv()
                if isinstance(told, ConvloopError):
                    self.error = self.error or told
                else:
                    run.log_points(told)


def quieten() -> None:
    """Keep Lightning's own talk out of the terminal."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")


def _processes(trainer: pl.Trainer) -> list[Any]:
    return list(getattr(trainer.strategy.launcher, "procs", ()))


def _lost_rank(trainer: pl.Trainer) -> str | None:
    """Name the child that something else has ended; the last ones are told to end by SIGTERM once one is missing."""
    for rank, process in enumerate(_processes(trainer)):
        if process.exitcode and process.exitcode < 0 and process.exitcode != -signal.SIGTERM:
            return f"Rank {rank} of {trainer.world_size} was ended by {signal.Signals(-process.exitcode).name}"
    return None
