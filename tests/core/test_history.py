"""The history file of a training."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convloop.core.history import Point, Row, points_of, read_history, write_history

COLUMNS = ("epoch", "train/loss", "val/loss", "time_ms")
ROWS: list[Row] = [
    {name: epoch + index / 8 if name not in ("epoch", "time_ms") else epoch for index, name in enumerate(COLUMNS)}
    for epoch in (1, 2)
]


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", ROWS)
    assert read_history(tmp_path / "history.csv") == ROWS


def test_the_time_keeps_every_millisecond(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", [{**ROWS[0], "time_ms": 1_893_456_000_123}])
    assert read_history(tmp_path / "history.csv")[0]["time_ms"] == 1_893_456_000_123


@settings(deadline=None)
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, value: float) -> None:
    file = tmp_path_factory.getbasetemp() / "exact.csv"
    write_history(file, [{**ROWS[0], "val/loss": value}])
    assert read_history(file)[0]["val/loss"] == value


def test_an_absent_file_has_no_rows(tmp_path: Path) -> None:
    assert read_history(tmp_path / "history.csv") == []


def test_writing_replaces_what_was_there(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", ROWS)
    write_history(tmp_path / "history.csv", ROWS[:1])
    assert read_history(tmp_path / "history.csv") == ROWS[:1]


def test_columns_are_those_of_the_rows(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", ROWS)
    assert (tmp_path / "history.csv").read_text().splitlines()[0] == ",".join(COLUMNS)


def test_points_carry_the_epoch_as_step_and_the_time() -> None:
    row: Row = {"epoch": 3, "train/loss": 0.5, "val/loss": 0.75, "time_ms": 1_893_456_000_123}
    assert points_of(row) == [
        Point("train/loss", 0.5, 3, 1_893_456_000_123),
        Point("val/loss", 0.75, 3, 1_893_456_000_123),
    ]
