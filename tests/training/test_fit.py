"""Training in one process: what it reaches, keeps and repeats."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from convloop.config import TrainParams
from convloop.core.history import read_history
from convloop.core.nets.plain import cnn2
from convloop.core.state import opened
from convloop.core.synth import synthetic_batches
from convloop.errors import DeviceError, ParamsError, TrainingError
from convloop.training.classifier import Classifier
from convloop.training.loaders import Batches
from convloop.training.trainer import Fitted, fit
from tests.conftest import Recorder

_MEAN_C, _STD_C = (128.0,) * 3, (60.0,) * 3


def _batches(seed: int = 3, images: int = 200, pieces: int = 1) -> Batches:
    (batch,) = synthetic_batches(
        seed=1,
        image_count=240,
        class_count=3,
        image_px=16,
        channel_count=3,
        difficulty_share=0,
        label_noise_share=0,
        imbalance_ratio=1,
        shift_share=0,
    )
    images_NHWC, labels_N = torch.from_numpy(batch.images_NHWC), torch.from_numpy(batch.labels_N)
    train, val = (images_NHWC[:images], labels_N[:images]), (images_NHWC[200:], labels_N[200:])
    return Batches(train, val, batch_size=32 // pieces, seed=seed)


def _classifier(lr: float = 0.002) -> Classifier:
    torch.manual_seed(5)
    return Classifier(cnn2(16, 3, 3), _MEAN_C, _STD_C, lr)


def _fit(
    state: Path,
    recorder: Recorder,
    *,
    epochs: int = 2,
    lr: float = 0.002,
    keep: str = "last",
    images: int = 200,
    classifier: Classifier | None = None,
    **settings: Any,
) -> Fitted:
    chosen = {"accelerator": "cpu", "devices": 1, "batch_size": 32, "epochs": epochs, "keep": keep} | settings
    with opened(state) as resume_from:
        return fit(
            classifier or _classifier(lr),
            _batches(images=images, pieces=settings.get("accumulate", 1)),
            TrainParams.model_validate(chosen),
            image_count=200,
            state=state,
            resume_from=resume_from,
            run=recorder,
        )


def _equal(one: Fitted, other: Fitted) -> bool:
    return all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_loss_of_a_fixed_seed_is_the_known_one(tmp_path: Path, recorder: Recorder) -> None:
    _fit(tmp_path / "state", recorder, epochs=1)

    # A change that moves this number changes what everybody's params.yaml trains.
    assert recorder.metrics["train/loss", 1] == pytest.approx(1.12584, abs=2e-4)


def test_two_trainings_of_one_seed_end_in_the_same_weights(tmp_path: Path, recorder: Recorder) -> None:
    assert _equal(_fit(tmp_path / "one", recorder), _fit(tmp_path / "two", recorder))


def test_training_lowers_the_loss(tmp_path: Path, recorder: Recorder) -> None:
    _fit(tmp_path / "state", recorder, epochs=4)

    assert recorder.metrics["train/loss", 4] < 0.8 * recorder.metrics["train/loss", 1]


def test_a_training_cut_off_after_an_epoch_ends_in_the_weights_of_an_uncut_one(
    tmp_path: Path, recorder: Recorder
) -> None:
    uncut = _fit(tmp_path / "uncut", recorder, epochs=3)
    _fit(tmp_path / "cut", recorder, epochs=1)

    resumed = _fit(tmp_path / "cut", recorder, epochs=3)

    assert _equal(resumed, uncut)


def test_history_of_a_resumed_training_has_each_epoch_once(tmp_path: Path, recorder: Recorder) -> None:
    _fit(tmp_path / "state", recorder, epochs=1)
    _fit(tmp_path / "state", recorder, epochs=3)

    assert [row["epoch"] for row in read_history(tmp_path / "state/history.csv")] == [1, 2, 3]


def test_run_gets_the_metrics_of_each_epoch_with_the_epoch_as_step(tmp_path: Path, recorder: Recorder) -> None:
    _fit(tmp_path / "state", recorder)

    assert set(recorder.metrics) == {
        (name, epoch)
        for name in (
            *("train/loss", "train/accuracy", "train/images_per_s", "train/spent_s", "val/loss", "val/accuracy"),
            *(
                "system/setup_s",
                "system/cpu_share",
                "system/memory_mb",
                *(["system/gpu_memory_mb"] if torch.cuda.is_available() else []),
            ),
        )
        for epoch in (1, 2)
    }


def test_seconds_of_the_epochs_add_up_and_set_up_is_told_apart(tmp_path: Path, recorder: Recorder) -> None:
    began_s = time.time()
    _fit(tmp_path / "state", recorder, epochs=1)
    _fit(tmp_path / "state", recorder, epochs=3)
    ended_s = time.time()

    rows = read_history(tmp_path / "state/history.csv")
    epochs_s = [200 / row["train/images_per_s"] for row in rows]
    assert [row["train/spent_s"] for row in rows] == pytest.approx(np.cumsum(epochs_s).tolist())
    assert sum(epochs_s) < ended_s - began_s
    process_s = began_s - psutil.Process().create_time()
    assert rows[0]["system/setup_s"] > process_s
    assert rows[0]["system/setup_s"] + epochs_s[0] < rows[1]["system/setup_s"] == rows[2]["system/setup_s"]


def test_validation_accuracy_is_what_an_independent_count_gives(tmp_path: Path, recorder: Recorder) -> None:
    fitted = _fit(tmp_path / "state", recorder)
    classifier, batches = _classifier(), _batches()
    classifier.net.load_state_dict(fitted.weights)
    images_NHWC, labels_N = batches._val

    with torch.no_grad():
        answers_N = classifier.eval()(images_NHWC).argmax(1)

    assert recorder.metrics["val/accuracy", 2] == pytest.approx(float(np.mean((answers_N == labels_N).numpy())))


def test_best_keeps_the_first_epoch_of_the_best_validation_accuracy(tmp_path: Path, recorder: Recorder) -> None:
    fitted = _fit(tmp_path / "state", recorder, epochs=6, lr=0.005, keep="best")
    accuracies = [recorder.metrics["val/accuracy", epoch] for epoch in range(1, 7)]

    assert fitted.epoch == 1 + int(np.argmax(accuracies))


def test_last_keeps_the_last_epoch(tmp_path: Path, recorder: Recorder) -> None:
    assert _fit(tmp_path / "state", recorder, epochs=3, keep="last").epoch == 3


def test_a_loss_that_is_no_number_stops_with_what_to_do(tmp_path: Path, recorder: Recorder) -> None:
    classifier = _classifier()
    with torch.no_grad():
        next(classifier.net.parameters()).fill_(float("nan"))

    with pytest.raises(TrainingError) as error:
        _fit(tmp_path, recorder, epochs=1, classifier=classifier)

    assert str(error.value) == (
        "The loss was nan by step 1 (epoch 1, lr 0.002). Lower train.lr; nothing was learned yet."
    )


def test_bf16_reaches_about_the_loss_of_32_bits(tmp_path: Path, recorder: Recorder) -> None:
    _fit(tmp_path / "full", recorder)
    full = recorder.metrics["train/loss", 2]
    _fit(tmp_path / "half", recorder, precision="bf16")

    assert recorder.metrics["train/loss", 2] == pytest.approx(full, rel=0.1)


def test_an_accelerator_that_is_absent_is_named(tmp_path: Path, recorder: Recorder) -> None:
    if torch.cuda.is_available():
        accelerator, devices = "gpu", 1000
    else:
        accelerator, devices = "gpu", 1

    with pytest.raises(DeviceError, match=f"train.accelerator is {accelerator} and train.devices is {devices}, but"):
        _fit(tmp_path / "state", recorder, accelerator=accelerator, devices=devices)


def test_a_batch_that_devices_cannot_share_is_refused(tmp_path: Path, recorder: Recorder) -> None:
    with pytest.raises(ParamsError) as error:
        _fit(tmp_path / "state", recorder, devices=3, strategy="ddp")

    assert str(error.value) == (
        "params.yaml: train.batch_size is 32, which 3 devices cannot share evenly. Use 30 or 33."
    )


def test_share_of_the_cores_and_memory_are_those_of_this_process(tmp_path: Path, recorder: Recorder) -> None:
    _fit(tmp_path / "state", recorder)

    assert 0 < recorder.metrics["system/cpu_share", 2] <= 1.1
    assert recorder.metrics["system/memory_mb", 2] == pytest.approx(psutil.Process().memory_info().rss / 1e6, rel=0.3)
