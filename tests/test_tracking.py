"""One model is one run: opened, found again, rebuilt from files, and always ended with a true status."""

import csv
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from convloop import store
from convloop.config import Params
from convloop.core.history import Point, write_history
from convloop.core.state import FOLDER, begin_record, left_behind, opened, read_record
from convloop.errors import TrackingError
from convloop.publish import publish_evaluation, publish_training
from convloop.runs import SilentRun
from convloop.sender import BackgroundRun
from convloop.tracking import Tracker
from tests.test_store import closed_port

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as Found

T = TypeVar("T")

STATE = FOLDER / "state"


def eventually(found: "Callable[[], T]") -> "T":
    """Give what is found as soon as something is: another thread is at it."""
    for _ in range(300):
        if value := found():
            return value
        time.sleep(0.1)
    raise AssertionError("nothing was found in 30 s")


def note_run(project: Path) -> str:
    """Write the training of STATE into models/model, and give its run."""
    run_id = (project / STATE / "run_id").read_text()
    note = {"run_id": run_id, "training_id": read_record(project / STATE)["training_id"], "name": "named"}
    (project / "models/model/run.json").write_text(json.dumps(note))
    return run_id


@pytest.fixture
def tracker(project: Path, params: Params) -> Tracker:
    return Tracker(project, params.tracking)


@pytest.fixture
def client(project: Path) -> "MlflowClient":
    return store.connect(project, 5)


def runs_of(client: "MlflowClient", experiment: str = "small") -> "list[Found]":
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


def begun(state: Path) -> Path:
    """Note a training as the train stage does before it opens the run."""
    state.mkdir(parents=True, exist_ok=True)
    begin_record(state, {"name": "named", "params": {}, "inputs": {}, "tags": {}})
    return state


def interrupted(tracker: Tracker, state: Path, error: BaseException) -> str:
    """Open a training run, leave it by an exception, and give its id."""
    with pytest.raises(type(error)), tracker.training_run(begun(state)):
        raise error
    note = state / "run_id"
    return note.read_text() if note.is_file() else ""


# A training from its beginning to its end


def test_training_run_is_running_while_it_lasts(trained: Path, tracker: Tracker, client: "MlflowClient") -> None:
    with tracker.training_run(begun(trained / STATE)) as run:
        run.log_tags({"a": "b"})
        (found,) = eventually(lambda: [run for run in runs_of(client) if "a" in run.data.tags])
        assert found.info.status == "RUNNING"
        assert time.time() - float(found.data.tags["convloop.heartbeat_s"]) < 60


def test_training_run_that_ends_well_is_finished_and_complete(
    trained: Path, tracker: Tracker, client: "MlflowClient"
) -> None:
    with tracker.training_run(begun(trained / STATE)):
        pass
    (found,) = runs_of(client)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "named")
    assert found.data.tags["convloop.complete"] == "true"
    assert "convloop.rebuilt" not in found.data.tags
    assert ((trained / STATE / "status").read_text(), (trained / STATE / "sent").exists()) == ("FINISHED", True)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("a bug"), "FAILED"),
        (TrackingError("a message"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
    ],
)
def test_training_run_that_ends_otherwise_says_how(
    project: Path, tracker: Tracker, client: "MlflowClient", error: BaseException, status: str
) -> None:
    found = client.get_run(interrupted(tracker, project / STATE, error))
    assert found.info.status == status
    assert "convloop.complete" not in found.data.tags


def test_same_state_goes_on_with_the_same_run(trained: Path, tracker: Tracker, client: "MlflowClient") -> None:
    first = interrupted(tracker, trained / STATE, KeyboardInterrupt())
    with tracker.training_run(begun(trained / STATE)):
        assert eventually(lambda: client.get_run(first).info.status == "RUNNING")
    assert [(found.info.run_id, found.info.status) for found in runs_of(client)] == [(first, "FINISHED")]


def test_a_run_whose_id_never_came_back_is_found_again(project: Path, tracker: Tracker, client: "MlflowClient") -> None:
    """A server may make a run and die before it answers."""
    first = interrupted(tracker, project / STATE, KeyboardInterrupt())
    (project / STATE / "run_id").unlink()
    assert interrupted(tracker, project / STATE, KeyboardInterrupt()) == first


