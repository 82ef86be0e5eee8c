"""Retrain once: take in new images, run the pipeline, write down why and what came of it."""

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from convloop.core.redact import redact
from convloop.errors import BusyError, OutputError, PipelineError
from convloop.ingest import ingest
from convloop.ledger import Ledger
from convloop.processes import environment

if TYPE_CHECKING:
    from convloop.tracking import Tracker

LOCK_FILE = "work/retraining.lock"
VERDICT_FILE = "reports/register/verdict.json"
_GRACE_S = 20


def retrain(project: Path, tracker: "Tracker", *, slot: str | None = None) -> int:
    """Run the loop once; a refusal by the gate is a result like any other.

    One process at a time: the lock is held by the job itself, through the file that `dvc repro` inherits, so it lasts
    exactly as long as the job, whoever started it and whoever died.

    Args:
        slot: the scheduled time in ISO 8601; a slot that has a row is not run again.

    Raises:
        BusyError: another retraining is running.
        PipelineError: `dvc repro` failed.
    """
    with _lock(project) as lock:
        ledger = Ledger(project)
        if ledger.mark_lost():
            print("The retraining before this one was lost without a word; its row is marked so.")
        asked = f"cron slot {slot}" if slot else "by hand"
        row_id = ledger.begin(asked, slot)
        if row_id is None:
            print(f"Nothing to do: {asked} has its row in the ledger already.")
            return 0
        status, outcome = "failed", ""
        try:
            outcome = _run(project, tracker, lock, asked, row_id)
            status = "finished"
        except (KeyboardInterrupt, SystemExit):
            status, outcome = "stopped", "stopped by a signal"
            raise
        except Exception as error:
            outcome = redact(str(error))
            raise
        finally:
            ledger.end(row_id, status, outcome)
    print(f"Retraining {row_id} finished: {outcome}")
    return 0


def _run(project: Path, tracker: "Tracker", lock: IO[str], asked: str, row_id: int) -> str:
    log = project / f"work/retraining/{row_id}.log"
    if not (project / "data/raw/manifest.json").is_file():
        _dvc_repro(project, lock, log, "generate")  # ingest must know the classes and the image size
    ingested = ingest(project)
    if ingested.waiting:
        print(ingested.summary, flush=True)
    reason = f"{asked}; new data: {ingested.added_count} images" if ingested.added_count else asked
    print(f"Retraining {row_id}: {reason}. Follow it: tail -f {log.relative_to(project)}", flush=True)
    tags = {"retraining.reason": reason, "retraining.new_images": str(ingested.added_count)}
    with tracker.retraining_run(f"retraining {row_id}: {reason}", tags) as run:
        before = _content(project / "dvc.lock")
        _dvc_repro(project, lock, log)
        verdict = json.loads(_content(project / VERDICT_FILE))
        changed = _content(project / "dvc.lock") != before
        outcome = str(verdict["reason"]) if changed else "Nothing changed: every stage was up to date."
        run.log_tags(
            {
                "retraining.outcome": outcome,
                "retraining.model_run_id": str(verdict.get("run_id")),
                "retraining.model_version": str(verdict.get("version")),
            }
        )
    return outcome


def _dvc_repro(project: Path, lock: IO[str], log: Path, *targets: str) -> None:
    """Run `dvc repro` in a process group of its own, which ends with us when we are stopped.

    Raises:
        PipelineError: it failed; the log says why.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        child = subprocess.Popen(
            ["dvc", "repro", *targets],
            cwd=project,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )
        try:
            exit_code = child.wait()
        except BaseException:
            _stop(child)
            raise
    if exit_code:
        said = [
            line for line in log.read_text(errors="replace").splitlines() if line.startswith(("convloop:", "ERROR:"))
        ]
        why = f": {said[0]}" if said else ""
        raise PipelineError(f"dvc repro ended with {exit_code}{why} The whole log: {log.relative_to(project)}")


def _stop(child: "subprocess.Popen[bytes]") -> None:
    """Interrupt the whole group, as Ctrl-C would, and kill what is left of it after a while."""
    for again in (signal.SIGINT, signal.SIGTERM):  # a second one must not leave dvc behind
        signal.signal(again, signal.SIG_IGN)
    os.killpg(child.pid, signal.SIGINT)
    try:
        child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@contextmanager
def _lock(project: Path) -> Iterator[IO[str]]:
    file = project / LOCK_FILE
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        opened = file.open("a")
    except OSError as error:
        raise OutputError(f"{file} cannot be written: {error.strerror}. Make that folder writable.") from error
    with opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"A retraining is running in {project} and holds {LOCK_FILE}. Wait for it: tail -f work/retraining/*.log"
            ) from None
        yield opened


def _content(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""
