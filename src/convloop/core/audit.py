"""What is wrong with a data set: findings that stop the pipeline and findings that only warn."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import NO_SPLIT, SPLITS, Images
from convloop.core.label_errors import LabelErrors
from convloop.core.modes import MODES, OTHER
from convloop.core.split import TEST, VAL
from convloop.core.twins import NearTwins

# Judgement, not measurement: below or above, somebody should look.
_WARN_IMBALANCE_RATIO = 20
_WARN_TEST_IMAGE_COUNT = 30
_WARN_LEAKED_SHARE = 0.005
_WARN_BRIGHTNESS = (8, 247)
_WARN_CONTRAST = 2
_WARN_UNEVEN_DEVIATIONS = 4.5  # standard ones: by luck once in 150,000 classes
_WARN_ENLARGED = 2

Group = tuple[int, ...]


@dataclass(frozen=True)
class Finding:
    """One thing found; a blocking one must be mended before anything is trained.

    `offenders` are indices of images; those of one group belong together, as twins do.
    """

    rule: str
    blocks: bool
    message: str
    offenders: tuple[Group, ...] = ()


@dataclass(frozen=True)
class Expected:
    """What the operator asks of the data; a range (least, most) left out is not asked for."""

    min_class_image_count: int
    classes: tuple[str, ...] | None = None
    original_px_range: list[int] | None = None
    brightness_range: list[float] | None = None
    original_modes: tuple[str, ...] | None = None
    val_share: float | None = None
    test_share: float | None = None
    max_doubtful_share: float = 1.0


def audit(
    images: Images,
    splits_N: NDArray[np.int8],
    twins: NearTwins,
    looks_N3: NDArray[np.float32],
    labels: LabelErrors,
    expected: Expected,
) -> list[Finding]:
    """Check classes, twins, balance, sizes, modes, exposure and labels of a split data set."""
    return [
        *_classes(images, expected.classes),
        *_scarce_classes(images, splits_N, expected.min_class_image_count),
        *_uneven_classes(images, splits_N, expected),
        *_twins(images, splits_N),
        *_near_twins(images, splits_N, twins),
        *_imbalance(images),
        *_sizes(images, expected.original_px_range),
        *_modes(images, expected.original_modes),
        *_exposure(looks_N3, expected.brightness_range),
        *_labels(labels, expected.max_doubtful_share),
    ]


def _classes(images: Images, expected: tuple[str, ...] | None) -> list[Finding]:
    if expected is None:
        return []
    missing = [name for name in expected if name not in images.classes]
    further = [name for name in images.classes if name not in expected]
    return [
        *(Finding("classes", True, f"class {name} of prepare.classes is not in the data") for name in missing),
        *(Finding("classes", True, f"class {name} of the data is not in prepare.classes") for name in further),
    ]


def _scarce_classes(images: Images, splits_N: NDArray[np.int8], min_class_image_count: int) -> list[Finding]:
    counts_SK = np.stack(
        [np.bincount(images.labels_N[splits_N == split], minlength=len(images.classes)) for split in range(len(SPLITS))]
    )
    findings = [
        Finding(
            "scarce_class",
            True,
            f"class {images.classes[label]} has {counts_SK[split, label]} images in {SPLITS[split]}; "
            f"prepare.min_class_image_count asks for {min_class_image_count}",
        )
        for split, label in np.argwhere(counts_SK < min_class_image_count)
    ]
    few = np.flatnonzero(counts_SK[TEST] < max(_WARN_TEST_IMAGE_COUNT, min_class_image_count))
    few = few[counts_SK[TEST, few] >= min_class_image_count]
    if len(few):
        listed = ", ".join(f"{images.classes[label]} {counts_SK[TEST, label]}" for label in few[:5])
        message = f"{_count(len(few), 'class has', 'classes have')} fewer than {_WARN_TEST_IMAGE_COUNT} test images"
        findings.append(Finding("few_test_images", False, f"{message} ({listed}): their scores are rough"))
    return findings


def _uneven_classes(images: Images, splits_N: NDArray[np.int8], expected: Expected) -> list[Finding]:
    """Find classes whose share of val or test luck alone does not explain: copies that fall together, bursts left out."""
    if (images.splits_N != NO_SPLIT).any():
        return []
    findings = []
    used_K = np.bincount(images.labels_N[splits_N != NO_SPLIT], minlength=len(images.classes))
    for split, share in ((VAL, expected.val_share), (TEST, expected.test_share)):
        if share is None:
            continue
        count_K = np.bincount(images.labels_N[splits_N == split], minlength=len(images.classes))
        off_K = np.abs(count_K - share * used_K) > _WARN_UNEVEN_DEVIATIONS * np.sqrt(share * (1 - share) * used_K)
        findings += [
            Finding(
                "uneven_class",
                False,
                f"class {images.classes[label]} has {count_K[label] / used_K[label]:.1%} of its images in {SPLITS[split]} "
                f"where {share:.1%} were asked for: many of them are copies of each other",
            )
            for label in np.flatnonzero(off_K & (used_K > 0))
        ]
    return findings


def _labels(labels: LabelErrors, max_share: float) -> list[Finding]:
    count = len(labels.suspects_S)
    if count <= max_share * labels.examined_count:
        return []
    message = f"{_count(count, 'label', 'labels')} of {labels.examined_count:,} examined look wrong to a simple model"
    share = f"a share of {count / labels.examined_count:.3g}; prepare.max_doubtful_share is {max_share:g}"
    return [Finding("label_errors", False, f"{message}, {share}")]


def _twins(images: Images, splits_N: NDArray[np.int8]) -> list[Finding]:
    """Find images of identical pixels that fall into two splits or carry two labels."""
    _, group_N = np.unique(images.content_N, return_inverse=True)
    used_N = splits_N != NO_SPLIT
    findings = []
    for rule, values_N, taken_N, kind in (
        ("twins_across_splits", splits_N.astype(np.int64), used_N, "splits"),
        ("twins_across_classes", images.labels_N, np.ones(len(images), bool), "labels"),
    ):
        pairs = np.unique(np.stack([group_N[taken_N], values_N[taken_N]], 1), axis=0)
        groups, counts = np.unique(pairs[:, 0], return_counts=True)
        torn = groups[counts > 1]
        if len(torn):
            members = np.flatnonzero(np.isin(group_N, torn))
            members = members[np.argsort(group_N[members], kind="stable")]
            cuts = np.flatnonzero(np.diff(group_N[members])) + 1
            offenders = tuple(tuple(part.tolist()) for part in np.split(members, cuts))
            names = ", ".join(images.names_N[list(offenders[0][:3])])
            message = f"identical pixels under different {kind} ({len(torn)} times, first {names})"
            findings.append(Finding(rule, True, message, offenders))
    return findings


def _near_twins(images: Images, splits_N: NDArray[np.int8], twins: NearTwins) -> list[Finding]:
    findings = []
    if twins.distance_bits is None and len(images) > 1:
        message = f"near-twins were not searched: {twins.unsearched}"
        findings.append(Finding("near_twins_unknown", False, message))
    sides_P2, labels_P2 = splits_N[twins.pairs_P2], images.labels_N[twins.pairs_P2]
    leaks_P = (sides_P2 != NO_SPLIT).all(1) & (sides_P2[:, 0] != sides_P2[:, 1]) & (sides_P2 == TEST).any(1)
    leaked = np.unique(twins.pairs_P2[leaks_P][sides_P2[leaks_P] == TEST])
    test_count = int((splits_N == TEST).sum())
    if len(leaked) > _WARN_LEAKED_SHARE * test_count:
        message = f"{_count(len(leaked), 'test image has', 'test images have')} near-twins in train or val"
        share = f"{len(leaked) / test_count:.1%} of test; the source gave them these splits"
        findings.append(Finding("near_twins_across_splits", False, f"{message} ({share})", _groups(twins, leaks_P)))
    across_P = labels_P2[:, 0] != labels_P2[:, 1]
    if across_P.any():
        message = f"{_count(int(across_P.sum()), 'pair', 'pairs')} of near-twins under different labels"
        findings.append(Finding("near_twins_across_classes", False, message, _groups(twins, across_P)))
    return findings


def _imbalance(images: Images) -> list[Finding]:
    counts_K = np.bincount(images.labels_N, minlength=len(images.classes))
    if counts_K.min() == 0 or counts_K.max() / counts_K.min() <= _WARN_IMBALANCE_RATIO:
        return []
    most, least = images.classes[counts_K.argmax()], images.classes[counts_K.argmin()]
    ratio = counts_K.max() / counts_K.min()
    return [Finding("imbalance", False, f"class {most} has {ratio:.0f} times as many images as {least}")]


def _sizes(images: Images, allowed: list[int] | None) -> list[Finding]:
    findings = []
    least_N, most_N = images.original_px_N2.min(1), images.original_px_N2.max(1)
    if allowed is not None:
        outside = np.flatnonzero((least_N < allowed[0]) | (most_N > allowed[1]))
        message = f"a side outside {allowed[0]} to {allowed[1]} px, which prepare.original_px_range allows"
        findings += _each("original_px", True, outside, f"have {message}", f"has {message}")
    enlarged = np.flatnonzero(least_N * _WARN_ENLARGED <= min(images.shape_HWC[:2]))
    message = f"enlarged {_WARN_ENLARGED} times or more"
    return [*findings, *_each("enlarged", False, enlarged, f"were {message}", f"was {message}")]


def _modes(images: Images, allowed: tuple[str, ...] | None) -> list[Finding]:
    """Find images whose original mode is not allowed; one that is unknown has to be allowed by that word."""
    if images.modes_N is None:
        return []
    findings = []
    for code in np.unique(images.modes_N):
        if allowed is None and MODES[code] == OTHER:
            found = np.flatnonzero(images.modes_N == code)
            message = "of a mode that no rule names; look whether the colours are right"
            findings += _each("original_modes", False, found, f"were {message}", f"was {message}")
        elif allowed is not None and MODES[code] not in allowed:
            message = f"of mode {MODES[code]}, and prepare.original_modes allows {', '.join(allowed)}"
            found = np.flatnonzero(images.modes_N == code)
            findings += _each("original_modes", True, found, f"were {message}", f"was {message}")
    return findings


def _exposure(looks_N3: NDArray[np.float32], allowed: list[float] | None) -> list[Finding]:
    findings = []
    brightness_N, contrast_N = looks_N3[:, 0], looks_N3[:, 1]
    if allowed is not None:
        outside = np.flatnonzero((brightness_N < allowed[0]) | (brightness_N > allowed[1]))
        message = f"a brightness outside {allowed[0]:g} to {allowed[1]:g}, which prepare.brightness_range allows"
        findings += _each("brightness", True, outside, f"have {message}", f"has {message}")
    blank = np.flatnonzero(contrast_N < _WARN_CONTRAST)
    findings += _each("blank", False, blank, "show next to nothing", "shows next to nothing")
    dark_N, bright_N = brightness_N < _WARN_BRIGHTNESS[0], brightness_N > _WARN_BRIGHTNESS[1]
    odd = np.flatnonzero((dark_N | bright_N) & (contrast_N >= _WARN_CONTRAST))
    return [*findings, *_each("exposure", False, odd, "are nearly black or white", "is nearly black or white")]


def _each(rule: str, blocks: bool, indices: NDArray[np.int64], many: str, one: str) -> list[Finding]:
    if not len(indices):
        return []
    message = _count(len(indices), f"image {one}", f"images {many}")
    return [Finding(rule, blocks, message, tuple((int(index),) for index in indices))]


def _groups(twins: NearTwins, chosen_P: NDArray[np.bool_]) -> tuple[Group, ...]:
    return tuple((left, right) for left, right in twins.pairs_P2[chosen_P].tolist())


def _count(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
