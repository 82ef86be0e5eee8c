"""Retraining with real `dvc repro`: one at a time, each with its row, its reason and its true end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from PIL import Image

from convloop import store
from convloop.config import Params
from convloop.core.synth import class_names
from convloop.errors import BusyError, PipelineError
from convloop.ledger import Ledger, Row
from convloop.retrain import retrain
from convloop.tracking import Tracker
from tests.conftest import Convloop, environment

if TYPE_CHECKING:
    from mlflow.entities import Run as Found

pytestmark = [pytest.mark.system, pytest.mark.slow]

_SLOT = "2026-01-01T03:00Z"
_DEADLINE_S = 240


@pytest.fixture
def ready(trained: Path, repository: Path, dvc: Convloop, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which DVC knows the finished stages, so that a retraining runs `register` alone."""
    monkeypatch.setenv("PYTHONPATH", str(repository / "src"))
    answer = dvc("commit", "--force", "generate", "prepare", "train", "evaluate")
    assert answer.returncode == 0, answer.stderr
    return repository


@pytest.fixture
def tracker(project: Path, params: Params) -> Tracker:
    return Tracker(project, params.tracking)


def runs_of(project: Path, experiment: str) -> "list[Found]":
    """Give the runs of an experiment, newest first."""
    client = store.connect(project, 5)
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


def edit(project: Path, old: str, new: str) -> None:
    file = project / "params.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def start(project: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "convloop", "retrain", *words],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def start_long_training(project: Path) -> "subprocess.Popen[str]":
    """Start a retraining and return once it is past its second epoch of many."""
    edit(project, "epochs: 2", "epochs: 9999")
    process = start(project)
    log = project / "work/retraining/1.log"
    wait_until(process, lambda: log.is_file() and "\nepoch 2/" in log.read_text())
    return process


