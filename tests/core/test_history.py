"""The history file of a training."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convloop.core.history import COLUMNS, Row, metrics_of, read_history, write_history

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


def test_an_empty_history_is_a_header(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", [])
    assert (tmp_path / "history.csv").read_text() == (
        "epoch,train/loss,train/accuracy,val/loss,val/accuracy,train/images_per_s,time_ms\n"
    )
    assert read_history(tmp_path / "history.csv") == []


def test_writing_replaces_what_was_there(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", ROWS)
    write_history(tmp_path / "history.csv", ROWS[:1])
    assert read_history(tmp_path / "history.csv") == ROWS[:1]


def test_epoch_and_time_are_no_metrics() -> None:
    assert sorted(metrics_of(ROWS[0])) == sorted(set(COLUMNS) - {"epoch", "time_ms"})
