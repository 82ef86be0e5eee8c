"""Recipes in the loop: what params choose is what is trained, validated and resumed."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor

from convloop.config import TrainParams
from convloop.core.augment import Mix
from convloop.core.history import Point, read_history
from convloop.core.images import open_images
from convloop.core.nets import NETS
from convloop.core.package import Package
from convloop.core.prepared import read_prepared
from convloop.core.split import VAL
from convloop.core.state import opened
from convloop.errors import ParamsError
from convloop.stages.train import build_net
from convloop.training.callbacks import average_weights
from convloop.training.classifier import Classifier, training_loss
from convloop.training.loaders import Batches
from convloop.training.recipe import recipe_of
from convloop.training.trainer import Fitted, fit
from tests.conftest import Convloop, Recorder

_MEAN_C, _STD_C = (128.0,) * 3, (60.0,) * 3
_RECIPES: dict[str, dict[str, Any]] = {
    "sgd": {
        "optimizer": "sgd",
        "lr": 0.05,
        "momentum": 0.8,
        "weight_decay": 5e-4,
        "curve": "one_cycle",
        "warmup_share": 0.2,
    },
    "muon": {"optimizer": "muon", "lr": 0.02, "weight_decay": 0.01, "curve": "cosine", "warmup_share": 0.1},
    "average": {"optimizer": "adamw", "average_share": 0.9, "stop_after_epoch_count": 5},
    "pictures": {
        "augment": {
            "flip": True,
            "shift_px": 2,
            "trivial": True,
            "cutout_px": 4,
            "mixup_alpha": 0.2,
            "cutmix_alpha": 1.0,
        },
        "label_smoothing_share": 0.1,
        "test_flip": True,
        "test_shift_px": 1,
    },
}


def _batches() -> Batches:
    """Draw noise with its upper half, its lower half or neither brighter: a mirror image is of the same class."""
    generator = torch.Generator().manual_seed(1)
    labels_N = torch.arange(240) % 3
    images_NHWC = torch.randint(0, 160, (240, 16, 16, 3), generator=generator)
    images_NHWC[labels_N == 0, :8] += 90
    images_NHWC[labels_N == 1, 8:] += 90
    images_NHWC = images_NHWC.to(torch.uint8)
    return Batches((images_NHWC[:200], labels_N[:200]), (images_NHWC[200:], labels_N[200:]), batch_size=32, seed=3)


def _settings(**keys: Any) -> TrainParams:
    plain = {"accelerator": "cpu", "devices": 1, "batch_size": 32, "epochs": 3, "keep": "last", "lr": 0.005}
    return TrainParams.model_validate(plain | keys)


def _classifier(settings: TrainParams, net: str = "cnn") -> Classifier:
    torch.manual_seed(5)
    keys = {"channels": (8, 16), "hidden_count": 32} if net == "cnn" else {}
    return Classifier(NETS[net](16, 3, 3, **keys), _MEAN_C, _STD_C, settings.lr, None, recipe_of(settings))


def _fit(state: Path, recorder: Recorder, net: str = "cnn", **keys: Any) -> Fitted:
    settings = _settings(**keys)
    with opened(state) as resume_from:
        return fit(
            _classifier(settings, net),
            _batches(),
            settings,
            image_count=200,
            state=state,
            resume_from=resume_from,
            run=recorder,
        )


class Cut(Recorder):
    """A run at which a training breaks once it tells of its second epoch."""

    def log_points(self, points: Sequence[Point]) -> None:
        super().log_points(points)
        if points[0].step == 2:
            raise ConnectionResetError("cut")


@pytest.mark.parametrize("recipe", _RECIPES)
def test_a_recipe_cut_off_after_an_epoch_ends_in_the_weights_of_an_uncut_one(
    recipe: str, tmp_path: Path, recorder: Recorder
) -> None:
    uncut = _fit(tmp_path / "uncut", recorder, **_RECIPES[recipe])
    with pytest.raises(ConnectionResetError):
        _fit(tmp_path / "cut", Cut(), **_RECIPES[recipe])

    resumed = _fit(tmp_path / "cut", recorder, **_RECIPES[recipe])

    assert all(torch.equal(resumed.weights[name], uncut.weights[name]) for name in uncut.weights)


@pytest.mark.parametrize("recipe", _RECIPES)
def test_a_recipe_lowers_the_loss(recipe: str, tmp_path: Path, recorder: Recorder) -> None:
    _fit(tmp_path / "state", recorder, **_RECIPES[recipe], epochs=6)

    assert recorder.metrics["val/loss", 6] < 0.8 * np.log(3)


def test_a_net_with_normalisation_is_validated_as_it_is_packaged(tmp_path: Path, recorder: Recorder) -> None:
    views = {"test_flip": True, "test_shift_px": 1}
    fitted = _fit(tmp_path / "state", recorder, "speednet", epochs=2, average_share=0.5, **views)
    classifier, (images_NHWC, labels_N) = _classifier(_settings(**views), "speednet"), _batches()._val
    classifier.net.load_state_dict(fitted.weights)

    with torch.no_grad():
        answers_N = classifier.eval()(images_NHWC).argmax(1)

    assert recorder.metrics["val/accuracy", 2] == pytest.approx(float((answers_N == labels_N).float().mean()))


def test_the_rate_follows_its_curve_from_step_to_step(tmp_path: Path) -> None:
    settings = _settings(optimizer="sgd", curve="one_cycle", warmup_share=0.25, epochs=2)
    rates: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    _train(settings, tmp_path, Watch())

    assert len(rates) == 14
    done = np.arange(14) / 14
    expected = 0.005 * np.minimum(0.1 + 0.9 * done / 0.25, (1 - done) / 0.75)
    np.testing.assert_allclose(rates, np.where(done < 0.25, 0.005 * (0.1 + 0.9 * done / 0.25), expected), rtol=1e-6)


def _train(settings: TrainParams, folder: Path, *callbacks: pl.Callback) -> Classifier:
    classifier = _classifier(settings)
    pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=settings.epochs,
        callbacks=[*callbacks],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
    ).fit(classifier, _batches())
    return classifier


def test_average_weights_are_those_of_a_loop_over_the_steps(tmp_path: Path) -> None:
    steps: list[dict[str, Tensor]] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            steps.append(copy.deepcopy({name: value.detach() for name, value in pl_module.named_parameters()}))

    classifier = _train(_settings(epochs=2), tmp_path, Watch(), average_weights(0.3))

    average = {name: value.double() for name, value in steps[0].items()}
    for number, weights in enumerate(steps[1:], 1):
        keep = min(0.3, (1 + number) / (10 + number))
        average = {name: keep * average[name] + (1 - keep) * weights[name].double() for name in average}
    for name, parameter in classifier.named_parameters():
        torch.testing.assert_close(parameter.double(), average[name], rtol=1e-5, atol=1e-6)


def test_training_ends_after_so_many_epochs_without_a_better_one(tmp_path: Path, recorder: Recorder) -> None:
    _fit(tmp_path / "state", recorder, lr=1e-12, epochs=9, stop_after_epoch_count=2)

    assert {epoch for _, epoch in recorder.metrics} == {1, 2, 3}


def test_a_kill_right_before_the_early_end_adds_no_epoch(tmp_path: Path, recorder: Recorder) -> None:
    settings: dict[str, Any] = {"lr": 1e-12, "epochs": 9, "stop_after_epoch_count": 1}
    with pytest.raises(ConnectionResetError):
        _fit(tmp_path / "state", Cut(), **settings)

    _fit(tmp_path / "state", recorder, **settings)

    assert {epoch for _, epoch in recorder.metrics} == {1, 2}


_LOGITS_NK = np.random.default_rng(3).normal(size=(6, 4))
_LABELS_N = np.array([0, 1, 2, 3, 1, 1])
_PARTNER_N = np.array([3, 2, 0, 1, 5, 4])
_WEIGHTS_K = np.array([0.5, 1.0, 1.5, 3.0])


def _loss(targets_NK: np.ndarray[Any, Any], weights_K: np.ndarray[Any, Any]) -> float:
    """Sum image after image and class after class what a target expects of the logarithm of its probability."""
    return float(
        np.mean([-(t * weights_K * log_softmax(z)).sum() for t, z in zip(targets_NK, _LOGITS_NK, strict=True)])
    )


def _targets(labels_N: np.ndarray[Any, Any], smoothing: float) -> np.ndarray[Any, Any]:
    return np.eye(4)[labels_N] * (1 - smoothing) + smoothing / 4  # type: ignore[no-any-return]


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("share", [None, 0.7])
def test_the_loss_is_that_of_a_loop_over_the_images(is_weighted: bool, smoothing: float, share: float | None) -> None:
    targets_NK = _targets(_LABELS_N, smoothing)
    if share is not None:
        targets_NK = share * targets_NK + (1 - share) * _targets(_LABELS_N[_PARTNER_N], smoothing)
    expected = _loss(targets_NK, _WEIGHTS_K if is_weighted else np.ones(4))

    loss = training_loss(
        torch.from_numpy(_LOGITS_NK),
        torch.from_numpy(_LABELS_N),
        torch.from_numpy(_WEIGHTS_K) if is_weighted else None,
        smoothing,
        None if share is None else Mix(torch.from_numpy(_PARTNER_N), share),
    )

    assert float(loss) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("keys", "key", "usual_px"),
    [
        ({"augment": {"shift_px": 16}}, "augment.shift_px", 2),
        ({"augment": {"cutout_px": 16}}, "augment.cutout_px", 2),
        ({"test_shift_px": 16}, "test_shift_px", 1),
    ],
)
def test_no_image_is_moved_or_covered_whole(keys: dict[str, Any], key: str, usual_px: int, trained: Path) -> None:
    images = open_images(trained / "data/raw", trained / "data/landed")
    with pytest.raises(ParamsError) as refused:
        build_net(_settings(**keys), images)
    assert str(refused.value) == (
        f"params.yaml: train.{key} is 16, but images have 16x16 pixels. Use 15 or less; {usual_px} is usual."
    )


@pytest.mark.system
def test_a_last_batch_too_small_for_batch_normalisation_names_one_that_fits(project: Path, convloop: Convloop) -> None:
    for word in ("generate", "prepare"):
        assert convloop(word).returncode == 0

    answer = convloop("train", "--set", "train.net.name=speednet", "--set", "train.batch_size=32")

    assert answer.returncode == 6
    assert answer.stderr == (
        "convloop: params.yaml: train.batch_size is 32, which leaves 1 of 417 images to the last step of an epoch. "
        "speednet normalises over each device's part of a batch and needs two images or more on each. Use 33.\n"
    )


@pytest.mark.slow
@pytest.mark.system
def test_two_real_ranks_validate_the_statistics_that_are_packaged(project: Path, convloop: Convloop) -> None:
    for word in ("generate", "prepare"):
        assert convloop(word).returncode == 0
    keys = (
        "net.name=speednet",
        "average_share=0.9",
        "keep=last",
        "accelerator=cpu",
        "devices=2",
        "strategy=ddp",
        "batch_size=40",
    )
    answer = convloop("train", *(word for key in keys for word in ("--set", f"train.{key}")))
    assert answer.returncode == 0, answer.stderr

    images = open_images(project / "data/raw", project / "data/landed")
    indices = read_prepared(project / "data/prepared", images).indices(VAL)
    answers_NK = Package(project / "models/model").probabilities(images.take(indices), batch_size=64)
    loss = -np.log(answers_NK[np.arange(len(indices)), images.labels_N[indices]]).mean()

    assert read_history(project / "reports/train/history.csv")[-1]["val/loss"] == pytest.approx(loss, rel=1e-4)
