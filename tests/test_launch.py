"""What starts a training on several devices: the call of each launcher, and the recipes in deploy/."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
from ruamel.yaml import YAML

from convloop.config import TrainParams
from convloop.core.ranks import Launch
from convloop.errors import DeviceError, ParamsError
from convloop.launch import launch, own_address, slurm_words, torchrun_words
from tests.conftest import REPOSITORY, Convloop
from tests.system.trainings import local_client, statuses

_DEPLOY = REPOSITORY / "deploy"


def _settings(**train: Any) -> TrainParams:
    return TrainParams.model_validate({"accelerator": "cpu", "devices": 2, **train})


def test_torchrun_on_one_host_needs_no_address() -> None:
    assert torchrun_words(_settings(launcher="torchrun"), 2)[1:] == [
        *("-m", "convloop.torchrun", "--nnodes", "1", "--nproc-per-node", "2", "--max-restarts", "3"),
        *("--standalone", "-m", "convloop"),
    ]


def test_torchrun_meets_at_the_address_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_RDZV_ENDPOINT", "127.0.0.1:29400")
    assert torchrun_words(_settings(launcher="torchrun", nodes=3, batch_size=66), 2)[3:] == [
        *("--nnodes", "3", "--nproc-per-node", "2", "--max-restarts", "3", "--rdzv-backend", "c10d"),
        *("--local-addr", "127.0.0.1", "--rdzv-conf", "is_host=1", "-m", "convloop"),
    ]


def test_what_torchrun_is_told_of_the_meeting_counts_on_every_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_RDZV_ENDPOINT", "127.0.0.1:29400")
    monkeypatch.setenv("PET_RDZV_CONF", "last_call_timeout=5")
    words = torchrun_words(_settings(launcher="torchrun", nodes=2), 2)
    assert words[words.index("--rdzv-conf") + 1] == "is_host=1,last_call_timeout=5"


def test_a_batch_that_the_hosts_that_are_left_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_RDZV_ENDPOINT", "127.0.0.1:29400")
    monkeypatch.setenv("PET_NNODES", "2:4")
    with pytest.raises(ParamsError) as error:
        torchrun_words(_settings(launcher="torchrun", nodes=4, batch_size=64), 2)
    assert str(error.value) == (
        "PET_NNODES is 2:4, but the devices of 3 hosts cannot share params.yaml: train.batch_size 64 evenly. "
        "Use another size, or other limits of PET_NNODES."
    )


@pytest.mark.parametrize("nodes", ["two", "0", "2:1", "1:many", ""])
def test_a_number_of_hosts_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, nodes: str) -> None:
    monkeypatch.setenv("PET_RDZV_ENDPOINT", "127.0.0.1:29400")
    monkeypatch.setenv("PET_NNODES", nodes)
    with pytest.raises(ParamsError) as error:
        torchrun_words(_settings(launcher="torchrun", nodes=2), 2)
    assert str(error.value) == (
        f"PET_NNODES is {nodes}. Use a number of hosts, such as 2, or the fewest and the most: 1:2"
    )


def test_beginning_again_is_refused_where_hosts_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_NNODES", "1:2")
    with pytest.raises(ParamsError) as error:
        launch(_settings(launcher="torchrun", nodes=2), ["train", "--fresh"])
    assert str(error.value) == (
        "--fresh would begin again with each host that joins: PET_NNODES is a range. Unset it, or leave out --fresh."
    )


def test_several_hosts_without_an_address_are_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PET_RDZV_ENDPOINT", raising=False)
    with pytest.raises(ParamsError) as error:
        torchrun_words(_settings(launcher="torchrun", nodes=2), 2)
    assert str(error.value) == (
        "params.yaml: train.launcher is torchrun and train.nodes is 2, but no address is set where they meet. "
        "On every host: export PET_RDZV_ENDPOINT=<address of one of them>:29400"
    )


def test_a_host_knows_its_own_address() -> None:
    assert own_address("127.0.0.1:29400") == "127.0.0.1"


def test_slurm_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError) as error:
        slurm_words(_settings(launcher="slurm"), 2)
    assert str(error.value) == (
        "params.yaml: train.launcher is slurm, but there is no srun here. Use lightning or torchrun."
    )


def test_a_process_that_torchrun_started_starts_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert launch(_settings(launcher="torchrun"), ["train"]) is None


def test_devices_that_the_launcher_did_not_start_are_refused() -> None:
    from convloop.training.devices import placement

    with pytest.raises(ParamsError) as error:
        placement(_settings(), Launch("torchrun", 2, 4))
    assert str(error.value) == (
        "params.yaml: train.devices is 2, but torchrun started 4 on each host. Set train.devices to 4 or auto, or start 2."
    )


# SLURM's own srun, as far as a training sees it: the variables of two tasks on one host.
_SRUN = """\
#!/bin/sh
while case "$1" in --*) true ;; *) false ;; esac; do shift; done
export SLURM_JOB_ID=4242 SLURM_STEP_ID=0 SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=2 SLURM_NNODES=1 SLURM_NODELIST=127.0.0.1
export SLURM_JOB_NAME=convloop SLURM_NODEID=0
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" &
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" && wait
"""


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.parametrize("launcher", ["torchrun", "slurm"])
def test_a_launcher_makes_one_run_and_one_model(
    trained: Path, convloop: Convloop, tmp_path: Path, launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "srun").write_text(_SRUN)
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin")
    keys = {"accelerator": "cpu", "devices": 2, "launcher": launcher}

    done = convloop("train", *(word for key, value in keys.items() for word in ("--set", f"train.{key}={value}")))

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/2") == 1
    assert statuses(local_client(trained)) == ["FINISHED"]
    assert '"world_size": "2"' in (trained / "reports/train/record.json").read_text()


_TORCHRUN = ("train", *(f"--set=train.{key}" for key in ("accelerator=cpu", "devices=2", "launcher=torchrun")))


@pytest.mark.slow
@pytest.mark.system
def test_under_torchrun_a_mistake_is_told_once_and_starts_nothing_again(trained: Path, convloop: Convloop) -> None:
    shutil.rmtree(trained / "data/prepared")

    done = convloop(*_TORCHRUN)

    missing = f"{trained}/data/prepared/card.json is missing. Make it: dvc repro prepare"
    assert (done.returncode, done.stdout, done.stderr) == (3, "", f"convloop: {missing}\n")


@pytest.mark.parametrize("name", ["slurm.sh", "torchrun.sh"])
def test_a_recipe_is_a_script_that_a_shell_can_read(name: str) -> None:
    assert subprocess.run(["sh", "-n", _DEPLOY / name], check=False).returncode == 0


def test_torchrun_recipe_sets_the_address_and_runs_dvc(tmp_path: Path) -> None:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy/torchrun.sh").write_text((_DEPLOY / "torchrun.sh").read_text())
    (tmp_path / "dvc").write_text('#!/bin/sh\necho "dvc $* at $PET_RDZV_ENDPOINT"\n')
    (tmp_path / "dvc").chmod(0o755)

    done = subprocess.run(
        ["sh", tmp_path / "deploy/torchrun.sh", "repro", "host0"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "dvc repro at host0:29400\n", "")


def test_trainjob_is_what_kubeflow_reads() -> None:
    job = YAML(typ="safe", pure=True).load(_DEPLOY / "trainjob.yaml")
    read = TrainerV1alpha1TrainJob.from_dict(job)

    assert read is not None
    assert read.to_dict() == job  # a key that Kubeflow does not know would be lost
