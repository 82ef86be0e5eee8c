"""The two sources that draw, and the table of all sources."""

from typing import Any

import numpy as np
import pytest

from convloop.config import SOURCE_NAMES, GenerateParams
from convloop.core.synth import class_names
from convloop.sources.drawn import draw_noise, draw_synthetic
from convloop.sources.table import SOURCES

# One value for each dial of `generate` that differs from its default.
DIALS: dict[str, Any] = {
    "image_count": 21,
    "class_count": 3,
    "image_px": 9,
    "channel_count": 1,
    "seed": 8,
    "difficulty_share": 0.5,
    "label_noise_share": 0.9,
    "imbalance_ratio": 50.0,
    "shift_share": 0.5,
}
NO_DIALS = {"licence", "source", "path", "fit", "max_refused_share"}
NOISE_DIALS = ("image_count", "class_count", "image_px", "channel_count", "seed")


def _settings(**dials: Any) -> GenerateParams:
    return GenerateParams(**{"image_count": 20, "image_px": 8, **dials})


def _bytes(source: str, **dials: Any) -> bytes:
    (batch,) = SOURCES[source](_settings(**dials)).batches
    return batch.images_NHWC.tobytes() + batch.labels_N.tobytes()


def test_the_params_know_every_source() -> None:
    assert sorted(SOURCES) == sorted(SOURCE_NAMES)


def test_every_dial_of_the_section_is_tested_here() -> None:
    assert set(DIALS) | NO_DIALS == set(GenerateParams.model_fields)


@pytest.mark.parametrize("dial", DIALS)
def test_every_dial_changes_what_synthetic_draws(dial: str) -> None:
    assert _bytes("synthetic", **{dial: DIALS[dial]}) != _bytes("synthetic")


@pytest.mark.parametrize("dial", NOISE_DIALS)
def test_its_dials_change_what_noise_draws(dial: str) -> None:
    assert _bytes("noise", **{dial: DIALS[dial]}) != _bytes("noise")


@pytest.mark.parametrize("dial", sorted(set(DIALS) - set(NOISE_DIALS)))
def test_other_dials_leave_noise_alone(dial: str) -> None:
    assert _bytes("noise", **{dial: DIALS[dial]}) == _bytes("noise")


def test_synthetic_names_its_classes_by_shape() -> None:
    assert draw_synthetic(_settings(class_count=3)).classes == class_names(3)


def test_noise_numbers_its_classes() -> None:
    assert draw_noise(_settings(class_count=3)).classes == ("class0", "class1", "class2")


def test_noise_is_not_what_synthetic_draws() -> None:
    (drawn,), (noise,) = draw_synthetic(_settings()).batches, draw_noise(_settings()).batches
    assert not np.array_equal(drawn.images_NHWC, noise.images_NHWC)
