"""register: the evaluated package -> a version, a verdict, perhaps the champion's alias."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from convloop.core.card import read_card
from convloop.core.folders import write_text
from convloop.core.gate import Verdict, decide
from convloop.core.images import Images, open_images
from convloop.core.package import Package
from convloop.core.prepared import Prepared, read_prepared
from convloop.core.redact import redact
from convloop.core.split import TEST
from convloop.errors import DataError
from convloop.publish import publish_evaluation, publish_lock
from convloop.registry import Registry

if TYPE_CHECKING:
    from convloop.config import Params
    from convloop.tracking import Tracker

_BATCH_SIZE = 512
VERDICT_FILE = Path("reports/register/verdict.json")


def register(params: "Params", project: Path, tracker: "Tracker") -> None:
    """Make the evaluated model a version, judge it against the champion on the same images, and promote it or not.

    A refusal is a result: it is written, tagged and printed, and the exit code is 0. Doing it again changes nothing.

    Raises:
        DataError: the evaluation is missing or of another model or test set.
        TrackingError: the registry gives no answer.
    """
    settings = params.registration
    card = read_card(project / "models/model")
    experiment = os.environ.get("DVC_EXP_NAME")
    if experiment:
        reason = (
            f"Not registered: experiments publish nothing. To register this one: dvc exp apply {experiment}, "
            "then dvc repro --force --single-item register"
        )
        _conclude(project, {"promoted": False, "reason": reason, "model_digest": card.digest})
        return
    images = open_images(project / "data/raw", project / "data/landed")
    prepared = read_prepared(project / "data/prepared", images)
    candidate_right_N = _candidate_right(project, card.digest, prepared.card["test_sha256"])
    run = tracker.model_run()
    publish_evaluation(run, project)
    registry = Registry(project, settings.model_name, params.tracking.timeout_s)
    with registry.locked():
        number = registry.add(project / "models/model", card.digest, str(run.id))
        champion = registry.champion()
        if champion == number:
            verdict = Verdict(False, f"Unchanged: version {number} is this very model and the champion already.")
        else:
            champion_right_N = _champion_right(registry, champion, images, prepared)
            if isinstance(champion_right_N, Verdict):
                verdict = champion_right_N
            else:
                verdict = decide(
                    candidate_right_N,
                    champion_right_N,
                    champion_version=champion or "",
                    min_accuracy_share=settings.min_accuracy_share,
                    min_gain_share=settings.min_gain_share,
                    max_loss_share=settings.max_loss_share,
                )
        tags = {
            "verdict": "promoted" if verdict.promoted or champion == number else "refused",
            "reason": verdict.reason,
            "test_accuracy": f"{candidate_right_N.mean():.4f}",
            "test_sha256": prepared.card["test_sha256"],
        }
        if champion != number:
            registry.tag(number, tags)
        if verdict.promoted:
            registry.promote(number)
    run.log_tags({f"register.{key}": value for key, value in tags.items()})
    run.log_tags(
        {"register.version": number, **{key: redact(str(value)) for key, value in params.flat("register").items()}}
    )
    publish_lock(run, project)
    _conclude(
        project,
        {
            "promoted": verdict.promoted,
            "reason": verdict.reason,
            "model_name": settings.model_name,
            "version": number,
            "champion_before": champion,
            "run_id": run.id,
            "model_digest": card.digest,
            "test_sha256": prepared.card["test_sha256"],
            "test_accuracy": float(candidate_right_N.mean()),
            "comparison": asdict(verdict.comparison) if verdict.comparison else None,
        },
    )


def _candidate_right(project: Path, digest: str, test_sha256: str) -> NDArray[np.bool_]:
    report = project / "reports/evaluate"
    try:
        details = json.loads((report / "details.json").read_text(encoding="utf-8"))
        with (report / "predictions.npz").open("rb") as opened, np.load(opened) as archive:
            right_N: NDArray[np.bool_] = archive["probabilities_NK"].argmax(1) == archive["labels_N"]
        scored = (details["digest"], details["test_sha256"])
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing. Make it: dvc repro evaluate") from None
    except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile) as error:
        raise DataError(f"{report} is damaged ({error}). Make it again: dvc repro --force evaluate") from error
    if scored != (digest, test_sha256):
        raise DataError(f"{report} is about another model or test set than models/model. Run dvc repro evaluate")
    return right_N


def _champion_right(
    registry: Registry, champion: str | None, images: Images, prepared: Prepared
) -> NDArray[np.bool_] | Verdict | None:
    """Score the champion on today's test images; a champion for other classes or shapes cannot be beaten."""
    if champion is None:
        return None
    with TemporaryDirectory() as temporary:
        package = Package(registry.download(champion, Path(temporary)))
    shape_HWC = (package.card.image_px, package.card.image_px, package.card.channel_count)
    if package.card.classes != images.classes or shape_HWC != images.shape_HWC:
        return Verdict(
            False,
            f"Refused: the champion, version {champion}, answers {len(package.card.classes)} classes for images of "
            f"{shape_HWC}, this test set has {len(images.classes)} and {images.shape_HWC}: they cannot be compared. "
            "Set register.model_name to another name. Nothing was promoted.",
        )
    indices = prepared.indices(TEST)
    probabilities_NK = package.probabilities(images.take(indices), batch_size=_BATCH_SIZE)
    right_N: NDArray[np.bool_] = probabilities_NK.argmax(1) == images.labels_N[indices]
    return right_N


def _conclude(project: Path, verdict: dict[str, Any]) -> None:
    write_text(project / VERDICT_FILE, json.dumps(verdict, indent=1, ensure_ascii=False) + "\n")
    print(verdict["reason"])
