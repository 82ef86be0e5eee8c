"""A training that is cut off anywhere ends in the very weights and history of one that is not."""

import random
import signal
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from convloop.config import TrainParams
from convloop.core.history import Row, read_history
from convloop.core.state import BEFORE, LAST, opened
from convloop.training.checkpoints import draw_from
from convloop.training.classifier import Classifier, Sums
from convloop.training.loaders import Batch, Batches, OrderedBatches, ShuffledBatches, TrainBatch
from convloop.training.recipe import recipe_of
from convloop.training.trainer import Fitted, Stopped, fit
from tests.conftest import Recorder

_EPOCHS, _BATCHES = 3, 7
_TIMES = (
    "train/images_per_s",
    "train/spent_s",
    "system/setup_s",
    "system/cpu_share",
    "system/memory_mb",
    "system/gpu_memory_mb",
    "time_ms",
)


class _Signalling:
    """Batches that send this process a real signal just before one of them."""

    def __init__(self, batches: ShuffledBatches | OrderedBatches, number: signal.Signals, at: int) -> None:
        self._batches, self._number, self._at = batches, number, at
        self._seen = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch | TrainBatch]:
        for batch in self._batches:
            if self._seen == self._at:
                signal.raise_signal(self._number)
            self._seen += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        assert isinstance(self._batches, ShuffledBatches)
        return self._batches.state_dict()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        assert isinstance(self._batches, ShuffledBatches)
        self._batches.load_state_dict(state_dict)


class _StoppedBatches(Batches):
    step: int | None = None
    validation: int | None = None
    number = signal.SIGTERM

    def train_dataloader(self) -> ShuffledBatches:
        batches = super().train_dataloader()
        return batches if self.step is None else _Signalling(batches, self.number, self.step)  # type: ignore[return-value]

    def val_dataloader(self) -> OrderedBatches:
        batches = super().val_dataloader()
        return batches if self.validation is None else _Signalling(batches, self.number, self.validation)  # type: ignore[return-value]


def _fit(
    state: Path, recorder: Recorder, *, every_s: float = 60, recipe: dict[str, Any] | None = None, **stop: object
) -> Fitted:
    generator = torch.Generator().manual_seed(1)
    images_NHWC = torch.randint(0, 256, (240, 8, 8, 3), dtype=torch.uint8, generator=generator)
    labels_N = torch.randint(0, 3, (240,), generator=generator)
    torch.manual_seed(5)
    parts = OrderedDict(conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), relu=nn.ReLU(), drop=nn.Dropout(0.5))
    net = nn.Sequential(parts | OrderedDict(flatten=nn.Flatten(), output=nn.Linear(288, 3)))
    batches = _StoppedBatches(
        (images_NHWC[:200], labels_N[:200]), (images_NHWC[200:], labels_N[200:]), batch_size=32, seed=3
    )
    for name, value in stop.items():
        setattr(batches, name, value)
    own = {"batch_size": 32, "epochs": _EPOCHS, "keep": "last", "seed": 3, "save_every_s": every_s}
    settings = TrainParams.model_validate({"accelerator": "cpu", "devices": 1} | own | (recipe or {}))
    with opened(state) as resume_from:
        return fit(
            Classifier(net, (128.0,) * 3, (60.0,) * 3, 0.01, recipe=recipe_of(settings)),
            batches,
            settings,
            image_count=200,
            state=state,
            resume_from=resume_from,
            run=recorder,
        )


def _rows(state: Path) -> list[Row]:
    """Give the history without what a clock says."""
    return [
        {name: value for name, value in row.items() if name not in _TIMES}
        for row in read_history(state / "history.csv")
    ]


def _assert_same(resumed: Fitted, uncut: Fitted) -> None:
    assert resumed.weights.keys() == uncut.weights.keys()
    for name, tensor in uncut.weights.items():
        assert torch.equal(resumed.weights[name], tensor), name


