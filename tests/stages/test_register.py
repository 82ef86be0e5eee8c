"""register: one version for one model, a verdict with its reason, and nothing without evidence."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from convloop import store
from convloop.config import Params
from convloop.core.card import CARD_FILE
from convloop.core.gate import compare
from convloop.errors import DataError, OutputError, TrackingError
from convloop.params_check import load
from convloop.pipeline import STAGES
from convloop.registry import Registry, Version
from convloop.tracking import Tracker
from convloop.tune.answer import give_answer
from tests.conftest import Convloop
from tests.test_store import closed_port

if TYPE_CHECKING:
    from mlflow.entities import Run as Found


def register(project: Path, params: Params) -> dict[str, Any]:
    """Run the stage and give the verdict it wrote."""
    STAGES["register"].run(params, project, Tracker(project, params.tracking))
    verdict: dict[str, Any] = json.loads((project / "reports/register/verdict.json").read_text())
    return verdict


def versions(project: Path) -> list[Version]:
    return Registry(project, "small", 5).versions()


def runs(project: Path) -> "list[Found]":
    client = store.connect(project, 5)
    found = client.get_experiment_by_name("small")
    return list(client.search_runs([found.experiment_id])) if found else []


def rewrite(file: Path, **facts: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | facts))


def become_another_model(project: Path, digest: str, wrong_count: int) -> None:
    """Give model and evaluation another name, and that many wrong answers on the test images."""
    rewrite(project / "models/model" / CARD_FILE, digest=digest)
    rewrite(project / "models/model/run.json", run_id=None)
    rewrite(project / "reports/train/record.json", digest=digest)
    rewrite(project / "reports/evaluate/details.json", digest=digest)
    file = project / "reports/evaluate/predictions.npz"
    with np.load(file) as archive:
        labels_N = archive["labels_N"]
    answers_N = labels_N.copy()
    answers_N[:wrong_count] = (answers_N[:wrong_count] + 1) % 3
    np.savez(file, labels_N=labels_N, probabilities_NK=np.eye(3, dtype=np.float32)[answers_N])


# The first model


def test_first_model_above_the_floor_is_promoted(
    trained: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = json.loads((trained / "reports/evaluate/scores.json").read_text())
    details = json.loads((trained / "reports/evaluate/details.json").read_text())
    verdict = register(trained, params)
    (run,) = runs(trained)
    reason = f"Promoted: test accuracy {scores['accuracy']:.3f}, floor 0.3; there was no champion yet."
    assert verdict == {
        "promoted": True,
        "reason": reason,
        "model_name": "small",
        "version": "1",
        "champion_before": None,
        "run_id": run.info.run_id,
        "model_digest": details["digest"],
        "test_sha256": details["test_sha256"],
        "test_accuracy": pytest.approx(scores["accuracy"], abs=1e-6),
        "comparison": None,
    }
    assert capsys.readouterr().out == f"{reason}\n"


def test_version_and_run_carry_verdict_and_reason(trained: Path, params: Params) -> None:
    verdict = register(trained, params)
    (version,) = versions(trained)
    (run,) = runs(trained)
    expected = {
        "verdict": "promoted",
        "reason": verdict["reason"],
        "test_accuracy": f"{verdict['test_accuracy']:.4f}",
        "test_sha256": verdict["test_sha256"],
    }
    assert version.aliases == ("candidate", "champion")
    assert version.tags == {"convloop.model_digest": verdict["model_digest"], **expected}
    tags = {key: value for key, value in run.data.tags.items() if key.startswith("register.")}
    assert tags == {
        **{f"register.{key}": value for key, value in expected.items()},
        "register.version": "1",
        "register.model_name": "small",
        "register.min_accuracy_share": "0.3",
        "register.min_gain_share": "0.0",
        "register.max_loss_share": "0.2",
    }


def test_evaluation_reaches_the_run_through_register(trained: Path, params: Params) -> None:
    """An evaluate that found no server left its scores to register."""
    scores = json.loads((trained / "reports/evaluate/scores.json").read_text())
    register(trained, params)
    (run,) = runs(trained)
    shown = {name: value for name, value in run.data.metrics.items() if name.startswith("test/")}
    assert shown == {f"test/{name}": scores[name] for name in ("accuracy", "loss", "macro_f1")}


def test_model_below_the_floor_is_refused_without_a_champion(trained: Path, params: Params) -> None:
    become_another_model(trained, "f" * 64, wrong_count=1000)
    verdict = register(trained, params)
    (version,) = versions(trained)
    assert (verdict["promoted"], verdict["reason"]) == (
        False,
        "Refused: test accuracy 0.000; register.min_accuracy_share asks for 0.3. Nothing was promoted.",
    )
    assert (version.aliases, version.tags["verdict"]) == (("candidate",), "refused")


# Again


def test_registering_twice_changes_nothing(trained: Path, params: Params) -> None:
    first = register(trained, params)
    before, runs_before = versions(trained), [run.data.tags for run in runs(trained)]
    second = register(trained, params)
    unchanged = "Unchanged: version 1 is this very model and the champion already."
    assert second == {**first, "promoted": False, "reason": unchanged, "champion_before": "1"}
    assert versions(trained) == before
    assert len(runs(trained)) == len(runs_before) == 1


def test_registering_a_refused_model_twice_changes_nothing(trained: Path, params: Params) -> None:
    register(trained, params)
    become_another_model(trained, "f" * 64, wrong_count=60)
    first = register(trained, params)
    before = versions(trained)
    assert register(trained, params) == first
    assert versions(trained) == before


# Against a champion


def test_worse_model_is_refused_with_its_reason_on_version_and_run(trained: Path, params: Params) -> None:
    with np.load(trained / "reports/evaluate/predictions.npz") as archive:
        champion_right_N = archive["probabilities_NK"].argmax(1) == archive["labels_N"]
    register(trained, params)
    become_another_model(trained, "f" * 64, wrong_count=60)
    verdict = register(trained, params)
    candidate_right_N = np.arange(len(champion_right_N)) >= 60
    facts = compare(candidate_right_N, champion_right_N)
    reason = (
        f"Refused: test accuracy {candidate_right_N.mean():.3f} against {champion_right_N.mean():.3f} (champion, "
        f"version 1), 95 % interval {facts.low_share:+.3f} to {facts.high_share:+.3f}; "
        "register.min_gain_share asks for more than 0. Nothing was promoted."
    )
    assert (verdict["promoted"], verdict["reason"], verdict["champion_before"]) == (False, reason, "1")
    newest, champion = versions(trained)
    assert (newest.number, newest.aliases, newest.tags["verdict"]) == ("2", ("candidate",), "refused")
    assert newest.tags["reason"] == reason
    assert champion.aliases == ("champion",)
    (run,) = (run for run in runs(trained) if run.info.run_id == newest.run_id)
    assert (run.data.tags["register.verdict"], run.data.tags["register.reason"]) == ("refused", reason)


def test_better_model_takes_the_champions_place(trained: Path, params: Params) -> None:
    with np.load(trained / "reports/evaluate/predictions.npz") as archive:
        champion_right_N = archive["probabilities_NK"].argmax(1) == archive["labels_N"]
    assert not champion_right_N.all()
    register(trained, params)
    become_another_model(trained, "f" * 64, wrong_count=0)
    verdict = register(trained, params)
    assert (verdict["promoted"], verdict["version"], verdict["champion_before"]) == (True, "2", "1")
    assert verdict["comparison"]["champion_accuracy"] == pytest.approx(champion_right_N.mean())
    assert verdict["comparison"]["gain_share"] == pytest.approx(1 - champion_right_N.mean())
    assert [version.aliases for version in versions(trained)] == [("candidate", "champion"), ("previous",)]


def test_a_gain_within_the_noise_of_seeds_is_refused(trained: Path, params: Params) -> None:
    with np.load(trained / "reports/evaluate/predictions.npz") as archive:
        champion_right_N = archive["probabilities_NK"].argmax(1) == archive["labels_N"]
    register(trained, params)
    give_answer(trained, "repeats", {"register.min_gain_share": 0.9}, apply=True)
    become_another_model(trained, "f" * 64, wrong_count=0)
    verdict = register(trained, load(trained / "params.yaml"))
    facts = compare(np.ones_like(champion_right_N), champion_right_N)
    assert 0 < facts.gain_share < 0.9
    assert (verdict["promoted"], verdict["reason"]) == (
        False,
        f"Refused: test accuracy 1.000 against {champion_right_N.mean():.3f} (champion, version 1), 95 % interval "
        f"{facts.low_share:+.3f} to {facts.high_share:+.3f}; register.min_gain_share asks for more than 0.9. "
        "Nothing was promoted.",
    )


def test_champion_of_other_classes_is_not_compared(trained: Path, params: Params) -> None:
    foreign = trained / "foreign"
    shutil.copytree(trained / "models/model", foreign)
    rewrite(foreign / CARD_FILE, classes=["cat", "dog", "hen", "owl"])
    client = store.connect(trained, 5)
    run_id = client.create_run(client.create_experiment("older", (trained / "mlruns/a").as_uri())).info.run_id
    registry = Registry(trained, "small", 5)
    registry.promote(registry.add(foreign, "e" * 64, str(run_id)))
    verdict = register(trained, params)
    assert (verdict["promoted"], verdict["reason"]) == (
        False,
        "Refused: the champion, version 1, answers 4 classes for images of (16, 16, 3), this test set has 3 and "
        "(16, 16, 3): they cannot be compared. Set register.model_name to another name. Nothing was promoted.",
    )
    assert [version.aliases for version in versions(trained)] == [("candidate",), ("champion",)]


# What registers nothing


def test_experiment_registers_nothing(trained: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "brave-newt")
    verdict = register(trained, params)
    assert verdict == {
        "promoted": False,
        "reason": "Not registered: experiments publish nothing. To register this one: dvc exp apply brave-newt, "
        "then dvc repro --force --single-item register",
        "model_digest": json.loads((trained / "models/model" / CARD_FILE).read_text())["digest"],
    }
    assert versions(trained) == []


def test_register_needs_a_model(project: Path, params: Params) -> None:
    with pytest.raises(DataError) as raised:
        register(project, params)
    assert str(raised.value) == (
        f"{project}/models/model/extra_files/card.json is missing: there is no packaged model. Make it: dvc repro train"
    )


@pytest.mark.parametrize("name", ["details.json", "predictions.npz"])
def test_register_needs_the_evaluation(trained: Path, params: Params, name: str) -> None:
    (trained / "reports/evaluate" / name).unlink()
    with pytest.raises(DataError) as raised:
        register(trained, params)
    assert str(raised.value) == f"{trained}/reports/evaluate/{name} is missing. Make it: dvc repro evaluate"
    assert versions(trained) == []


def test_register_refuses_the_evaluation_of_another_model(trained: Path, params: Params) -> None:
    rewrite(trained / "reports/evaluate/details.json", digest="0" * 64)
    with pytest.raises(DataError) as raised:
        register(trained, params)
    assert str(raised.value) == (
        f"{trained}/reports/evaluate is about another model or test set than models/model. Run dvc repro evaluate"
    )
    assert versions(trained) == []


def test_register_refuses_the_evaluation_on_other_test_images(trained: Path, params: Params) -> None:
    rewrite(trained / "reports/evaluate/details.json", test_sha256="0" * 64)
    with pytest.raises(DataError) as raised:
        register(trained, params)
    assert str(raised.value) == (
        f"{trained}/reports/evaluate is about another model or test set than models/model. Run dvc repro evaluate"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("details.json", b"{"),
        ("details.json", b"[]"),
        ("details.json", b"\xff"),
        ("predictions.npz", b""),
        ("predictions.npz", b"neither"),
        ("predictions.npz", b"PK\x03\x04 cut off"),
    ],
)
def test_damaged_evaluation_is_named(trained: Path, params: Params, name: str, content: bytes) -> None:
    (trained / "reports/evaluate" / name).write_bytes(content)
    with pytest.raises(DataError) as raised:
        register(trained, params)
    assert str(raised.value).startswith(f"{trained}/reports/evaluate is damaged (")
    assert str(raised.value).endswith("). Make it again: dvc repro --force evaluate")


def test_register_without_a_server_changes_nothing(
    trained: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(TrackingError):
        register(trained, params)
    assert not (trained / "reports/register").exists()


def test_register_without_a_server_ends_with_5_and_a_message(trained: Path, convloop: Convloop) -> None:
    uri = f"http://127.0.0.1:{closed_port()}"
    answer = convloop("register", MLFLOW_TRACKING_URI=uri)
    assert (answer.returncode, answer.stdout, answer.stderr) == (
        5,
        "",
        f"convloop: No answer from MLflow at {uri} in 5 s. "
        "Start the server or unset MLFLOW_TRACKING_URI, then run the same command again.\n",
    )


def test_file_where_the_verdict_belongs_is_named(trained: Path, params: Params) -> None:
    (trained / "reports/register").write_text("in the way")
    with pytest.raises(OutputError) as raised:
        register(trained, params)
    assert str(raised.value) == (
        f"{trained}/reports/register/verdict.json cannot be written: File exists. Make it writable "
        f"(ls -ld {trained}/reports/register; df -h {trained}/reports/register), then run the same command again."
    )
