"""Suspected label errors: images of which a simple model, trained on the others, is sure that they are of another class.

Confident learning (C. Northcutt, L. Jiang, I. Chuang, 2021) on out-of-fold answers of a linear model. It sees how strongly
patches of an image resemble whitened patches of other images (A. Coates, A. Ng, H. Lee, 2011), summed up by quarters; its
weights follow in closed form, so all folds cost one pass.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import Images
from convloop.core.luma import shrunk

_SIDE_PX, _PATCH_PX, _STRIDE_PX = 32, 6, 2
_FILTER_COUNT = 128
_SAMPLED_PATCH_COUNT = 20_000
_FOLDS = 5
_RIDGE = 0.1  # of the number of training images
_CHUNK_IMAGE_COUNT = 256
# A model that names fewer labels than this, or leaves more of the errors of always naming the commonest class, is blind.
_MIN_ACCURACY, _MAX_ERROR_SHARE = 0.5, 0.8
_TEMPERATURES = np.geomspace(1, 40, 40)


@dataclass(frozen=True)
class LabelErrors:
    """Suspects among the images that were examined, the surest first; `suggested_S` is the other class.

    `accuracy` is how often the model named the given label; below one half nobody is suspected.
    """

    suspects_S: NDArray[np.int64]
    suggested_S: NDArray[np.int64]
    accuracy: float
    examined_count: int


def find_label_errors(images: Images, *, max_image_count: int) -> LabelErrors:
    """Find images whose label a model that has not seen them contradicts with confidence.

    More images than `max_image_count` are sampled by their content hash, so that the same ones are examined again.
    """
    # The first bytes of a hash decide its split, so others are taken here.
    bytes_N32 = np.ascontiguousarray(images.content_N).view(np.uint8).reshape(-1, 32)
    order_N = np.argsort(np.ascontiguousarray(bytes_N32[:, 16:24]).view(">u8").ravel(), kind="stable")
    examined = np.sort(order_N[:max_image_count])
    labels_N = images.labels_N[examined]
    # Identical pixels share a fold, else the copy of a wrongly labelled image would speak for it.
    fold_N = bytes_N32[examined, 31] % _FOLDS
    if len(np.unique(fold_N)) < _FOLDS:  # also where none is examined
        return LabelErrors(np.empty(0, np.int64), np.empty(0, np.int64), 0.0, 0)
    scores_NK = _out_of_fold(_features(images, examined), labels_N, fold_N, len(images.classes))
    probabilities_NK = _calibrated(scores_NK, labels_N)
    suspects, suggested = confident_errors(probabilities_NK, labels_N)
    accuracy = float((scores_NK.argmax(1) == labels_N).mean())
    commonest_share = np.bincount(labels_N).max() / len(labels_N)
    if accuracy < _MIN_ACCURACY or 1 - accuracy > _MAX_ERROR_SHARE * (1 - commonest_share):
        suspects, suggested = suspects[:0], suggested[:0]
    return LabelErrors(examined[suspects], suggested, accuracy, len(examined))


def confident_errors(
    probabilities_NK: NDArray[np.float64], labels_N: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find whose probability of another class reaches what is usual there; give their places and those classes.

    Usual is the mean probability of a class over the images labelled so. The surest come first: by how much the other
    class is likelier than the given one.
    """
    class_count = probabilities_NK.shape[1]
    own_N = probabilities_NK[np.arange(len(labels_N)), labels_N]
    sums_K = np.bincount(labels_N, weights=own_N, minlength=class_count)
    usual_K = sums_K / np.maximum(np.bincount(labels_N, minlength=class_count), 1)
    usual_K[sums_K == 0] = np.inf  # nothing carries this label, so nothing is known of it
    reaching_NK = np.where(probabilities_NK >= usual_K, probabilities_NK, -1.0)
    other_N = reaching_NK.argmax(1)
    margin_N = reaching_NK.max(1) - own_N
    suspects = np.flatnonzero((other_N != labels_N) & (margin_N > 0))
    suspects = suspects[np.argsort(-margin_N[suspects], kind="stable")]
    return suspects, other_N[suspects]


