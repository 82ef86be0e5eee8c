"""Any net of timm (pytorch-image-models), which comes with the extra `timm`."""

from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

PREFIX = "timm:"


def timm_net(
    name: str, image_px: int, channel_count: int, class_count: int, *, weights_path: str | None = None
) -> nn.Module:
    """Build timm's `name` for these images.

    Args:
        weights_path: file of pretrained weights in timm's own form; head and first layer are fitted to the images.

    Raises:
        ValueError: timm is not installed, does not know the name, cannot take the images or cannot load the file.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # torchvision below it raises the latter when made for another torch
        raise ValueError(f'timm cannot be imported ({error}). Install it: pip install "convloop[timm]"') from error
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=1, cutoff=0)
        raise ValueError(f"timm has no net of that name. The nearest is {PREFIX}{near[0]}")
    if weights_path is not None and not Path(weights_path).is_file():
        raise ValueError(f"train.net.weights_path is {weights_path}, where no file is. Set it to a file of weights")
    where = f" with the weights of {weights_path}" if weights_path else ""
    other = "Choose weights of this net, in timm's form" if weights_path else "Choose another"
    try:
        fixed = {"img_size": image_px} if _has_fixed_size(name) else {}
        make = partial(timm.create_model, name, in_chans=channel_count, num_classes=class_count, **fixed)
        net: nn.Module
        if weights_path is None:
            net = make()
        else:
            with torch.random.fork_rng(devices=[]):
                first = make()
            # A file of no classes: its head fits none, so that a new one is always made.
            net = make(pretrained=True, pretrained_cfg_overlay={"file": weights_path, "num_classes": 0})
            _refuse_gaps(first, net)
    except Exception as error:  # each net and each form of file fails in its own way
        problem = " ".join(line.strip() for line in str(error).splitlines()[:2]).rstrip(".")
        raise ValueError(f"timm cannot build it{where}: {problem}. {other}") from error
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, channel_count, image_px, image_px))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"images of {image_px}x{image_px} pixels do not pass it: {str(error).splitlines()[0]}. "
            "Use larger images or another net"
        ) from error
    return net.train()


def _refuse_gaps(first: nn.Module, net: nn.Module) -> None:
    """Refuse weights that left a part of the body as chance made it, which timm does without a word beside a new head.

    Args:
        first: the same net from the same random numbers, without the file.
    """
    config: Any = net.pretrained_cfg
    anew = [config.get("classifier"), config.get("first_conv")]
    names = tuple(f"{name}." for value in anew if value for name in ([value] if isinstance(value, str) else value))
    weights = {
        name: weight
        for name, weight in first.named_parameters()
        if weight.ndim > 1 and not name.startswith(names) and weight.min() < weight.max()
    }
    gaps = [name for name, weight in weights.items() if torch.equal(weight, net.get_parameter(name))]
    if gaps:
        raise ValueError(f"the file lacks {len(gaps)} of {len(weights)} matrices and filters, such as {gaps[0]}")


def _has_fixed_size(name: str) -> bool:
    """Tell whether a net's layers depend on the image's size, as those with position embeddings do."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    return bool(config and config.fixed_input_size)
