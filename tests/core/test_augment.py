"""Changes of whole batches, each against a slow one that takes image after image."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from convloop.core.augment import Augment, augmented, cutmix, cutout, flip, generator_of, mirrored_in, mixup, shift
from convloop.core.trivial import CHANGES, trivial_augment

_COUNT = 40
_NOBODY_N = torch.zeros(_COUNT, dtype=torch.bool)
_MEAN_C, _STD_C = torch.tensor([120.4, 110.6, 100.0]), torch.tensor([60.0, 50.0, 55.0])


def _images(side_px: int = 12, count: int = _COUNT) -> Tensor:
    """Draw smooth pictures: of noise every neighbour would be as wrong as any other."""
    generator = torch.Generator().manual_seed(3)
    rough = torch.rand(count, 3, 4, 4, generator=generator) * 255
    smooth_NCHW = torch.nn.functional.interpolate(rough, size=side_px, mode="bilinear")
    return smooth_NCHW.permute(0, 2, 3, 1).to(torch.uint8).contiguous()


def _generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_flip_mirrors_some_images_and_leaves_the_others() -> None:
    images_NHWC = _images()
    mirrored_N = mirrored_in(0, _COUNT, seed=7)
    flipped_NHWC = flip(images_NHWC, mirrored_N)

    expected = [
        np.fliplr(image) if is_mirrored else image
        for image, is_mirrored in zip(images_NHWC.numpy(), mirrored_N, strict=True)
    ]
    np.testing.assert_array_equal(flipped_NHWC, np.stack(expected))
    assert 10 < mirrored_N.sum() < 30


@pytest.mark.parametrize("epoch", [0, 1, 6])
def test_two_epochs_show_both_sides_of_every_image(epoch: int) -> None:
    assert torch.equal(mirrored_in(epoch, _COUNT, seed=7), ~mirrored_in(epoch + 1, _COUNT, seed=7))


def test_another_seed_mirrors_other_images_first() -> None:
    assert not torch.equal(mirrored_in(0, _COUNT, seed=7), mirrored_in(0, _COUNT, seed=8))


@pytest.mark.parametrize("shift_px", [1, 4, 11])
def test_shift_crops_from_the_image_padded_by_its_mirror(shift_px: int) -> None:
    images_NHWC = _images()
    moved_NHWC = shift(images_NHWC, shift_px, _generator()).numpy()

    found = []
    for before, after in zip(images_NHWC.numpy(), moved_NHWC, strict=True):
        padded = np.pad(before, ((shift_px, shift_px), (shift_px, shift_px), (0, 0)), mode="reflect")
        crops = {
            (row - shift_px, column - shift_px): padded[row : row + 12, column : column + 12]
            for row in range(2 * shift_px + 1)
            for column in range(2 * shift_px + 1)
        }
        found.append(next(move for move, crop in crops.items() if np.array_equal(crop, after)))
    assert {row for row, _ in found} <= set(range(-shift_px, shift_px + 1))
    assert len(set(found)) > 4


def test_a_shift_as_large_as_the_image_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        shift(_images(), 12, _generator())
    assert str(caught.value) == "a shift of 12 px is not smaller than the 12x12 px of an image"


@pytest.mark.parametrize("cutout_px", [1, 4, 5])
def test_cutout_paints_a_square_around_a_pixel_of_each_image(cutout_px: int) -> None:
    white_NHWC = torch.full((300, 12, 12, 3), 255, dtype=torch.uint8)
    cut_NHWC = cutout(white_NHWC, cutout_px, torch.tensor([1.0, 2.0, 3.0]), _generator())

    sizes = set()
    for image in cut_NHWC.numpy():
        painted_HW = (image == (1, 2, 3)).all(2)
        assert ((image == 255).all(2) | painted_HW).all()
        rows, columns = np.flatnonzero(painted_HW.any(1)), np.flatnonzero(painted_HW.any(0))
        assert painted_HW.sum() == len(rows) * len(columns)
        assert [int(np.ptp(side)) + 1 for side in (rows, columns)] == [len(rows), len(columns)]
        sizes |= {len(rows), len(columns)}
    assert max(sizes) == cutout_px
    assert min(sizes) == (cutout_px + 1) // 2


def test_mixup_blends_each_image_with_its_partner() -> None:
    images = torch.rand(_COUNT, 3, 6, 6, generator=_generator())
    mixed, mix = mixup(images, 1.0, _generator())

    assert sorted(mix.partner_N.tolist()) == list(range(_COUNT))
    for number, image in enumerate(mixed.numpy()):
        partner = images[mix.partner_N[number]].numpy()
        np.testing.assert_allclose(image, mix.share * images[number].numpy() + (1 - mix.share) * partner, atol=1e-6)


def test_cutmix_keeps_the_share_of_pixels_that_it_says() -> None:
    numbers_NHWC = torch.arange(_COUNT, dtype=torch.uint8)[:, None, None, None].expand(-1, 12, 10, 3)
    for seed in range(20):
        mixed_NHWC, mix = cutmix(numbers_NHWC, 1.0, _generator(seed))
        for number, image in enumerate(mixed_NHWC.numpy()):
            partner = int(mix.partner_N[number])
            assert set(np.unique(image)) <= {number, partner}
            if partner != number:
                assert (image == number).mean() == pytest.approx(mix.share)


def test_cutmix_pastes_one_rectangle() -> None:
    numbers_NHWC = torch.arange(_COUNT, dtype=torch.uint8)[:, None, None, None].expand(-1, 12, 12, 3)
    mixed_NHWC, mix = cutmix(numbers_NHWC, 1.0, _generator(4))
    number = next(number for number in range(_COUNT) if mix.partner_N[number] != number)
    other_HW = mixed_NHWC[number, :, :, 0].numpy() != number
    rows, columns = np.flatnonzero(other_HW.any(1)), np.flatnonzero(other_HW.any(0))
    assert other_HW.sum() == len(rows) * len(columns) > 0


@pytest.mark.parametrize("mixer", [mixup, cutmix])
def test_shares_follow_a_beta_distribution(mixer: Callable[..., tuple[Tensor, object]]) -> None:
    shares = [mixer(torch.zeros(2, 64, 64, 1), 0.3, _generator(seed))[1].share for seed in range(500)]  # type: ignore[attr-defined]
    low = np.mean(np.array(shares) < 0.1)
    # Of Beta(0.3, 0.3) 31 % lie below 0.1; a box that hangs over a side keeps more.
    assert low == pytest.approx(0.31, abs=0.06) if mixer is mixup else low < 0.31


@pytest.mark.parametrize("numbers", [(7, 0, 0, 0), (8, 0, 0, 0), (7, 1, 0, 0), (7, 0, 1, 0), (7, 0, 0, 1)])
def test_a_batch_draws_the_same_again_and_another_batch_others(numbers: tuple[int, int, int, int]) -> None:
    drawn = torch.rand(4, generator=generator_of(*numbers))
    assert torch.equal(drawn, torch.rand(4, generator=generator_of(*numbers)))
    assert torch.equal(drawn, torch.rand(4, generator=generator_of(7, 0, 0, 0))) == (numbers == (7, 0, 0, 0))


def test_no_augmentation_gives_the_standardised_images() -> None:
    images_NCHW, mix = augmented(_images(), _NOBODY_N, Augment(), _MEAN_C, _STD_C, _generator)
    expected = (_images().numpy() - _MEAN_C.numpy()) / _STD_C.numpy()
    np.testing.assert_allclose(images_NCHW.permute(0, 2, 3, 1).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert mix is None


def test_cut_out_pixels_are_those_of_the_mean() -> None:
    images_NCHW, _ = augmented(_images(), _NOBODY_N, Augment(cutout_px=6), _MEAN_C, _STD_C, _generator)
    black_NHW = images_NCHW.abs().amax(1) < 0.5 / 50
    assert (black_NHW.sum((1, 2)) >= 9).all()


def test_every_part_together_gives_images_of_the_same_shape_in_channels_last() -> None:
    everything = Augment(flip=True, shift_px=2, trivial=True, cutout_px=3, mixup_alpha=0.2, cutmix_alpha=1.0)
    images_NCHW, mix = augmented(_images(), ~_NOBODY_N, everything, _MEAN_C, _STD_C, _generator)
    assert images_NCHW.shape == (_COUNT, 3, 12, 12)
    assert images_NCHW.is_contiguous(memory_format=torch.channels_last)
    assert images_NCHW.isfinite().all()
    assert mix is not None


def test_only_whose_turn_it_is_are_mirrored_and_only_where_it_is_chosen() -> None:
    plain_NCHW, _ = augmented(_images(), _NOBODY_N, Augment(flip=True), _MEAN_C, _STD_C, _generator)
    mirrored_NCHW, _ = augmented(_images(), ~_NOBODY_N, Augment(flip=True), _MEAN_C, _STD_C, _generator)
    unasked_NCHW, _ = augmented(_images(), ~_NOBODY_N, Augment(), _MEAN_C, _STD_C, _generator)
    assert torch.equal(mirrored_NCHW, plain_NCHW.flip(3))
    assert torch.equal(unasked_NCHW, plain_NCHW)


def test_of_mixup_and_cutmix_a_batch_gets_either() -> None:
    both = Augment(mixup_alpha=0.2, cutmix_alpha=1.0)
    black_NHWC = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    black_NHWC[1] = 255
    pasted = 0
    for seed in range(60):
        images_NCHW, _ = augmented(
            black_NHWC, _NOBODY_N[:2], both, torch.zeros(3), torch.ones(3), partial(_generator, seed)
        )
        pasted += bool(((images_NCHW == 0) | (images_NCHW == 255)).all())
    assert 15 < pasted < 45


def _in_pillow(change: Callable[[Image.Image], Image.Image]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in _images().numpy()])


def _changed(name: str, strength: float) -> NDArray[np.uint8]:
    change, _ = CHANGES[name]
    changed = change(_images().float(), torch.full((_COUNT,), strength))
    return changed.clamp(0, 255).to(torch.uint8).numpy()


@pytest.mark.parametrize("strength", [-1.0, -0.4, 0.0, 0.7, 1.0])
@pytest.mark.parametrize(
    ("name", "enhancer"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("colour", ImageEnhance.Color),
        ("contrast", ImageEnhance.Contrast),
        ("sharpness", ImageEnhance.Sharpness),
    ],
)
def test_changes_of_colour_are_those_of_pillow(
    name: str, enhancer: Callable[[Image.Image], ImageEnhance._Enhance], strength: float
) -> None:
    expected = _in_pillow(lambda image: enhancer(image).enhance(1 + 0.99 * strength))
    assert np.abs(_changed(name, strength).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("identity", lambda image, strength: image),
        ("posterize", lambda image, strength: ImageOps.posterize(image, 8 - round(6 * strength))),
        ("solarize", lambda image, strength: ImageOps.solarize(image, 255 * (1 - strength))),
        ("autocontrast", lambda image, strength: ImageOps.autocontrast(image)),
        ("equalize", lambda image, strength: ImageOps.equalize(image)),
    ],
)
def test_changes_of_values_are_those_of_pillow(
    name: str, change: Callable[[Image.Image, float], Image.Image], strength: float
) -> None:
    expected = _in_pillow(lambda image: change(image, strength))
    difference = np.abs(_changed(name, strength).astype(int) - expected)
    assert difference.max() <= (1 if name == "autocontrast" else 0)


def _moved(image: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Look up pixel after pixel where the matrix maps its middle, counted from the middle of the image."""
    side_px = len(image)
    moved = np.zeros_like(image)
    middle = side_px / 2
    for row in range(side_px):
        for column in range(side_px):
            x, y = matrix @ [column + 0.5 - middle, row + 0.5 - middle, 1]
            source_row, source_column = int(np.floor(y + middle)), int(np.floor(x + middle))
            if 0 <= source_row < side_px and 0 <= source_column < side_px:
                moved[row, column] = image[source_row, source_column]
    return moved