def _features(images: Images, examined: NDArray[np.int64]) -> NDArray[np.float32]:
    filters_DF, bias_F, width = _learn_filters(images, examined)
    chunks = []
    for start in range(0, len(examined), _CHUNK_IMAGE_COUNT):
        patches_NHWD = _patches(_pixels(images, examined[start : start + _CHUNK_IMAGE_COUNT]))
        count, height, across, depth = patches_NHWD.shape
        response = (patches_NHWD.reshape(-1, depth) @ filters_DF + bias_F).reshape(count, height, across, -1)
        middle_h, middle_w = (height + 1) // 2, (across + 1) // 2
        pooled = []
        for strength in (response - width, -response - width):
            np.maximum(strength, 0, out=strength)
            for rows in (strength[:, :middle_h], strength[:, -middle_h:]):
                pooled += [rows[:, :, :middle_w].mean((1, 2)), rows[:, :, -middle_w:].mean((1, 2))]
        chunks.append(np.sqrt(np.concatenate(pooled, 1)))
    features_ND = np.concatenate(chunks)
    features_ND -= features_ND.mean(0)
    features_ND /= features_ND.std(0) + 1e-6
    return features_ND


def _learn_filters(
    images: Images, examined: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Draw patches, whiten them, and take some as filters; whitening and mean are folded into filters and bias."""
    rng = np.random.default_rng(0)
    sampled = np.sort(rng.choice(examined, min(2_000, len(examined)), replace=False))
    patches_PD = _patches(_pixels(images, sampled))
    patches_PD = patches_PD.reshape(-1, patches_PD.shape[-1]).astype(np.float64)
    patches_PD = patches_PD[rng.permutation(len(patches_PD))[:_SAMPLED_PATCH_COUNT]]
    patches_PD -= patches_PD.mean(1, keepdims=True)
    mean_D = patches_PD.mean(0)
    values, vectors = np.linalg.eigh(np.cov(patches_PD.T))
    whitening_DD = (vectors / np.sqrt(values + 1e-3 * values.max() + 1e-6)) @ vectors.T
    white_PD = (patches_PD - mean_D) @ whitening_DD
    length_P = np.linalg.norm(white_PD, axis=1)
    filters_FD = white_PD[length_P >= np.median(length_P)][:_FILTER_COUNT]
    filters_FD /= np.maximum(np.linalg.norm(filters_FD, axis=1, keepdims=True), 1e-6)
    width = float((white_PD @ filters_FD.T).std())
    filters_DF = whitening_DD @ filters_FD.T
    bias_F = -mean_D @ filters_DF
    filters_DF -= filters_DF.mean(0)  # subtracts the mean of each patch
    return filters_DF.astype(np.float32), bias_F.astype(np.float32), width


def _pixels(images: Images, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    return shrunk(images.take(indices), _SIDE_PX) / np.float32(255)


def _patches(pixels_NHWC: NDArray[np.float32]) -> NDArray[np.float32]:
    patches = np.lib.stride_tricks.sliding_window_view(pixels_NHWC, (_PATCH_PX, _PATCH_PX), axis=(1, 2))
    patches = patches[:, ::_STRIDE_PX, ::_STRIDE_PX]
    return np.ascontiguousarray(patches).reshape(*patches.shape[:3], -1)


def _out_of_fold(
    features_ND: NDArray[np.float32], labels_N: NDArray[np.int64], fold_N: NDArray[np.uint8], class_count: int
) -> NDArray[np.float32]:
    """Answer for each image with ridge weights from the other folds: sums over all, less those over its own."""
    features_ND = np.concatenate([features_ND, np.ones((len(features_ND), 1), np.float32)], 1)
    target_NK = np.eye(class_count, dtype=np.float32)[labels_N]
    parts = [(features_ND[fold_N == fold], target_NK[fold_N == fold]) for fold in range(_FOLDS)]
    grams = [part_ND.T @ part_ND for part_ND, _ in parts]
    products = [part_ND.T @ part_NK for part_ND, part_NK in parts]
    ridge_DD = _RIDGE * len(features_ND) * np.eye(features_ND.shape[1], dtype=np.float32)
    scores_NK = np.empty((len(features_ND), class_count), np.float32)
    for fold, (part_ND, _) in enumerate(parts):
        weights_DK = np.linalg.solve(sum(grams) - grams[fold] + ridge_DD, sum(products) - products[fold])
        scores_NK[fold_N == fold] = part_ND @ weights_DK
    return scores_NK


def _calibrated(scores_NK: NDArray[np.float32], labels_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Turn scores into probabilities at the temperature under which the given labels are likeliest."""
    best: tuple[float, NDArray[np.float64]] | None = None
    for temperature in _TEMPERATURES:
        logits_NK = scores_NK.astype(np.float64) * temperature
        logits_NK -= logits_NK.max(1, keepdims=True)
        probabilities_NK = np.exp(logits_NK)
        probabilities_NK /= probabilities_NK.sum(1, keepdims=True)
        loss = float(-np.log(probabilities_NK[np.arange(len(labels_N)), labels_N] + 1e-12).mean())
        if best is None or loss < best[0]:
            best = (loss, probabilities_NK)
    assert best is not None
    return best[1]
