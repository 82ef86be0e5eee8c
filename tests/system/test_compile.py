"""A net through torch.compile on two processes: plain checkpoints, and the weights of the plain net."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import Convloop

pytestmark = [pytest.mark.system, pytest.mark.slow]

_SETTINGS = ("epochs=1", "batch_size=32", "keep=last", "accelerator=cpu", "devices=2", "strategy=ddp")
_WORDS = ("train", *(word for setting in _SETTINGS for word in ("--set", f"train.{setting}")))


def _weights(project: Path) -> dict[str, torch.Tensor]:
    state = max((project / "work/checkpoints").iterdir(), key=lambda state: state.stat().st_mtime)
    weights: dict[str, torch.Tensor] = torch.load(state / "last.ckpt", weights_only=True)["state_dict"]
    return weights


def test_a_compiled_training_of_two_processes_ends_in_the_weights_of_the_plain_net(
    trained: Path, convloop: Convloop
) -> None:
    for name in ("models", "reports/train", "reports/evaluate"):
        shutil.rmtree(trained / name)
    assert convloop(*_WORDS).returncode == 0
    plain = _weights(trained)

    made = {"TORCHINDUCTOR_CACHE_DIR": str(trained / "made")}
    done = convloop(*_WORDS, "--set", "train.compile=true", **made)

    assert done.returncode == 0, done.stderr
    assert any((trained / "made").rglob("*.cpp"))  # it was compiled indeed
    compiled = _weights(trained)
    assert compiled.keys() == plain.keys()
    for name, weights in plain.items():
        torch.testing.assert_close(compiled[name], weights, rtol=1e-3, atol=1e-3)
