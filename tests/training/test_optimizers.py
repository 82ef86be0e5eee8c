"""Optimizers, each against PyTorch's own or a slow one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from convloop.config import OPTIMIZER_NAMES
from convloop.core.nets.plain import cnn
from convloop.core.nets.speed import speednet
from convloop.training.optimizers import OPTIMIZERS, orthogonalised


def _net() -> nn.Sequential:
    torch.manual_seed(2)
    return cnn(8, 3, 2, channels=(4,), hidden_count=5)


def _steps(net: nn.Module, optimizer: torch.optim.Optimizer, count: int = 4) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def _same(one: nn.Module, other: nn.Module) -> None:
    torch.testing.assert_close(dict(one.named_parameters()), dict(other.named_parameters()), rtol=1e-5, atol=1e-7)


def test_the_params_know_every_optimizer() -> None:
    assert tuple(OPTIMIZERS) == OPTIMIZER_NAMES


@pytest.mark.parametrize(
    ("name", "kind", "more"),
    [
        ("adam", torch.optim.Adam, {}),
        ("adamw", torch.optim.AdamW, {"weight_decay": 0.0}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_without_decay_a_net_moves_as_with_pytorch(
    name: str, kind: Callable[..., torch.optim.Optimizer], more: dict[str, float]
) -> None:
    ours, theirs = _net(), _net()
    _steps(ours, OPTIMIZERS[name](ours, 0.01, None, 0.0, True))
    _steps(theirs, kind(theirs.parameters(), lr=0.01, **more))
    _same(ours, theirs)


def test_a_first_step_that_overflows_in_fp16_leaves_no_trace_in_sgd() -> None:
    net, untouched = _net(), _net()
    torch.use_deterministic_algorithms(True)  # fills memory that nobody has set with nan
    try:
        optimizer = OPTIMIZERS["sgd"](net, 0.01, None, 0.0, True)
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(torch.ones(1))
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, torch.inf)
        scaler.step(optimizer)
        _steps(net, optimizer)
    finally:
        torch.use_deterministic_algorithms(False)

    _steps(untouched, OPTIMIZERS["sgd"](untouched, 0.01, None, 0.0, True))
    _same(net, untouched)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_pulls_filters_and_matrices_and_leaves_biases(name: str) -> None:
    net = _net()
    before = {key: value.detach().clone() for key, value in net.named_parameters()}
    optimizer = OPTIMIZERS[name](net, 0.01, None, 0.5, True)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, parameter in net.named_parameters():
        assert bool((parameter == before[key]).all()) == key.endswith("bias")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_is_frozen_is_left_out(name: str) -> None:
    net = speednet(9, 3, 2)
    optimizer = OPTIMIZERS[name](net, 0.01, None, 0.1, True)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in net.parameters() if parameter.requires_grad}


def test_sgd_takes_another_momentum() -> None:
    (group,) = OPTIMIZERS["sgd"](_net(), 0.01, 0.6, 0.0, True).param_groups
    assert (group["momentum"], group["nesterov"]) == (0.6, True)


def test_muon_moves_matrices_as_pytorch_does_at_the_scale_of_adamw() -> None:
    def net() -> nn.Sequential:
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(12, 7, bias=False), nn.Linear(7, 20, bias=False), nn.Linear(20, 2, bias=False))

    ours, theirs = net(), net()
    _steps(ours, OPTIMIZERS["muon"](ours, 0.02, 0.9, 0.1, True))
    hidden = [theirs.get_parameter("0.weight"), theirs.get_parameter("1.weight")]
    optimizer = torch.optim.Muon(hidden, lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    _steps(theirs, optimizer)
    for name in ("0.weight", "1.weight"):
        # PyTorch rounds to bf16 on every device.
        torch.testing.assert_close(ours.get_parameter(name), theirs.get_parameter(name), rtol=0, atol=2e-3)


def test_muon_gives_biases_and_the_last_matrix_to_adamw() -> None:
    ours, theirs = _net(), _net()
    _steps(ours, OPTIMIZERS["muon"](ours, 0.01, None, 0.0, True))
    _steps(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.0))
    for name, parameter in ours.named_parameters():
        is_same = torch.allclose(parameter, theirs.get_parameter(name), rtol=1e-4, atol=1e-6)
        assert is_same == (name not in ("conv1.weight", "hidden.weight"))


def test_muon_takes_a_filter_as_the_matrix_of_its_windows() -> None:
    torch.manual_seed(4)
    conv, dense = nn.Conv2d(3, 5, 2, bias=False), nn.Linear(12, 5, bias=False)
    dense.weight.data = conv.weight.detach().flatten(1).clone()
    nets = [nn.Sequential(layer, nn.Linear(5, 2, bias=False)) for layer in (conv, dense)]
    gradient_RC = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    for net in nets:
        first = net.get_parameter("0.weight")
        first.grad = gradient_RC.reshape(first.shape)
        OPTIMIZERS["muon"](net, 0.1, None, 0.0, True).step()
    torch.testing.assert_close(conv.weight.flatten(1), dense.weight)


def _newton_schulz(matrix_RC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move each singular value x to 3.4445 x - 4.775 x^3 + 2.0315 x^5 five times."""
    left, values, right = np.linalg.svd(matrix_RC / np.linalg.norm(matrix_RC), full_matrices=False)
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    result: NDArray[np.float64] = left * values @ right
    return result


@pytest.mark.parametrize("shape", [(6, 6), (5, 12), (12, 5)])
def test_orthogonalising_moves_the_singular_values_alone(shape: tuple[int, int]) -> None:
    matrix_RC = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    expected = _newton_schulz(matrix_RC.double().numpy())
    np.testing.assert_allclose(orthogonalised(matrix_RC).numpy(), expected, atol=1e-4)


def test_state_of_muon_is_taken_up_again() -> None:
    whole, cut = _net(), _net()
    _steps(whole, OPTIMIZERS["muon"](whole, 0.01, None, 0.1, True), count=4)
    first = OPTIMIZERS["muon"](cut, 0.01, None, 0.1, True)
    generator = torch.Generator().manual_seed(1)
    gradients = [[torch.randn(one.shape, generator=generator) for one in cut.parameters()] for _ in range(4)]
    second = OPTIMIZERS["muon"](cut, 0.01, None, 0.1, True)
    for number, of_step in enumerate(gradients):
        for parameter, gradient in zip(cut.parameters(), of_step, strict=True):
            parameter.grad = gradient
        if number == 2:
            second.load_state_dict(first.state_dict())
        (first if number < 2 else second).step()
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, cut.get_parameter(name))