@pytest.mark.parametrize("strength", [-1.0, -0.37, 0.0, 0.53, 1.0])
@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("shear_x", lambda s: [[1, 0.99 * s, 0], [0, 1, 0]]),
        ("shear_y", lambda s: [[1, 0, 0], [0.99 * s, 1, 0]]),
        ("translate_x", lambda s: [[1, 0, 12 * s], [0, 1, 0]]),
        ("translate_y", lambda s: [[1, 0, 0], [0, 1, 12 * s]]),
        (
            "rotate",
            lambda s: [
                [np.cos(np.radians(135 * s)), -np.sin(np.radians(135 * s)), 0],
                [np.sin(np.radians(135 * s)), np.cos(np.radians(135 * s)), 0],
            ],
        ),
    ],
)
def test_changes_of_place_are_those_of_a_pixel_by_pixel_loop(
    name: str, matrix: Callable[[float], list[list[float]]], strength: float
) -> None:
    expected = np.stack([_moved(image, np.array(matrix(strength))) for image in _images(count=8).numpy()])
    got = _changed(name, strength)[:8]
    # Where a sum falls on the border of two pixels, float32 and float64 may take different ones.
    assert (got != expected).any(3).mean() < 0.02


def test_trivial_augment_makes_one_change_of_one_strength_for_each_image() -> None:
    images_NHWC = _images(count=140)
    changed_NHWC = trivial_augment(images_NHWC, _generator()).numpy()
    possible = {
        number: [
            change(image[None].float(), torch.tensor([sign * step / 30])).clamp(0, 255).to(torch.uint8)[0].numpy()
            for change, has_direction in CHANGES.values()
            for step in range(31)
            for sign in ((1, -1) if has_direction else (1,))
        ]
        for number, image in enumerate(images_NHWC[:25])
    }
    assert all(any(np.array_equal(changed_NHWC[number], one) for one in all_) for number, all_ in possible.items())
    assert (changed_NHWC != images_NHWC.numpy()).any((1, 2, 3)).mean() > 0.7


def test_trivial_augment_takes_gray_images() -> None:
    gray_NHWC = _images()[..., :1]
    assert trivial_augment(gray_NHWC, _generator()).shape == gray_NHWC.shape
