"""Training in fp16, by PyTorch's imitation on a CPU: the loss scale is part of the state, and a skipped step is a step."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from convloop.core.state import LAST
from convloop.training.trainer import Stopped
from tests.conftest import Recorder
from tests.training.test_resume import _BATCHES, _EPOCHS, _assert_same, _fit, _rows

_SCALES: list[float] = []


class _Scaler(torch.amp.GradScaler):
    """A scaler that begins where gradients overflow, grows soon, and remembers."""

    def __init__(self) -> None:
        super().__init__("cpu", init_scale=2.0**22, growth_interval=3)

    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        super().update(new_scale)
        _SCALES.append(self.get_scale())


class _HalfTrainer(pl.Trainer):
    """Lightning's, which takes bf16 for fp16 on a CPU unless it is handed the plugin that it makes on a GPU."""

    def __init__(self, *, precision: Any, plugins: list[Any], **keys: Any) -> None:
        super().__init__(plugins=[*plugins, MixedPrecision("16-mixed", "cpu", _Scaler())], **keys)


@pytest.mark.parametrize(
    "recipe",
    [
        {"curve": "one_cycle"},
        {"optimizer": "sgd", "curve": "one_cycle", "warmup_share": 0.3},
        {"optimizer": "sgd", "clip": 0.5, "curve": "cosine"},
        {"optimizer": "muon", "curve": "cosine", "average_share": 0.9},
        {"optimizer": "adamw", "clip": 0.1},
        {"batch_size": 64, "accumulate": 2, "deterministic": True},
    ],
    ids=lambda recipe: " ".join(str(value) for value in recipe.values()),
)
@pytest.mark.parametrize("step", [3, _BATCHES + 3])
def test_an_fp16_training_stopped_in_mid_epoch_goes_on_with_its_loss_scale(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recorder: Recorder, recipe: dict[str, Any], step: int
) -> None:
    monkeypatch.setattr(pl, "Trainer", _HalfTrainer)
    _SCALES.clear()
    uncut = _fit(tmp_path / "uncut", recorder, recipe=recipe)
    scales = [*_SCALES]
    _SCALES.clear()
    with pytest.raises(Stopped):
        _fit(tmp_path / "cut", recorder, recipe=recipe, step=step)
    stopped = torch.load(tmp_path / "cut" / LAST, weights_only=True)
    assert stopped["global_step"] == len(_SCALES) < len(scales)
    resumed = _fit(tmp_path / "cut", recorder, recipe=recipe)

    assert scales[0] == 2.0**21  # the first step was skipped
    assert len(set(scales[stopped["global_step"] :])) > 1  # and the scale went on changing after the stop
    assert scales == _SCALES
    one, other = (torch.load(tmp_path / name / LAST, weights_only=True) for name in ("cut", "uncut"))
    assert one["global_step"] == other["global_step"] == len(scales)
    assert one["lr_schedulers"] == other["lr_schedulers"]
    assert all(schedule["last_epoch"] == len(scales) for schedule in one["lr_schedulers"])
    assert len(scales) == _EPOCHS * -(-_BATCHES // recipe.get("accumulate", 1))
    _assert_same(resumed, uncut)
    assert _rows(tmp_path / "cut") == _rows(tmp_path / "uncut")
