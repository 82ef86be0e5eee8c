"""torchrun that starts all again when a process is lost, but not when a user has something to mend.

Takes torchrun's own words and variables: python -m convloop.torchrun --nproc-per-node 2 -m convloop train
"""

import logging
import os
import signal
import sys
from typing import Any

from torch.distributed import run
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous.api import RendezvousClosedError, RendezvousConnectionError
from torch.distributed.launcher import api

from convloop.errors import LostRankError, TrainingError

# torchrun 2.13 keeps one store for all its restarts, in which the others find the lead's address of before, and fail.
_FRESH_STORE = ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
_ENDED_ELSEWHERE = "Another host has ended this training, and says why. The same command goes on from the last state."
_AFTER_ANOTHER = (LostRankError.exit_code, -signal.SIGTERM, 128 + signal.SIGTERM)


class Agent(LocalElasticAgent):
    """Watch over this host's processes; say in a line what torchrun tells in a page."""

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result: RunResult = super()._monitor_workers(worker_group)
        if result.is_failed():
            rank, failure = _cause(result.failures)
            if "errorCode" in _told(failure):
                self._remaining_restarts = 0  # as torchrun itself does where a restart cannot help
            else:
                left = self._remaining_restarts
                then = f"all start again; {left - 1} restarts are left after this." if left else "no restart is left."
                print(f"convloop: Rank {rank} {_how(failure.exitcode)}: {then}", file=sys.stderr, flush=True)
        return result


def main(words: list[str]) -> int:
    """Run torchrun and give its exit code: that of the process which ended the training."""
    os.environ.setdefault(*_FRESH_STORE)
    api.LocalElasticAgent = Agent  # type: ignore[attr-defined]
    for name in ("multiprocessing", "agent.server"):
        logging.getLogger(f"torch.distributed.elastic.{name}.api").setLevel(logging.CRITICAL)
    try:
        run.run(run.parse_args(words))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        _, failure = _cause(error.failures)
        own_code = failure.exitcode if failure.exitcode > 0 else TrainingError.exit_code
        return int(_told(failure).get("errorCode", own_code))
    except SignalException as asked:
        return 128 + asked.sigval
    except (RendezvousClosedError, RendezvousConnectionError):
        print(f"convloop: {_ENDED_ELSEWHERE}", file=sys.stderr)
        return TrainingError.exit_code
    return 0


def _cause(failures: dict[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Choose what a user has to mend; else what ended by itself, not after another or at torchrun's word."""

    def place(rank: int) -> tuple[bool, bool, int]:
        failure = failures[rank]
        return "errorCode" not in _told(failure), failure.exitcode in _AFTER_ANOTHER, rank

    rank = min(failures, key=place)
    return rank, failures[rank]


def _told(failure: ProcessFailure) -> dict[str, Any]:
    """Give what the process wrote for torchrun, if it did (`launch.tell_torchrun`)."""
    told: Any = failure.error_file_data["message"]
    return told if isinstance(told, dict) else {}


def _how(exit_code: int) -> str:
    return f"was ended by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
