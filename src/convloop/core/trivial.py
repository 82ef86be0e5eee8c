"""TrivialAugment (Müller and Hutter, 2021): one random change of random strength for each image."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional

_STRENGTH_COUNT = 31  # steps of strength, as in the paper
_LUMA = (0.299, 0.587, 0.114)

# A change takes uint8 images_NHWC as floats and a strength for each, -1 to 1 where it has a direction, else 0 to 1; it
# gives floats that are rounded down and kept within 0 to 255.
Change = Callable[[Tensor, Tensor], Tensor]


def trivial_augment(images_NHWC: Tensor, generator: Generator) -> Tensor:
    """Give each uint8 image one of CHANGES, drawn evenly, at one of 31 strengths of the wide range."""
    count = len(images_NHWC)
    change_N = torch.randint(len(CHANGES), (count,), generator=generator)
    strength_N = torch.randint(_STRENGTH_COUNT, (count,), generator=generator) / (_STRENGTH_COUNT - 1)
    sign_N = torch.randint(2, (count,), generator=generator) * 2 - 1
    changed_NHWC = images_NHWC.clone()
    for number, (change, has_direction) in enumerate(CHANGES.values()):
        own_n = torch.nonzero(change_N == number).ravel()
        if len(own_n):
            strength_n = strength_N[own_n] * (sign_N[own_n] if has_direction else 1)
            own_n = own_n.to(images_NHWC.device, non_blocking=True)
            result = change(images_NHWC[own_n].float(), strength_n.to(images_NHWC.device, non_blocking=True))
            changed_NHWC[own_n] = result.clamp(0, 255).to(torch.uint8)
    return changed_NHWC


def identity(images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    return images_NHWC


def brightness(images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    return _away_from(torch.zeros_like(images_NHWC), images_NHWC, strength_N)


def contrast(images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    """Move away from the mean gray of the image."""
    mean_N = (_gray(images_NHWC).mean((1, 2, 3)) + 0.5).floor()
    return _away_from(mean_N[:, None, None, None].expand_as(images_NHWC), images_NHWC, strength_N)


def colour(images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    return _away_from(_gray(images_NHWC).expand_as(images_NHWC), images_NHWC, strength_N)


def sharpness(images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    """Move away from the image smoothed by a 3x3 window; its rim stays."""
    channel_count = images_NHWC.shape[3]
    kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], device=images_NHWC.device) / 13
    inner_NCHW = functional.conv2d(
        images_NHWC.permute(0, 3, 1, 2), kernel.expand(channel_count, 1, 3, 3), groups=channel_count
    )
    smooth_NHWC = images_NHWC.clone()
    smooth_NHWC[:, 1:-1, 1:-1] = (inner_NCHW.permute(0, 2, 3, 1) + 0.5).floor()
    return _away_from(smooth_NHWC, images_NHWC, strength_N)


def posterize(images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    """Keep the highest 8 bits down to 2."""
    step_N = 2.0 ** (strength_N * 6).round()
    step_N111 = step_N[:, None, None, None]
    return (images_NHWC / step_N111).floor() * step_N111


def solarize(images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    """Turn values from a threshold on into their negative."""
    threshold_N = 255 * (1 - strength_N)
    return torch.where(images_NHWC >= threshold_N[:, None, None, None], 255 - images_NHWC, images_NHWC)


def autocontrast(images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    """Stretch each channel of an image to the whole range."""
    low_N11C, high_N11C = images_NHWC.amin((1, 2), keepdim=True), images_NHWC.amax((1, 2), keepdim=True)
    stretched_NHWC = (images_NHWC - low_N11C) * (255 / (high_N11C - low_N11C).clamp(min=1)) + 1e-4
    return torch.where(high_N11C > low_N11C, stretched_NHWC, images_NHWC)


def equalize(images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    """Make the values of each channel equally frequent, by the integer arithmetic that Pillow uses."""
    count, height_px, width_px, channel_count = images_NHWC.shape
    values_SP = images_NHWC.permute(0, 3, 1, 2).reshape(count * channel_count, height_px * width_px).long()
    histogram_SV = torch.zeros(len(values_SP), 256, dtype=torch.long, device=values_SP.device)
    histogram_SV.scatter_add_(1, values_SP, torch.ones_like(values_SP))
    brightest_S1 = values_SP.amax(1, keepdim=True)
    step_S1 = (height_px * width_px - histogram_SV.gather(1, brightest_S1)) // 255
    below_SV = histogram_SV.cumsum(1) - histogram_SV
    table_SV = ((step_S1 // 2 + below_SV) // step_S1.clamp(min=1)).clamp(max=255)
    even_SP = torch.where(step_S1 > 0, table_SV.gather(1, values_SP), values_SP)
    return even_SP.reshape(count, channel_count, height_px, width_px).permute(0, 2, 3, 1).float()


def rotate(images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    """Turn by up to 135 degrees."""
    angle_N = strength_N * (135 * torch.pi / 180)
    cos_N, sin_N, zero_N = angle_N.cos(), angle_N.sin(), torch.zeros_like(angle_N)
    return _moved(images_NHWC, [[cos_N, -sin_N, zero_N], [sin_N, cos_N, zero_N]])


def shear_x(images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    one_N, zero_N = torch.ones_like(strength_N), torch.zeros_like(strength_N)
    return _moved(images_NHWC, [[one_N, 0.99 * strength_N, zero_N], [zero_N, one_N, zero_N]])


def shear_y(images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    one_N, zero_N = torch.ones_like(strength_N), torch.zeros_like(strength_N)
    return _moved(images_NHWC, [[one_N, zero_N, zero_N], [0.99 * strength_N, one_N, zero_N]])


def translate_x(images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    """Move by up to the whole image: 32 of the 32 px that the paper's wide range was made for."""
    one_N, zero_N = torch.ones_like(strength_N), torch.zeros_like(strength_N)
    return _moved(images_NHWC, [[one_N, zero_N, strength_N * images_NHWC.shape[2]], [zero_N, one_N, zero_N]])