@pytest.mark.parametrize("step", [0, 3, _BATCHES - 2, _BATCHES - 1, _BATCHES, _BATCHES + 4, 3 * _BATCHES - 1])
def test_a_signal_in_any_step_ends_it_and_the_next_start_goes_on_from_there(
    tmp_path: Path, recorder: Recorder, step: int
) -> None:
    uncut = _fit(tmp_path / "uncut", recorder)
    with pytest.raises(Stopped):
        _fit(tmp_path / "cut", recorder, step=step)
    assert torch.load(tmp_path / "cut" / LAST, weights_only=True)["global_step"] == step + 1

    _assert_same(_fit(tmp_path / "cut", recorder), uncut)
    assert _rows(tmp_path / "cut") == _rows(tmp_path / "uncut")


def test_a_training_that_is_stopped_in_every_other_step_ends_in_the_same_weights(
    tmp_path: Path, recorder: Recorder
) -> None:
    uncut = _fit(tmp_path / "uncut", recorder)
    stops = 0
    while True:
        try:
            resumed = _fit(tmp_path / "cut", recorder, step=1)
            break
        except Stopped:
            stops += 1

    assert stops > _EPOCHS * _BATCHES // 3
    _assert_same(resumed, uncut)
    assert _rows(tmp_path / "cut") == _rows(tmp_path / "uncut")


@pytest.mark.parametrize(
    "recipe",
    [
        {"average_share": 0.9},
        {"average_share": 0.9, "keep": "best"},
        {"optimizer": "muon", "curve": "one_cycle", "warmup_share": 0.3},
        {"optimizer": "sgd", "curve": "cosine", "label_smoothing_share": 0.1, "stop_after_epoch_count": 9},
        {
            "augment": {
                "flip": True,
                "shift_px": 1,
                "trivial": True,
                "cutout_px": 2,
                "mixup_alpha": 1,
                "cutmix_alpha": 1,
            }
        },
        {"precision": "bf16", "clip": 0.1, "test_flip": True},
        {"batch_size": 64, "accumulate": 2},
    ],
    ids=lambda recipe: " ".join(recipe),
)
@pytest.mark.parametrize("step", [3, _BATCHES + 1])
def test_a_recipe_that_is_stopped_in_mid_epoch_ends_in_the_same_weights(
    tmp_path: Path, recorder: Recorder, recipe: dict[str, Any], step: int
) -> None:
    uncut = _fit(tmp_path / "uncut", recorder, recipe=recipe)
    with pytest.raises(Stopped):
        _fit(tmp_path / "cut", recorder, recipe=recipe, step=step)

    _assert_same(_fit(tmp_path / "cut", recorder, recipe=recipe), uncut)
    assert _rows(tmp_path / "cut") == _rows(tmp_path / "uncut")


@pytest.mark.slow
def test_a_compiled_training_that_is_stopped_in_mid_epoch_comes_to_the_same(tmp_path: Path, recorder: Recorder) -> None:
    recipe = {"compile": True}
    uncut = _fit(tmp_path / "uncut", recorder, recipe=recipe)
    with pytest.raises(Stopped):
        _fit(tmp_path / "cut", recorder, recipe=recipe, step=_BATCHES + 3)
    resumed = _fit(tmp_path / "cut", recorder, recipe=recipe)

    assert counters["stats"]["unique_graphs"] >= 2  # of training and of validation: it was compiled indeed
    for name, tensor in uncut.weights.items():
        torch.testing.assert_close(resumed.weights[name], tensor, rtol=1e-3, atol=1e-4)


_ON_GPU: dict[str, Any] = {"accelerator": "gpu"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "recipe",
    [
        {"deterministic": True},
        {"deterministic": True, "precision": "fp16", "curve": "one_cycle"},
        {"deterministic": True, "precision": "bf16", "images_in": "memory", "average_share": 0.9},
    ],
    ids=lambda recipe: " ".join(recipe),
)
@pytest.mark.parametrize("step", [3, _BATCHES + 1])
def test_a_deterministic_training_on_a_gpu_that_is_stopped_ends_in_the_same_weights(
    tmp_path: Path, recorder: Recorder, recipe: dict[str, Any], step: int
) -> None:
    uncut = _fit(tmp_path / "uncut", recorder, recipe=_ON_GPU | recipe)
    with pytest.raises(Stopped):
        _fit(tmp_path / "cut", recorder, recipe=_ON_GPU | recipe, step=step)

    _assert_same(_fit(tmp_path / "cut", recorder, recipe=_ON_GPU | recipe), uncut)
    assert _rows(tmp_path / "cut") == _rows(tmp_path / "uncut")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recipe", [{}, {"compile": True}], ids=["plain", "compile"])
