"""Short trainings that measure: what they do to rates, and what they leave."""

import json
from pathlib import Path

import numpy as np
import torch

from convloop.config import TrainParams
from convloop.training.classifier import training_loss
from convloop.training.probes import measure_speed, ramp_losses, trace
from tests.training.test_fit import _batches, _classifier

_SETTINGS = TrainParams(accelerator="cpu", devices=1, batch_size=32)


def test_losses_of_a_ramp_are_those_of_a_plain_loop() -> None:
    lrs_S = np.geomspace(1e-4, 1e-2, 6)
    losses_S = ramp_losses(_classifier(), _batches(), _SETTINGS, lrs_S)

    classifier, batches = _classifier(), _batches()
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1.0)
    generator = torch.Generator().manual_seed(3 * 100_003)
    order_N = torch.randperm(200, generator=generator)
    expected = []
    for lr, batch_B in zip(lrs_S, torch.split(order_N, 32), strict=False):
        optimizer.param_groups[0]["lr"] = lr
        images_NHWC, labels_N = batches._train
        loss = training_loss(classifier(images_NHWC.index_select(0, batch_B)), labels_N[batch_B], None)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        expected.append(loss.item())
    np.testing.assert_allclose(losses_S, expected, rtol=1e-4)


def test_a_ramp_ends_where_the_loss_runs_away() -> None:
    losses_S = ramp_losses(_classifier(), _batches(), _SETTINGS, np.geomspace(1e-3, 1e4, 100))

    assert 20 < len(losses_S) < 90
    assert np.isfinite(losses_S).all()


def test_speed_counts_the_images_of_whole_steps() -> None:
    speed = measure_speed(_classifier(), _batches(), _SETTINGS, least_s=0.05)

    assert speed is not None
    assert speed.images_per_s > 0
    assert speed.memory_mb > 50


def test_a_trace_holds_the_steps_and_the_table_the_operators(tmp_path: Path) -> None:
    traced, table = trace(_classifier(), _batches(), _SETTINGS, tmp_path)

    names = [event.get("name", "") for event in json.loads(traced.read_text())["traceEvents"]]
    assert len({name for name in names if name.startswith("ProfilerStep#")}) == 10
    assert "aten::convolution_backward" in table.read_text()