def translate_y(images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    one_N, zero_N = torch.ones_like(strength_N), torch.zeros_like(strength_N)
    return _moved(images_NHWC, [[one_N, zero_N, zero_N], [zero_N, one_N, strength_N * images_NHWC.shape[1]]])


# Each change, and whether its strength has a direction.
CHANGES: dict[str, tuple[Change, bool]] = {
    "identity": (identity, False),
    "shear_x": (shear_x, True),
    "shear_y": (shear_y, True),
    "translate_x": (translate_x, True),
    "translate_y": (translate_y, True),
    "rotate": (rotate, True),
    "brightness": (brightness, True),
    "colour": (colour, True),
    "contrast": (contrast, True),
    "sharpness": (sharpness, True),
    "posterize": (posterize, False),
    "solarize": (solarize, False),
    "autocontrast": (autocontrast, False),
    "equalize": (equalize, False),
}


def _away_from(origin_NHWC: Tensor, images_NHWC: Tensor, strength_N: Tensor) -> Tensor:
    """Multiply the distance from `origin` by 0.01 to 1.99."""
    return origin_NHWC + (images_NHWC - origin_NHWC) * (1 + 0.99 * strength_N)[:, None, None, None]


def _gray(images_NHWC: Tensor) -> Tensor:
    if images_NHWC.shape[3] == 1:
        return images_NHWC
    weights_C = torch.tensor(_LUMA, device=images_NHWC.device)
    return ((images_NHWC * weights_C).sum(3, keepdim=True) + 0.5).floor()


def _moved(images_NHWC: Tensor, matrix_23N: list[list[Tensor]]) -> Tensor:
    """Show at each place, counted in pixels from the middle, the nearest pixel to where the matrix maps it; else black."""
    count, height_px, width_px, channel_count = images_NHWC.shape
    device = images_NHWC.device
    y_H1 = torch.arange(height_px, device=device)[:, None] - (height_px - 1) / 2
    x_1W = torch.arange(width_px, device=device)[None, :] - (width_px - 1) / 2
    column_NHW, row_NHW = (
        a_N[:, None, None] * x_1W + b_N[:, None, None] * y_H1 + c_N[:, None, None] for a_N, b_N, c_N in matrix_23N
    )
    column_NHW = (column_NHW + width_px / 2).floor().long()
    row_NHW = (row_NHW + height_px / 2).floor().long()
    outside_NHW = (column_NHW < 0) | (column_NHW >= width_px) | (row_NHW < 0) | (row_NHW >= height_px)
    place_NP1 = (row_NHW.clamp(0, height_px - 1) * width_px + column_NHW.clamp(0, width_px - 1)).reshape(count, -1, 1)
    pixels_NPC = images_NHWC.reshape(count, -1, channel_count)
    moved_NPC = pixels_NPC.gather(1, place_NP1.expand(-1, -1, channel_count))
    return moved_NPC.reshape(images_NHWC.shape).masked_fill(outside_NHW[..., None], 0)
