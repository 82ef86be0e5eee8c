"""Pictures drawn from a seed: `synthetic` can be learned, `noise` cannot."""

from typing import TYPE_CHECKING

from convloop.core import synth
from convloop.sources import Source

if TYPE_CHECKING:
    from convloop.config import GenerateParams


def draw_synthetic(settings: "GenerateParams") -> Source:
    """Draw stars, discs and rings; every dial of `generate` applies."""
    return Source(
        synth.class_names(settings.class_count),
        synth.synthetic_batches(
            seed=settings.seed,
            image_count=settings.image_count,
            class_count=settings.class_count,
            image_px=settings.image_px,
            channel_count=settings.channel_count,
            difficulty_share=settings.difficulty_share,
            label_noise_share=settings.label_noise_share,
            imbalance_ratio=settings.imbalance_ratio,
            shift_share=settings.shift_share,
        ),
    )


def draw_noise(settings: "GenerateParams") -> Source:
    """Draw random pixels under random labels, as the beginner's article does."""
    return Source(
        tuple(f"class{label}" for label in range(settings.class_count)),
        synth.noise_batches(
            seed=settings.seed,
            image_count=settings.image_count,
            class_count=settings.class_count,
            image_px=settings.image_px,
            channel_count=settings.channel_count,
        ),
    )
