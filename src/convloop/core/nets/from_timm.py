"""Any net of timm (pytorch-image-models), which comes with the extra `timm`."""

from difflib import get_close_matches
from pathlib import Path

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
        raise ValueError(f"timm has no net of that name. Did you mean {PREFIX}{near[0]}?")
    if weights_path is not None and not Path(weights_path).is_file():
        raise ValueError(f"train.net.weights_path is {weights_path}, where no file is. Set it to a file of weights")
    source = {"file": weights_path} if weights_path else {}
    fixed = {"img_size": image_px} if _has_fixed_size(name) else {}
    try:
        net: nn.Module = timm.create_model(
            name,
            pretrained=weights_path is not None,
            pretrained_cfg_overlay=source,
            in_chans=channel_count,
            num_classes=class_count,
            **fixed,
        )
    except Exception as error:  # each net and each form of file fails in its own way
        where = f" with the weights of {weights_path}" if weights_path else ""
        raise ValueError(f"timm cannot build it{where}: {str(error).splitlines()[0]} Choose another") from error
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(1, channel_count, image_px, image_px))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"images of {image_px}x{image_px} pixels do not pass it: {str(error).splitlines()[0]}. "
            "Use larger images or another net"
        ) from error
    return net.train()


def _has_fixed_size(name: str) -> bool:
    """Tell whether a net's layers depend on the image's size, as those with position embeddings do."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    return bool(config and config.fixed_input_size)
