"""Stop training in every usual way: a true status, a true exit code, nothing left running, nothing lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.conftest import Convloop, environment

pytestmark = [pytest.mark.system, pytest.mark.slow]

_LONG = ("--set", "train.epochs=400", "--set", "train.keep=last")


def _start(trained: Path, *words: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "convloop", "train", *_LONG, *words],
        cwd=trained,
        env=environment(trained),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            return process
    raise AssertionError(f"training ended with {process.wait()} before its second epoch")


def _end(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    with process.stdout:
        process.stdout.read()
    return process.wait(60)


def _statuses(trained: Path) -> list[str]:
    client = MlflowClient(f"sqlite:///{trained}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("small")
    return [run.info.status for run in client.search_runs([experiment.experiment_id])]


def _left_running(trained: Path) -> list[int]:
    """Find training processes of this project that live on, zombies not counted."""
    left = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        words = process.info["cmdline"] or []
        if "convloop" in words and process.info["status"] != psutil.STATUS_ZOMBIE:
            try:
                if process.cwd() == str(trained):
                    left.append(process.pid)
            except psutil.Error:
                continue
    return left


@pytest.mark.parametrize(("sent", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_stopped_training_keeps_its_state_and_a_true_status(
    trained: Path, convloop: Convloop, sent: signal.Signals, exit_code: int, devices: int
) -> None:
    ranks = () if devices == 1 else ("--set", "train.devices=2", "--set", "train.strategy=ddp")
    process = _start(trained, *ranks)
    os.killpg(process.pid, sent) if sent == signal.SIGINT else os.kill(process.pid, sent)

    assert _end(process) == exit_code
    assert _statuses(trained) == ["KILLED"]
    assert list((trained / "work/checkpoints").glob("*/last.ckpt"))
    time.sleep(2)
    assert _left_running(trained) == []


def test_a_killed_training_goes_on_in_the_same_run(trained: Path, convloop: Convloop) -> None:
    process = _start(trained, "--set", "train.lr=0.0015")
    os.kill(process.pid, signal.SIGKILL)
    _end(process)
    (state,) = (trained / "work/checkpoints").iterdir()
    before = (state / "run_id").read_text()

    again = _start(trained, "--set", "train.lr=0.0015") if not (state / "finished").exists() else None
    assert again is not None
    os.kill(again.pid, signal.SIGTERM)
    _end(again)

    assert (state / "run_id").read_text() == before
    assert _statuses(trained) == ["KILLED"]


def test_killing_dvc_ends_the_training_too(repository: Path, dvc: Convloop) -> None:
    dvc("repro", "prepare")
    params = repository / "params.yaml"
    params.write_text(params.read_text().replace("epochs: 2", "epochs: 400"))
    process = subprocess.Popen(
        ["dvc", "repro", "train"],
        cwd=repository,
        env=environment(repository),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    os.kill(process.pid, signal.SIGKILL)

    _end(process)

    assert _left_running(repository) == []
    assert _statuses(repository) == ["KILLED"]


def test_training_survives_a_dead_server_and_sync_sends_it_later(trained: Path, convloop: Convloop) -> None:
    dead = convloop("train", MLFLOW_TRACKING_URI="http://127.0.0.1:9")

    assert dead.returncode == 0, dead.stderr
    assert dead.stderr.splitlines()[0] == (
        "No answer from MLflow at http://127.0.0.1:9 in 5 s. Training goes on; its history is kept. "
        "Send it later: convloop sync"
    )

    synced = convloop("sync")

    assert synced.returncode == 0, synced.stderr
    assert _statuses(trained) == ["FINISHED"]


def test_two_ranks_make_one_run_and_one_model(trained: Path, convloop: Convloop) -> None:
    done = convloop(
        "train", "--set", "train.devices=2", "--set", "train.strategy=ddp", "--set", "train.accelerator=cpu"
    )

    assert done.returncode == 0, done.stderr
    assert _statuses(trained) == ["FINISHED"]
    assert convloop("evaluate").returncode == 0


def test_two_ranks_end_where_one_process_does(trained: Path, convloop: Convloop) -> None:
    words = ("--set", "train.batch_size=64", "--set", "train.accelerator=cpu", "--set", "train.epochs=2")
    convloop("train", *words)
    alone = (trained / "reports/train/history.csv").read_text().splitlines()[-1].split(",")
    convloop("train", *words, "--set", "train.devices=2", "--set", "train.strategy=ddp")
    ranks = (trained / "reports/train/history.csv").read_text().splitlines()[-1].split(",")

    # 417 training images: two ranks leave one out in each epoch, so the losses agree closely, not exactly.
    assert [float(value) for value in ranks[1:5]] == pytest.approx([float(value) for value in alone[1:5]], abs=0.05)
