"""The chain from a version to its data: whole after a real `dvc repro`, and each way to break it is named.

One repository holds two models, committed one after the other; each test breaks one thing and mends it again.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.conftest import BIN, REPOSITORY, SMALL_PARAMS

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1800)]

CANARY = "hunter2canary"


def _variables(folder: Path) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_"))}
    path = f"{BIN}{os.pathsep}{own['PATH']}"
    return own | {"PYTHONPATH": str(folder / "src"), "DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1", "PATH": path}


def _do(folder: Path, *words: str, **extra: str) -> "subprocess.CompletedProcess[str]":
    variables = _variables(folder) | extra
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=600)


def _convloop(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return _do(folder, sys.executable, "-m", "convloop", *words)


def _commit(folder: Path, message: str) -> None:
    for words in (("add", "-A"), ("commit", "-q", "-m", message)):
        done = _do(folder, "git", *words)
        assert done.returncode == 0, done.stderr


def _start(folder: Path) -> None:
    (folder / "data/landed").mkdir(parents=True)
    (folder / ".dvc").mkdir()
    for name in ("data/landed/manifest.json", "data/takedown.csv", "dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(REPOSITORY / name, folder / name)
    for name in ("config", ".gitignore"):
        shutil.copy(REPOSITORY / ".dvc" / name, folder / ".dvc")
    shutil.copytree(REPOSITORY / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (folder / "params.yaml").write_text(SMALL_PARAMS)
    _do(folder, "git", "init", "-q", "-b", "main")
    _do(folder, "git", "config", "user.email", "test@example.org")
    _do(folder, "git", "config", "user.name", "test")
    _commit(folder, "start")


def _repro(folder: Path, **extra: str) -> None:
    done = _do(folder, "dvc", "repro", **extra)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with version 1 (lr 0.002, its dvc.lock in git) and version 2 (lr 0.003, the one on disk)."""
    folder = tmp_path_factory.mktemp("two")
    _start(folder)
    _repro(folder)
    _commit(folder, "first")
    (folder / "params.yaml").write_text(SMALL_PARAMS.replace("lr: 0.002", "lr: 0.003"))
    _commit(folder, "another lr")
    _repro(folder)
    _commit(folder, "second")
    return folder


@contextmanager
def _replaced(file: Path, content: bytes) -> Iterator[None]:
    before = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(before)


@contextmanager
def _in_store(folder: Path, *statements: str) -> Iterator[None]:
    """Change the database by SQL, as no command of MLflow would, and put it back."""
    database = folder / "mlruns/mlflow.db"
    backup = folder / "mlruns/backup"
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            for statement in statements:
                assert connection.execute(statement).rowcount > 0
        yield
    finally:
        with closing(sqlite3.connect(backup)) as source, closing(sqlite3.connect(database)) as target:
            source.backup(target)


def _run_of(folder: Path, version: str) -> str:
    with closing(sqlite3.connect(folder / "mlruns/mlflow.db")) as connection:
        (run_id,) = connection.execute("select run_id from model_versions where version = ?", (version,)).fetchone()
    return str(run_id)


def _failures(folder: Path, word: str) -> list[str]:
    """Verify and give the links that do not hold; the exit code must agree with them."""
    done = _convloop(folder, "verify", word)
    assert done.returncode in (0, 1), done.stderr
    failed = [line.removeprefix("FAIL  ") for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert done.returncode == bool(failed), done.stdout
    return failed


def _one_byte_off(file: Path) -> bytes:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    return bytes(content)


@pytest.mark.parametrize("word", ["1", "2", "@champion", "run"])
def test_every_chain_is_whole(two_models: Path, word: str) -> None:
    called = _run_of(two_models, "1")[:8] if word == "run" else word
    done = _convloop(two_models, "verify", called)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "The chain is whole."), done.stdout + done.stderr
    assert "FAIL" not in done.stdout


def test_changed_weight_byte_in_the_registry_is_named(two_models: Path) -> None:
    (file,) = (two_models / "mlruns/artifacts").glob(f"{_run_of(two_models, '2')}/artifacts/model/data/model.pt2")
    with _replaced(file, _one_byte_off(file)):
        (failure,) = _failures(two_models, "2")
    assert failure.startswith("the package of version 2 has md5 ")


def test_changed_data_shard_is_named(two_models: Path) -> None:
    file = two_models / "data/raw/shard-00000.images.npy"
    with _replaced(file, _one_byte_off(file)):
        (failure,) = _failures(two_models, "2")
    assert failure.startswith("data/raw on disk has md5 ")


