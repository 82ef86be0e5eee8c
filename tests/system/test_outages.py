"""Training never waits for a tracking server nor dies of it, and in the end the server knows every point once."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import Convloop
from tests.system.fault_server import KINDS, FaultServer, mlflow_server
from tests.system.trainings import end, points_missing, read_until, start, statuses

pytestmark = [pytest.mark.system, pytest.mark.slow]

_EPOCHS = ("--set", "train.epochs=8", "--set", "train.keep=last", "--set", "tracking.timeout_s=1")


@pytest.fixture(scope="module")
def real_port(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> Iterator[int]:
    with mlflow_server(tmp_path_factory.mktemp("server"), migrated_store) as port:
        yield port


@pytest.fixture
def server(real_port: int, trained: Path) -> Iterator[FaultServer]:
    """A server that can fall ill; `trained` has an experiment of its own on it."""
    sick = FaultServer(real_port)
    for name in ("models", "reports/train", "reports/evaluate"):  # of another training
        shutil.rmtree(trained / name)
    params = trained / "params.yaml"
    params.write_text(params.read_text().replace("experiment: small", f"experiment: {trained.parent.name}"))
    yield sick
    sick.close()


@pytest.fixture
def client(real_port: int) -> MlflowClient:
    return MlflowClient(f"http://127.0.0.1:{real_port}")


def _sync(convloop: Convloop, server: FaultServer) -> None:
    synced = convloop("sync", MLFLOW_TRACKING_URI=server.uri)
    assert synced.returncode == 0, synced.stderr


def _assert_whole(client: MlflowClient, trained: Path) -> None:
    """One run in all, finished, with every epoch's points once."""
    experiment = trained.parent.name
    assert statuses(client, experiment) == ["FINISHED"]
    assert points_missing(client, experiment, trained / "reports/train/history.csv") == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_ill_from_beginning_to_end(
    kind: str, server: FaultServer, trained: Path, convloop: Convloop, client: MlflowClient
) -> None:
    server.be(kind)
    done = convloop("train", *_EPOCHS, MLFLOW_TRACKING_URI=server.uri)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("convloop sync") == 1

    server.be("well")
    _sync(convloop, server)

    _assert_whole(client, trained)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_falls_ill_in_the_middle_and_stays_so(
    kind: str, server: FaultServer, trained: Path, convloop: Convloop, client: MlflowClient
) -> None:
    process = start(trained, "train", *_EPOCHS, until="epoch 3/", MLFLOW_TRACKING_URI=server.uri)
    server.be(kind)
    exit_code, said = end(process)
    assert exit_code == 0, said

    server.be("well")
    _sync(convloop, server)

    _assert_whole(client, trained)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_gets_well_during_the_training(
    kind: str, server: FaultServer, trained: Path, convloop: Convloop, client: MlflowClient
) -> None:
    server.be(kind)
    words = ("train", "--set", "train.epochs=40", *_EPOCHS[2:])
    process = start(trained, *words, until="epoch 3/", MLFLOW_TRACKING_URI=server.uri)
    server.be("well")
    exit_code, said = end(process)
    assert exit_code == 0, said

    _sync(convloop, server)

    _assert_whole(client, trained)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_killed_while_the_server_is_ill(
    kind: str, server: FaultServer, trained: Path, convloop: Convloop, client: MlflowClient
) -> None:
    process = start(trained, "train", *_EPOCHS, until="epoch 2/", MLFLOW_TRACKING_URI=server.uri)
    server.be(kind)
    read_until(process, "epoch 4/")
    os.kill(process.pid, signal.SIGKILL)
    assert end(process)[0] == -signal.SIGKILL

    server.be("well")
    _sync(convloop, server)

    experiment, (state,) = trained.parent.name, (trained / "work/checkpoints").iterdir()
    assert statuses(client, experiment) == ["KILLED"]
    assert points_missing(client, experiment, state / "history.csv") == {}

    again = convloop("train", *_EPOCHS, MLFLOW_TRACKING_URI=server.uri)
    assert again.returncode == 0, again.stderr
    _sync(convloop, server)
    _assert_whole(client, trained)


def test_register_refuses_while_the_server_is_away_and_ends_the_job_afterwards(
    server: FaultServer, trained: Path, convloop: Convloop, client: MlflowClient
) -> None:
    server.be("refused")
    for word in ("train", "evaluate"):
        done = convloop(word, MLFLOW_TRACKING_URI=server.uri)
        assert done.returncode == 0, done.stderr
    refused = convloop("register", MLFLOW_TRACKING_URI=server.uri)
    assert refused.returncode == 5
    assert refused.stderr == (
        f"convloop: No answer from MLflow at {server.uri} in 5 s. "
        "Start the server or unset MLFLOW_TRACKING_URI, then run the same command again.\n"
    )

    server.be("well")
    registered = convloop("register", MLFLOW_TRACKING_URI=server.uri)

    assert registered.returncode == 0, registered.stderr
    _assert_whole(client, trained)
