"""A real folder full of twins: what a random split would leak, and that ours leaks nothing."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from convloop.core.images import NO_SPLIT, open_images
from convloop.core.split import TEST
from convloop.params_check import check
from convloop.pipeline import STAGES
from convloop.tracking import Tracker
from tests.conftest import REPOSITORY

ARCHIVE = REPOSITORY.parent / "shared/data/weather4_raw.tar"


def _leaked_share(pairs_P2: NDArray[np.int64], splits_N: NDArray[np.int8]) -> float:
    """Give the share of test images that look like an image of train or val."""
    sides_P2 = splits_N[pairs_P2]
    torn_P = (sides_P2[:, 0] != sides_P2[:, 1]) & (sides_P2 != NO_SPLIT).all(1)
    leaked = np.unique(pairs_P2[torn_P][sides_P2[torn_P] == TEST])
    return len(leaked) / int((splits_N == TEST).sum())


def test_a_random_split_of_weather4_leaks_and_ours_does_not(project: Path) -> None:
    if not ARCHIVE.is_file():
        pytest.skip(f"{ARCHIVE} is missing: the weather pictures")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(project / "source", filter="data")
    params = check(
        {
            "generate": {"source": "folder", "path": str(project / "source/weather4_raw"), "image_px": 64},
            "prepare": {"label_check_image_count": 0},
        }
    )
    for word in ("generate", "prepare"):
        STAGES[word].run(params, project, Tracker(project, params.tracking))
    images = open_images(project / "data/raw")
    splits_N = np.load(project / "data/prepared/splits.npy")
    # All pixels with all pixels, without hashes.
    pixels_ND = images.take(np.arange(len(images))).reshape(len(images), -1).astype(np.float32)
    pairs_P2 = np.argwhere(np.triu(np.corrcoef(pixels_ND), 1) > 0.985)
    draws = [np.random.default_rng(seed).permutation(splits_N) for seed in range(20)]

    assert len(pairs_P2) > 100
    assert np.mean([_leaked_share(pairs_P2, draw) for draw in draws]) > 0.1
    assert _leaked_share(pairs_P2, splits_N) == 0
    card = json.loads((project / "data/prepared/card.json").read_text())
    assert card["left_out_image_count"] < 0.05 * card["image_count"]