def test_data_gone_from_disk_are_found_in_the_cache(two_models: Path) -> None:
    (two_models / "data/raw").rename(two_models / "work/raw")
    try:
        assert _failures(two_models, "2") == []
        listing = json.loads(_do(two_models, "dvc", "data", "status", "--json").stdout or "{}")
        assert listing
        md5 = next(
            line.split()[-1] for line in (two_models / "dvc.lock").read_text().splitlines() if line.endswith(".dir")
        )
        entry = json.loads((two_models / f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}").read_text())[0]["md5"]
        cached = two_models / f".dvc/cache/files/md5/{entry[:2]}/{entry[2:]}"
        with _replaced(cached, _one_byte_off(cached)):
            (failure,) = _failures(two_models, "2")
    finally:
        (two_models / "work/raw").rename(two_models / "data/raw")
    assert failure == f"data/raw {md5} is neither on disk nor whole in DVC's cache: {cached} is damaged"


@pytest.mark.parametrize("path", ["data/raw", "models/model"])
def test_edited_dvc_lock_is_named(two_models: Path, path: str) -> None:
    file = two_models / "dvc.lock"
    lines = file.read_text().splitlines(keepends=True)
    for index, line in enumerate(lines):
        if line.strip() == f"- path: {path}":  # wherever it is read or written
            lines[index + 2] = f"      md5: {'0' * 32}.dir\n"
    with _replaced(file, "".join(lines).encode()):
        failures = _failures(two_models, "2")
    assert failures
    assert all(failure.startswith("dvc.lock: ") and path in failure for failure in failures)


def test_dvc_lock_whose_stages_disagree_is_named(two_models: Path) -> None:
    file = two_models / "dvc.lock"
    text = file.read_text()
    md5 = next(line.split()[-1] for line in text.splitlines() if line.endswith(".dir"))
    with _replaced(file, text.replace(md5, f"{'0' * 32}.dir", 1).encode()):
        failures = _failures(two_models, "2")
    assert f"dvc.lock: prepare read data/raw as {md5}, but it was written as {'0' * 32}.dir" in failures


def test_dvc_lock_brought_back_from_the_store_is_whole(two_models: Path) -> None:
    """Register keeps it while its own entry is still that of the model before."""
    kept = two_models / f"mlruns/artifacts/{_run_of(two_models, '2')}/artifacts/dvc.lock"
    assert kept.read_bytes() != (two_models / "dvc.lock").read_bytes()
    with _replaced(two_models / "dvc.lock", kept.read_bytes()):
        assert _failures(two_models, "2") == []


def test_changed_kept_dvc_lock_is_named(two_models: Path) -> None:
    run_id = _run_of(two_models, "2")
    file = two_models / f"mlruns/artifacts/{run_id}/artifacts/dvc.lock"
    with _replaced(file, file.read_bytes() + b"#\n"):
        (failure,) = _failures(two_models, "2")
    assert failure.startswith(f"the dvc.lock kept with run {run_id[:8]} was changed: md5 ")


def test_deleted_run_is_named(two_models: Path) -> None:
    run_id = _run_of(two_models, "1")
    with _in_store(two_models, f"update runs set lifecycle_stage = 'deleted' where run_uuid = '{run_id}'"):
        assert _failures(two_models, "1") == [f"run {run_id[:8]} is deleted"]


def test_run_removed_for_good_is_named(two_models: Path) -> None:
    with _in_store(two_models, f"update model_versions set run_id = '{'0' * 32}' where version = 1"):
        assert _failures(two_models, "1") == [f"version 1 points to run {'0' * 32}, which is not there"]


def test_version_pointing_to_another_run_is_named(two_models: Path) -> None:
    other = _run_of(two_models, "2")
    with _in_store(two_models, f"update model_versions set run_id = '{other}' where version = 1"):
        failures = _failures(two_models, "1")
    assert failures[0].startswith("version 1 is model ")
    assert f", but its run {other[:8]} made model " in failures[0]


def test_version_serving_another_package_is_named(two_models: Path) -> None:
    own, other = _run_of(two_models, "1"), _run_of(two_models, "2")
    moved = f"replace(source, '{own}', '{other}')"
    with _in_store(
        two_models,
        f"update model_versions set source = {moved}, storage_location = {moved} where version = 1",
    ):
        failures = _failures(two_models, "1")
    assert failures[0].startswith("version 1 serves ")
    assert failures[1].startswith("the package of version 1 has md5 ")


def test_missing_commit_is_named(two_models: Path) -> None:
    run_id, gone = _run_of(two_models, "2"), "0" * 40
    change = f"update tags set value = '{gone}' where key = 'mlflow.source.git.commit' and run_uuid = '{run_id}'"
    with _in_store(two_models, change):
        assert _failures(two_models, "2") == [f"commit {gone} is not in this repository"]


def test_commit_with_other_code_is_named(two_models: Path) -> None:
    """The tag names a real commit, whose code is not what DVC saw."""
    run_id = _run_of(two_models, "2")
    _do(two_models, "git", "checkout", "-q", "-b", "other")
    nets = two_models / "src/convloop/core/nets/plain.py"
    nets.write_text(nets.read_text() + "# other\n")
    _commit(two_models, "other code")
    commit = _do(two_models, "git", "rev-parse", "HEAD").stdout.strip()
    _do(two_models, "git", "checkout", "-q", "main")
    change = f"update tags set value = '{commit}' where key = 'mlflow.source.git.commit' and run_uuid = '{run_id}'"
    with _in_store(two_models, change):
        assert _failures(two_models, "2") == [
            f"src/convloop/core/nets/plain.py of commit {commit[:10]} is not what dvc.lock says was run"
        ]


def _way_back(folder: Path, word: str) -> list[str]:
    done = _convloop(folder, "show", word)
    assert done.returncode == 0, done.stderr
    return [line[2:] for line in done.stdout.partition("Back to it:\n")[2].splitlines() if line.startswith("  ")]


def test_what_show_prints_brings_the_model_back(two_models: Path) -> None:
    version_1 = json.loads((two_models / "models/model/extra_files/card.json").read_text())["digest"]
    commands = _way_back(two_models, "1")
    assert [command.split()[:2] for command in commands] == [["git", "checkout"], ["dvc", "checkout"]]
    assert _way_back(two_models, "2") == ["dvc checkout                 # dvc.lock here is about this model already"]
    try:
        for command in commands:
            done = _do(two_models, "sh", "-c", command)
            assert done.returncode == 0, done.stderr
        digest = json.loads((two_models / "models/model/extra_files/card.json").read_text())["digest"]
        shown = _convloop(two_models, "show", "1").stdout
        assert digest != version_1
        assert f"model      {digest}\n" in shown
        assert "Data and pipelines are up to date." in _do(two_models, "dvc", "status").stdout
        assert _failures(two_models, "1") == []
    finally:
        _do(two_models, "git", "checkout", "-q", "main")
        _do(two_models, "dvc", "checkout")


@pytest.fixture(scope="module")
def uncommitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose only model was trained from edited code, with a canary in every place a secret may be."""
    folder = tmp_path_factory.mktemp("canary")
    _start(folder)
    _do(folder, "git", "remote", "add", "origin", f"https://ann:{CANARY}@host.invalid/x.git")
    nets = folder / "src/convloop/core/nets/plain.py"
    nets.write_text(f'{nets.read_text()}\n_API_KEY = "{CANARY}"\n')
    path = f'path: "https://ann:{CANARY}@host.invalid/x?token={CANARY}"'
    (folder / "params.yaml").write_text(SMALL_PARAMS.replace("path: null", path))
    _repro(folder, SOME_SECRET=CANARY)
    return folder


def _holding(folder: Path, needle: str) -> list[str]:
    return [
        str(file.relative_to(folder))
        for name in ("mlruns", "work", "models", "reports")
        for file in sorted((folder / name).rglob("*"))
        if file.is_file() and needle.encode() in file.read_bytes()
    ]


def test_no_secret_reaches_database_artifacts_or_logs(uncommitted: Path) -> None:
    assert "host.invalid" in (uncommitted / "mlruns/mlflow.db").read_bytes().decode("latin-1")
    assert _holding(uncommitted, CANARY) == []
    kept = list((uncommitted / "mlruns/artifacts").rglob("uncommitted.diff"))
    assert [file.read_text().count('+_API_KEY = "***"') for file in kept] == [1]


def test_no_secret_of_a_traceback_reaches_the_logs(uncommitted: Path) -> None:
    """Our own bug, with the canary in the exception, under `convloop retrain`, which keeps a log."""
    stage = uncommitted / "src/convloop/stages/prepare.py"
    text = stage.read_text()
    where = "from convloop.core.folders import"
    assert where in text
    stage.write_text(text.replace(where, f"raise ValueError('login with {CANARY} failed')\n{where}", 1))
    try:
        done = _do(uncommitted, sys.executable, "-m", "convloop", "retrain", SOME_SECRET=CANARY)
    finally:
        stage.write_text(text)
    log = (uncommitted / "work/retraining/1.log").read_text()
    assert done.returncode == 8, done.stdout + done.stderr
    assert "ValueError: login with *** failed" in log
    assert CANARY not in done.stdout + done.stderr
    assert _holding(uncommitted, CANARY) == []


def test_a_model_of_uncommitted_code_is_shown_and_verified(uncommitted: Path) -> None:
    commands = _way_back(uncommitted, _run_of(uncommitted, "1")[:8])
    assert commands == ["dvc checkout                 # dvc.lock here is about this model already"]
    assert _failures(uncommitted, "1") == []
