"""A small real project in a temporary folder, and stand-ins that record."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from convloop import store
from convloop.config import Params
from convloop.core.history import Point
from convloop.params_check import check

REPOSITORY = Path(__file__).parents[1]
BIN = Path(sys.executable).parent

# What a script starts with & ignores Ctrl-C, and so does all that it starts: tests that send it would wait in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Three easy classes of 16x16 pixels: a whole pipeline takes seconds.
SMALL_PARAMS = """\
generate: {source: synthetic, path: null, image_count: 600, class_count: 3, image_px: 16, difficulty_share: 0.0}
prepare: {val_share: 0.1, test_share: 0.2}
train: {net: {name: cnn2}, epochs: 2, batch_size: 32, lr: 0.002}
evaluate: {batch_size: 64, worst_image_count: 4}
register: {model_name: small, min_accuracy_share: 0.3, max_loss_share: 0.2}
tracking: {experiment: small, timeout_s: 5}
"""


@pytest.fixture(autouse=True)
def _no_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep variables of the caller's shell out of the tests."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "DVC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test session alone, which its workers share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def migrated_store(shared_folder: Path) -> Path:
    """An MLflow database that is made once for all workers, since migrating takes seconds."""
    folder = shared_folder / "store"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        store.connect(folder, 5)
    return folder / store.FOLDER / "mlflow.db"


@pytest.fixture
def project(tmp_path: Path, migrated_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with small params and an empty store, entered; nothing has run yet."""
    folder = tmp_path / "project"
    (folder / "data/landed").mkdir(parents=True)
    (folder / "mlruns").mkdir()
    shutil.copy(REPOSITORY / "data/landed/manifest.json", folder / "data/landed")
    shutil.copy(REPOSITORY / "data/takedown.csv", folder / "data")
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    shutil.copy(migrated_store, folder / "mlruns")
    (folder / "params.yaml").write_text(SMALL_PARAMS)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def params() -> Params:
    """The params of `project`."""
    from ruamel.yaml import YAML

    return check(YAML(typ="safe", pure=True).load(SMALL_PARAMS))


@pytest.fixture(scope="session")
def trained_files(shared_folder: Path, migrated_store: Path) -> Path:
    """data, models and reports of one small pipeline up to evaluate, run once for all workers."""
    folder = shared_folder / "trained"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "reports/evaluate/report.html").is_file():
            (folder / "mlruns").mkdir(exist_ok=True)
            (folder / "data/landed").mkdir(parents=True, exist_ok=True)
            shutil.copy(migrated_store, folder / "mlruns")
            shutil.copy(REPOSITORY / "data/landed/manifest.json", folder / "data/landed")
            shutil.copy(REPOSITORY / "data/takedown.csv", folder / "data")
            (folder / "params.yaml").write_text(SMALL_PARAMS)
            (folder / "dvc.yaml").write_text("")
            for word in ("generate", "prepare", "train", "evaluate"):
                subprocess.run([sys.executable, "-m", "convloop", word], cwd=folder, check=True)
    return folder


@pytest.fixture
def trained(project: Path, trained_files: Path) -> Path:
    """`project` with a trained and evaluated model, whose run its own empty store does not know."""
    for name in ("data", "models", "reports"):
        shutil.copytree(trained_files / name, project / name, dirs_exist_ok=True)
    return project


@pytest.fixture
def repository(project: Path) -> Path:
    """`project` as a git and DVC repository with the sources inside, so that `dvc repro` and edits work for real."""
    shutil.copytree(REPOSITORY / "src", project / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in (".dvcignore", ".gitignore"):
        shutil.copy(REPOSITORY / name, project)
    (project / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(REPOSITORY / ".dvc" / name, project / ".dvc")
    for words in (
        ("init", "-q", "-b", "main"),
        ("config", "user.email", "test@example.org"),
        ("config", "user.name", "test"),
        ("add", "-A"),
        ("commit", "-q", "-m", "start"),
    ):
        subprocess.run(["git", *words], cwd=project, check=True)
    return project


def environment(project: Path, **extra: str) -> dict[str, str]:
    """Variables under which `python -m convloop` runs the project's own sources where it has some."""
    path = {"PYTHONPATH": str(project / "src")} if (project / "src").is_dir() else {}
    return {**os.environ, **path, **extra}


Convloop = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def convloop(project: Path) -> Convloop:
    """Run one command as a user would; give exit code, stdout and stderr."""

    def run(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "convloop", *words],
            cwd=project,
            env=environment(project, **variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run


@pytest.fixture
def dvc(repository: Path) -> Convloop:
    """Run one dvc command in the repository; give exit code, stdout and stderr."""

    def run(*words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["dvc", *words],
            cwd=repository,
            env=environment(repository, **variables),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    return run


class Recorder:
    """A run that remembers what it was told."""

    def __init__(self) -> None:
        self.id: str | None = "recorded"
        self.params: dict[str, Any] = {}
        self.tags: dict[str, str] = {}
        self.inputs: dict[str, str] = {}
        self.metrics: dict[tuple[str, int], float] = {}
        self.files: list[str] = []

    def log_params(self, params: dict[str, Any]) -> None:
        self.params |= params

    def log_tags(self, tags: dict[str, str]) -> None:
        self.tags |= tags

    def log_inputs(self, digests: dict[str, str]) -> None:
        self.inputs |= digests

    def log_points(self, points: Sequence[Point]) -> None:
        self.metrics |= {(point.name, point.step): point.value for point in points}

    def log_file(self, file: Path, folder: str = "") -> None:
        self.files.append(file.name)

    def log_image(self, file: Path, key: str, *, step: int) -> None:
        self.files.append(f"{key}@{step}")

    def tag(self, name: str) -> str | None:
        return self.tags.get(name)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()