def test_a_training_on_a_gpu_that_is_stopped_ends_within_the_stated_tolerance(
    tmp_path: Path, recorder: Recorder, recipe: dict[str, Any]
) -> None:
    uncut = _fit(tmp_path / "uncut", recorder, recipe=_ON_GPU | recipe)
    with pytest.raises(Stopped):
        _fit(tmp_path / "cut", recorder, recipe=_ON_GPU | recipe, step=_BATCHES + 1)
    resumed = _fit(tmp_path / "cut", recorder, recipe=_ON_GPU | recipe)

    for name, tensor in uncut.weights.items():
        torch.testing.assert_close(resumed.weights[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("validation", [0, 1, 2])
def test_a_signal_during_validation_loses_no_step(tmp_path: Path, recorder: Recorder, validation: int) -> None:
    uncut = _fit(tmp_path / "uncut", recorder)
    with pytest.raises(Stopped):
        _fit(tmp_path / "cut", recorder, validation=validation)
    kept = torch.load(tmp_path / "cut" / LAST, weights_only=True)
    assert kept["global_step"] == (validation + 1) * _BATCHES
    assert ("train_sums_R3" in kept) == (validation == 0)  # how long validation takes is unknown before the first

    _assert_same(_fit(tmp_path / "cut", recorder), uncut)
    assert _rows(tmp_path / "cut") == _rows(tmp_path / "uncut")


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_exit_code_tells_the_signal(tmp_path: Path, recorder: Recorder, number: signal.Signals, exit_code: int) -> None:
    with pytest.raises(Stopped) as stopped:
        _fit(tmp_path, recorder, step=1, number=number)

    assert stopped.value.exit_code == exit_code


def test_a_damaged_state_falls_back_to_the_one_before(tmp_path: Path, recorder: Recorder) -> None:
    uncut = _fit(tmp_path / "uncut", recorder)
    with pytest.raises(Stopped):
        _fit(tmp_path / "cut", recorder, step=9, every_s=0)
    last = tmp_path / "cut" / LAST
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    assert torch.load(tmp_path / "cut" / BEFORE, weights_only=True)["global_step"] == 9

    _assert_same(_fit(tmp_path / "cut", recorder), uncut)
    assert _rows(tmp_path / "cut") == _rows(tmp_path / "uncut")


def test_without_a_sound_state_it_begins_again(tmp_path: Path, recorder: Recorder) -> None:
    uncut = _fit(tmp_path / "uncut", recorder)
    with pytest.raises(Stopped):
        _fit(tmp_path / "cut", recorder, step=9, every_s=0)
    for name in (LAST, BEFORE):
        (tmp_path / "cut" / name).write_bytes(b"")

    _assert_same(_fit(tmp_path / "cut", recorder), uncut)


def test_numbers_drawn_in_a_step_follow_from_seed_epoch_batch_and_rank() -> None:
    def drawn(*place: int) -> tuple[float, float, float]:
        draw_from(*place)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert drawn(1, 2, 3, 4) == drawn(1, 2, 3, 4)
    others = [drawn(9, 2, 3, 4), drawn(1, 9, 3, 4), drawn(1, 2, 9, 4), drawn(1, 2, 3, 9), drawn(1, 2, 3, 4)]
    assert all(len(set(numbers)) == 5 for numbers in zip(*others, strict=True))


@pytest.mark.parametrize("rank_count", [1, 2, 3])
def test_sums_are_taken_up_by_any_number_of_ranks(rank_count: int) -> None:
    sums_R3 = torch.tensor([[0.5, 1, 2], [0.25, 3, 4]], dtype=torch.float64)
    device = torch.device("cpu")

    taken = torch.stack([Sums.resumed(sums_R3, rank, rank_count, device).sums_3 for rank in range(rank_count)])

    assert taken.sum(0).tolist() == [0.75, 4, 6]
    if rank_count == 2:
        assert torch.equal(taken, sums_R3)
