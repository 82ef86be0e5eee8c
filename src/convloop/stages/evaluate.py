"""evaluate: the packaged model on the test split -> reports/evaluate."""

import csv
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convloop.core.card import ModelCard
from convloop.core.folders import fresh_folder
from convloop.core.history import read_history
from convloop.core.images import Images, open_images
from convloop.core.package import Package
from convloop.core.prepared import read_prepared
from convloop.core.score import Scores, score
from convloop.core.split import TEST, TRAIN
from convloop.errors import DataError, TrackingError
from convloop.publish import publish_evaluation
from convloop.reporting.html import write_report
from convloop.reporting.plots import plot_confusion, plot_history, plot_images

if TYPE_CHECKING:
    from convloop.config import Params
    from convloop.tracking import Tracker

_SAMPLE_COUNT = 64


def evaluate(params: "Params", project: Path, tracker: "Tracker") -> None:
    """Score what will be served, on each test image exactly once, and write it down for DVC, MLflow and people.

    Raises:
        DataError: model or data are missing, damaged or do not fit each other.
    """
    package = Package(project / "models/model")
    images = open_images(project / "data/raw", project / "data/landed")
    prepared = read_prepared(project / "data/prepared", images)
    check_fits(package.card, images)
    indices = prepared.indices(TEST)
    images_NHWC, labels_N = images.take(indices), images.labels_N[indices]
    probabilities_NK = package.probabilities(images_NHWC, batch_size=params.evaluate.batch_size)
    scores = score(probabilities_NK, labels_N)
    details = {
        "digest": package.card.digest,
        "test_sha256": prepared.card["test_sha256"],
        "epoch": package.card.epoch,
        "time_ms": time.time_ns() // 1_000_000,
        "scores": _headline(scores),
        "settings": {key: str(value) for key, value in params.flat("evaluate").items()},
    }
    with fresh_folder(project / "reports/evaluate") as report:
        (report / "scores.json").write_text(json.dumps(_headline(scores), indent=1) + "\n", encoding="utf-8")
        (report / "details.json").write_text(json.dumps(details, indent=1) + "\n", encoding="utf-8")
        np.savez(
            report / "predictions.npz",
            labels_N=labels_N,
            probabilities_NK=probabilities_NK,
            content_N=images.content_N[indices],  # which picture each row is, to pair it with another model's
        )
        _write_tables(report, scores, package.card.classes, labels_N, probabilities_NK)
        plot_history(read_history(project / "reports/train/history.csv"), report / "history.png")
        _plot_samples(images, prepared.indices(TRAIN), report / "samples.png")
        _draw(report, scores, package.card, images_NHWC, labels_N, probabilities_NK, params.evaluate.worst_image_count)
    print(f"Test: accuracy {scores.accuracy:.4f}, loss {scores.loss:.4f} on {scores.image_count:,} images.")
    try:
        publish_evaluation(tracker.model_run(), project)
    except TrackingError as error:
        print(
            f"{str(error).partition('. ')[0]}. The scores are in reports/evaluate; register sends them.",
            file=sys.stderr,
        )


def check_fits(card: ModelCard, images: Images) -> None:
    """Make sure that a model and these images speak of the same classes and shape.

    Raises:
        DataError: they do not.
    """
    shape_HWC = (card.image_px, card.image_px, card.channel_count)
    if card.classes != images.classes or shape_HWC != images.shape_HWC:
        raise DataError(
            f"models/model answers {len(card.classes)} classes for images of {shape_HWC}, but data/raw holds "
            f"{len(images.classes)} classes and images of {images.shape_HWC}. Run dvc repro train"
        )


def _headline(scores: Scores) -> dict[str, float]:
    return {
        "accuracy": scores.accuracy,
        "loss": scores.loss,
        "macro_f1": scores.macro_f1,
        "image_count": scores.image_count,
    }


def _write_tables(
    report: Path,
    scores: Scores,
    classes: tuple[str, ...],
    labels_N: NDArray[np.int64],
    probabilities_NK: NDArray[np.float32],
) -> None:
    with (report / "classes.csv").open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["class", "image_count", "precision", "recall", "f1"])
        for label, name in enumerate(classes):
            values = (scores.precision_K[label], scores.recall_K[label], scores.f1_K[label])
            writer.writerow([name, scores.confusion_KK[label].sum(), *(f"{value:.6f}" for value in values)])
    with (report / "confusion.csv").open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["label", "answer"])
        answers_N = probabilities_NK.argmax(1)
        writer.writerows((classes[label], classes[answer]) for label, answer in zip(labels_N, answers_N, strict=True))


def _draw(
    report: Path,
    scores: Scores,
    card: ModelCard,
    images_NHWC: NDArray[np.uint8],
    labels_N: NDArray[np.int64],
    probabilities_NK: NDArray[np.float32],
    worst_image_count: int,
) -> None:
    plot_confusion(scores.confusion_KK, card.classes, report / "confusion.png")
    worst_M = worst(probabilities_NK, labels_N, worst_image_count)
    answers_N = probabilities_NK.argmax(1)
    titles = [
        f"{card.classes[answers_N[i]]} {probabilities_NK[i].max():.0%}\nis {card.classes[labels_N[i]]}" for i in worst_M
    ]
    plot_images(images_NHWC[worst_M], titles, "Most confident mistakes: answer and truth", report / "worst.png")
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "images": int(scores.confusion_KK[label].sum()),
            "precision": f"{scores.precision_K[label]:.3f}",
            "recall": f"{scores.recall_K[label]:.3f}",
            "f1": f"{scores.f1_K[label]:.3f}",
        }
        for label, name in enumerate(card.classes)
    ]
    write_report(
        report / "report.html",
        title="Evaluation on the test split",
        subtitle=f"Net {card.net}, weights of epoch {card.epoch}, model {card.digest[:12]}",
        figures=[
            ("accuracy", f"{scores.accuracy:.3f}"),
            ("loss, nats", f"{scores.loss:.3f}"),
            ("macro F1", f"{scores.macro_f1:.3f}"),
            ("test images", f"{scores.image_count:,}"),
        ],
        classes=rows,
        pictures=[
            ("Confusion", report / "confusion.png"),
            ("Most confident mistakes", report / "worst.png"),
            ("Training", report / "history.png"),
            ("Training images", report / "samples.png"),
        ],
    )


def _plot_samples(images: Images, train_indices: NDArray[np.int64], file: Path) -> None:
    shown = train_indices[:: max(1, len(train_indices) // _SAMPLE_COUNT)][:_SAMPLE_COUNT]
    plot_images(
        images.take(shown), [images.classes[label] for label in images.labels_N[shown]], "Training images", file
    )


def worst(probabilities_NK: NDArray[np.float32], labels_N: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Find the wrong answers given with most confidence, the most confident first."""
    wrong_M = np.flatnonzero(probabilities_NK.argmax(1) != labels_N)
    return wrong_M[np.argsort(-probabilities_NK[wrong_M].max(1), kind="stable")][:count]