def test_another_state_gets_a_run_of_its_own(project: Path, tracker: Tracker, client: "MlflowClient") -> None:
    ids = {interrupted(tracker, project / name, KeyboardInterrupt()) for name in ("one", "two")}
    assert {found.info.run_id for found in runs_of(client)} == ids
    assert len(ids) == 2


def test_state_whose_run_was_deleted_gets_a_new_one(project: Path, tracker: Tracker, client: "MlflowClient") -> None:
    first = interrupted(tracker, project / STATE, KeyboardInterrupt())
    client.delete_run(first)
    assert interrupted(tracker, project / STATE, KeyboardInterrupt()) != first


def test_state_whose_run_this_store_does_not_know_gets_a_new_one(project: Path, tracker: Tracker) -> None:
    (begun(project / STATE) / "run_id").write_text("0" * 32)
    assert interrupted(tracker, project / STATE, KeyboardInterrupt()) != "0" * 32


def test_other_ranks_record_nothing(
    project: Path, tracker: Tracker, client: "MlflowClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with tracker.training_run(project / STATE) as run:
        assert isinstance(run, SilentRun)
    assert runs_of(client) == []
    assert not (project / STATE).exists()


def test_artifacts_lie_in_the_project(trained: Path, tracker: Tracker, client: "MlflowClient") -> None:
    run = tracker.model_run()
    assert client.get_run(run.id).info.artifact_uri.startswith((trained / "mlruns/artifacts").as_uri())


# The run of a finished model, found again or rebuilt


def test_run_unknown_to_the_store_is_rebuilt_from_the_files(
    trained: Path, tracker: Tracker, client: "MlflowClient"
) -> None:
    record: dict[str, Any] = json.loads((trained / "reports/train/record.json").read_text())
    run = tracker.model_run()
    found = client.get_run(run.id)
    assert run.id != json.loads((trained / "models/model/run.json").read_text())["run_id"]
    assert found.info.status == "FINISHED"
    assert found.data.tags["convloop.rebuilt"] == "true"
    assert found.data.tags["convloop.complete"] == "true"
    assert found.data.tags["convloop.model_digest"] == record["digest"]
    assert {key: found.data.tags[key] for key in record["tags"]} == record["tags"]
    assert found.data.params == {key: str(value) for key, value in record["params"].items()}
    inputs = {entry.dataset.name: entry.dataset.digest for entry in found.inputs.dataset_inputs}
    assert inputs == record["inputs"]
    assert set(inputs) == {"data/raw", "data/landed/manifest.json", "data/prepared"}


def test_rebuilt_run_shows_each_epoch_at_its_step(trained: Path, tracker: Tracker, client: "MlflowClient") -> None:
    with (trained / "reports/train/history.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    run = tracker.model_run()
    for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "train/images_per_s"):
        shown = [(metric.step, metric.value, metric.timestamp) for metric in client.get_metric_history(run.id, name)]
        assert shown == [(int(row["epoch"]), float(row[name]), int(row["time_ms"])) for row in rows]
    assert [row["epoch"] for row in rows] == ["1", "2"]


def test_best_epoch_is_shown_once(trained: Path, tracker: Tracker, client: "MlflowClient") -> None:
    best = json.loads((trained / "reports/train/record.json").read_text())["best"]
    run = tracker.model_run()
    assert {
        name: [(metric.step, metric.value) for metric in client.get_metric_history(run.id, f"val/best_{name}")]
        for name in best
    } == {name: [(int(best["epoch"]), value)] for name, value in best.items()}


def test_run_says_what_its_data_were(trained: Path, tracker: Tracker, client: "MlflowClient") -> None:
    card = json.loads((trained / "data/prepared/card.json").read_text())
    metrics = client.get_run(tracker.model_run().id).data.metrics
    assert {name: value for name, value in metrics.items() if name.startswith("data/")} == {
        "data/image_count": card["image_count"],
        "data/left_out_image_count": card["left_out_image_count"],
        "data/refused_image_count": card["refused_image_count"],
        "data/warning_count": len(card["warnings"]),
        **{f"data/{split}_image_count": count for split, count in card["split_image_count"].items()},
    }


def test_rebuilt_run_keeps_the_files(trained: Path, tracker: Tracker, client: "MlflowClient") -> None:
    run = tracker.model_run()
    assert {file.path for file in client.list_artifacts(run.id)} == {
        "params.yaml",
        "history.csv",
        "net.txt",
        "card.json",
        "data",
    }
    pages = {file.path for file in client.list_artifacts(run.id, "data")}
    assert pages == {"data/report.html", "data/card.html"}


def test_asking_twice_rebuilds_one_run(trained: Path, tracker: Tracker, client: "MlflowClient") -> None:
    first, second = tracker.model_run(), tracker.model_run()
    assert [found.info.run_id for found in runs_of(client)] == [first.id] == [second.id]


def test_another_process_finds_the_rebuilt_run(
    trained: Path, params: Params, tracker: Tracker, client: "MlflowClient"
) -> None:
    first = tracker.model_run()
    second = Tracker(trained, params.tracking).model_run()
    assert first.id == second.id


def test_known_run_is_found_and_not_rebuilt(trained: Path, tracker: Tracker, client: "MlflowClient") -> None:
    with tracker.training_run(begun(trained / STATE)):
        pass
    run_id = note_run(trained)
    assert tracker.model_run().id == run_id
    assert len(runs_of(client)) == 1


def test_half_sent_run_is_completed(trained: Path, tracker: Tracker, client: "MlflowClient") -> None:
    run_id = interrupted(tracker, trained / STATE, KeyboardInterrupt())
    note_run(trained)
    assert client.get_run(run_id).data.metrics == {}
    assert tracker.model_run().id == run_id
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["convloop.complete"] == "true"
    assert "convloop.rebuilt" not in found.data.tags
    assert len(client.get_metric_history(run_id, "val/loss")) == 2


def test_model_trained_without_a_server_gets_its_run_later(
    trained: Path, tracker: Tracker, client: "MlflowClient"
) -> None:
    note = {"run_id": None, "training_id": "abc", "name": "cnn2 lr=0.002"}
    (trained / "models/model/run.json").write_text(json.dumps(note))
    run = tracker.model_run()
    assert client.get_run(run.id).info.run_name == "cnn2 lr=0.002"


def test_sending_a_training_twice_adds_no_metric_rows(trained: Path, tracker: Tracker, client: "MlflowClient") -> None:
    run = tracker.model_run()
    names = [*client.get_run(run.id).data.metrics]
    before = {name: len(client.get_metric_history(run.id, name)) for name in names}
    publish_training(run, trained)
    assert {name: len(client.get_metric_history(run.id, name)) for name in names} == before
    assert before == {name: 1 if name.startswith(("val/best_", "data/")) else 2 for name in names}


def test_sending_an_evaluation_twice_adds_nothing(trained: Path, tracker: Tracker, client: "MlflowClient") -> None:
    run = tracker.model_run()
    publish_evaluation(run, trained)
    names = [name for name in client.get_run(run.id).data.metrics if name.startswith("test/")]
    images = [file.path for file in client.list_artifacts(run.id, "images")]
    publish_evaluation(run, trained)
    assert names
    assert [len(client.get_metric_history(run.id, name)) for name in names] == [1] * len(names)
    assert [file.path for file in client.list_artifacts(run.id, "images")] == images


def test_real_training_leaves_one_metric_row_for_each_epoch(trained_files: Path) -> None:
    """What went out epoch by epoch is sent once more at the end from the file, which must hold the same numbers."""
    run_id = json.loads((trained_files / "models/model/run.json").read_text())["run_id"]
    found = store.connect(trained_files, 5)
    assert [metric.step for metric in found.get_metric_history(run_id, "val/loss")] == [1, 2]
    assert [metric.step for metric in found.get_metric_history(run_id, "train/loss")] == [1, 2]


# Runs that nobody could end


def left_running(client: "MlflowClient", *, beat_s: float | None) -> str:
    """Make a run as a machine that was lost leaves it."""
    experiment = client.get_experiment_by_name("small")
    experiment_id = experiment.experiment_id if experiment else client.create_experiment("small")
    tags = {} if beat_s is None else {"convloop.heartbeat_s": f"{beat_s:.0f}"}
    return str(client.create_run(experiment_id, tags=tags, run_name="lost").info.run_id)


def test_a_run_without_a_sign_of_life_is_ended_at_its_last_one(
    project: Path, tracker: Tracker, client: "MlflowClient"
) -> None:
    run_id = left_running(client, beat_s=1_800_000_000 - 1_000_000_000)
    assert tracker.repair() == ["lost"]
    found = client.get_run(run_id)
    assert (found.info.status, found.info.end_time) == ("KILLED", 800_000_000_000)
    assert found.data.tags["convloop.repaired"] == "the process ended without a word"


def test_a_run_that_gave_a_sign_of_life_is_left_alone(project: Path, tracker: Tracker, client: "MlflowClient") -> None:
    run_id = left_running(client, beat_s=time.time() - 60)
    assert tracker.repair() == []
    assert client.get_run(run_id).info.status == "RUNNING"


def test_a_run_of_another_tool_is_left_alone(project: Path, tracker: Tracker, client: "MlflowClient") -> None:
    run_id = left_running(client, beat_s=None)
    assert tracker.repair() == []
    assert client.get_run(run_id).info.status == "RUNNING"


@pytest.mark.parametrize(("written", "status"), [(None, "KILLED"), ("FAILED", "FAILED"), ("FINISHED", "FINISHED")])
def test_a_run_of_this_project_is_ended_as_its_files_say(
    project: Path, tracker: Tracker, client: "MlflowClient", written: str | None, status: str
) -> None:
    state = begun(project / STATE)
    run_id = left_running(client, beat_s=time.time())
    (state / "run_id").write_text(run_id)
    if written:
        (state / "status").write_text(written)
    assert tracker.repair() == ["lost"]
    assert client.get_run(run_id).info.status == status


def test_a_run_whose_training_goes_on_here_is_left_alone_however_old_its_sign(
    project: Path, tracker: Tracker, client: "MlflowClient"
) -> None:
    run_id = left_running(client, beat_s=1)
    with opened(begun(project / STATE)):
        (project / STATE / "run_id").write_text(run_id)
        assert tracker.repair() == []
    assert client.get_run(run_id).info.status == "RUNNING"


def test_the_next_training_ends_what_was_lost(project: Path, tracker: Tracker, client: "MlflowClient") -> None:
    run_id = left_running(client, beat_s=1)
    interrupted(tracker, project / STATE, KeyboardInterrupt())
    assert client.get_run(run_id).info.status == "KILLED"


# What is sent later


def test_a_training_that_was_killed_before_it_was_sent_is_sent_whole(
    project: Path, tracker: Tracker, client: "MlflowClient"
) -> None:
    state = begun(project / STATE)
    write_history(state / "history.csv", [{"epoch": 1, "val/loss": 0.5, "time_ms": 1_700_000_000_123}])
    (run_id,) = tracker.send_left_behind()
    found = client.get_run(run_id)
    assert found.info.status == "KILLED"
    shown = [(point.step, point.value, point.timestamp) for point in client.get_metric_history(run_id, "val/loss")]
    assert shown == [(1, 0.5, 1_700_000_000_123)]
    assert tracker.send_left_behind() == []
    assert len(runs_of(client)) == 1


def test_a_training_that_failed_before_it_was_sent_is_sent_as_failed(
    project: Path, tracker: Tracker, client: "MlflowClient"
) -> None:
    (begun(project / STATE) / "status").write_text("FAILED")
    (run_id,) = tracker.send_left_behind()
    assert client.get_run(run_id).info.status == "FAILED"


# A store that gives no answer, at the start or in the middle


def test_training_goes_on_without_a_server(
    project: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = closed_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    interrupted(tracker, project / STATE, KeyboardInterrupt())
    assert left_behind(project) == [project / STATE]
    assert capsys.readouterr().err == (
        f"No answer from MLflow at http://127.0.0.1:{port} in 5 s. "
        "Training goes on; its history is kept. Send it later: convloop sync\n"
    )


def test_retraining_goes_on_without_a_server(
    project: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port()}")
    with tracker.retraining_run("retraining 1", {}) as run:
        run.log_tags({"a": "b"})
    assert capsys.readouterr().err.startswith("No answer from MLflow at ")


def test_model_run_needs_the_server(trained: Path, tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    port = closed_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with pytest.raises(TrackingError) as raised:
        tracker.model_run()
    assert str(raised.value) == (
        f"No answer from MLflow at http://127.0.0.1:{port} in 5 s. "
        "Start the server or unset MLFLOW_TRACKING_URI, then run the same command again."
    )


def test_run_that_vanishes_in_the_middle_does_not_end_training(
    project: Path, tracker: Tracker, client: "MlflowClient", capsys: pytest.CaptureFixture[str]
) -> None:
    def train() -> None:
        with tracker.training_run(begun(project / STATE)) as run:
            client.delete_run(str(eventually(lambda: run.id)))
            run.log_points([Point("train/loss", 1.0, 1, 1)])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    uri, run_id = store.tracking_uri(project), (project / STATE / "run_id").read_text()
    assert capsys.readouterr().err == (
        f"The MLflow store {uri} failed: The run {run_id} must be in the 'active' state. "
        "Training goes on; its history is kept. Send it later: convloop sync\n"
    )


def test_run_that_stays_away_is_told_of_once(
    project: Path, tracker: Tracker, client: "MlflowClient", capsys: pytest.CaptureFixture[str]
) -> None:
    """Trying again is no answer, also for what is sent after the run's last status."""

    def train() -> None:
        with tracker.training_run(begun(project / STATE)) as run:
            client.delete_run(str(eventually(lambda: run.id)))
            assert isinstance(run, BackgroundRun)
            run.close("KILLED")
            time.sleep(4)  # the sender tries again after 1 s, and after 2 s more
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    told = capsys.readouterr().err
    assert told.count(" failed: ") == 1
    assert "answers again" not in told


def test_run_that_comes_back_is_told_of_and_sent(
    project: Path, tracker: Tracker, client: "MlflowClient", capsys: pytest.CaptureFixture[str]
) -> None:
    def train() -> None:
        with tracker.training_run(begun(project / STATE)) as run:
            run_id = str(eventually(lambda: run.id))
            client.delete_run(run_id)
            run.log_points([Point("train/loss", 1.0, 1, 1)])
            eventually(lambda: "Training goes on" in capsys.readouterr().err)
            client.restore_run(run_id)
            eventually(lambda: "MLflow answers again" in capsys.readouterr().err)
            assert eventually(lambda: client.get_run(run_id).data.metrics) == {"train/loss": 1.0}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()


# Experiments


def test_deleted_experiment_is_named_with_its_remedy(
    trained: Path, tracker: Tracker, client: "MlflowClient", capsys: pytest.CaptureFixture[str]
) -> None:
    experiment_id = client.create_experiment("small")
    client.delete_experiment(experiment_id)
    with pytest.raises(TrackingError) as raised:
        tracker.model_run()
    assert str(raised.value) == (
        f"The experiment small is deleted. Restore it: mlflow experiments restore -x {experiment_id}, "
        "or set tracking.experiment to another name."
    )


def test_training_goes_on_though_the_experiment_is_deleted(
    project: Path, tracker: Tracker, client: "MlflowClient", capsys: pytest.CaptureFixture[str]
) -> None:
    client.delete_experiment(client.create_experiment("small"))
    with pytest.raises(KeyboardInterrupt), tracker.training_run(begun(project / STATE)):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == (
        "The experiment small is deleted. Training goes on; its history is kept. Send it later: convloop sync\n"
    )


def test_retrainings_have_an_experiment_of_their_own(tracker: Tracker, client: "MlflowClient") -> None:
    with tracker.retraining_run("retraining 1: by hand", {"retraining.reason": "by hand"}) as run:
        pass
    (found,) = runs_of(client, "small-retraining")
    assert (found.info.run_id, found.info.run_name) == (run.id, "retraining 1: by hand")
    assert (found.info.status, found.data.tags["retraining.reason"]) == ("FINISHED", "by hand")
    assert runs_of(client) == []


@pytest.mark.parametrize(("error", "status"), [(ValueError("a bug"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_retraining_run_that_ends_otherwise_says_how(
    tracker: Tracker, client: "MlflowClient", error: BaseException, status: str
) -> None:
    with pytest.raises(type(error)), tracker.retraining_run("retraining 1", {}):
        raise error
    assert [found.info.status for found in runs_of(client, "small-retraining")] == [status]


def test_model_moved_to_another_folder_keeps_one_run(
    trained: Path, params: Params, tracker: Tracker, client: "MlflowClient", tmp_path: Path
) -> None:
    first = tracker.model_run()
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    assert Tracker(copy, params.tracking).model_run().id == first.id
