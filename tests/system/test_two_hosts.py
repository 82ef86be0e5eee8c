"""Two hosts, which are two network namespaces with an address each: a lost worker and a lost host cost no step."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from convloop.core.history import read_history
from tests.conftest import Convloop, environment
from tests.system.trainings import end, local_client, points_missing, read_until, statuses

pytestmark = [pytest.mark.system, pytest.mark.slow]

_ADDRESSES = ("10.213.77.1", "10.213.77.2")
_ON_ONE_HOST = ("--set", "train.nodes=1", "--set", "train.devices=2", "--set", "train.launcher=lightning")
_PARAMS = "train: {net: {name: cnn2}, epochs: 40, batch_size: 32, lr: 0.002, keep: last, accelerator: cpu, devices: 1,"


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two namespaces joined by a wire."""
    names = (f"clA{os.getpid()}", f"clB{os.getpid()}")
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", "wire", "netns", names[0], "type", "veth", "peer", "name", "wire", "netns", names[1])
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs root and iproute2: two hosts are two network namespaces")
    for name, address in zip(names, _ADDRESSES, strict=True):
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "wire")
        for device in ("lo", "wire"):
            _ip("-n", name, "link", "set", device, "up")
    yield names
    for name in names:
        _end_host(name)
        _ip("netns", "del", name)


@pytest.fixture
def project_of_two(trained: Path) -> Path:
    """A project on a disk that both hosts see, whose model is still to be trained."""
    for name in ("models", "reports/train", "reports/evaluate"):
        shutil.rmtree(trained / name)
    params = trained / "params.yaml"
    lines = [line for line in params.read_text().splitlines() if not line.startswith("train:")]
    params.write_text("\n".join([*lines, f"{_PARAMS} nodes: 2, launcher: torchrun}}", ""]))
    return trained


def _start_host(project: Path, host: str, log: Path | None = None) -> "subprocess.Popen[str]":
    with (log or Path(os.devnull)).open("a") as file:
        return subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, "-m", "convloop", "train"],
            cwd=project,
            env=environment(project, PET_RDZV_ENDPOINT=f"{_ADDRESSES[0]}:29400"),
            stdout=file if log else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def _processes(host: str) -> list[psutil.Process]:
    return [psutil.Process(int(pid)) for pid in _ip("netns", "pids", host).split()]


def _end_host(host: str) -> None:
    """End all at once, as when the power fails."""
    for process in _processes(host):
        process.kill()


def _worker(host: str) -> psutil.Process:
    (found,) = [process for process in _processes(host) if "TORCHELASTIC_RUN_ID" in process.environ()]
    return found


def test_a_training_on_two_hosts_survives_a_worker_and_then_a_host(
    project_of_two: Path, hosts: tuple[str, str], convloop: Convloop, tmp_path: Path
) -> None:
    project, (first, second) = project_of_two, hosts
    lead = _start_host(project, first)
    other = _start_host(project, second, tmp_path / "second.log")
    read_until(lead, "epoch 2/")

    _worker(second).send_signal(signal.SIGKILL)
    read_until(lead, "Going on from work/checkpoints/")
    read_until(lead, "epoch ")
    read_until(lead, "epoch ")

    _end_host(second)
    other.wait(60)
    other = _start_host(project, second, tmp_path / "second.log")
    read_until(lead, "Going on from work/checkpoints/")
    exit_code, said = end(lead)

    assert exit_code == 0, said
    assert other.wait(60) == 0, (tmp_path / "second.log").read_text()
    assert statuses(local_client(project)) == ["FINISHED"]
    assert points_missing(local_client(project), "small", project / "reports/train/history.csv") == {}
    assert convloop("evaluate").returncode == 0

    over_hosts = read_history(project / "reports/train/history.csv")[-1]
    assert convloop("train", *_ON_ONE_HOST).returncode == 0
    on_one = read_history(project / "reports/train/history.csv")[-1]
    assert over_hosts["train/loss"] == pytest.approx(on_one["train/loss"], abs=1e-4)
