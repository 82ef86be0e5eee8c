"""Trials in processes of their own, and repeats made of them."""

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from convloop.config import Params
from convloop.core.noise import measure_noise
from convloop.errors import BusyError, ParamsError
from convloop.params_check import check, load
from convloop.params_file import with_value
from convloop.tune.repeats import tune_repeats
from convloop.tune.trials import Result, TrialFailed, alone, run_trial
from tests.conftest import Convloop, Recorder
from tests.system.trainings import left_running, local_client


def _with(params: Params, key: str, value: object) -> Params:
    return check(with_value(params.model_dump(by_alias=True), key, value))


@pytest.mark.slow
@pytest.mark.system
def test_a_hopeless_trial_is_stopped_and_leaves_nothing_running(
    trained: Path, params: Params, recorder: Recorder
) -> None:
    folder = trained / "work/tune/one"
    folder.mkdir(parents=True)
    long = _with(params, "train.epochs", 9999)

    result = run_trial(trained, folder, long, recorder, is_hopeless=lambda row: row["epoch"] == 2)

    assert result is None
    assert ("val/accuracy", 2) in recorder.metrics
    assert left_running(trained) == []


@pytest.mark.slow
@pytest.mark.system
def test_a_trial_that_cannot_train_says_why(trained: Path, params: Params, recorder: Recorder) -> None:
    folder = trained / "work/tune/one"
    folder.mkdir(parents=True)
    (trained / "data/prepared/splits.npy").write_bytes(b"")

    with pytest.raises(TrialFailed) as error:
        run_trial(trained, folder, params, recorder)

    assert str(error.value).endswith("Make it again: dvc repro --force prepare")
    assert not error.value.was_killed


def test_a_trial_that_has_ended_is_not_trained_again(tmp_path: Path, params: Params, recorder: Recorder) -> None:
    (tmp_path / "result.json").write_text('{"epoch": 3, "val_accuracy": 0.5, "test_accuracy": null}')

    assert run_trial(tmp_path, tmp_path, params, recorder) == Result(3, 0.5, None)


def test_two_searches_of_the_same_do_not_run_at_once(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(BusyError) as error, alone(tmp_path):
        pass

    assert str(error.value) == f"This is running already; it holds {tmp_path}. Wait for it, or stop it first."


def test_one_repeat_is_refused(project: Path, params: Params) -> None:
    with pytest.raises(ParamsError) as error:
        tune_repeats(project, params, 1, apply=False)

    assert str(error.value) == "convloop tune repeats 1: one training has no spread. Type at least 2, better 5."


@pytest.mark.slow
@pytest.mark.system
def test_repeats_tell_the_noise_of_seeds_in_one_run_with_nested_ones(trained: Path, convloop: Convloop) -> None:
    done = convloop("tune", "repeats", "2")
    assert done.returncode == 0, done.stderr

    found = json.loads((trained / "work/tune/repeats.json").read_text())
    assert list(found["seeds"]) == ["7", "8"]
    tests = [result["test_accuracy"] for result in found["seeds"].values()]
    assert found["test_accuracy"]["floor"] == pytest.approx(measure_noise(tests).floor)
    floor = min(round(found["test_accuracy"]["floor"], 4), 1.0)
    patch = YAML(typ="safe").load(trained / "work/tune/repeats/patch.yaml")
    assert patch == {"register": {"min_gain_share": floor}}
    assert done.stdout.endswith(
        f"may differ in their seed alone\n"
        "work/tune/repeats.json: convloop compare reads it\n"
        f"work/tune/repeats/patch.yaml: register.min_gain_share={floor:g}\n"
        "Write it into params.yaml: convloop tune apply work/tune/repeats/patch.yaml\n"
    )
    # The seed of params.yaml gives what the pipeline gave: the same training, scored through its package there.
    piped = json.loads((trained / "reports/evaluate/scores.json").read_text())["accuracy"]
    assert tests[0] == pytest.approx(piped, abs=1 / 130 + 1e-9)
    client = local_client(trained)
    runs = client.search_runs([client.get_experiment_by_name("small-tuning").experiment_id])
    names = {run.info.run_name: run for run in runs}
    assert set(names) == {"repeats cnn2", "seed 7", "seed 8"}
    above = names["repeats cnn2"].info.run_id
    assert [names[name].data.tags["mlflow.parentRunId"] for name in ("seed 7", "seed 8")] == [above, above]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not (trained / "work/checkpoints").exists()
    # The same again trains nothing, and writes the answer.
    again = convloop("tune", "repeats", "2", "--apply")
    assert again.stdout.endswith(f"params.yaml now has register.min_gain_share={floor:g}. Judge with it: dvc repro\n")
    assert load(trained / "params.yaml").registration.min_gain_share == floor
