"""What a training makes of the devices it finds, and what it says of those it does not."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from convloop.config import TrainParams
from convloop.core.cores import available_cores
from convloop.errors import ConvloopError, DeviceError, ParamsError
from convloop.training.devices import check_devices, chosen_precision, has_bf16, share_threads
from tests.conftest import Recorder
from tests.training.test_fit import _classifier, _fit

_NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing where there is no GPU")


def _settings(**train: Any) -> TrainParams:
    return TrainParams.model_validate(train)


def _message(**train: Any) -> str:
    with pytest.raises(ConvloopError) as error:
        check_devices(_settings(**train))
    return str(error.value)


def test_auto_is_bf16_exactly_where_the_cpu_computes_in_it() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    expected = "bf16" if "avx512_bf16" in flags or "amx_tile" in flags else 32
    assert chosen_precision(_settings(accelerator="cpu", precision="auto")) == expected


def test_a_device_without_bf16_of_its_own_trains_in_32_bits() -> None:
    assert not has_bf16("mps")


def test_the_chosen_precision_is_told(tmp_path: Path, recorder: Recorder) -> None:
    fitted = _fit(tmp_path / "state", recorder, epochs=1, precision="auto")
    assert fitted.precision == str(chosen_precision(_settings(accelerator="cpu", precision="auto")))


@_NO_GPU
@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"precision": "fp16"}, "precision is fp16, which needs a GPU, and there is none. Use bf16 or 32."),
        ({"sync_batchnorm": True}, "sync_batchnorm is true, which needs a GPU, and there is none. Use false."),
        ({"images_in": "device"}, "images_in is device, which needs a GPU, and there is none. Use memory."),
    ],
)
def test_what_needs_a_gpu_says_so(train: dict[str, Any], message: str) -> None:
    assert _message(**train) == f"params.yaml: train.{message}"


def test_deepspeed_that_is_not_installed_is_named_with_the_command() -> None:
    assert _message(strategy="deepspeed") == (
        "params.yaml: train.strategy is deepspeed, but DeepSpeed is not installed. "
        'Install it: .venv/bin/pip --isolated install -e ".[deepspeed]"'
    )


def test_a_strategy_that_nobody_knows_gets_lightnings_answer(tmp_path: Path, recorder: Recorder) -> None:
    with pytest.raises(ParamsError) as error:
        _fit(tmp_path / "state", recorder, strategy="dpp")
    assert str(error.value).startswith(
        'params.yaml: train.strategy is "dpp". Known strategies: auto, ddp, ddp_spawn, fsdp, deepspeed, and what Lightning '
        "knows. It says: You selected an invalid strategy name: `strategy='dpp'`."
    )


@_NO_GPU
def test_a_strategy_of_lightnings_that_cannot_run_here_gives_its_reason(tmp_path: Path, recorder: Recorder) -> None:
    with pytest.raises(DeviceError, match="`fsdp` requires a GPU accelerator"):
        _fit(tmp_path / "state", recorder, strategy="fsdp_cpu_offload")


def test_a_clipped_gradient_moves_the_weights_less(tmp_path: Path, recorder: Recorder) -> None:
    def moved(**train: Any) -> float:
        fitted, start = _fit(tmp_path / str(train), recorder, epochs=1, **train), _classifier().net.state_dict()
        return sum(float((fitted.weights[name] - start[name]).abs().sum()) for name in start)

    assert moved(clip=1e-9) < 0.5 * moved()


def test_a_step_in_pieces_is_the_step_in_one(tmp_path: Path, recorder: Recorder) -> None:
    whole = _fit(tmp_path / "whole", recorder, epochs=1, images=192)
    pieces = _fit(tmp_path / "pieces", recorder, epochs=1, images=192, accumulate=4)
    for name, weight in whole.weights.items():
        assert torch.allclose(weight, pieces.weights[name], atol=1e-4), name


def test_threads_are_the_share_of_the_cores_and_those_of_the_processes_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS")
    torch.set_num_threads(available_cores())
    try:
        share_threads(available_cores())
        assert torch.get_num_threads() == 1
        assert os.environ["OMP_NUM_THREADS"] == "1"
    finally:
        torch.set_num_threads(before)
