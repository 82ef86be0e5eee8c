"""One training of a finder, in a process of its own: it may be killed, and may be cut short, without ending the finder.

A trial's folder under work/tune holds `params.json` (what is trained), `state` (as every training has it), `log.txt` and, at
the end, `result.json`. Nothing else is written, and MLflow hears of it from the finder alone.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from convloop.core.folders import held, write_text
from convloop.core.history import Row, points_of, read_history
from convloop.core.ranks import is_lead
from convloop.core.split import TEST, TRAIN
from convloop.core.state import opened, state_folder, unfinished
from convloop.errors import BusyError
from convloop.processes import end_with_parent, environment

if TYPE_CHECKING:
    from convloop.config import Params
    from convloop.runs import Run

_LOOK_EVERY_S = 0.2
_PATIENCE_S = 60  # a stop is obeyed between two batches


@dataclass(frozen=True)
class Result:
    """What a trial reached in the epoch that it keeps; test accuracy only where it was asked for."""

    epoch: int
    val_accuracy: float
    test_accuracy: float | None


class TrialFailed(Exception):  # noqa: N818 - it is caught by the finder, never shown
    """A trial ended without a result; says what it said last."""

    def __init__(self, said: str, *, was_killed: bool) -> None:
        super().__init__(said)
        self.was_killed = was_killed


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a finder's folder.

    Raises:
        BusyError: another process is at the same search.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder) as is_held:
        if not is_held:
            raise BusyError(f"This is running already; it holds {folder}. Wait for it, or stop it first.")
        yield


def finder_folder(project: Path, what: str, **facts: object) -> Path:
    """Name the folder of a search by all that decides what its trials reach, so that others never mix."""
    return project / "work/tune" / what / state_folder(project, **facts).name


def run_trial(
    project: Path,
    folder: Path,
    params: "Params",
    run: "Run",
    *,
    is_hopeless: Callable[[Row], bool] = lambda row: False,
    scores_test: bool = False,
) -> Result | None:
    """Train `params`, going on where the folder's last try was cut off; log each epoch to `run`.

    Args:
        is_hopeless: asked after each epoch; True stops the trial.

    Returns:
        What it reached, or None where it was stopped as hopeless.

    Raises:
        TrialFailed: it was killed or ended with an error.
    """
    result, history = folder / "result.json", folder / "state/history.csv"
    if result.is_file():
        for row in read_history(history):
            run.log_points(points_of(row))
    else:
        asked = {"params": params.model_dump(by_alias=True), "scores_test": scores_test}
        write_text(folder / "params.json", json.dumps(asked, indent=1))
        told_count = 0
        with _started(project, folder) as process:
            while True:
                is_over = process.poll() is not None
                rows = read_history(history)
                for row in rows[told_count:]:
                    run.log_points(points_of(row))
                    if is_hopeless(row):
                        return None
                told_count = len(rows)
                if is_over:
                    break
                time.sleep(_LOOK_EVERY_S)
        if process.returncode:
            raise TrialFailed(_last_words(folder), was_killed=process.returncode < 0)
    return Result(**json.loads(result.read_text(encoding="utf-8")))


def train_trial(project: Path, folder: Path, parent_pid: int) -> None:
    """Be the process of a trial."""
    if is_lead():
        end_with_parent(parent_pid)
    from convloop.params_check import check
    from convloop.runs import SilentRun
    from convloop.training.probes import accuracy
    from convloop.training.trainer import fit
    from convloop.tune.task import open_task

    asked = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    settings = check(asked["params"]).train
    task = open_task(project)
    state = folder / "state"
    with opened(state) if is_lead() else _looked_at(state) as resume_from:
        classifier = task.classifier(settings)
        fitted = fit(
            classifier,
            task.batches(settings),
            settings,
            image_count=len(task.prepared.indices(TRAIN)),
            state=state,
            resume_from=resume_from,
            run=SilentRun(),
        )
        if is_lead():
            row = read_history(state / "history.csv")[fitted.epoch - 1]
            test_accuracy = None
            if asked["scores_test"]:
                classifier.net.load_state_dict(fitted.weights)
                indices = task.prepared.indices(TEST)
                test_accuracy = accuracy(classifier, task.images.take(indices), task.images.labels_N[indices])
            found = Result(fitted.epoch, row["val/accuracy"], test_accuracy)
            write_text(folder / "result.json", json.dumps(asdict(found)))
            for checkpoint in state.glob("*.ckpt"):
                checkpoint.unlink()


@contextmanager
def _looked_at(state: Path) -> Iterator[Path | None]:
    yield unfinished(state)


@contextmanager
def _started(project: Path, folder: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a trial away from the terminal's signals; whatever ends the finder stops the trial at its next batch."""
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "convloop", "tune", "trial", str(folder), str(os.getpid())],
            cwd=project,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _last_words(folder: Path) -> str:
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("convloop: ") if lines else "it said nothing"
