"""Kill real trainings in the middle of an epoch: the same weights, to the bit, as if nothing had happened."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from convloop.core.history import Row, read_history
from tests.conftest import Convloop
from tests.system.trainings import end, left_running, local_client, points_missing, read_until, start, statuses

pytestmark = [pytest.mark.system, pytest.mark.slow]

# 417 images: 53 steps in an epoch. A state in each step, so that a SIGKILL finds one that is new.
_SETTINGS = ("epochs=12", "batch_size=8", "keep=last", "accelerator=cpu", "save_every_s=0")
_WORDS = ("train", *(word for setting in _SETTINGS for word in ("--set", f"train.{setting}")))
_STEPS = 53


@pytest.fixture
def prepared(trained: Path) -> Path:
    """A project whose data are ready and whose model is still to be trained."""
    for name in ("models", "reports/train", "reports/evaluate"):
        shutil.rmtree(trained / name)
    return trained


def _state(project: Path) -> Path:
    return max((project / "work/checkpoints").iterdir(), key=lambda state: state.stat().st_mtime)


def _weights(project: Path) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = torch.load(_state(project) / "last.ckpt", weights_only=True)["state_dict"]
    return weights


def _rows(project: Path) -> list[Row]:
    names = ("epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy")
    return [{name: row[name] for name in names} for row in read_history(project / "reports/train/history.csv")]


@pytest.mark.parametrize("rank_count", [1, 2])
def test_killed_at_random_steps_it_ends_in_the_weights_of_an_uncut_one(
    prepared: Path, convloop: Convloop, rank_count: int
) -> None:
    words: tuple[str, ...] = (*_WORDS, "--set", "train.strategy=ddp", "--set", f"train.devices={rank_count}")
    uncut = convloop(*words)
    assert uncut.returncode == 0, uncut.stderr
    weights, rows = _weights(prepared), _rows(prepared)
    words += ("--set", "tracking.experiment=cut")

    for number, epoch, exit_code in ((signal.SIGKILL, 2, -9), (signal.SIGTERM, 7, 143)):
        process = start(prepared, *words, until=f"epoch {epoch}/")
        time.sleep(random.uniform(0, 0.3))
        process.send_signal(number)
        assert end(process)[0] == exit_code
    time.sleep(1)
    assert left_running(prepared) == []
    kept = torch.load(_state(prepared) / "last.ckpt", weights_only=True)
    assert ("train_sums_R3" in kept) == bool(kept["global_step"] % _STEPS)
    last = convloop(*words)

    assert last.returncode == 0, last.stderr
    assert "Going on from work/checkpoints/" in last.stdout
    assert _rows(prepared) == rows
    for name, tensor in _weights(prepared).items():
        assert torch.equal(tensor, weights[name]), name
    assert statuses(local_client(prepared), "cut") == ["FINISHED"]
    assert points_missing(local_client(prepared), "cut", prepared / "reports/train/history.csv") == {}


def test_what_a_cut_off_training_left_is_used_by_the_same_training_alone(prepared: Path, convloop: Convloop) -> None:
    process = start(prepared, *_WORDS, until="epoch 2/")
    process.terminate()
    end(process)
    state = _state(prepared)
    (state / "last.ckpt").write_bytes((state / "last.ckpt").read_bytes()[:-1000])

    # The last of two `--set` counts; with one epoch each ends soon.
    other = convloop(*_WORDS, "--set", "train.epochs=1", "--set", "train.lr=0.003")
    damaged = f"{state.relative_to(prepared)}/last.ckpt.damaged is put aside: it is damaged."
    process = start(prepared, *_WORDS, until=damaged)
    read_until(process, f"Going on from {state.relative_to(prepared)}/before.ckpt.")
    read_until(process, "epoch ")
    process.terminate()
    code, said = end(process)
    fresh = start(prepared, *_WORDS, "--fresh", until="epoch 1/")
    fresh.terminate()
    end(fresh)

    assert "Going on" not in other.stdout
    assert code == 143, said
    (aside,) = (prepared / "work/checkpoints").glob(f"{state.name}-*")
    assert (aside / "last.ckpt").is_file()
    assert sorted(statuses(local_client(prepared))) == ["FINISHED", "KILLED", "KILLED"]
