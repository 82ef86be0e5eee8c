"""The history of a training: one row for each epoch, counted from 1."""

import csv
from pathlib import Path
from typing import NamedTuple

from convloop.core.folders import write_text

Row = dict[str, float]


class Point(NamedTuple):
    """One value of a metric; the same point sent to MLflow again adds nothing."""

    name: str
    value: float
    step: int
    time_ms: int


def read_history(file: Path) -> list[Row]:
    """Read the rows of a history file; an absent one has none."""
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as opened:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(opened)]


def points_of(row: Row) -> list[Point]:
    """Give what MLflow shows of an epoch."""
    step, time_ms = int(row["epoch"]), int(row["time_ms"])
    return [Point(name, value, step, time_ms) for name, value in row.items() if name not in ("epoch", "time_ms")]


def write_history(file: Path, rows: list[Row]) -> None:
    """Replace the file by these rows, at least one, all of the same columns."""
    lines = [",".join(rows[0]), *(",".join(map(_exact, row.values())) for row in rows)]
    write_text(file, "\n".join([*lines, ""]))


def _exact(value: float) -> str:
    """Write a number so that reading gives the very same: MLflow takes one that differs for another measurement."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
