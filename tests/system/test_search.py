"""A search of params that is stopped and killed in every way goes on where it was."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from mlflow.entities import Run

from convloop.core.history import read_history
from tests.conftest import environment
from tests.system.trainings import left_running, local_client

pytestmark = [pytest.mark.system, pytest.mark.slow]

_WORDS = ("tune", "search")
_TUNE = """
tune:
  trial_count: 2
  epochs: 40
  pruner: none
  space: {train.lr: {low: 0.0005, high: 0.005, log: true}}
"""


def _start(project: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "convloop", *_WORDS],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _wait(process: "subprocess.Popen[str]", reached: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 120
    while not reached():
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def _epochs(project: Path, trial: str) -> int:
    (folder,) = [entry for entry in (project / "work/tune/search").iterdir() if entry.is_dir()]
    return len(read_history(folder / trial / "state/history.csv"))


def _runs(project: Path) -> list[Run]:
    client = local_client(project)
    found = client.get_experiment_by_name("small-tuning")
    return list(client.search_runs([found.experiment_id]))


def test_a_search_goes_on_after_ctrl_c_a_kill_and_the_loss_of_a_trial(trained: Path) -> None:
    with (trained / "params.yaml").open("a") as params:
        params.write(_TUNE)
    process = _start(trained)
    _wait(process, lambda: (trained / "work/tune/search").is_dir() and _epochs(trained, "0001") >= 2)
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert (process.returncode, said.splitlines()[-1]) == (130, "convloop: stopped. The same command goes on."), said
    assert left_running(trained) == []
    assert {run.info.status for run in _runs(trained)} == {"KILLED"}
    stopped_at = _epochs(trained, "0001")

    process = _start(trained)
    _wait(process, lambda: _epochs(trained, "0001") > stopped_at)
    process.kill()
    process.communicate(timeout=60)
    time.sleep(1)
    assert left_running(trained) == []

    process = _start(trained)
    _wait(process, lambda: _epochs(trained, "0002") >= 2)
    (trial,) = set(left_running(trained)) - {process.pid}
    psutil.Process(trial).kill()
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert "  was killed and is taken up again\n" in said

    for name in ("0001", "0002"):
        (log,) = (trained / "work/tune/search").glob(f"*/{name}/log.txt")
        assert sum(line.startswith("epoch 1/") for line in log.read_text().splitlines()) == 1
        assert _epochs(trained, name) == 40
    runs = {run.info.run_name.split("  ")[0]: run for run in _runs(trained)}
    assert set(runs) == {"search train.lr", "trial 1", "trial 2"}, said
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for name in ("trial 1", "trial 2"):
        assert runs[name].data.tags["mlflow.parentRunId"] == runs["search train.lr"].info.run_id
        steps = [
            point.step for point in local_client(trained).get_metric_history(runs[name].info.run_id, "val/accuracy")
        ]
        assert sorted(steps) == list(range(1, 41))
    assert (trained / "work/tune/search/patch.yaml").read_text().startswith("train:\n  lr: ")
