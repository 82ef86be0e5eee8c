"""Stop training in every way, at every moment: a true status and exit code, nothing left running, nothing lost."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.conftest import Convloop, environment
from tests.system.trainings import end, left_running, local_client, points_missing, read_until, start, statuses

pytestmark = [pytest.mark.system, pytest.mark.slow]

_WORDS = ("train", "--set", "train.epochs=30", "--set", "train.keep=last", "--set", "train.accelerator=cpu")
_RANKS = ("--set", "train.devices=2", "--set", "train.strategy=ddp")
_EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
_MOMENTS = {"before the first step": "layer", "in the middle": "epoch 3/", "at the end": "epoch 30/"}


@pytest.fixture
def prepared(trained: Path) -> Path:
    """A project whose data are ready and whose model is still to be trained."""
    for name in ("models", "reports/train", "reports/evaluate"):
        shutil.rmtree(trained / name)
    return trained


def _finish(project: Path, convloop: Convloop, *words: str) -> None:
    """Give the same command again: one run in all, finished, with every epoch's points once."""
    again = convloop(*_WORDS, *words)
    assert again.returncode == 0, again.stderr
    assert statuses(local_client(project)) == ["FINISHED"]
    assert points_missing(local_client(project), "small", project / "reports/train/history.csv") == {}


@pytest.mark.parametrize("moment", _MOMENTS)
@pytest.mark.parametrize("sent", _EXIT_CODES, ids=lambda sent: sent.name)
def test_one_process_is_stopped(prepared: Path, convloop: Convloop, sent: signal.Signals, moment: str) -> None:
    process = start(prepared, *_WORDS, until=_MOMENTS[moment])
    os.kill(process.pid, sent)

    exit_code, said = end(process)
    assert convloop("doctor").stdout.count("FAIL") == 2  # no DVC and no git in this project

    if exit_code == 0:  # it was through with everything when the signal came
        assert moment == "at the end"
        assert statuses(local_client(prepared)) == ["FINISHED"]
        return
    assert exit_code == _EXIT_CODES[sent], said
    if moment == "in the middle":
        assert statuses(local_client(prepared)) == ["KILLED"]
        (state,) = (prepared / "work/checkpoints").iterdir()
        assert points_missing(local_client(prepared), "small", state / "history.csv") == {}
    _finish(prepared, convloop)


@pytest.mark.parametrize("sent", _EXIT_CODES, ids=lambda sent: sent.name)
def test_the_lead_of_two_ranks_is_stopped(prepared: Path, convloop: Convloop, sent: signal.Signals) -> None:
    process = start(prepared, *_WORDS, *_RANKS, until="epoch 3/")
    os.killpg(process.pid, sent) if sent == signal.SIGINT else os.kill(process.pid, sent)

    exit_code, said = end(process)
    time.sleep(2)

    assert exit_code == _EXIT_CODES[sent], said
    assert left_running(prepared) == []
    assert convloop("doctor").stdout.count("FAIL") == 2
    assert statuses(local_client(prepared)) == ["KILLED"]
    _finish(prepared, convloop, *_RANKS)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda sent: sent.name)
def test_torchrun_is_stopped_and_starts_nothing_again(prepared: Path, sent: signal.Signals) -> None:
    words = ("--set", "train.devices=2", "--set", "train.launcher=torchrun")
    process = start(prepared, *_WORDS, *words, until="epoch 3/")
    os.killpg(process.pid, sent) if sent == signal.SIGINT else os.kill(process.pid, sent)

    exit_code, said = end(process)
    time.sleep(2)

    assert exit_code == _EXIT_CODES[sent], said
    assert "Traceback" not in said
    assert "start again" not in said
    assert said.count("convloop: stopped. The same command goes on from here.") == said.count("stopped") == 1
    assert left_running(prepared) == []
    assert statuses(local_client(prepared)) == ["KILLED"]


