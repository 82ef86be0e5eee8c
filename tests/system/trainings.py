"""Start a real training, wait for a moment in it, and look at what it left."""

import csv
import subprocess
import sys
from pathlib import Path

import psutil
from mlflow import MlflowClient

from tests.conftest import environment


def start(project: Path, *words: str, until: str, **variables: str) -> "subprocess.Popen[str]":
    """Run `convloop` until it prints a line that begins with `until`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "convloop", *words],
        cwd=project,
        env=environment(project, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    read_until(process, until)
    return process


def read_until(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith(text):
            return
    raise AssertionError(f"it ended with {process.wait()} before it said {text!r}: {''.join(said)}")


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for the end; give exit code and what it said last."""
    assert process.stdout is not None
    with process.stdout:
        said = process.stdout.read()
    return process.wait(60), said


def statuses(client: MlflowClient, experiment: str = "small") -> list[str]:
    found = client.get_experiment_by_name(experiment)
    return [run.info.status for run in client.search_runs([found.experiment_id])]


def local_client(project: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{project}/mlruns/mlflow.db")


def points_missing(client: MlflowClient, experiment: str, history: Path) -> dict[str, object]:
    """Compare the only run's points with a history file, times and steps included: empty when both say the same."""
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    with history.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert rows
    wrong: dict[str, object] = {}
    for name in set(rows[0]) - {"epoch", "time_ms"}:
        shown = [
            (point.step, point.value, point.timestamp) for point in client.get_metric_history(run.info.run_id, name)
        ]
        if sorted(shown) != [(int(row["epoch"]), float(row[name]), int(row["time_ms"])) for row in rows]:
            wrong[name] = shown
    return wrong


def left_running(project: Path) -> list[int]:
    """Find training processes of this project that live on, zombies not counted."""
    left = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        words = process.info["cmdline"] or []
        if (
            any(word in ("convloop", "convloop.__main__") for word in words)
            and process.info["status"] != psutil.STATUS_ZOMBIE
        ):
            try:
                if process.cwd() == str(project):
                    left.append(process.pid)
            except psutil.Error:
                continue
    return left
