"""Scores, against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, precision_recall_fscore_support

from convloop.core.score import score


def _answers(count: int, class_count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Give probabilities and labels that agree more often than by chance."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, class_count, count)
    logits_NK = rng.normal(0, 1.5, (count, class_count))
    logits_NK[np.arange(count), labels_N] += 1
    weights_NK = np.exp(logits_NK)
    return (weights_NK / weights_NK.sum(1, keepdims=True)).astype(np.float32), labels_N


SIZES = given(count=st.integers(1, 60), class_count=st.integers(2, 8), seed=st.integers(0, 2**32 - 1))


@settings(deadline=None, max_examples=40)
@SIZES
def test_accuracy_is_that_of_scikit_learn(count: int, class_count: int, seed: int) -> None:
    probabilities_NK, labels_N = _answers(count, class_count, seed)
    expected = accuracy_score(labels_N, probabilities_NK.argmax(1))
    assert score(probabilities_NK, labels_N).accuracy == pytest.approx(expected, abs=1e-6)


@settings(deadline=None, max_examples=40)
@SIZES
def test_loss_is_that_of_scikit_learn(count: int, class_count: int, seed: int) -> None:
    probabilities_NK, labels_N = _answers(count, class_count, seed)
    exact_NK = probabilities_NK / probabilities_NK.sum(1, keepdims=True, dtype=np.float64)
    expected = log_loss(labels_N, exact_NK, labels=range(class_count))
    assert score(probabilities_NK, labels_N).loss == pytest.approx(expected, rel=1e-5)


@settings(deadline=None, max_examples=40)
@SIZES
def test_confusion_is_that_of_scikit_learn(count: int, class_count: int, seed: int) -> None:
    probabilities_NK, labels_N = _answers(count, class_count, seed)
    expected_KK = confusion_matrix(labels_N, probabilities_NK.argmax(1), labels=range(class_count))
    np.testing.assert_array_equal(score(probabilities_NK, labels_N).confusion_KK, expected_KK)


@settings(deadline=None, max_examples=40)
@SIZES
def test_scores_of_classes_are_those_of_scikit_learn(count: int, class_count: int, seed: int) -> None:
    probabilities_NK, labels_N = _answers(count, class_count, seed)
    scores = score(probabilities_NK, labels_N)
    precision_K, recall_K, f1_K, _ = precision_recall_fscore_support(
        labels_N, probabilities_NK.argmax(1), labels=range(class_count), zero_division=0
    )
    np.testing.assert_allclose(scores.precision_K, precision_K, atol=1e-6)
    np.testing.assert_allclose(scores.recall_K, recall_K, atol=1e-6)
    np.testing.assert_allclose(scores.f1_K, f1_K, atol=1e-6)


@settings(deadline=None, max_examples=40)
@SIZES
def test_macro_f1_is_that_of_scikit_learn(count: int, class_count: int, seed: int) -> None:
    probabilities_NK, labels_N = _answers(count, class_count, seed)
    expected = f1_score(
        labels_N, probabilities_NK.argmax(1), labels=range(class_count), average="macro", zero_division=0
    )
    assert score(probabilities_NK, labels_N).macro_f1 == pytest.approx(expected, abs=1e-6)


def test_images_are_counted() -> None:
    assert score(*_answers(17, 3, 0)).image_count == 17


def test_rows_of_the_confusion_are_true_classes() -> None:
    scores = score(np.array([[0.1, 0.9]], np.float32), np.array([0]))
    assert scores.confusion_KK.tolist() == [[0, 1], [0, 0]]


def test_a_class_never_answered_has_precision_zero_and_one_without_images_recall_zero() -> None:
    scores = score(np.array([[0.8, 0.1, 0.1]], np.float32), np.array([0]))
    assert scores.precision_K.tolist() == [1, 0, 0]
    assert scores.recall_K.tolist() == [1, 0, 0]


def test_a_probability_of_zero_gives_a_finite_loss() -> None:
    scores = score(np.array([[0.0, 1.0]], np.float32), np.array([0]))
    assert scores.loss == pytest.approx(-np.log(1e-12))
