"""DeepSpeed's state as one plain file, with a stand-in for its optimizer: DeepSpeed itself trains on GPUs alone."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy

from convloop.core.state import LAST, unfinished
from convloop.errors import TrainingError
from convloop.training.checkpoints import DurableFiles
from convloop.training.zero import PlainDeepSpeed


class _SplitOptimizer:
    """Take the states of all devices, as DeepSpeed's does, which picks its own."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []

    def load_state_dict(self, states: list[dict[str, Any]], *, load_from_fp32_weights: bool) -> None:
        assert load_from_fp32_weights
        self.taken = states


class _WithoutDeepSpeed(PlainDeepSpeed):
    def __init__(self, optimizer: _SplitOptimizer) -> None:
        DDPStrategy.__init__(self, parallel_devices=[torch.device("cpu")], checkpoint_io=DurableFiles())
        self._optimizers = [optimizer]  # type: ignore[list-item]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_state_is_one_sound_file_that_gives_each_part_back(tmp_path: Path) -> None:
    part = {"momenta": torch.arange(3.0), "loss_scaler": SimpleNamespace(scale=8)}  # objects, as DeepSpeed has them
    _WithoutDeepSpeed(_SplitOptimizer()).save_checkpoint({"epoch": 2, "optimizer_states": [part]}, tmp_path / LAST)
    assert unfinished(tmp_path) == tmp_path / LAST

    optimizer = _SplitOptimizer()
    strategy = _WithoutDeepSpeed(optimizer)
    checkpoint = strategy.load_checkpoint(tmp_path / LAST, weights_only=True)
    strategy.load_optimizer_state_dict(checkpoint)

    assert checkpoint["epoch"] == 2
    (taken,) = optimizer.taken
    assert taken["momenta"].tolist() == [0, 1, 2]
    assert taken["loss_scaler"] == SimpleNamespace(scale=8)


def test_a_state_of_more_devices_than_there_are_says_how_to_go_on() -> None:
    parts = {"optimizer_states": [torch.zeros(1, dtype=torch.uint8)] * 2}

    with pytest.raises(TrainingError) as error:
        _WithoutDeepSpeed(_SplitOptimizer()).load_optimizer_state_dict(parts)

    assert str(error.value) == (
        "The state to go on from is DeepSpeed's, split over 2 devices, and this training has 1. "
        "Train on 2, or begin again: convloop train --fresh"
    )
