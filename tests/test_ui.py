"""The UI: it serves this project's runs, says where, and leaves nothing behind."""

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from convloop import store
from convloop.config import Params
from convloop.errors import TrackingError
from convloop.ui import link, serve
from tests.conftest import Convloop, environment
from tests.test_retrain import left_running
from tests.test_store import closed_port


def _start(project: Path, port: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "convloop", "ui", "--port", str(port)],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.parametrize(("sent", "exit_code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_server_answers_shows_the_experiment_and_leaves_nothing(
    project: Path, sent: signal.Signals, exit_code: int
) -> None:
    experiment_id = store.connect(project, 5).create_experiment("small")
    port = closed_port()
    process = _start(project, port)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
        health = answer.read().decode()
    address = f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/experiments/get?experiment_id={experiment_id}"
    with urllib.request.urlopen(address, timeout=60) as answer:
        experiment = answer.read().decode()
    process.send_signal(sent)
    process.communicate()
    assert lines == [
        f"The runs: http://127.0.0.1:{port}/#/experiments/{experiment_id}/runs?workflowType=machine_learning\n",
        "The registry is on its left, under Model registry. Stop with Ctrl-C.\n",
    ]
    assert health == "OK"
    assert '"name": "small"' in experiment
    assert process.returncode == exit_code
    assert left_running(project) == {}
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_taken_port_is_named_with_another(project: Path, params: Params) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TrackingError) as raised:
            serve(project, params.tracking, port)
    assert str(raised.value) == (
        f"Port {port} is taken (Address already in use). Choose another: convloop ui --port {port + 1}"
    )


def test_taken_port_ends_with_5(project: Path, convloop: Convloop) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = convloop("ui", "--port", str(port))
    assert (answer.returncode, answer.stdout, answer.stderr) == (
        5,
        "",
        f"convloop: Port {port} is taken (Address already in use). Choose another: convloop ui --port {port + 1}\n",
    )


@pytest.mark.parametrize("port", [0, -1, 65536, 99999])
def test_port_out_of_range_is_refused(project: Path, params: Params, port: int) -> None:
    with pytest.raises(TrackingError) as raised:
        serve(project, params.tracking, port)
    assert str(raised.value) == f"--port is {port}; it must be 1 to 65535. Choose another: convloop ui --port 5000"


def test_link_opens_the_view_for_models() -> None:
    assert link("http://mlflow:5000", "7") == "http://mlflow:5000/#/experiments/7/runs?workflowType=machine_learning"


def test_dead_server_is_a_message(project: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    port = closed_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with pytest.raises(TrackingError) as raised:
        serve(project, params.tracking, 5000)
    assert str(raised.value) == (
        f"No answer from MLflow at http://127.0.0.1:{port} in 5 s. "
        "Start the server or unset MLFLOW_TRACKING_URI, then run the same command again."
    )
