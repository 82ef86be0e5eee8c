"""Nets with shortcuts (He et al., 2016), for small images: no stride and no pooling before the first block.

Each net claims what one epoch of the default data teaches it, as share of right answers to the test images, and the seconds
of the whole command on 2 cores of an AMD EPYC that compute in bf16: benchmarks/results/2026-11-23-amd-epyc-nets.json,
by benchmarks/nets.py.
"""

from collections import OrderedDict
from typing import cast

from torch import Tensor, nn

_MIN_PX = 8  # three halvings leave one pixel


class Scale(nn.Module):
    """Multiply by a constant: logits of a normalised net are too sure of themselves at the start."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features: Tensor) -> Tensor:
        return features * self.factor


class Residual(nn.Module):
    """Add what `inner` makes of the features to the features."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, features_NCHW: Tensor) -> Tensor:
        return features_NCHW + cast(Tensor, self.inner(features_NCHW))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, each with normalisation behind it, and a shortcut (He et al., 2016)."""

    def __init__(self, width_in: int, width: int, stride_px: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv3(width_in, width, stride_px), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = _conv3(width, width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.shortcut = (
            nn.Identity()
            if (width_in, stride_px) == (width, 1)
            else nn.Sequential(nn.Conv2d(width_in, width, 1, stride_px, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, features_NCHW: Tensor) -> Tensor:
        inner_NCHW = self.relu(self.norm1(self.conv1(features_NCHW)))
        out_NCHW: Tensor = self.relu(self.norm2(self.conv2(inner_NCHW)) + self.shortcut(features_NCHW))
        return out_NCHW


class WideBlock(nn.Module):
    """Normalisation and ReLU before each of two 3x3 convolutions, and a shortcut (Zagoruyko and Komodakis, 2016)."""

    def __init__(self, width_in: int, width: int, stride_px: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(width_in), _conv3(width_in, width, stride_px)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), _conv3(width, width)
        self.relu = nn.ReLU()
        same = (width_in, stride_px) == (width, 1)
        self.shortcut = None if same else nn.Conv2d(width_in, width, 1, stride_px, bias=False)

    def forward(self, features_NCHW: Tensor) -> Tensor:
        ready_NCHW = self.relu(self.norm1(features_NCHW))
        inner_NCHW = self.conv2(self.relu(self.norm2(self.conv1(ready_NCHW))))
        past_NCHW = features_NCHW if self.shortcut is None else self.shortcut(ready_NCHW)
        return cast(Tensor, past_NCHW + inner_NCHW)


def resnet9(image_px: int, channel_count: int, class_count: int) -> nn.Sequential:
    """Build Page's ResNet-9 (DAWNBench, 2018): shallow and wide, made to be trained in few epochs.

    Claim: 1.000 in 81 s, `convloop train --set train.net.name=resnet9 --set train.epochs=1 --set train.precision=auto
    --set train.curve=one_cycle --set train.warmup_share=0.2`.

    Raises:
        ValueError: images under 8 px.
    """
    _check_side(image_px)
    return nn.Sequential(
        OrderedDict(
            prep=_conv_norm(channel_count, 64),
            layer1=nn.Sequential(_conv_norm(64, 128, pool=True), _residual_pair(128)),
            layer2=_conv_norm(128, 256, pool=True),
            layer3=nn.Sequential(_conv_norm(256, 512, pool=True), _residual_pair(512)),
            pool=nn.AdaptiveMaxPool2d(1),
            flatten=nn.Flatten(),
            output=nn.Linear(512, class_count, bias=False),
            scale=Scale(0.125),
        )
    )


def resnet18(image_px: int, channel_count: int, class_count: int) -> nn.Sequential:
    """Build ResNet-18 with a 3x3 first convolution, as is usual for images of 32 px.

    Claim: 0.994 in 128 s, `convloop train --set train.net.name=resnet18 --set train.epochs=1 --set train.precision=auto
    --set train.curve=one_cycle --set train.warmup_share=0.2`.

    Raises:
        ValueError: images under 8 px.
    """
    _check_side(image_px)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=_conv3(channel_count, 64), norm=nn.BatchNorm2d(64), relu=nn.ReLU()
    )
    width_in = 64
    for number, width in enumerate((64, 128, 256, 512), 1):
        first = BasicBlock(width_in, width, 1 if number == 1 else 2)
        layers[f"layer{number}"] = nn.Sequential(first, BasicBlock(width, width, 1))
        width_in = width
    layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), output=nn.Linear(512, class_count))
    return nn.Sequential(layers)


def wideresnet(
    image_px: int, channel_count: int, class_count: int, *, depth: int = 16, width: int = 4
) -> nn.Sequential:
    """Build a WRN-depth-width (Zagoruyko and Komodakis, 2016), without dropout; the paper's best is 28-10.

    Claim: 0.942 in 89 s, `convloop train --set train.net.name=wideresnet --set train.epochs=1 --set train.precision=auto
    --set train.curve=one_cycle --set train.warmup_share=0.2`.

    Args:
        depth: convolutions on the way through, 6n + 4.
        width: times the 16, 32 and 64 filters of the narrow net.

    Raises:
        ValueError: images under 8 px.
    """
    _check_side(image_px)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=_conv3(channel_count, 16))
    width_in = 16
    for number, narrow in enumerate((16, 32, 64), 1):
        filters = narrow * width
        first = WideBlock(width_in, filters, 1 if number == 1 else 2)
        others = [WideBlock(filters, filters, 1) for _ in range((depth - 4) // 6 - 1)]
        layers[f"layer{number}"] = nn.Sequential(first, *others)
        width_in = filters
    layers |= OrderedDict(
        norm=nn.BatchNorm2d(width_in),
        relu=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        output=nn.Linear(width_in, class_count),
    )
    net = nn.Sequential(layers)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def _conv3(width_in: int, width: int, stride_px: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width, 3, stride_px, padding=1, bias=False)


def _conv_norm(width_in: int, width: int, *, pool: bool = False) -> nn.Sequential:
    layers = [_conv3(width_in, width), *([nn.MaxPool2d(2)] if pool else []), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


def _residual_pair(width: int) -> Residual:
    return Residual(nn.Sequential(_conv_norm(width, width), _conv_norm(width, width)))


def _check_side(image_px: int) -> None:
    if image_px < _MIN_PX:
        raise ValueError(
            f"images of {image_px}x{image_px} pixels are too small for its three halvings. Use {_MIN_PX} px"
        )