def wait_until(process: "subprocess.Popen[str]", reached: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _DEADLINE_S
    while not reached():
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def left_running(project: Path) -> dict[int, str]:
    """Find processes that work in this project's folder, other than the tests themselves."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.cwd() == str(project):
                found[process.pid] = " ".join(process.cmdline())
        except psutil.Error:
            continue
    return found


# Ends


def test_retraining_from_nothing_takes_new_images_in(
    repository: Path, tracker: Tracker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository / "src"))
    images = np.random.default_rng(7).integers(0, 256, (2, 16, 16, 3), np.uint8)
    folder = repository / "data/incoming" / class_names(3)[0]
    folder.mkdir(parents=True)
    for index, pixels_HWC in enumerate(images):
        Image.fromarray(pixels_HWC).save(folder / f"{index}.png")
    assert retrain(repository, tracker) == 0
    verdict = json.loads((repository / "reports/register/verdict.json").read_text())
    reason = "by hand; new data: 2 images"
    assert capsys.readouterr().out == (
        f"Retraining 1: {reason}. Follow it: tail -f work/retraining/1.log\n"
        f"Retraining 1 finished: {verdict['reason']}\n"
    )
    assert Ledger(repository).rows() == [Row(1, None, "by hand", "finished", verdict["reason"])]
    (model_run,) = runs_of(repository, "small")
    (run,) = runs_of(repository, "small-retraining")
    assert (run.info.status, run.info.run_name) == ("FINISHED", f"retraining 1: {reason}")
    assert {key: value for key, value in run.data.tags.items() if key.startswith("retraining.")} == {
        "retraining.reason": reason,
        "retraining.new_images": "2",
        "retraining.outcome": verdict["reason"],
        "retraining.model_run_id": model_run.info.run_id,
        "retraining.model_version": "1",
    }
    assert json.loads((repository / "data/prepared/card.json").read_text())["image_count"] == 602


def test_second_retraining_finds_nothing_to_do_and_a_slot_runs_once(
    ready: Path, tracker: Tracker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retrain(ready, tracker, slot=_SLOT) == 0
    assert retrain(ready, tracker) == 0
    verdict = json.loads((ready / "reports/register/verdict.json").read_text())
    nothing = "Nothing changed: every stage was up to date."
    finished = [
        Row(1, _SLOT, f"cron slot {_SLOT}", "finished", verdict["reason"]),
        Row(2, None, "by hand", "finished", nothing),
    ]
    assert Ledger(ready).rows() == finished
    assert [run.data.tags["retraining.outcome"] for run in runs_of(ready, "small-retraining")] == [
        nothing,
        verdict["reason"],
    ]
    capsys.readouterr()
    assert retrain(ready, tracker, slot=_SLOT) == 0
    assert capsys.readouterr().out == f"Nothing to do: cron slot {_SLOT} has its row in the ledger already.\n"
    assert Ledger(ready).rows() == finished
    assert len(runs_of(ready, "small-retraining")) == 2


def test_failing_pipeline_leaves_a_failed_row_and_run(ready: Path, tracker: Tracker) -> None:
    edit(ready, "{val_share", "{min_class_image_count: 1000, val_share")
    with pytest.raises(PipelineError) as raised:
        retrain(ready, tracker)
    message = (
        "dvc repro ended with 255: convloop: data/raw and data/landed: 9 findings stop the pipeline. "
        "The whole log: work/retraining/1.log"
    )
    assert str(raised.value) == message
    assert "prepare.min_class_image_count asks for 1000" in (ready / "work/retraining/1.log").read_text()
    assert Ledger(ready).rows() == [Row(1, None, "by hand", "failed", message)]
    assert [run.info.status for run in runs_of(ready, "small-retraining")] == ["FAILED"]


def test_failing_pipeline_ends_the_command_with_8(ready: Path, convloop: Convloop) -> None:
    edit(ready, "{val_share", "{min_class_image_count: 1000, val_share")
    answer = convloop("retrain")
    assert answer.returncode == 8
    assert answer.stderr == (
        "convloop: dvc repro ended with 255: convloop: data/raw and data/landed: 9 findings stop the pipeline. "
        "The whole log: work/retraining/1.log\n"
    )


# Two at once


def test_second_retraining_at_once_is_told_that_one_runs(ready: Path, tracker: Tracker, convloop: Convloop) -> None:
    process = start(ready)
    assert process.stdout is not None
    assert process.stdout.readline() == "Retraining 1: by hand. Follow it: tail -f work/retraining/1.log\n"
    message = (
        f"A retraining is running in {ready} and holds work/retraining.lock. Wait for it: tail -f work/retraining/*.log"
    )
    with pytest.raises(BusyError) as raised:
        retrain(ready, tracker)
    answer = convloop("retrain")
    assert process.poll() is None
    assert str(raised.value) == message
    assert (answer.returncode, answer.stdout, answer.stderr) == (75, "", f"convloop: {message}\n")
    process.communicate()
    assert process.returncode == 0
    assert [(row.id, row.status) for row in Ledger(ready).rows()] == [(1, "finished")]


def test_slot_asked_for_twice_at_once_gets_one_row(ready: Path) -> None:
    started = [start(ready, "--slot", _SLOT) for _ in range(2)]
    ends = [(process.communicate(), process.returncode)[1] for process in started]
    assert sorted(ends) in ([0, 0], [0, 75])
    assert [(row.slot, row.status) for row in Ledger(ready).rows()] == [(_SLOT, "finished")]


# Stopped and killed


@pytest.mark.parametrize(("sent", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_retraining_leaves_nothing_running(ready: Path, sent: signal.Signals, exit_code: int) -> None:
    process = start_long_training(ready)
    process.send_signal(sent)
    _, stderr = process.communicate()
    assert left_running(ready) == {}
    assert process.returncode == exit_code, stderr
    assert Ledger(ready).rows() == [Row(1, None, "by hand", "stopped", "stopped by a signal")]
    assert [run.info.status for run in runs_of(ready, "small-retraining")] == ["KILLED"]
    assert [run.info.status for run in runs_of(ready, "small")] == ["KILLED"]


def test_killed_retraining_keeps_its_lock_until_dvc_ends_and_is_marked_lost(
    ready: Path, tracker: Tracker, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start_long_training(ready)
    process.kill()
    process.communicate()
    with pytest.raises(BusyError):
        retrain(ready, tracker)
    (dvc_pid,) = (pid for pid, words in left_running(ready).items() if words.endswith("dvc repro"))
    training = [psutil.Process(pid) for pid in left_running(ready) if pid != dvc_pid]
    os.kill(dvc_pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(dvc_pid)] if psutil.pid_exists(dvc_pid) else [], _DEADLINE_S)
    psutil.wait_procs(training, _DEADLINE_S)
    assert left_running(ready) == {}
    edit(ready, "{val_share", "{min_class_image_count: 1000, val_share")
    with pytest.raises(PipelineError):
        retrain(ready, tracker)
    first_line = capsys.readouterr().out.splitlines()[0]
    assert first_line == "The retraining before this one was lost without a word; its row is marked so."
    assert [(row.id, row.status) for row in Ledger(ready).rows()] == [(1, "lost"), (2, "failed")]
