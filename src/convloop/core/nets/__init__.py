"""The networks, by name. A new one is a function in a file of this folder and a line in NETS.

Scores and times of a net stand in benchmarks/results, under a date and a device, and nowhere else.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from convloop.core.nets.from_timm import PREFIX, timm_net
from convloop.core.nets.plain import cnn, cnn2, cnn3, mlp
from convloop.core.nets.residual import resnet9, resnet18, wideresnet
from convloop.core.nets.speed import speednet, whiten

NETS: dict[str, Callable[..., nn.Module]] = {
    "cnn2": cnn2,
    "cnn3": cnn3,
    "cnn": cnn,
    "mlp": mlp,
    "resnet9": resnet9,
    "resnet18": resnet18,
    "wideresnet": wideresnet,
    "speednet": speednet,
}

# What a net sets from standardised train images_NCHW before its first step.
STARTS: dict[str, Callable[[nn.Module, Tensor], None]] = {"speednet": whiten}


def build(name: str, image_px: int, channel_count: int, class_count: int, **keys: Any) -> nn.Module:
    """Build a net of NETS, or `timm:<name>`.

    Raises:
        ValueError: it cannot take these images or keys.
    """
    if name.startswith(PREFIX):
        return timm_net(name.removeprefix(PREFIX), image_px, channel_count, class_count, **keys)
    return NETS[name](image_px, channel_count, class_count, **keys)
