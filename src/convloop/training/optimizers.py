"""How weights follow their gradients, by name. A new one is a function and a line in OPTIMIZERS."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

_MUON_TERMS = (3.4445, -4.7750, 2.0315)
_MUON_ITERATION_COUNT = 5


def adam(net: nn.Module, lr: float, momentum: float | None, weight_decay: float, fused: bool) -> torch.optim.Optimizer:
    """Give Adam (Kingma and Ba, 2015); decay is added to the gradient."""
    return torch.optim.Adam(_groups(net, weight_decay), lr=lr, fused=fused)


def adamw(net: nn.Module, lr: float, momentum: float | None, weight_decay: float, fused: bool) -> torch.optim.Optimizer:
    """Give AdamW (Loshchilov and Hutter, 2019); decay is taken from the weights, times the learning rate."""
    return torch.optim.AdamW(_groups(net, weight_decay), lr=lr, weight_decay=0.0, fused=fused)


def sgd(net: nn.Module, lr: float, momentum: float | None, weight_decay: float, fused: bool) -> torch.optim.Optimizer:
    """Give gradient descent with Nesterov's momentum, 0.9 when absent."""
    momentum = 0.9 if momentum is None else momentum
    groups = _groups(net, weight_decay)
    fused = fused and not any(isinstance(one, DTensor) for one in net.parameters())  # PyTorch 2.13 cannot split that
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
    if momentum:
        # PyTorch 2.13 leaves them unset when a fused first step is skipped, as in fp16, and goes on from what lay there.
        for parameter in (one for group in groups for one in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def muon(net: nn.Module, lr: float, momentum: float | None, weight_decay: float, fused: bool) -> torch.optim.Optimizer:
    """Give Muon for filters and hidden matrices, its momentum 0.95 when absent, and AdamW for all else."""
    matrices, others = _split(net)
    groups = [
        {"params": matrices[:-1], "is_muon": True, "weight_decay": weight_decay},
        {"params": matrices[-1:], "is_muon": False, "weight_decay": weight_decay},
        {"params": others, "is_muon": False, "weight_decay": 0.0},
    ]
    return Muon([group for group in groups if group["params"]], lr, 0.95 if momentum is None else momentum)


# From the net, learning rate, momentum (None for its own), weight decay, and whether one kernel may do a whole step.
OPTIMIZERS: dict[str, Callable[[nn.Module, float, float | None, float, bool], torch.optim.Optimizer]] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
    "muon": muon,
}


class Muon(torch.optim.Optimizer):
    """Orthogonalise the steps of groups marked `is_muon`, filters flattened to matrices; the others follow AdamW.

    Muon is Jordan's (2024). A step is scaled as large as one of AdamW's (Liu et al., 2025, arXiv 2502.16982), so one
    learning rate serves both. torch.optim.Muon takes matrices alone, and Lightning one optimizer at a time.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "betas": (0.9, 0.999), "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in moving:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                (self._muon_step if group["is_muon"] else self._adam_step)(parameter, parameter.grad, group)
        return loss

    def _muon_step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["average"] = torch.zeros_like(gradient)
        state["average"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["average"], group["momentum"])
        direction = orthogonalised(ahead.flatten(1)).reshape(ahead.shape)
        scale = 0.2 * max(parameter.shape[0], parameter[0].numel()) ** 0.5
        parameter.add_(direction.to(parameter), alpha=-group["lr"] * scale)

    def _adam_step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step_count": 0, "average": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
        slow, slower = group["betas"]
        state["step_count"] += 1
        state["average"].lerp_(gradient, 1 - slow)
        state["square"].lerp_(gradient.square(), 1 - slower)
        size = (state["square"] / (1 - slower ** state["step_count"])).sqrt_().add_(group["eps"])
        parameter.addcdiv_(state["average"], size, value=-group["lr"] / (1 - slow ** state["step_count"]))


def orthogonalised(matrix_RC: Tensor) -> Tensor:
    """Bring all singular values near 1 (0.7 to 1.2) by Newton-Schulz steps, as Jordan (2024) chose their terms."""
    a, b, c = _MUON_TERMS
    # In bf16 a GPU is several times as fast, and the rounding does not show in the result.
    near = matrix_RC.to(torch.bfloat16 if matrix_RC.is_cuda else torch.float32)
    is_tall = near.shape[0] > near.shape[1]
    if is_tall:
        near = near.T
    near = near / near.norm().clamp(min=1e-7)
    for _ in range(_MUON_ITERATION_COUNT):
        square = near @ near.T
        near = a * near + (b * square + c * square @ square) @ near
    result: Tensor = near.T if is_tall else near
    return result


def _groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay filters and matrices alone: pulling biases and normalisation to 0 gains nothing (He et al., 2019)."""
    if not weight_decay:
        return [{"params": [parameter for parameter in net.parameters() if parameter.requires_grad]}]
    matrices, others = _split(net)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _split(net: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Part what is trained into filters and matrices, in the order of the net, and all else."""
    trained: list[Tensor] = [parameter for parameter in net.parameters() if parameter.requires_grad]
    return [one for one in trained if one.ndim in (2, 4)], [one for one in trained if one.ndim not in (2, 4)]
