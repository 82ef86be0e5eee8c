"""The nets of airbench (Jordan, 2024, arXiv 2404.00498): the least work that is known for 94 and 96 % on CIFAR-10."""

from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor, nn

from convloop.core.nets.residual import Residual, Scale

_WHITENED_PX = 2
_MIN_PX = 9  # 2x2 patches, then three halvings, leave one pixel
_STATISTICS_MOMENTUM = 0.4  # trainings are short: the running statistics must follow fast


def speednet(image_px: int, channel_count: int, class_count: int, *, depth: int = 8, width: int = 1) -> nn.Sequential:
    """Build a frozen whitening of 2x2 patches, three blocks of convolutions, and scaled logits.

    `whiten` must set the first convolution from train images before the first step. Filters start as identities, so that
    each block passes its input on, and normalisation has biases but no factors. airbench96's net is that of depth 11 and width 2.

    Claims on 2 cores of an AMD EPYC that compute in bf16: 0.914 of CIFAR-10's test images in 6 min 9 s, `dvc repro` with
    presets/cifar10_cpu_80.yaml (benchmarks/results/2026-11-23-amd-epyc-presets.json). One epoch of the default data: 0.943
    in 40 s, `convloop train --set train.net.name=speednet --set train.epochs=1 --set train.precision=auto
    --set train.curve=one_cycle --set train.warmup_share=0.2` (benchmarks/results/2026-11-23-amd-epyc-nets.json).

    Args:
        depth: layers with weights, 3n + 2: the whitening, n convolutions in each block, the output. From 11 on, those of
            a block behind its first are added to what they are given.
        width: times the 64, 256 and 256 filters of airbench94's.

    Raises:
        ValueError: images under 9 px.
    """
    if image_px < _MIN_PX:
        raise ValueError(
            f"images of {image_px}x{image_px} pixels are too small for its three halvings. Use {_MIN_PX} px"
        )
    patch = channel_count * _WHITENED_PX**2
    whitening = nn.Conv2d(channel_count, 2 * patch, _WHITENED_PX)
    whitening.weight.requires_grad = False
    nn.init.zeros_(cast(Tensor, whitening.bias))
    layers: OrderedDict[str, nn.Module] = OrderedDict(whiten=whitening, gelu=nn.GELU())
    width_in = 2 * patch
    for number, narrow in enumerate((64, 256, 256), 1):
        layers[f"block{number}"] = _block(width_in, narrow * width, (depth - 2) // 3)
        width_in = narrow * width
    layers |= OrderedDict(
        pool=nn.AdaptiveMaxPool2d(1),
        flatten=nn.Flatten(),
        output=nn.Linear(width_in, class_count, bias=False),
        scale=Scale(1 / 9),
    )
    return nn.Sequential(layers)


def whiten(net: nn.Module, images_NCHW: Tensor) -> None:
    """Set the first convolution so that patches of these standardised images come out uncorrelated, and their negatives.

    Filters are the eigenvectors of the patches' covariance over the root of its eigenvalues; 5,000 images are plenty.
    """
    first = cast(nn.Conv2d, net.get_submodule("whiten"))
    patches_MD = (
        nn.functional.unfold(images_NCHW.double().contiguous(), _WHITENED_PX)
        .transpose(1, 2)
        .reshape(-1, first.weight[0].numel())
    )
    values_D, vectors_DD = torch.linalg.eigh(patches_MD.T @ patches_MD / len(patches_MD))
    filters_DD = (vectors_DD / torch.sqrt(values_D + 5e-4)).T.flip(0)  # the widest direction first
    with torch.no_grad():
        first.weight.copy_(torch.cat([filters_DD, -filters_DD]).reshape(first.weight.shape))


def _block(width_in: int, width: int, conv_count: int) -> nn.Sequential:
    first = [_conv(width_in, width), nn.MaxPool2d(2), _norm(width), nn.GELU()]
    others = [layer for _ in range(conv_count - 1) for layer in (_conv(width, width), _norm(width), nn.GELU())]
    if conv_count == 2:
        return nn.Sequential(*first, *others)
    return nn.Sequential(*first, Residual(nn.Sequential(*others[:-1])), nn.GELU())


def _conv(width_in: int, width: int) -> nn.Conv2d:
    conv = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight[:width_in])
    return conv


def _norm(width: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(width, eps=1e-12, momentum=_STATISTICS_MOMENTUM)
    norm.weight.requires_grad = False
    return norm
