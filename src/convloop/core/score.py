"""How good a model's answers are, from its probabilities alone."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

_SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Scores:
    """Scores on one split; `confusion_KK` counts images by true class (rows) and answer (columns).

    A class that was never answered has precision 0, one without images recall 0.
    """

    image_count: int
    loss: float
    accuracy: float
    macro_f1: float
    precision_K: NDArray[np.float64]
    recall_K: NDArray[np.float64]
    f1_K: NDArray[np.float64]
    confusion_KK: NDArray[np.int64]


def score(probabilities_NK: NDArray[np.float32], labels_N: NDArray[np.int64]) -> Scores:
    """Score the answers with torchmetrics; the loss is the mean cross-entropy of the probabilities in nats."""
    class_count = probabilities_NK.shape[1]
    answers, labels = torch.from_numpy(probabilities_NK.argmax(1)), torch.from_numpy(labels_N)
    right_N = probabilities_NK[np.arange(len(labels_N)), labels_N].astype(np.float64)
    f1_K = multiclass_f1_score(answers, labels, class_count, average="none").double().numpy()
    return Scores(
        image_count=len(labels_N),
        loss=float(-np.log(np.maximum(right_N, _SMALLEST_PROBABILITY)).mean()),
        accuracy=float(multiclass_accuracy(answers, labels, class_count, average="micro")),
        macro_f1=float(f1_K.mean()),
        precision_K=multiclass_precision(answers, labels, class_count, average="none").double().numpy(),
        recall_K=multiclass_recall(answers, labels, class_count, average="none").double().numpy(),
        f1_K=f1_K,
        confusion_KK=multiclass_confusion_matrix(answers, labels, class_count).numpy(),
    )
