"""What is wrong with a data set: findings that stop the pipeline and findings that only warn."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import SPLITS, Images

_WARN_IMBALANCE_RATIO = 20


@dataclass(frozen=True)
class Finding:
    """One thing found; a blocking one must be mended before anything is trained."""

    rule: str
    blocks: bool
    message: str


def audit(images: Images, splits_N: NDArray[np.int8], *, min_class_image_count: int) -> list[Finding]:
    """Check classes, twins and balance of a split data set."""
    return [
        *_scarce_classes(images, splits_N, min_class_image_count),
        *_twins(images, splits_N),
        *_imbalance(images),
    ]


def _scarce_classes(images: Images, splits_N: NDArray[np.int8], min_class_image_count: int) -> list[Finding]:
    findings = []
    for split, split_name in enumerate(SPLITS):
        counts_K = np.bincount(images.labels_N[splits_N == split], minlength=len(images.classes))
        for label in np.flatnonzero(counts_K < min_class_image_count):
            findings.append(
                Finding(
                    "scarce_class",
                    True,
                    f"class {images.classes[label]} has {counts_K[label]} images in {split_name}; "
                    f"prepare.min_class_image_count asks for {min_class_image_count}",
                )
            )
    return findings


def _twins(images: Images, splits_N: NDArray[np.int8]) -> list[Finding]:
    """Find images of identical pixels that fall into two splits or carry two labels."""
    _, group_N = np.unique(images.content_N, return_inverse=True)
    findings = []
    for rule, values_N, kind in (
        ("twins_across_splits", splits_N.astype(np.int64), "splits"),
        ("twins_across_classes", images.labels_N, "labels"),
    ):
        pairs = np.unique(np.stack([group_N, values_N], 1), axis=0)
        groups, counts = np.unique(pairs[:, 0], return_counts=True)
        torn = groups[counts > 1]
        if len(torn):
            names = ", ".join(images.names_N[group_N == torn[0]][:3])
            findings.append(
                Finding(
                    rule,
                    True,
                    f"identical pixels under different {kind} ({len(torn)} times, first {names})",
                )
            )
    return findings


def _imbalance(images: Images) -> list[Finding]:
    counts_K = np.bincount(images.labels_N, minlength=len(images.classes))
    if counts_K.min() == 0 or counts_K.max() / counts_K.min() <= _WARN_IMBALANCE_RATIO:
        return []
    most, least = images.classes[counts_K.argmax()], images.classes[counts_K.argmin()]
    ratio = counts_K.max() / counts_K.min()
    return [Finding("imbalance", False, f"class {most} has {ratio:.0f} times as many images as {least}")]
