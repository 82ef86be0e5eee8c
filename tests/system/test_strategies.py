"""Each strategy on two CPU processes: trains, validates, keeps its state, is killed, goes on, and leaves a plain model."""

import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch

from convloop.core.history import read_history
from tests.conftest import Convloop
from tests.system.trainings import end, left_running, local_client, points_missing, start, statuses

pytestmark = [pytest.mark.system, pytest.mark.slow]

_WORDS = ("train", "--set", "train.epochs=8", "--set", "train.keep=last", "--set", "train.accelerator=cpu")


def _ranks(strategy: str, count: int = 2) -> tuple[str, ...]:
    return ("--set", f"train.devices={count}", "--set", f"train.strategy={strategy}")


@pytest.fixture
def prepared(trained: Path) -> Path:
    """A project whose data are ready and whose model is still to be trained."""
    for name in ("models", "reports/train", "reports/evaluate"):
        shutil.rmtree(trained / name)
    return trained


@pytest.mark.parametrize("strategy", ["ddp_spawn", "fsdp"])
def test_a_strategy_stopped_by_sigterm_goes_on_and_ends_as_ddp_does(
    prepared: Path, convloop: Convloop, strategy: str
) -> None:
    process = start(prepared, *_WORDS, *_ranks(strategy), until="epoch 2/")
    process.terminate()
    exit_code, said = end(process)
    time.sleep(1)
    assert (exit_code, left_running(prepared)) == (143, []), said
    assert statuses(local_client(prepared)) == ["KILLED"]

    done = convloop(*_WORDS, *_ranks(strategy))
    assert done.returncode == 0, done.stderr
    assert "Going on from work/checkpoints/" in done.stdout
    assert statuses(local_client(prepared)) == ["FINISHED"]
    assert points_missing(local_client(prepared), "small", prepared / "reports/train/history.csv") == {}
    assert convloop("evaluate").returncode == 0

    own = read_history(prepared / "reports/train/history.csv")[-1]
    assert convloop(*_WORDS, *_ranks("ddp")).returncode == 0
    plain = read_history(prepared / "reports/train/history.csv")[-1]
    assert own["train/loss"] == pytest.approx(plain["train/loss"], abs=1e-3)
    assert own["val/accuracy"] == plain["val/accuracy"]


def test_ddp_spawn_names_the_rank_that_was_killed(prepared: Path, convloop: Convloop) -> None:
    process = start(prepared, *_WORDS, *_ranks("ddp_spawn"), "--set", "train.epochs=400", until="epoch 2/")
    children = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    os.kill(max(children, key=lambda child: child.pid).pid, signal.SIGKILL)

    exit_code, said = end(process)

    assert exit_code == 6, said
    assert "convloop: Rank 1 of 2 was ended by SIGKILL, so the others cannot go on." in said
    assert [child.pid for child in children if psutil.pid_exists(child.pid)] == []
    assert statuses(local_client(prepared)) == ["FAILED"]


def test_ddp_spawn_leaves_no_child_behind_when_it_is_killed(prepared: Path) -> None:
    process = start(prepared, *_WORDS, *_ranks("ddp_spawn"), "--set", "train.epochs=400", until="epoch 2/")
    children = psutil.Process(process.pid).children()
    process.kill()
    end(process)
    _, alive = psutil.wait_procs(children, timeout=20)

    assert alive == []


def test_ddp_spawn_gives_the_message_of_a_child(prepared: Path, convloop: Convloop) -> None:
    done = convloop(*_WORDS, *_ranks("ddp_spawn"), "--set", "train.optimizer=sgd", "--set", "train.lr=10")

    assert done.returncode == 6, done.stderr
    assert "convloop: The loss was " in done.stderr
    assert "Traceback" not in done.stderr


def test_another_name_of_lightnings_is_passed_through(prepared: Path, convloop: Convloop) -> None:
    done = convloop(*_WORDS, *_ranks("ddp_find_unused_parameters_true"), "--set", "train.epochs=1")

    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn", "fsdp", "deepspeed"])
def test_a_strategy_on_two_gpus_ends_where_one_gpu_does(prepared: Path, convloop: Convloop, strategy: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    alone = ("--set", "train.accelerator=gpu", "--set", "train.epochs=2")
    assert convloop("train", *alone, "--set", "train.devices=1").returncode == 0
    one = read_history(prepared / "reports/train/history.csv")[-1]

    done = convloop("train", *alone, *_ranks(strategy))

    assert done.returncode == 0, done.stderr
    two = read_history(prepared / "reports/train/history.csv")[-1]
    assert two["train/loss"] == pytest.approx(one["train/loss"], abs=0.05)
