"""Send what the files of a training or an evaluation say into its run; sending it twice changes nothing."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from convloop.core.card import read_facts
from convloop.core.history import metrics_of, read_history

if TYPE_CHECKING:
    from convloop.runs import Run

EVALUATION = "convloop.evaluation"


def publish_training(run: "Run", project: Path) -> None:
    """Send params, lineage, history and card from reports/train, data/prepared and reports/prepare."""
    report = project / "reports/train"
    record = read_facts(report / "record.json", "train")
    run.log_params(record["params"])
    run.log_inputs(record["inputs"])
    for row in read_history(report / "history.csv"):
        run.log_metrics(metrics_of(row), step=int(row["epoch"]), time_ms=int(row["time_ms"]))
    best = record["best"]
    run.log_metrics(
        {f"val/best_{name}": value for name, value in best.items()}, step=int(best["epoch"]), time_ms=record["time_ms"]
    )
    for name in ("params.yaml", "reports/train/history.csv", "reports/train/net.txt", "data/prepared/card.json"):
        run.log_file(project / name)
    for page in (project / "reports/prepare/report.html", project / "reports/prepare/card.html"):
        if page.is_file():  # a gate that has stopped since then leaves no card
            run.log_file(page, "data")
    run.log_tags({**record["tags"], "convloop.model_digest": record["digest"]})


def publish_evaluation(run: "Run", project: Path) -> None:
    """Send scores, pictures and report from reports/evaluate, unless the run has exactly these already."""
    report = project / "reports/evaluate"
    details = read_facts(report / "details.json", "evaluate")
    digest = hashlib.sha256((report / "details.json").read_bytes()).hexdigest()
    if run.tag(EVALUATION) == digest:
        return
    step = int(details["epoch"])
    run.log_metrics(
        {f"test/{name}": details["scores"][name] for name in ("accuracy", "loss", "macro_f1")},
        step=step,
        time_ms=int(details["time_ms"]),
    )
    for name in ("history", "samples", "confusion", "worst"):
        run.log_image(report / f"{name}.png", name, step=step)
    for name in ("classes.csv", "report.html"):
        run.log_file(report / name, "evaluate")
    run.log_tags({**details["settings"], EVALUATION: digest})
