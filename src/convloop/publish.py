"""Send what the files of a training or an evaluation say into its run; sending it twice changes nothing."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from convloop.core.card import read_facts
from convloop.core.history import Point, points_of, read_history

if TYPE_CHECKING:
    from convloop.runs import Run


EVALUATION = "convloop.evaluation"


def publish_record(run: "Run", folder: Path) -> None:
    """Send params, lineage and history of a training that may have ended early."""
    record = read_facts(folder / "record.json", "train")
    run.log_params(record["params"])
    run.log_inputs(record["inputs"])
    run.log_points([point for row in read_history(folder / "history.csv") for point in points_of(row)])
    if "best" in record:
        best = record["best"]
        points = [Point(f"val/best_{name}", best[name], int(best["epoch"]), record["time_ms"]) for name in best]
        run.log_points(points)
        run.log_tags({"convloop.model_digest": record["digest"]})
    run.log_tags(record["tags"])


def publish_training(run: "Run", project: Path) -> None:
    """Send the record and the files of the training that made models/model."""
    publish_record(run, project / "reports/train")
    for name in ("params.yaml", "reports/train/history.csv", "reports/train/net.txt", "data/prepared/card.json"):
        run.log_file(project / name)
    for page in (project / "reports/prepare/report.html", project / "reports/prepare/card.html"):
        if page.is_file():  # a gate that has stopped since then leaves no card
            run.log_file(page, "data")


def publish_evaluation(run: "Run", project: Path) -> None:
    """Send scores, pictures and report from reports/evaluate, unless the run has exactly these already."""
    report = project / "reports/evaluate"
    details = read_facts(report / "details.json", "evaluate")
    digest = hashlib.sha256((report / "details.json").read_bytes()).hexdigest()
    if run.tag(EVALUATION) == digest:
        return
    step = int(details["epoch"])
    scores, time_ms = details["scores"], int(details["time_ms"])
    run.log_points([Point(f"test/{name}", scores[name], step, time_ms) for name in ("accuracy", "loss", "macro_f1")])
    for name in ("history", "samples", "confusion", "worst"):
        run.log_image(report / f"{name}.png", name, step=step)
    for name in ("classes.csv", "report.html"):
        run.log_file(report / name, "evaluate")
    run.log_tags({**details["settings"], EVALUATION: digest})
