"""Send what the files of a training or an evaluation say into its run; sending it twice changes nothing."""

import csv
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convloop.tracking import Run

EVALUATION = "convloop.evaluation"


def publish_training(run: "Run", project: Path) -> None:
    """Send params, lineage, history, pictures and card from models/model, reports/train and data/prepared."""
    report = project / "reports/train"
    record: dict[str, Any] = json.loads((report / "record.json").read_text(encoding="utf-8"))
    run.log_params(record["params"])
    run.log_tags(record["tags"])
    run.log_inputs(record["inputs"])
    with (report / "history.csv").open(encoding="utf-8", newline="") as opened:
        for row in csv.DictReader(opened):
            metrics = {name: float(value) for name, value in row.items() if name not in ("epoch", "time_ms")}
            run.log_metrics(metrics, step=int(float(row["epoch"])), time_ms=int(float(row["time_ms"])))
    finish_training(run, project, record)


def finish_training(run: "Run", project: Path, record: dict[str, Any]) -> None:
    """Send what is known only when training has ended."""
    report = project / "reports/train"
    run.log_metrics(record["summary"], step=int(record["summary"]["best/epoch"]), time_ms=int(record["time_ms"]))
    run.log_image(report / "history.png", "history", step=int(record["summary"]["best/epoch"]))
    run.log_image(report / "samples.png", "samples", step=0)
    for name in ("params.yaml", "reports/train/history.csv", "reports/train/net.txt", "data/prepared/card.json"):
        if (project / name).is_file():
            run.log_file(project / name)
    run.log_tags({"convloop.model_digest": record["digest"]})


def publish_evaluation(run: "Run", project: Path) -> None:
    """Send scores, pictures and report from reports/evaluate, unless the run has exactly these already."""
    report = project / "reports/evaluate"
    details = json.loads((report / "details.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256((report / "details.json").read_bytes()).hexdigest()
    if run.tag(EVALUATION) == digest:
        return
    step = int(details["epoch"])
    run.log_metrics(
        {f"test/{name}": value for name, value in details["scores"].items()}, step=step, time_ms=int(details["time_ms"])
    )
    for name in ("confusion", "worst"):
        run.log_image(report / f"{name}.png", name, step=step)
    for name in ("classes.csv", "report.html"):
        run.log_file(report / name, "evaluate")
    run.log_tags({**details["settings"], EVALUATION: digest})
