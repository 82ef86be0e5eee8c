"""What prepare decides: the split, the channel statistics, a reference for drift, and a card of facts about the data."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import NO_SPLIT, SPLITS, Images
from convloop.core.looks import LOOKS
from convloop.core.modes import MODES, UNKNOWN
from convloop.core.split import TRAIN, VAL, versions_of_test
from convloop.errors import DataError

_CHUNK_IMAGE_COUNT = 10_000
_REFERENCE_IMAGE_COUNT = 5_000


@dataclass(frozen=True)
class Prepared:
    """`splits_N` gives each image an index into SPLITS, or NO_SPLIT where it is left out.

    `mean_C` and `std_C` are of the training pixels, 0 to 255.
    """

    splits_N: NDArray[np.int8]
    mean_C: tuple[float, ...]
    std_C: tuple[float, ...]
    card: dict[str, Any]

    def indices(self, split: int) -> NDArray[np.int64]:
        return np.flatnonzero(self.splits_N == split)


def write_prepared(
    folder: Path, images: Images, splits_N: NDArray[np.int8], looks_N3: NDArray[np.float32], facts: dict[str, Any]
) -> dict[str, Any]:
    """Write split, reference and card; return the card.

    Args:
        looks_N3: as `looks.measure_looks` gives them.
        facts: what else the card should say, such as sources and warnings.
    """
    mean_C, std_C = channel_statistics(images, np.flatnonzero(splits_N == TRAIN))
    counts = {
        name: np.bincount(images.labels_N[splits_N == split], minlength=len(images.classes)).tolist()
        for split, name in enumerate(SPLITS)
    }
    versions = versions_of_test(splits_N, images.arrivals_N, images.content_N)
    least_N, most_N = images.original_px_N2.min(1), images.original_px_N2.max(1)
    card = {
        "image_count": len(images),
        "split_image_count": {name: sum(by_class) for name, by_class in counts.items()},
        "left_out_image_count": int((splits_N == NO_SPLIT).sum()),
        "class_image_count": {
            label: {name: counts[name][index] for name in SPLITS} for index, label in enumerate(images.classes)
        },
        "shape_HWC": list(images.shape_HWC),
        "original_px": {
            "smallest_side": int(least_N.min()),
            "median_smaller_side": float(np.median(least_N)),
            "largest_side": int(most_N.max()),
        },
        "original_modes": count_modes(images),
        "mean_C": mean_C,
        "std_C": std_C,
        "looks": {name: float(looks_N3[:, index].mean()) for index, name in enumerate(LOOKS)},
        "content_sha256": _sha256(images.content_N),
        "test_version": versions[-1].version,
        "test_sha256": versions[-1].sha256,
        "test_versions": [
            {"version": one.version, "sha256": one.sha256, "image_count": one.image_count} for one in versions
        ],
        **facts,
    }
    np.save(folder / "splits.npy", splits_N)
    _write_reference(folder, images, splits_N, looks_N3)
    (folder / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return card


def _write_reference(folder: Path, images: Images, splits_N: NDArray[np.int8], looks_N3: NDArray[np.float32]) -> None:
    """Write which images later data are compared with: of val, since a model is over-confident of what it was fit to."""
    val_M = np.flatnonzero(splits_N == VAL)
    chosen = np.random.default_rng(0).permutation(len(val_M))[:_REFERENCE_IMAGE_COUNT]
    indices = np.sort(val_M[chosen])
    np.savez(
        folder / "reference.npz",
        indices=indices,
        content=images.content_N[indices],
        labels=images.labels_N[indices],
        looks=looks_N3[indices],
        look_names=np.array(LOOKS),
    )


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


def count_modes(images: Images) -> dict[str, int]:
    """Count the original modes of all images, the commonest first."""
    codes_N = np.full(len(images), MODES.index(UNKNOWN)) if images.modes_N is None else images.modes_N
    counts = {MODES[code]: int(count) for code, count in enumerate(np.bincount(codes_N)) if count}
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _sha256(content_N: NDArray[np.void]) -> str:
    return hashlib.sha256(np.ascontiguousarray(content_N).tobytes()).hexdigest()
