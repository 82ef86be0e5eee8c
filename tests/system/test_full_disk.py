"""A disk that is full or read-only: a clear message, exit code 7, nothing lost, and the same command then completes."""

import ctypes
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from convloop.core.history import read_history
from tests.conftest import environment

pytestmark = [pytest.mark.system, pytest.mark.slow]

_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1


def _obey_permissions() -> None:
    """Let root be stopped by the permissions of files as everybody is."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE)


def _convloop(project: Path, *words: str, limit_bytes: int | None = None) -> "subprocess.CompletedProcess[str]":
    def prepare() -> None:
        _obey_permissions()
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return subprocess.run(
        [sys.executable, "-m", "convloop", *words],
        cwd=project,
        env=environment(project),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=prepare,
    )


def test_read_only_store_stops_before_anything_is_lost(trained: Path) -> None:
    database = trained / "mlruns/mlflow.db"
    database.chmod(0o444)
    database.parent.chmod(0o555)
    try:
        stopped = _convloop(trained, "register")
        stopped_training = _convloop(trained, "train", "--set", "train.seed=1")
    finally:
        database.parent.chmod(0o755)
        database.chmod(0o644)
    done = _convloop(trained, "register")
    said = (
        f"convloop: The MLflow store {database} cannot be opened to write: attempt to write a readonly database. "
        f"Make room (df -h {database.parent}) or make it writable (ls -ld {database} {database.parent}), "
        "or move it away to start a new one.\n"
    )
    assert (stopped.returncode, stopped.stderr) == (7, said)
    assert (stopped_training.returncode, stopped_training.stderr) == (7, said)
    assert done.returncode == 0, done.stderr


def test_read_only_folder_for_a_backup_is_a_message(trained: Path) -> None:
    folder = trained / "kept"
    folder.mkdir()
    folder.chmod(0o555)
    answer = _convloop(trained, "store", "backup", "kept/x.tar")
    assert (answer.returncode, answer.stderr) == (
        7,
        "convloop: kept/x.tar cannot be written: Permission denied. Make room or make it writable (df -h kept; ls -ld kept), "
        "then run the same command again.\n",
    )


def test_backup_that_does_not_fit_leaves_nothing_behind(trained: Path) -> None:
    answer = _convloop(trained, "store", "backup", "x.tar", limit_bytes=500_000)
    assert (answer.returncode, answer.stdout) == (7, "")
    assert answer.stderr.startswith("convloop: x.tar cannot be written: ")
    assert "Traceback" not in answer.stderr
    assert list(trained.glob("x.tar*")) == []


_ON_A_SMALL_DISK = """
mount -t tmpfs -o size=$1 small mlruns || exit 99
cp kept.db mlruns/mlflow.db
shift
fill() { dd if=/dev/zero of=mlruns/filler bs=4k 2>/dev/null; true; }
free() { rm -f mlruns/filler; }
"""


def _on_a_small_disk(project: Path, size: str, script: str) -> "subprocess.CompletedProcess[str]":
    """Run a shell script in a namespace where mlruns is a disk of its own, and bring the store back from there."""
    shutil.copy(project / "mlruns/mlflow.db", project / "kept.db")
    words = ["unshare", "--mount", "--map-root-user"]
    end = "\nstatus=$?\ncp -r mlruns kept\nexit $status\n"
    done = subprocess.run(
        [*words, "sh", "-c", _ON_A_SMALL_DISK + script + end, "sh", size],
        cwd=project,
        env={**environment(project), "CONVLOOP": f"{sys.executable} -m convloop"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 99 or "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip().splitlines()[-1]}")
    return done


def test_full_disk_stops_register_which_then_completes(trained: Path) -> None:
    done = _on_a_small_disk(
        trained,
        "6m",
        "fill; $CONVLOOP register; echo first $?; free; $CONVLOOP register; echo then $?; $CONVLOOP models",
    )
    assert "first 7" in done.stdout, done.stdout + done.stderr
    assert "then 0" in done.stdout, done.stdout + done.stderr
    assert "version 1    @candidate @champion" in done.stdout
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("convloop: ")]
    assert len(said) == 1
    assert said[0].startswith(f"convloop: The MLflow store {trained}/mlruns/mlflow.db cannot be opened to write: ")
    assert f"Make room (df -h {trained}/mlruns)" in said[0]


def test_disk_that_fills_up_in_mid_training_loses_no_point(trained: Path) -> None:
    script = """
    rm -rf models reports
    (until grep -q "epoch 2/" log; do sleep 0.05; done; fill) &
    $CONVLOOP train --set train.epochs=30 --set train.keep=last > log; echo first $?
    wait; free
    grep -q "epoch 30/" log || $CONVLOOP train --set train.epochs=30 --set train.keep=last > log; echo then $?
    $CONVLOOP sync; echo sync $?
    """
    done = _on_a_small_disk(trained, "6m", script)
    assert "then 0" in done.stdout, done.stdout + done.stderr
    assert "sync 0" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    client = MlflowClient(f"sqlite:///{trained}/kept/mlflow.db")
    history = read_history(trained / "reports/train/history.csv")
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert [row["epoch"] for row in history] == list(range(1, 31))
    points = client.get_metric_history(runs[0].info.run_id, "val/accuracy")
    assert [point.step for point in points] == list(range(1, 31))
