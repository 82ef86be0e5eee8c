"""evaluate: the packaged model on each test image once, written down even when no server answers."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sklearn.metrics

from convloop import store
from convloop.config import Params
from convloop.core.card import CARD_FILE
from convloop.errors import DataError, OutputError
from convloop.pipeline import STAGES
from convloop.tracking import Tracker
from tests.conftest import Convloop
from tests.test_store import closed_port

if TYPE_CHECKING:
    from mlflow.entities import Run as Found


def evaluate(project: Path, params: Params) -> None:
    STAGES["evaluate"].run(params, project, Tracker(project, params.tracking))


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def only_run(project: Path) -> "Found":
    client = store.connect(project, 5)
    (run,) = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    return run


def damage(file: Path) -> None:
    """Turn one byte in the middle around."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))


def test_evaluate_writes_what_the_pipeline_promises(trained: Path) -> None:
    written = {f"reports/evaluate/{file.name}" for file in (trained / "reports/evaluate").iterdir()}
    assert written == set(STAGES["evaluate"].writes)


def test_each_test_image_is_scored_once(trained: Path) -> None:
    splits_N = np.load(trained / "data/prepared/splits.npy")
    with np.load(trained / "data/raw/shard-00000.facts.npz") as facts:
        labels_N = facts["labels"][splits_N == 2]
    with np.load(trained / "reports/evaluate/predictions.npz") as predictions:
        np.testing.assert_array_equal(predictions["labels_N"], labels_N)
        assert predictions["probabilities_NK"].shape == (len(labels_N), 3)
    assert read(trained / "reports/evaluate/scores.json")["image_count"] == len(labels_N)


def test_scores_agree_with_scikit_learn(trained: Path) -> None:
    with np.load(trained / "reports/evaluate/predictions.npz") as predictions:
        labels_N, probabilities_NK = predictions["labels_N"], predictions["probabilities_NK"].astype(np.float64)
    answers_N = probabilities_NK.argmax(1)
    assert read(trained / "reports/evaluate/scores.json") == {
        "accuracy": pytest.approx(sklearn.metrics.accuracy_score(labels_N, answers_N), abs=1e-6),
        "loss": pytest.approx(-np.log(probabilities_NK[np.arange(len(labels_N)), labels_N]).mean(), abs=1e-6),
        "macro_f1": pytest.approx(sklearn.metrics.f1_score(labels_N, answers_N, average="macro"), abs=1e-6),
        "image_count": len(labels_N),
    }


def test_tables_agree_with_the_predictions(trained: Path) -> None:
    classes = read(trained / "data/raw/manifest.json")["classes"]
    with np.load(trained / "reports/evaluate/predictions.npz") as predictions:
        labels_N, answers_N = predictions["labels_N"], predictions["probabilities_NK"].argmax(1)
    with (trained / "reports/evaluate/confusion.csv").open(newline="") as opened:
        pairs = [(row["label"], row["answer"]) for row in csv.DictReader(opened)]
    assert pairs == [(classes[label], classes[answer]) for label, answer in zip(labels_N, answers_N, strict=True)]
    precision_K, recall_K, f1_K, count_K = sklearn.metrics.precision_recall_fscore_support(
        labels_N, answers_N, labels=[0, 1, 2], zero_division=0
    )
    with (trained / "reports/evaluate/classes.csv").open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["class"] for row in rows] == classes
    assert [int(row["image_count"]) for row in rows] == count_K.tolist()
    for name, expected_K in (("precision", precision_K), ("recall", recall_K), ("f1", f1_K)):
        np.testing.assert_allclose([float(row[name]) for row in rows], expected_K, atol=1e-6)


def test_scores_do_not_depend_on_the_batch(trained: Path, params: Params) -> None:
    before = read(trained / "reports/evaluate/scores.json")
    evaluate(trained, params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"batch_size": 7})}))
    assert read(trained / "reports/evaluate/scores.json") == pytest.approx(before, abs=1e-6)


def test_run_shows_scores_and_pictures_at_the_epoch_that_was_packaged(trained: Path, params: Params) -> None:
    evaluate(trained, params)
    run, client = only_run(trained), store.connect(trained, 5)
    epoch = read(trained / "models/model" / CARD_FILE)["epoch"]
    scores = read(trained / "reports/evaluate/scores.json")
    for name in ("accuracy", "loss", "macro_f1"):
        (metric,) = client.get_metric_history(run.info.run_id, f"test/{name}")
        assert (metric.step, metric.value) == (epoch, scores[name])
    assert {file.path for file in client.list_artifacts(run.info.run_id, "evaluate")} == {
        "evaluate/classes.csv",
        "evaluate/predictions.npz",
        "evaluate/report.html",
    }
    files = [Path(file.path).name.split("+") for file in client.list_artifacts(run.info.run_id, "images")]
    shown = {(name, int(step)) for name, _, step, *_ in files}
    assert shown == {(name, step) for name in ("history", "samples", "confusion", "worst") for step in (0, epoch)}
    assert run.data.tags["evaluate.batch_size"] == "64"


