"""Two hosts, which are two network namespaces with an address each: a lost worker and a lost host cost no step.

Hosts may also come and go, or meet a mistake that a user has to mend.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from tests.conftest import Convloop, environment
from tests.system.trainings import end, local_client, points_missing, read_until, statuses

pytestmark = [pytest.mark.system, pytest.mark.slow]

_ADDRESSES = ("10.213.77.1", "10.213.77.2")
# Two hosts at best, one at least; torchrun waits 15 s for a lost one and 30 s for further ones if nothing is said.
_ELASTIC = {
    "PET_NNODES": "1:2",
    "PET_RDZV_CONF": "last_call_timeout=4,keep_alive_interval=1,keep_alive_max_attempt=3",
}
# Rounding differs with the number of processes. In small plain steps it grows to 1e-7, where a missing one makes 1e-5.
_PARAMS = (
    "train: {net: {name: cnn2}, epochs: 20, batch_size: 32, optimizer: sgd, lr: 0.0002, keep: last, accelerator: cpu, "
    "precision: 32, devices: 1, nodes: %s, launcher: %s}"
)


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
    _write_params(trained, _PARAMS % (2, "torchrun"))
    return trained


@pytest.fixture(scope="module")
def undisturbed_weights(trained_files: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What one process makes of the same params."""
    project = tmp_path_factory.mktemp("undisturbed") / "project"
    shutil.copytree(trained_files, project)
    _write_params(project, _PARAMS % (1, "lightning"))
    command = [sys.executable, "-m", "convloop", "train"]
    subprocess.run(command, cwd=project, env=environment(project, OMP_NUM_THREADS="1"), check=True)
    return _weights(project)


def _write_params(project: Path, train: str) -> None:
    params = project / "params.yaml"
    lines = [line for line in params.read_text().splitlines() if not line.startswith("train:")]
    params.write_text("\n".join([*lines, train, ""]))


def _weights(project: Path) -> dict[str, torch.Tensor]:
    """Give the weights of the last training."""
    newest = max((project / "work/checkpoints").iterdir(), key=lambda state: state.stat().st_mtime)
    weights: dict[str, torch.Tensor] = torch.load(newest / "last.ckpt", weights_only=True)["state_dict"]
    return weights


def _start_host(
    project: Path, host: str, log: Path | None = None, *words: str, **variables: str
) -> "subprocess.Popen[str]":
    with (log or Path(os.devnull)).open("a") as file:
        return subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, "-m", "convloop", "train", *words],
            cwd=project,
            env=environment(project, PET_RDZV_ENDPOINT=f"{_ADDRESSES[0]}:29400", **variables),
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
    project_of_two: Path,
    hosts: tuple[str, str],
    undisturbed_weights: dict[str, torch.Tensor],
    convloop: Convloop,
    tmp_path: Path,
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

    torch.testing.assert_close(_weights(project), undisturbed_weights, rtol=0, atol=1e-6)


def _hold_until_asked_to_end(process: psutil.Process) -> None:
    """Stop a process until SIGTERM waits for it."""
    process.suspend()
    give_up_s = time.monotonic() + 60
    while time.monotonic() < give_up_s:
        lines = dict(line.split(":\t") for line in Path(f"/proc/{process.pid}/status").read_text().splitlines())
        if int(lines["ShdPnd"], 16) >> (signal.SIGTERM - 1) & 1:
            break
        time.sleep(0.1)
    process.resume()


def test_the_host_that_is_left_goes_on_and_one_that_comes_later_is_taken_in(
    project_of_two: Path, hosts: tuple[str, str], undisturbed_weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    project, (first, second) = project_of_two, hosts
    lead = _start_host(project, first, None, **_ELASTIC)
    other = _start_host(project, second, tmp_path / "second.log", **_ELASTIC)
    read_until(lead, "epoch 2/")
    together = _worker(first).environ()["WORLD_SIZE"]

    _end_host(second)
    other.wait(60)
    read_until(lead, "Going on from work/checkpoints/")
    read_until(lead, "epoch ")
    alone = _worker(first).environ()["WORLD_SIZE"]

    other = _start_host(project, second, tmp_path / "second.log", **_ELASTIC)
    _hold_until_asked_to_end(_worker(first))
    read_until(lead, "Going on from work/checkpoints/")
    exit_code, said = end(lead)

    assert exit_code == 0, said
    assert other.wait(60) == 0, (tmp_path / "second.log").read_text()
    assert (together, alone) == ("2", "1")
    assert '"world_size": "2"' in (project / "reports/train/record.json").read_text()
    assert statuses(local_client(project)) == ["FINISHED"]
    assert points_missing(local_client(project), "small", project / "reports/train/history.csv") == {}

    torch.testing.assert_close(_weights(project), undisturbed_weights, rtol=0, atol=1e-6)
