"""What a network is made of: layers, shapes, parameters, work."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """One layer for one image; `flop_count` counts a multiply-add as two."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameter_count: int
    flop_count: int


def summarise(net: nn.Sequential, image_px: int, channel_count: int) -> list[Layer]:
    """List the layers of a network in the order in which an image passes them."""
    layers = []
    passing_NX = torch.zeros(1, channel_count, image_px, image_px)
    with torch.no_grad():
        for name, layer in net.named_children():
            passing_NX = layer(passing_NX)
            parameter_count = sum(parameter.numel() for parameter in layer.parameters())
            shape = tuple(passing_NX.shape[1:])
            layers.append(Layer(name, type(layer).__name__, shape, parameter_count, _flop_count(layer, passing_NX)))
    return layers


def as_text(layers: list[Layer]) -> str:
    """Lay the summary out as a table for a terminal or a log."""
    lines = [f"{'layer':<10} {'kind':<10} {'output':>12} {'parameters':>12} {'MFLOP':>8}"]
    for layer in layers:
        shape = "x".join(str(side) for side in layer.output)
        mflop = f"{layer.flop_count / 1e6:.2f}" if layer.flop_count else ""
        count = f"{layer.parameter_count:,}" if layer.parameter_count else ""
        lines.append(f"{layer.name:<10} {layer.kind:<10} {shape:>12} {count:>12} {mflop:>8}")
    total, work = sum(layer.parameter_count for layer in layers), sum(layer.flop_count for layer in layers)
    lines.append(f"{'total':<34} {total:>12,} {work / 1e6:>8.2f}  (forward, one image)")
    return "\n".join(line.rstrip() for line in lines)


def _flop_count(layer: nn.Module, output_NX: Tensor) -> int:
    if isinstance(layer, nn.Conv2d):
        height_px, width_px = output_NX.shape[2:]
        return 2 * layer.weight.numel() * height_px * width_px
    if isinstance(layer, nn.Linear):
        return 2 * layer.weight.numel()
    return 0
