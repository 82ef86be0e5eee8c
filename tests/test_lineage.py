"""What is noted of a model's making."""

import subprocess
from pathlib import Path

import pytest

from convloop.lineage import describe, run_name
from convloop.params_check import check

_SECTIONS = ("generate", "prepare", "train")
_DEFAULTS = check({}).flat(*_SECTIONS)


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        ({}, "cnn3"),
        ({"train": {"lr": 0.01, "epochs": 20}}, "cnn3 epochs=20 lr=0.01"),
        ({"train": {"net": {"name": "cnn", "channels": [8, 16]}}}, "cnn channels=[8, 16]"),
        ({"generate": {"difficulty_share": 0.5}, "train": {"seed": 8}}, "cnn3 seed=8 difficulty_share=0.5"),
        ({"generate": {"source": "cifar10", "path": "https://u:p@host/x"}}, "cifar10 cnn3"),
    ],
)
def test_run_name_says_what_differs_from_the_defaults(tree: dict[str, object], name: str) -> None:
    assert run_name(check(tree).flat(*_SECTIONS), _DEFAULTS) == name


def test_long_run_name_is_cut() -> None:
    name = run_name(_DEFAULTS | {"train.net.channels": list(range(80))}, _DEFAULTS)
    assert (len(name), name[-1]) == (100, "…")


def test_clean_commit_has_no_diff(repository: Path) -> None:
    record = describe(repository, {}, ())
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository, capture_output=True, text=True, check=True)
    assert record["tags"]["mlflow.source.git.commit"] == commit.stdout.strip()
    assert (record["tags"]["git.dirty"], record["diff"]) == ("false", "")


def test_uncommitted_change_is_kept_as_a_diff_that_applies(repository: Path) -> None:
    file = repository / "src/convloop/core/nets/plain.py"
    before = file.read_text()
    file.write_text(f"{before}\n# edited\n")
    record = describe(repository, {}, ())
    file.write_text(before)
    subprocess.run(["git", "apply"], input=record["diff"], text=True, cwd=repository, check=True)
    assert record["tags"]["git.dirty"] == "true"
    assert file.read_text() == f"{before}\n# edited\n"


def test_long_diff_is_cut(repository: Path) -> None:
    (repository / "params.yaml").write_text("# long\n" * 100_000)
    diff = describe(repository, {}, ())["diff"]
    assert 200_000 < len(diff) < 200_100
    assert diff.splitlines()[-1].startswith("[cut here: ")


def test_remote_is_noted_without_its_password(repository: Path) -> None:
    subprocess.run(["git", "remote", "add", "origin", "https://ann:pw@host/x.git"], cwd=repository, check=True)
    assert describe(repository, {}, ())["tags"]["mlflow.source.git.repoURL"] == "https://***@host/x.git"


def test_experiment_strategy_and_device_are_noted(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "faster")
    tags = describe(project, {"train.strategy": "ddp"}, ())["tags"]
    assert (tags["dvc.experiment"], tags["strategy"]) == ("faster", "ddp")
    assert tags["device"]
