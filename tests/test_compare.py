"""Runs side by side: what differs, and whether the difference in accuracy is more than noise."""

import json
from pathlib import Path

import numpy as np
import pytest

from convloop.compare import compare
from convloop.config import Params
from convloop.core.gate import tango_interval
from convloop.errors import TrackingError
from convloop.publish import publish_evaluation
from convloop.runs import MlflowRun
from convloop.store import connect
from tests.conftest import Convloop


def _run(project: Path, name: str, lr: float, wrong: list[int], *, image_count: int = 200, shift: int = 0) -> str:
    """Keep a run whose model is wrong on some of the test images, by our own classes."""
    client = connect(project, 5)
    found = client.get_experiment_by_name("small")
    experiment = found.experiment_id if found else client.create_experiment("small", (project / "a").as_uri())
    run_id = str(client.create_run(experiment, run_name=name).info.run_id)
    run = MlflowRun(client, project, 5, run_id)
    run.log_params({"train.lr": lr, "train.epochs": 2, "train.devices": lr})
    file = project / "predictions.npz"
    order_N = np.random.default_rng(len(wrong)).permutation(image_count)  # rows may lie in any order
    answers_N = np.isin(order_N, wrong).astype(np.int64)
    content_N = np.array([f"{index + shift:032d}".encode() for index in order_N]).view("V32")
    np.savez(file, labels_N=np.zeros(image_count, int), probabilities_NK=np.eye(2)[answers_N], content_N=content_N)
    run.log_file(file, "evaluate")
    run.log_tags({"evaluate.test_sha256": f"{image_count}-{shift}"})
    run.close("FINISHED")
    return run_id


def test_difference_is_paired_and_has_the_interval_of_the_gate(
    project: Path, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _run(project, "one", 0.1, list(range(40)))
    second = _run(project, "two", 0.2, list(range(10)))
    assert compare(project, params, ["one", "two"]) == 0
    low, high = tango_interval(30, 0, 200)
    assert capsys.readouterr().out == (
        f"run            {first[:8]}  {second[:8]}\n"
        "called         one       two\n"
        "train.lr       0.1       0.2\n"
        "test images    200       200\n"
        "test accuracy  0.8000    0.9500\n"
        f"\ntwo against one: +0.1500, 95 % interval {low:+.4f} to {high:+.4f} on the same 200 images: better.\n"
    )


def test_noise_is_no_difference(project: Path, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    _run(project, "one", 0.1, list(range(40)))
    _run(project, "two", 0.2, list(range(2, 40)))
    compare(project, params, ["one", "two"])
    assert capsys.readouterr().out.endswith(" on the same 200 images: no difference shown.\n")


@pytest.mark.parametrize(("image_count", "shift"), [(199, 0), (200, 1)])
def test_other_test_images_cannot_be_compared(
    project: Path, params: Params, capsys: pytest.CaptureFixture[str], image_count: int, shift: int
) -> None:
    _run(project, "one", 0.1, [1])
    _run(project, "two", 0.2, [1], image_count=image_count, shift=shift)
    compare(project, params, ["one", "two"])
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"two against one: cannot be compared: the test sets differ (200-0 of 200 images, {image_count}-{shift} of "
        f"{image_count}). Set prepare.test_sha256 to keep one test set, and evaluate both on it."
    )


def test_run_without_predictions_says_how_to_make_them(project: Path, params: Params) -> None:
    client = connect(project, 5)
    run_id = client.create_run(client.create_experiment("small", (project / "a").as_uri()), run_name="one").info.run_id
    with pytest.raises(TrackingError) as raised:
        compare(project, params, ["one"])
    assert str(raised.value) == (
        f"Run {run_id[:8]} (one) keeps no predictions, so nothing can be paired. "
        "Bring its model back (convloop show) and evaluate it: dvc repro --force --single-item evaluate"
    )


def test_real_evaluation_keeps_its_predictions(
    trained: Path, params: Params, convloop: Convloop, capsys: pytest.CaptureFixture[str]
) -> None:
    """One model under two runs: every test image is paired, and nothing differs."""
    from convloop.tracking import Tracker

    run = Tracker(trained, params.tracking).model_run()
    publish_evaluation(run, trained)
    count = json.loads((trained / "reports/evaluate/scores.json").read_text())["image_count"]
    compare(trained, params, [str(run.id), str(run.id)[:6]])
    assert f" on the same {int(count):,} images: no difference shown." in capsys.readouterr().out


# What a user may call a model


def test_unknown_name_says_what_it_may_be(project: Path, params: Params) -> None:
    with pytest.raises(TrackingError) as raised:
        compare(project, params, ["nobody"])
    assert str(raised.value) == (
        'No run or version is called "nobody". Use a version (convloop models), an alias such as @champion, a run\'s '
        "name, or the first 4 or more characters of its id (convloop ui)."
    )


def test_unknown_alias_lists_the_known_ones(project: Path, params: Params) -> None:
    with pytest.raises(TrackingError) as raised:
        compare(project, params, ["@champion"])
    assert str(raised.value) == "small has no @champion. Aliases: none yet. See: convloop models"


def test_name_of_two_runs_asks_for_the_id(project: Path, params: Params) -> None:
    ids = {_run(project, "one", 0.1, [1]), _run(project, "one", 0.2, [1])}
    with pytest.raises(TrackingError) as raised:
        compare(project, params, ["one"])
    said = str(raised.value)
    assert said.startswith('2 runs are called "one". Say which by its id: ')
    assert set(said.removesuffix(".").partition("id: ")[2].split(", ")) == {run_id[:8] for run_id in ids}


# The noise of seeds, where it was measured


def _repeats(project: Path, lr: float) -> None:
    (project / "work/tune").mkdir(parents=True)
    found = {
        "params": {"train.lr": lr, "train.epochs": 2},
        "test_accuracy": {"count": 5, "mean": 0.9, "deviation": 0.01, "low": 0.88, "high": 0.92, "floor": 0.0393},
    }
    (project / "work/tune/repeats.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("lr", "about"), [(0.1, "these params"), (0.3, "other params than these; measure anew: convloop tune repeats 5")]
)
def test_noise_of_seeds_is_named_where_it_was_measured(
    project: Path, params: Params, capsys: pytest.CaptureFixture[str], lr: float, about: str
) -> None:
    _run(project, "one", 0.1, [1])
    _run(project, "two", 0.2, [1])
    _repeats(project, lr)
    compare(project, params, ["one", "two"])
    assert capsys.readouterr().out.splitlines()[-1] == (
        "Noise of seeds: two trainings whose test accuracy differs by less than 0.0393 may differ in their seed alone "
        f"(5 seeds, 0.9000 on the mean, of {about})."
    )