def test_evaluation_without_a_server_still_writes_scores(
    trained: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read(trained / "reports/evaluate/scores.json")
    (trained / "reports/evaluate/scores.json").unlink()
    uri = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    evaluate(trained, params)
    assert read(trained / "reports/evaluate/scores.json") == before
    said = capsys.readouterr()
    assert said.out == (
        f"Test: accuracy {before['accuracy']:.4f}, loss {before['loss']:.4f} on {before['image_count']:,} images.\n"
    )
    assert said.err == (
        f"No answer from MLflow at {uri} in 5 s. The scores are in reports/evaluate; register sends them.\n"
    )


def test_evaluate_needs_a_model(project: Path, params: Params) -> None:
    with pytest.raises(DataError) as raised:
        evaluate(project, params)
    assert str(raised.value) == (
        f"{project}/models/model/extra_files/card.json is missing: there is no packaged model. Make it: dvc repro train"
    )


def test_damaged_graph_is_named(trained: Path, params: Params) -> None:
    graph = trained / "models/model/data/model.pt2"
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(DataError) as raised:
        evaluate(trained, params)
    assert str(raised.value).startswith(f"{graph} cannot be loaded: ")
    assert str(raised.value).endswith(". Make it again: dvc repro --force train")


def test_damaged_card_is_named(trained: Path, params: Params) -> None:
    card = trained / "models/model" / CARD_FILE
    card.write_text(json.dumps(read(card) | {"colour": "blue"}))
    with pytest.raises(DataError) as raised:
        evaluate(trained, params)
    assert str(raised.value) == (
        f"{card} is damaged (ModelCard.__init__() got an unexpected keyword argument 'colour'). "
        "Make it again: dvc repro --force train"
    )


def test_model_of_other_classes_is_not_scored(trained: Path, params: Params) -> None:
    card = trained / "models/model" / CARD_FILE
    card.write_text(json.dumps(read(card) | {"classes": ["cat", "dog"]}))
    with pytest.raises(DataError) as raised:
        evaluate(trained, params)
    assert str(raised.value) == (
        "models/model answers 2 classes for images of (16, 16, 3), but data/raw holds 3 classes and images of "
        "(16, 16, 3). Run dvc repro train"
    )


def test_data_prepared_from_other_images_are_refused(trained: Path, params: Params) -> None:
    card = trained / "data/prepared/card.json"
    card.write_text(json.dumps(read(card) | {"content_sha256": "0" * 64}))
    with pytest.raises(DataError) as raised:
        evaluate(trained, params)
    assert str(raised.value) == (
        f"{trained}/data/prepared was made from other images than data/raw and data/landed hold. Run dvc repro prepare"
    )


def test_damaged_shard_is_found_before_scoring(trained: Path, params: Params) -> None:
    shard = trained / "data/raw/shard-00000.images.npy"
    damage(shard)
    before = (trained / "reports/evaluate/details.json").read_bytes()
    with pytest.raises(DataError, match=rf"^{shard} is damaged: its sha256 is .{{12}}, the manifest says .{{12}}\. "):
        evaluate(trained, params)
    assert (trained / "reports/evaluate/details.json").read_bytes() == before


def test_file_in_the_way_of_the_report_is_named(trained: Path, params: Params) -> None:
    for file in (trained / "reports/evaluate").iterdir():
        file.unlink()
    (trained / "reports/evaluate").rmdir()
    (trained / "reports/evaluate").write_text("in the way")
    with pytest.raises(OutputError) as raised:
        evaluate(trained, params)
    assert str(raised.value) == (
        f"{trained}/reports/evaluate cannot be written: Not a directory. Make it writable "
        f"(ls -ld {trained}/reports; df -h {trained}/reports), then run the same command again."
    )


def test_evaluate_by_hand_ends_with_3_and_a_message(project: Path, convloop: Convloop) -> None:
    answer = convloop("evaluate")
    assert (answer.returncode, answer.stdout, answer.stderr) == (
        3,
        "",
        f"convloop: {project}/models/model/extra_files/card.json is missing: there is no packaged model. "
        "Make it: dvc repro train\n",
    )
