"""What prepare decides: the split, the channel statistics, and a card of facts about the data."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import SPLITS, Images
from convloop.core.split import TEST, TRAIN
from convloop.errors import DataError

_CHUNK_IMAGE_COUNT = 10_000


@dataclass(frozen=True)
class Prepared:
    """`splits_N` gives each image an index into SPLITS; `mean_C` and `std_C` are of the training pixels, 0 to 255."""

    splits_N: NDArray[np.int8]
    mean_C: tuple[float, ...]
    std_C: tuple[float, ...]
    card: dict[str, Any]

    def indices(self, split: int) -> NDArray[np.int64]:
        return np.flatnonzero(self.splits_N == split)


def write_prepared(folder: Path, images: Images, splits_N: NDArray[np.int8], warnings: list[str]) -> dict[str, Any]:
    """Write split and card; return the card."""
    mean_C, std_C = channel_statistics(images, np.flatnonzero(splits_N == TRAIN))
    counts = {
        name: np.bincount(images.labels_N[splits_N == split], minlength=len(images.classes)).tolist()
        for split, name in enumerate(SPLITS)
    }
    card = {
        "image_count": len(images),
        "split_image_count": {name: sum(by_class) for name, by_class in counts.items()},
        "class_image_count": {
            label: {name: counts[name][index] for name in SPLITS} for index, label in enumerate(images.classes)
        },
        "shape_HWC": list(images.shape_HWC),
        "mean_C": mean_C,
        "std_C": std_C,
        "content_sha256": _sha256(images.content_N),
        "test_sha256": _sha256(np.sort(images.content_N[splits_N == TEST])),
        "warnings": warnings,
    }
    np.save(folder / "splits.npy", splits_N)
    (folder / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return card


def read_prepared(folder: Path, images: Images) -> Prepared:
    """Read what prepare wrote about exactly these images.

    Raises:
        DataError: it is missing, damaged, or about other images.
    """
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        splits_N = np.load(folder / "splits.npy")
        prepared = Prepared(splits_N, tuple(card["mean_C"]), tuple(card["std_C"]), card)
        content_sha256 = card["content_sha256"]
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing. Make it: dvc repro prepare") from None
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(f"{folder} is damaged ({error}). Make it again: dvc repro --force prepare") from error
    if content_sha256 != _sha256(images.content_N) or len(splits_N) != len(images):
        raise DataError(
            f"{folder} was made from other images than data/raw and data/landed hold. Run dvc repro prepare"
        )
    return prepared


def channel_statistics(images: Images, indices: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Give mean and standard deviation of each channel, exact, from counts of the 256 byte values."""
    counts_CV = np.zeros((images.shape_HWC[2], 256), np.int64)
    for start in range(0, len(indices), _CHUNK_IMAGE_COUNT):
        part_NHWC = images.take(indices[start : start + _CHUNK_IMAGE_COUNT])
        for channel, counts_V in enumerate(counts_CV):
            counts_V += np.bincount(part_NHWC[..., channel].ravel(), minlength=256)
    values_V = np.arange(256)
    total_C = counts_CV.sum(1)
    mean_C = (counts_CV * values_V).sum(1) / total_C
    variance_C = (counts_CV * (values_V - mean_C[:, None]) ** 2).sum(1) / total_C
    # A channel without any contrast must not be divided by zero.
    return mean_C.tolist(), np.maximum(np.sqrt(variance_C), 1.0).tolist()


def _sha256(content_N: NDArray[np.void]) -> str:
    return hashlib.sha256(np.ascontiguousarray(content_N).tobytes()).hexdigest()
