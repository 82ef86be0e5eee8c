"""Send what the files of a training or an evaluation say into its run; sending it twice changes nothing."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from convloop import dvc_lock
from convloop.core.card import read_facts
from convloop.core.digest import dvc_md5
from convloop.core.folders import write_text
from convloop.core.history import Point, points_of, read_history
from convloop.core.redact import redact, redact_values

if TYPE_CHECKING:
    from convloop.runs import Run


EVALUATION = "convloop.evaluation"
DVC_MD5 = "dvc.md5/"  # before a path: what dvc.lock must say of it
TEST_SHA256 = "evaluate.test_sha256"
LOCK_MD5 = "dvc.lock.md5"
DIFF_FILE = "uncommitted.diff"
_WHERE_COPIES_LIE = Path("work") / "redacted"


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
    if record.get("diff"):
        write_text(folder / DIFF_FILE, record["diff"])
        run.log_file(folder / DIFF_FILE)
    run.log_tags(record["tags"])


def publish_training(run: "Run", project: Path) -> None:
    """Send the record and the files of the training that made models/model."""
    publish_record(run, project / "reports/train")
    run.log_points(_data_points(project, read_facts(project / "reports/train/record.json", "train")["time_ms"]))
    for name in ("params.yaml", "reports/train/history.csv", "reports/train/net.txt", "data/prepared/card.json"):
        run.log_file(without_secrets(project, name))
    for page in ("reports/prepare/report.html", "reports/prepare/card.html"):
        if (project / page).is_file():  # a gate that has stopped since then leaves no card
            run.log_file(without_secrets(project, page), "data")
    made = (dvc_lock.MODEL, "reports/train/record.json")
    run.log_tags({f"{DVC_MD5}{path}": dvc_md5(project / path) for path in made})


def publish_lock(run: "Run", project: Path) -> None:
    """Send dvc.lock, and the md5s of all outputs in it, where it is about models/model (`convloop run` writes none)."""
    lock = dvc_lock.read_lock(project)
    if lock is None or lock.makes(dvc_lock.MODEL) != dvc_md5(project / dvc_lock.MODEL):
        return
    kept = without_secrets(project, dvc_lock.FILE)
    run.log_file(kept)
    judged = "reports/register/"  # written after this
    outs = {path: md5 for outs in lock.outs.values() for path, md5 in outs.items() if not path.startswith(judged)}
    run.log_tags({f"{DVC_MD5}{path}": md5 for path, md5 in outs.items()} | {LOCK_MD5: dvc_md5(kept)})


def without_secrets(project: Path, name: str) -> Path:
    """Give a text file of the project, or, where it holds a secret, a copy without it that stays until it is sent."""
    text = (project / name).read_text(encoding="utf-8", errors="replace")
    clean = redact(text)
    if clean == text:
        return project / name
    copy = project / _WHERE_COPIES_LIE / name
    write_text(copy, clean)
    return copy


def _data_points(project: Path, time_ms: int) -> list[Point]:
    card = read_facts(project / "data/prepared/card.json", "prepare")
    counts = {
        "image_count": card["image_count"],
        "left_out_image_count": card["left_out_image_count"],
        "refused_image_count": card["refused_image_count"],
        "warning_count": len(card["warnings"]),
        **{f"{split}_image_count": count for split, count in card["split_image_count"].items()},
    }
    return [Point(f"data/{name}", float(count), 0, time_ms) for name, count in counts.items()]


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
        for shown_at in (0, step):  # a grid of MLflow opens at 0, where the runs of different epochs meet
            run.log_image(report / f"{name}.png", name, step=shown_at)
    for name in ("classes.csv", "report.html", "predictions.npz"):
        run.log_file(report / name, "evaluate")
    run.log_tags({**redact_values(details["settings"]), TEST_SHA256: details["test_sha256"], EVALUATION: digest})
