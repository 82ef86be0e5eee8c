"""Change whole batches of train images, vectorised, on the device where they lie.

Every random number is drawn on the processor, from the generator that is passed in or, for mirroring, once an epoch: a seed
means the same pictures on every device, and no draw waits for the device. Images are images_NHWC, uint8 or float where
nothing else is said.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from convloop.core.package import normalise
from convloop.core.trivial import trivial_augment


def generator_of(*numbers: int) -> Generator:
    """Give the source of randomness of a batch: of seed, epoch, batch and rank. One that goes on there draws the same."""
    (state,) = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state))


def mirrored_in(epoch: int, count: int, seed: int) -> Tensor:
    """Choose half of `count` train images by chance, and in every second epoch the other half, as booleans.

    Two epochs show both sides of every image; sides drawn anew each time show half of the images one side twice. What is
    left to learn from is seen sooner (Jordan, 2024, arXiv 2404.00498, alternating flip).
    """
    # A fifth number, since these sources take a missing one for 0: no batch draws the same.
    mirrored_N: Tensor = torch.rand(count, generator=generator_of(seed, 0, 0, 0, 1)) < 0.5
    return mirrored_N ^ bool(epoch % 2)


def flip(images_NHWC: Tensor, mirrored_N: Tensor) -> Tensor:
    """Mirror those images left to right that `mirrored_N` names."""
    return torch.where(mirrored_N[:, None, None, None], images_NHWC.flip(2), images_NHWC)


def shift(images_NHWC: Tensor, shift_px: int, generator: Generator) -> Tensor:
    """Move each image by up to `shift_px` down and right or back, as a crop from the image mirrored at its sides would.

    Raises:
        ValueError: `shift_px` is not smaller than the image.
    """
    count, height_px, width_px, _ = images_NHWC.shape
    if shift_px >= min(height_px, width_px):
        raise ValueError(f"a shift of {shift_px} px is not smaller than the {height_px}x{width_px} px of an image")
    moves_2N = torch.randint(-shift_px, shift_px + 1, (2, count), generator=generator)
    moves_2N = _on(moves_2N, images_NHWC)
    rows_NH = _mirrored(moves_2N[0], height_px)
    columns_NW = _mirrored(moves_2N[1], width_px)
    images_N11 = torch.arange(count, device=images_NHWC.device)[:, None, None]
    return images_NHWC[images_N11, rows_NH[:, :, None], columns_NW[:, None, :]]


def cutout(images_NHWC: Tensor, cutout_px: int, fill_C: Tensor, generator: Generator) -> Tensor:
    """Paint a square of `cutout_px` around a random pixel of each image with `fill_C` (DeVries and Taylor, 2017).

    The square may hang over a side, so that some images lose less than others.
    """
    count, height_px, width_px, _ = images_NHWC.shape
    inside_NHW = _square(count, height_px, width_px, cutout_px, generator)
    return torch.where(_on(inside_NHW, images_NHWC)[..., None], fill_C.to(images_NHWC), images_NHWC)


@dataclass(frozen=True)
class Mix:
    """Who gives each image of a batch its second label, and the share that its own label keeps."""

    partner_N: Tensor
    share: float


def mixup(images: Tensor, alpha: float, generator: Generator) -> tuple[Tensor, Mix]:
    """Blend each float image, in any layout, with another of the batch; one share for all (Zhang et al., 2018).

    Args:
        alpha: of the Beta distribution of the share; 0.2 blends little, 1 evenly.
    """
    partner_N = _on(torch.randperm(len(images), generator=generator), images)
    share = _beta(alpha, generator)
    return images.lerp(images[partner_N], 1 - share), Mix(partner_N, share)


def cutmix(images_NHWC: Tensor, alpha: float, generator: Generator) -> tuple[Tensor, Mix]:
    """Paste a rectangle of another image of the batch, at the same place, into each image (Yun et al., 2019).

    Args:
        alpha: of the Beta distribution of the share that each image keeps; what hangs over a side is kept too.
    """
    count, height_px, width_px, _ = images_NHWC.shape
    partner_N = _on(torch.randperm(count, generator=generator), images_NHWC)
    side_share = (1 - _beta(alpha, generator)) ** 0.5
    row, column = torch.rand(2, generator=generator).tolist()
    top, bottom = _cut(row, side_share, height_px)
    left, right = _cut(column, side_share, width_px)
    pasted_NHWC = images_NHWC.clone()
    pasted_NHWC[:, top:bottom, left:right] = images_NHWC[:, top:bottom, left:right][partner_N]
    return pasted_NHWC, Mix(partner_N, 1 - (bottom - top) * (right - left) / (height_px * width_px))


@dataclass(frozen=True)
class Augment:
    """What is done to train images, in this order; 0 and False leave out. Of mixup and cutmix a batch gets one."""

    flip: bool = False
    shift_px: int = 0
    trivial: bool = False
    cutout_px: int = 0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0


_NOTHING = Augment()


def augmented(
    images_NHWC: Tensor,
    mirrored_N: Tensor,
    chosen: Augment,
    mean_C: Tensor,
    std_C: Tensor,
    draw: Callable[[], Generator],
) -> tuple[Tensor, Mix | None]:
    """Give uint8 images changed and standardised as images_NCHW, and their second labels where they were mixed.

    Args:
        mirrored_N: whose turn it is to be mirrored, where `chosen` mirrors.
    """
    if chosen == _NOTHING:
        return normalise(images_NHWC, mean_C, std_C), None
    generator = draw()
    mix: Mix | None = None
    if chosen.flip:
        images_NHWC = flip(images_NHWC, mirrored_N)
    if chosen.shift_px:
        images_NHWC = shift(images_NHWC, chosen.shift_px, generator)
    if chosen.trivial:
        images_NHWC = trivial_augment(images_NHWC, generator)
    if chosen.cutout_px:
        images_NHWC = cutout(images_NHWC, chosen.cutout_px, mean_C.round(), generator)
    is_cutmix = chosen.cutmix_alpha > 0
    if is_cutmix and chosen.mixup_alpha:
        is_cutmix = bool(torch.rand((), generator=generator) < 0.5)
    if is_cutmix:
        images_NHWC, mix = cutmix(images_NHWC, chosen.cutmix_alpha, generator)
    images_NCHW = normalise(images_NHWC, mean_C, std_C)
    if chosen.mixup_alpha and not is_cutmix:
        images_NCHW, mix = mixup(images_NCHW, chosen.mixup_alpha, generator)
    return images_NCHW, mix


def _on(drawn: Tensor, images: Tensor) -> Tensor:
    return drawn.to(images.device, non_blocking=True)


def _mirrored(moves_N: Tensor, side_px: int) -> Tensor:
    """Give the pixel that each place shows after the move, reflected at both ends without repeating them."""
    places_NP = (torch.arange(side_px, device=moves_N.device) - moves_N[:, None]).abs()
    mirrored_NP: Tensor = side_px - 1 - (side_px - 1 - places_NP).abs()
    return mirrored_NP


def _square(count: int, height_px: int, width_px: int, side_px: int, generator: Generator) -> Tensor:
    """Mark, for each image, the pixels of a square around one of them."""
    centre_2N = (torch.rand(2, count, generator=generator) * torch.tensor([[height_px], [width_px]])).floor() + 0.5
    top_N, left_N = (centre_2N - side_px / 2).floor()
    rows_H, columns_W = torch.arange(height_px), torch.arange(width_px)
    rows_NH = (rows_H >= top_N[:, None]) & (rows_H < (top_N + side_px)[:, None])
    columns_NW = (columns_W >= left_N[:, None]) & (columns_W < (left_N + side_px)[:, None])
    inside_NHW: Tensor = rows_NH[:, :, None] & columns_NW[:, None, :]
    return inside_NHW


def _cut(centre: float, share: float, side_px: int) -> tuple[int, int]:
    half = share * side_px / 2
    middle = centre * side_px
    return max(0, round(middle - half)), min(side_px, round(middle + half))


def _beta(alpha: float, generator: Generator) -> float:
    """Draw from Beta(alpha, alpha), as the share of one of two Gamma draws."""
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))
