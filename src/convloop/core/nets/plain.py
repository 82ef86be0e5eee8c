"""Nets without shortcuts or normalisation.

`cnn3` and `cnn2` are the two networks of the beginner's article behind this project; `cnn` lets every term of it be
switched; `mlp` flattens first and so shows what convolution is worth.

Each net claims its share of right answers to the test images of the default data, and the seconds of the whole command on
2 cores of an AMD EPYC with some other work: benchmarks/results/2026-11-23-amd-epyc-nets.json, by benchmarks/nets.py.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from torch import nn

POOLS: dict[str, Callable[[], nn.Module] | None] = {
    "max": partial(nn.MaxPool2d, 2),
    "average": partial(nn.AvgPool2d, 2),
    "none": None,
}
PADDINGS = ("valid", "same")


def cnn(
    image_px: int,
    channel_count: int,
    class_count: int,
    *,
    channels: tuple[int, ...] = (32, 64, 128),
    kernel_px: int = 3,
    stride_px: int = 1,
    padding: str = "valid",
    pool: str = "max",
    hidden_count: int = 256,
) -> nn.Sequential:
    """Stack blocks of convolution, ReLU and pooling, then flatten into two fully connected layers.

    Max-pooling comes before ReLU: the values are the same, since the maximum commutes with ReLU, and a quarter of the
    work is left.

    Claim, with average pooling: 0.902 in 42 s, `convloop train --set train.net.name=cnn --set train.net.pool=average`.

    Args:
        channels: output channels of each block.
        padding: `valid` uses only whole windows; `same` pads with zeros so that stride 1 keeps the size.

    Raises:
        ValueError: a block would get an image smaller than its window.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    side_px, width = image_px, channel_count
    pad_px = kernel_px // 2 if padding == "same" else 0
    make_pool = POOLS[pool]
    for number, filters in enumerate(channels, 1):
        if side_px + 2 * pad_px < kernel_px:
            raise ValueError(_too_small(number, side_px, f"a {kernel_px}x{kernel_px} window", image_px))
        layers[f"conv{number}"] = nn.Conv2d(width, filters, kernel_px, stride_px, pad_px)
        side_px = (side_px + 2 * pad_px - kernel_px) // stride_px + 1
        if make_pool and side_px < 2:
            raise ValueError(_too_small(number, side_px, "2x2 pooling", image_px))
        if make_pool and pool == "max":
            layers[f"pool{number}"] = make_pool()
        layers[f"relu{number}"] = nn.ReLU()
        if make_pool and pool != "max":
            layers[f"pool{number}"] = make_pool()
        side_px = side_px // 2 if make_pool else side_px
        width = filters
    layers["flatten"] = nn.Flatten()
    layers["hidden"] = nn.Linear(width * side_px * side_px, hidden_count)
    layers["relu"] = nn.ReLU()
    layers["output"] = nn.Linear(hidden_count, class_count)
    return nn.Sequential(layers)


def cnn3(image_px: int, channel_count: int, class_count: int) -> nn.Sequential:
    """Build the article's first network: 32, 64 and 128 filters of 3x3 without padding, 256 hidden units.

    Claim: 0.970 in 41 s (its second run, benchmarks/results/2026-11-23-amd-epyc-nets-cnn3.json), `convloop train`.
    """
    return cnn(image_px, channel_count, class_count)


def cnn2(image_px: int, channel_count: int, class_count: int) -> nn.Sequential:
    """Build the article's second network: 32 and 64 filters of 3x3, padded to the same size, 512 hidden units.

    Claim: 0.966 in 57 s, `convloop train --set train.net.name=cnn2`.
    """
    return cnn(image_px, channel_count, class_count, channels=(32, 64), padding="same", hidden_count=512)


def mlp(image_px: int, channel_count: int, class_count: int, *, hidden_count: int = 256) -> nn.Sequential:
    """Build the baseline without convolution: flatten first, then one hidden layer.

    Claim: 0.808 in 19 s, `convloop train --set train.net.name=mlp`.
    """
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            hidden=nn.Linear(channel_count * image_px * image_px, hidden_count),
            relu=nn.ReLU(),
            output=nn.Linear(hidden_count, class_count),
        )
    )


def _too_small(block: int, side_px: int, window: str, image_px: int) -> str:
    return (
        f"block {block} gets {side_px}x{side_px} pixels, too small for {window}. "
        f"Use fewer blocks, padding: same, pool: none, or images larger than {image_px}x{image_px}"
    )
