"""Real `dvc repro` in a real repository: what runs, what is spared, what is left behind."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.conftest import Convloop

pytestmark = [pytest.mark.system, pytest.mark.slow]


def _ran(output: str) -> list[str]:
    return re.findall(r"Running stage '(\w+)'", output)


def _client(repository: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{repository}/mlruns/mlflow.db")


def _runs(repository: Path) -> list[object]:
    client = _client(repository)
    experiment = client.get_experiment_by_name("small")
    return list(client.search_runs([experiment.experiment_id]))


def test_the_loop_from_nothing_to_a_champion_and_what_changes_run_again(repository: Path, dvc: Convloop) -> None:
    first = dvc("repro")
    assert first.returncode == 0, first.stdout + first.stderr
    assert _ran(first.stdout) == ["generate", "prepare", "train", "evaluate", "register"]

    second = dvc("repro")
    assert _ran(second.stdout) == []
    assert "Data and pipelines are up to date." in second.stdout

    (run,) = _runs(repository)
    lock = (repository / "dvc.lock").read_text()
    assert run.info.status == "FINISHED"  # type: ignore[attr-defined]
    data = run.data  # type: ignore[attr-defined]
    assert {"train/loss", "val/accuracy", "test/accuracy", "test/loss"} <= set(data.metrics)
    assert data.params["train.net.name"] == "cnn2"
    assert data.tags["git.dirty"] == "false"
    assert data.tags["register.version"] == "1"
    digests = {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}  # type: ignore[attr-defined]
    assert set(digests) == {"data/raw", "data/landed/manifest.json", "data/prepared"}
    assert all(digest in lock for digest in digests.values())
    artifacts = {file.path for file in _client(repository).list_artifacts(run.info.run_id)}  # type: ignore[attr-defined]
    assert {"params.yaml", "dvc.lock", "history.csv", "images", "model"} <= artifacts

    (repository / "params.yaml").write_text((repository / "params.yaml").read_text().replace("lr: 0.002", "lr: 0.003"))
    changed_lr = dvc("repro")
    assert _ran(changed_lr.stdout) == ["train", "evaluate", "register"]
    assert len(_runs(repository)) == 2

    (repository / "params.yaml").write_text(
        (repository / "params.yaml").read_text().replace("worst_image_count: 4", "worst_image_count: 5")
    )
    changed_evaluation = dvc("repro")
    assert _ran(changed_evaluation.stdout) == ["evaluate", "register"]
    assert len(_runs(repository)) == 2

    (repository / "params.yaml").write_text(
        (repository / "params.yaml")
        .read_text()
        .replace("lr: 0.003", "lr: 0.002")
        .replace("worst_image_count: 5", "worst_image_count: 4")
    )
    back = dvc("repro")
    assert back.returncode == 0, back.stdout + back.stderr
    assert len(_runs(repository)) == 2, "a model that comes back from the cache keeps the run that made it"

    metrics = dvc("metrics", "show", "--json")
    assert 0 < json.loads(metrics.stdout)[""]["data"]["reports/evaluate/scores.json"]["data"]["accuracy"] <= 1
    plots = dvc("plots", "show", "--json")
    assert plots.returncode == 0
    assert {"loss", "accuracy"} <= set(json.loads(plots.stdout)["data"])


def test_an_experiment_with_another_value_trains_and_publishes_nothing(repository: Path, dvc: Convloop) -> None:
    dvc("repro")
    subprocess.run("git add -A && git commit -q -m first", shell=True, cwd=repository, check=True, capture_output=True)

    done = dvc("exp", "run", "-S", "train.lr=0.004", "-n", "faster")

    assert done.returncode == 0, done.stdout + done.stderr
    assert _ran(done.stdout) == ["train", "evaluate", "register"]
    verdict = json.loads((repository / "reports/register/verdict.json").read_text())
    assert verdict["reason"] == (
        "Not registered: experiments publish nothing. To register this one: dvc exp apply faster, "
        "then dvc repro --force --single-item register"
    )
    assert "dvc.experiment" in {tag for run in _runs(repository) for tag in run.data.tags}  # type: ignore[attr-defined]
    assert len(_client(repository).search_model_versions("name = 'small'")) == 1


def test_editing_the_nets_trains_again_and_spares_generate_and_prepare(repository: Path, dvc: Convloop) -> None:
    dvc("repro")
    nets = repository / "src/convloop/core/nets/plain.py"
    nets.write_text(nets.read_text() + "\n# edited\n")

    assert _ran(dvc("repro", "--dry").stdout) == ["train"]


def test_noise_can_only_be_answered_by_chance(repository: Path, dvc: Convloop) -> None:
    (repository / "params.yaml").write_text(
        (repository / "params.yaml")
        .read_text()
        .replace("source: synthetic", "source: noise")
        .replace("image_count: 600", "image_count: 3000")
        .replace("class_count: 3", "class_count: 10")
        .replace("min_accuracy_share: 0.3", "min_accuracy_share: 0.2")
    )

    done = dvc("repro")

    assert done.returncode == 0, done.stdout + done.stderr
    scores = json.loads((repository / "reports/evaluate/scores.json").read_text())
    # Three standard errors around one in ten.
    margin = 3 * (0.1 * 0.9 / scores["image_count"]) ** 0.5
    assert abs(scores["accuracy"] - 0.1) < margin
    verdict = json.loads((repository / "reports/register/verdict.json").read_text())
    assert not verdict["promoted"]
