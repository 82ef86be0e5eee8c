"""Start the MLflow UI lean, wait until it really answers, and print the link that shows runs and registry."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from convloop import store
from convloop.errors import TrackingError
from convloop.processes import environment
from convloop.tracking import find_experiment_id

if TYPE_CHECKING:
    from convloop.config import TrackingParams

_HOST = "127.0.0.1"
_MAX_PORT, _USUAL_PORT = 65_535, 5000
_PATIENCE_S = 120


def serve(project: Path, settings: "TrackingParams", port: int) -> int:
    """Serve this project's store on loopback until stopped, and give the server's exit code.

    Where MLFLOW_TRACKING_URI names a server, that one has a UI already: only the link is printed.

    Raises:
        TrackingError: the port is taken, or the server does not come up.
    """
    client = store.connect(project, settings.timeout_s)
    experiment_id = find_experiment_id(client, settings.experiment)
    uri = store.tracking_uri(project)
    if uri.startswith("http"):
        print(f"The runs: {link(uri.rstrip('/'), experiment_id)}")
        return 0
    _check_free(port)
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(port), "--workers", "1"),
            *("--backend-store-uri", uri, "--artifacts-destination", (store.folder(project) / "artifacts").as_uri()),
            *("--allowed-hosts", f"{_HOST}:{port},localhost:{port}"),
        ],
        env={**environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _wait(server, port)
        print(f"The runs: {link(f'http://{_HOST}:{port}', experiment_id)}")
        print("The registry is on its left, under Model registry. Stop with Ctrl-C.", flush=True)
        while server.poll() is None:
            server.communicate()
        return server.returncode
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait()


def link(base: str, experiment_id: str) -> str:
    """Give the link that opens an experiment in the view for models; without it a fresh browser opens another one."""
    return f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def _check_free(port: int) -> None:
    if not 1 <= port <= _MAX_PORT:
        raise TrackingError(
            f"--port is {port}; it must be 1 to {_MAX_PORT}. Choose another: convloop ui --port {_USUAL_PORT}"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise TrackingError(
                f"Port {port} is taken ({error.strerror}). Choose another: convloop ui --port {port + 1}"
            ) from error


def _wait(server: "subprocess.Popen[str]", port: int) -> None:
    """Wait for an answer from this server: MLflow exits with 0 when it cannot have its port."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline_s:
        if server.poll() is not None:
            said = (server.communicate()[1] or "").strip().splitlines()
            raise TrackingError(f"The MLflow server ended at once: {said[-1] if said else 'no message'}")
        try:
            with urllib.request.urlopen(f"http://{_HOST}:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise TrackingError(f"The MLflow server on port {port} gave no answer in {_PATIENCE_S} s. See: convloop doctor")
