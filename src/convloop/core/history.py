"""The history of a training: one row for each epoch, counted from 1."""

import csv
from pathlib import Path

from convloop.core.folders import write_text

COLUMNS = ("epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "train/images_per_s", "time_ms")
Row = dict[str, float]


def read_history(file: Path) -> list[Row]:
    """Read the rows of a history file; an absent one has none."""
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as opened:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(opened)]


def metrics_of(row: Row) -> dict[str, float]:
    """Pick what MLflow shows of a row."""
    return {name: value for name, value in row.items() if name not in ("epoch", "time_ms")}


def write_history(file: Path, rows: list[Row]) -> None:
    """Replace the file by these rows."""
    lines = [",".join(COLUMNS), *(",".join(_exact(row[name]) for name in COLUMNS) for row in rows)]
    write_text(file, "\n".join([*lines, ""]))


def _exact(value: float) -> str:
    """Write a number so that reading gives the very same: MLflow takes one that differs for another measurement."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
