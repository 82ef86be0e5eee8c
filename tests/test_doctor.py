"""The doctor: a line for each thing the loop stands on, and under each wrong one what to do."""

import shutil
from pathlib import Path

import pytest

from convloop import store
from convloop.doctor import examine
from tests.conftest import Convloop
from tests.test_store import closed_port


@pytest.fixture
def ready(trained: Path, repository: Path, dvc: Convloop) -> Path:
    """A repository in which nothing is wrong."""
    assert dvc("commit", "--force", "generate", "prepare", "train", "evaluate").returncode == 0
    return repository


def found(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """Give mark and text of each check by its first word, the remedy included."""
    checks: dict[str, tuple[str, str]] = {}
    for line in capsys.readouterr().out.replace("\n      -> ", " -> ").splitlines():
        mark, text = line[:4].strip(), line[6:]
        checks[text.partition(":")[0].partition(" ")[0]] = (mark, text)
    return checks


@pytest.mark.system
def test_nothing_is_wrong_with_a_good_project(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert examine(ready) == 0
    checks = found(capsys)
    assert {name: mark for name, (mark, _) in checks.items()} == dict.fromkeys(
        ("versions", "devices", "params.yaml", "store", "dvc", "git", "data", "disk"), "ok"
    )
    assert [checks[name][1] for name in ("params.yaml", "store", "dvc", "git", "data")] == [
        "params.yaml: every key is known and in range",
        f"store: {store.tracking_uri(ready)} answers",
        "dvc: out of date: dvc repro will run stages",
        "git: clean",
        "data: 600 images of 3 classes, every checksum right",
    ]


@pytest.mark.system
def test_changed_files_are_counted(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = ready / "params.yaml"
    params.write_text(params.read_text().replace("lr: 0.002", "lr: 0.001"))
    assert examine(ready) == 0
    assert found(capsys)["git"] == ("ok", "git: 1 files changed since the last commit")


@pytest.mark.system
def test_broken_params_are_worded_and_the_rest_is_still_looked_at(
    ready: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = ready / "params.yaml"
    params.write_text(params.read_text().replace("epochs: 2", "epoch: 2"))
    assert examine(ready) == 1
    checks = found(capsys)
    assert checks["params"] == (
        "FAIL",
        "params: params.yaml: train.epoch is not a known key. Did you mean train.epochs? "
        "-> edit params.yaml; docs/params.md lists every key",
    )
    assert checks["data"][0] == "ok"


@pytest.mark.system
def test_damaged_shard_is_named_with_its_remedy(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = ready / "data/raw/shard-00000.images.npy"
    shard.unlink()
    assert examine(ready) == 1
    assert found(capsys)["data"] == (
        "FAIL",
        f"data: {shard} is missing, but {ready}/data/raw/manifest.json lists it. "
        "Make it again: dvc repro --force generate -> make the named file again as it says",
    )


@pytest.mark.system
def test_project_without_dvc_is_told_how_to_get_it_back(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(ready / ".dvc")
    assert examine(ready) == 1
    assert found(capsys)["dvc"] == ("FAIL", "dvc: this folder is no DVC project -> restore it: git checkout .dvc")


def test_project_without_git_is_told_what_that_costs(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert examine(trained) == 1
    assert found(capsys)["git"] == (
        "FAIL",
        "git: this folder is no git repository -> models lose their commit: git init, git add -A, git commit",
    )


def test_dead_server_is_named(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert examine(project) == 1
    assert found(capsys)["store"] == (
        "FAIL",
        f"store: No answer from MLflow at {uri} in 5 s. Start the server or unset MLFLOW_TRACKING_URI, then run the "
        "same command again. -> start the server, or unset MLFLOW_TRACKING_URI to use the local store",
    )


def test_runs_that_nobody_could_end_are_ended(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = store.connect(project, 5)
    tags = {"convloop.heartbeat_s": "1"}
    run_id = client.create_run(client.create_experiment("small"), tags=tags, run_name="lost").info.run_id
    examine(project)
    noted = "; ended 1 runs that nobody could end: lost"
    assert found(capsys)["store"] == ("ok", f"store: {store.tracking_uri(project)} answers{noted}")
    assert client.get_run(run_id).info.status == "KILLED"


def test_project_without_data_is_fine(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examine(project)
    assert found(capsys)["data"] == ("ok", "data: none yet; dvc repro makes it")


@pytest.mark.system
def test_command_ends_with_1_when_something_is_wrong(project: Path, convloop: Convloop) -> None:
    answer = convloop("doctor")
    assert (answer.returncode, answer.stderr) == (1, "")
    assert "FAIL  dvc: this folder is no DVC project\n      -> restore it: git checkout .dvc\n" in answer.stdout
