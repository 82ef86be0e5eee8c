"""Labelled pictures from a seed: one star, disc or ring of random colour, size, turn and place on a busy ground."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import NO_SPLIT, Batch

BATCH_IMAGE_COUNT = 10_000
_VARIANT_COUNT = 160  # outlines drawn for each class and batch
_CACHE_IMAGE_COUNT = 100  # painted at once, so that the work stays in the processor's cache
_LOBES = (0, 3, 4, 5, 6, 2, 7, 8, 9, 10)
MAX_CLASS_COUNT = 2 * len(_LOBES)


def class_names(class_count: int) -> tuple[str, ...]:
    """Name the classes in the order of their labels: each outline first filled, then as a ring."""
    outlines = [("disc" if lobes == 0 else f"star{lobes}") for lobes in _LOBES]
    return tuple(name for outline in outlines for name in (outline, f"{outline}_ring"))[:class_count]


def synthetic_batches(
    *,
    seed: int,
    image_count: int,
    class_count: int,
    image_px: int,
    channel_count: int,
    difficulty_share: float,
    label_noise_share: float,
    imbalance_ratio: float,
    shift_share: float,
) -> Iterator[Batch]:
    """Draw batch after batch of labelled pictures, the same ones for the same arguments.

    Place, size, turn and colour are random and the shape may be darker or lighter than the ground, so that a linear
    model finds little to hold on to. More images continue the same sequence.

    Args:
        class_count: at most MAX_CLASS_COUNT.
        difficulty_share: 0 draws clean high-contrast shapes, 1 faint shapes under noise beside a decoy.
        label_noise_share: share of images whose label is replaced by another class.
        imbalance_ratio: how many times more frequent the first class is than the last, falling geometrically.
        shift_share: how far colour, contrast and brightness move from the usual, to stage drift.
    """
    weights_K = np.geomspace(imbalance_ratio, 1, class_count)
    for start in range(0, image_count, BATCH_IMAGE_COUNT):
        rng = np.random.default_rng([seed, start])
        shapes_N = rng.choice(class_count, BATCH_IMAGE_COUNT, p=weights_K / weights_K.sum())
        images_NHWC = _draw(rng, shapes_N, class_count, image_px, channel_count, difficulty_share)
        if shift_share:
            images_NHWC = _shift(images_NHWC, shift_share)
        wrong_N = rng.random(BATCH_IMAGE_COUNT) < label_noise_share
        others_N = (shapes_N + rng.integers(1, max(class_count, 2), BATCH_IMAGE_COUNT)) % class_count
        yield _batch(images_NHWC, np.where(wrong_N, others_N, shapes_N), start, image_count)


def noise_batches(
    *, seed: int, image_count: int, class_count: int, image_px: int, channel_count: int
) -> Iterator[Batch]:
    """Draw random pixels under random labels: there is nothing to learn, and an honest pipeline reports chance."""
    for start in range(0, image_count, BATCH_IMAGE_COUNT):
        rng = np.random.default_rng([seed, start])
        shape = (BATCH_IMAGE_COUNT, image_px, image_px, channel_count)
        images_NHWC = rng.integers(0, 256, shape, dtype=np.uint8)
        yield _batch(images_NHWC, rng.integers(0, class_count, BATCH_IMAGE_COUNT), start, image_count)


def _batch(images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64], start: int, image_count: int) -> Batch:
    count = min(BATCH_IMAGE_COUNT, image_count - start)
    height_px, width_px = images_NHWC.shape[1:3]
    return Batch(
        images_NHWC[:count],
        labels_N[:count].astype(np.int64),
        np.full(count, NO_SPLIT, np.int8),
        np.tile(np.array([height_px, width_px], np.int32), (count, 1)),
        np.array([f"{start + index:07d}" for index in range(count)]),
    )


def _draw(
    rng: np.random.Generator,
    shapes_N: NDArray[np.int64],
    class_count: int,
    image_px: int,
    channel_count: int,
    difficulty_share: float,
) -> NDArray[np.uint8]:
    count = len(shapes_N)
    outlines_KVHW = _outlines(rng, class_count, image_px)
    contrast = np.float32(110 - 70 * difficulty_share)
    noise = np.float32((10 + 60 * difficulty_share) / 128)  # half-width of uniform noise, for one step of a byte
    ground_NC = rng.uniform(90, 166, (count, channel_count)).astype(np.float32) - 128 * noise
    colours_NC = _colours(rng, count, channel_count) * contrast
    decoy_colours_NC = _colours(rng, count, channel_count) * contrast * np.float32(0.5 * difficulty_share)
    variants_N, decoys_N = rng.integers(0, _VARIANT_COUNT, (2, count))
    decoy_shapes_N = rng.integers(0, class_count, count)
    images_NHWC = rng.integers(0, 256, (count, image_px, image_px, channel_count), dtype=np.uint8)
    for start in range(0, count, _CACHE_IMAGE_COUNT):
        part = slice(start, start + _CACHE_IMAGE_COUNT)
        masks_NHW = outlines_KVHW[shapes_N[part], variants_N[part]]
        decoys_NHW = outlines_KVHW[decoy_shapes_N[part], decoys_N[part], ::-1]
        painted_NHWC = np.multiply(images_NHWC[part], noise, dtype=np.float32)
        for channel in range(channel_count):
            painted_NHWC[..., channel] += (
                masks_NHW * colours_NC[part, channel, None, None]
                + decoys_NHW * decoy_colours_NC[part, channel, None, None]
                + ground_NC[part, channel, None, None]
            )
        images_NHWC[part] = np.clip(painted_NHWC, 0, 255, out=painted_NHWC)
    return images_NHWC


def _colours(rng: np.random.Generator, count: int, channel_count: int) -> NDArray[np.float32]:
    """Draw colour steps of unit strength, either lighter or darker in each channel."""
    steps_NC = rng.choice(np.array([-1, 1], np.float32), (count, 1)) * rng.uniform(0.5, 1, (count, channel_count))
    return steps_NC.astype(np.float32)


def _outlines(rng: np.random.Generator, class_count: int, image_px: int) -> NDArray[np.float32]:
    """Render soft masks in 0..1, `_VARIANT_COUNT` for each class, each with its own place, size and turn."""
    sides = (np.arange(image_px, dtype=np.float32) + 0.5) / image_px * 2 - 1
    grid = (class_count, _VARIANT_COUNT, 1, 1)
    radius = rng.uniform(0.38, 0.62, grid).astype(np.float32)
    reach = 0.9 - radius
    y = sides[:, None] - rng.uniform(-1, 1, grid).astype(np.float32) * reach
    x = sides[None, :] - rng.uniform(-1, 1, grid).astype(np.float32) * reach
    lobes = np.array([_LOBES[label // 2] for label in range(class_count)], np.float32)[:, None, None, None]
    hollow = (np.arange(class_count) % 2 == 1)[:, None, None, None]
    turn = rng.uniform(0, 2 * np.pi, grid).astype(np.float32)
    edge = radius * (1 + np.where(lobes > 0, 0.35, 0.0).astype(np.float32) * np.cos(lobes * np.arctan2(y, x) + turn))
    distance = np.hypot(y, x)
    sharpness = np.float32(image_px / 2)
    filled = np.clip((edge - distance) * sharpness + 0.5, 0, 1)
    hole = np.clip((edge * np.float32(0.55) - distance) * sharpness + 0.5, 0, 1)
    masks_KVHW: NDArray[np.float32] = np.where(hollow, filled - hole, filled).astype(np.float32)
    return masks_KVHW


def _shift(images_NHWC: NDArray[np.uint8], shift_share: float) -> NDArray[np.uint8]:
    """Flatten the contrast, brighten, and cast a tint, as another camera or another season would."""
    tint_C = np.linspace(60, -20, images_NHWC.shape[-1], dtype=np.float32) * np.float32(shift_share)
    contrast = np.float32(1 - 0.5 * shift_share)
    shifted_NHWC = (images_NHWC.astype(np.float32) - 128) * contrast + (128 + tint_C)
    return np.clip(shifted_NHWC, 0, 255).astype(np.uint8)
