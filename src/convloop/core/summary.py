"""What a network is made of: layers, shapes, parameters, work."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Layer:
    """One layer, or one block of several, for one image; `flop_count` counts a multiply-add as two."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameter_count: int
    flop_count: int


def summarise(net: nn.Module, image_px: int, channel_count: int) -> list[Layer]:
    """List the direct children of a net in the order in which an image passes them.

    What the net holds or does outside of its children comes last, under its own name.
    """
    layers: list[Layer] = []
    before: dict[nn.Module, int] = {}
    hooks = []
    was_training = net.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for name, child in net.named_children():

            def enter(layer: nn.Module, inputs: Any) -> None:
                before[layer] = counter.get_total_flops()

            def leave(layer: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                again = any(known.name == name for known in layers)
                shape = tuple(output.shape[1:]) if isinstance(output, Tensor) else ()
                work = counter.get_total_flops() - before[layer]
                layers.append(Layer(name, type(layer).__name__, shape, 0 if again else _count(layer), work))

            hooks += [child.register_forward_pre_hook(enter), child.register_forward_hook(leave)]
        output_NK = net.eval()(torch.zeros(1, channel_count, image_px, image_px))
    for hook in hooks:
        hook.remove()
    net.train(was_training)
    parameter_count = _count(net) - sum(layer.parameter_count for layer in layers)
    flop_count = counter.get_total_flops() - sum(layer.flop_count for layer in layers)
    if parameter_count or flop_count:
        shape = tuple(output_NK.shape[1:])
        layers.append(Layer("(itself)", type(net).__name__, shape, parameter_count, flop_count))
    return layers


def as_text(layers: list[Layer]) -> str:
    """Lay the summary out as a table for a terminal or a log."""
    name_width = max(10, *(len(layer.name) for layer in layers))
    kind_width = max(10, *(len(layer.kind) for layer in layers))
    lines = [f"{'layer':<{name_width}} {'kind':<{kind_width}} {'output':>12} {'parameters':>12} {'MFLOP':>8}"]
    for layer in layers:
        shape = "x".join(str(side) for side in layer.output)
        mflop = f"{layer.flop_count / 1e6:.2f}" if layer.flop_count else ""
        count = f"{layer.parameter_count:,}" if layer.parameter_count else ""
        lines.append(f"{layer.name:<{name_width}} {layer.kind:<{kind_width}} {shape:>12} {count:>12} {mflop:>8}")
    total, work = sum(layer.parameter_count for layer in layers), sum(layer.flop_count for layer in layers)
    width = name_width + kind_width + 14
    lines.append(f"{'total':<{width}} {total:>12,} {work / 1e6:>8.2f}  (forward, one image)")
    return "\n".join(line.rstrip() for line in lines)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