def test_a_process_killed_under_torchrun_costs_a_restart_and_no_step(prepared: Path) -> None:
    words = ("--set", "train.devices=2", "--set", "train.launcher=torchrun")
    process = start(prepared, *_WORDS, *words, until="epoch 3/")
    (lead,) = [one for one in psutil.Process(process.pid).children(recursive=True) if one.environ().get("RANK") == "0"]
    lead.kill()
    read_until(process, "Going on from work/checkpoints/")
    exit_code, said = end(process)

    assert exit_code == 0, said
    assert left_running(prepared) == []
    assert statuses(local_client(prepared)) == ["FINISHED"]


def test_another_rank_is_killed(prepared: Path, convloop: Convloop) -> None:
    process = start(prepared, *_WORDS, *_RANKS, until="epoch 3/")
    (other,) = set(left_running(prepared)) - {process.pid}
    os.kill(other, signal.SIGKILL)

    exit_code, said = end(process)

    assert exit_code == 6, said
    assert "convloop: Rank 1 of 2 was ended by SIGKILL" in said
    assert left_running(prepared) == []
    assert statuses(local_client(prepared)) == ["FAILED"]
    _finish(prepared, convloop, *_RANKS)


def test_a_loss_that_is_no_number_fails_the_run(prepared: Path, convloop: Convloop) -> None:
    process = start(prepared, *_WORDS, until="epoch 3/")
    process.terminate()
    end(process)
    (state,) = (prepared / "work/checkpoints").iterdir()
    checkpoint = torch.load(state / "last.ckpt", weights_only=False)
    next(iter(checkpoint["state_dict"].values())).fill_(float("nan"))
    torch.save(checkpoint, state / "last.ckpt")

    done = convloop(*_WORDS)

    assert done.returncode == 6
    assert done.stderr.startswith("convloop: The loss was nan by step ")
    assert statuses(local_client(prepared)) == ["FAILED"]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM], ids=lambda sent: sent.name)
def test_dvc_is_stopped_above_a_training(repository: Path, dvc: Convloop, sent: signal.Signals) -> None:
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
    read_until(process, "epoch 2/")
    os.kill(process.pid, sent)

    exit_code, said = end(process)

    assert exit_code != 0, said
    assert left_running(repository) == []
    assert statuses(local_client(repository)) == ["KILLED"]


@pytest.mark.parametrize("rank_count", [2, 4])
def test_several_ranks_make_one_run_and_one_model(prepared: Path, convloop: Convloop, rank_count: int) -> None:
    done = convloop(*_WORDS, *_RANKS, "--set", f"train.devices={rank_count}", "--set", "train.epochs=2")

    assert done.returncode == 0, done.stderr
    assert statuses(local_client(prepared)) == ["FINISHED"]
    assert convloop("evaluate").returncode == 0


def test_two_and_four_ranks_end_in_the_weights_of_one_process(prepared: Path, convloop: Convloop) -> None:
    # 417 training images in batches of 52: the last batch holds one image.
    def weights(rank_count: int) -> dict[str, torch.Tensor]:
        words = (*_WORDS, "--set", "train.batch_size=52", "--set", "train.epochs=2")
        done = convloop(*words, *_RANKS, "--set", f"train.devices={rank_count}")
        assert done.returncode == 0, done.stderr
        newest = max((prepared / "work/checkpoints").iterdir(), key=lambda state: state.stat().st_mtime)
        chosen: dict[str, torch.Tensor] = torch.load(newest / "last.ckpt", weights_only=True)["state_dict"]
        return chosen

    alone, two, four = weights(1), weights(2), weights(4)

    torch.testing.assert_close(two, alone, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(four, alone, rtol=1e-3, atol=1e-4)


def test_the_same_training_is_not_run_twice_at_once(prepared: Path, convloop: Convloop) -> None:
    process = start(prepared, *_WORDS, "--set", "train.epochs=400", until="epoch 2/")
    second = convloop(*_WORDS, "--set", "train.epochs=400")
    process.terminate()
    end(process)

    assert second.returncode == 75
    assert second.stderr.startswith("convloop: This very training is running already; it holds ")
    assert statuses(local_client(prepared)) == ["KILLED"]
