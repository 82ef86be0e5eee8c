"""The ledger: one row for each retraining, none twice for a slot, none open for ever."""

from pathlib import Path

import pytest

from convloop.ledger import Ledger, Row

_SLOT = "2026-01-01T03:00Z"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def test_new_ledger_is_empty(ledger: Ledger) -> None:
    assert ledger.rows() == []


def test_row_runs_from_its_beginning(ledger: Ledger) -> None:
    assert ledger.begin("by hand", None) == 1
    assert ledger.rows() == [Row(1, None, "by hand", "running", "")]


def test_row_ends_with_status_and_outcome(ledger: Ledger) -> None:
    row_id = ledger.begin("by hand", None)
    assert row_id is not None
    ledger.end(row_id, "finished", "Promoted: it's better.")
    assert ledger.rows() == [Row(1, None, "by hand", "finished", "Promoted: it's better.")]


def test_retrainings_by_hand_each_get_a_row(ledger: Ledger) -> None:
    assert [ledger.begin("by hand", None) for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("status", ["finished", "failed", "stopped"])
def test_slot_has_one_row_however_it_ended(ledger: Ledger, status: str) -> None:
    row_id = ledger.begin("cron", _SLOT)
    assert row_id is not None
    ledger.end(row_id, status, "")
    assert ledger.begin("cron again", _SLOT) is None
    assert ledger.rows() == [Row(1, _SLOT, "cron", status, "")]


def test_running_slot_is_not_begun_again(ledger: Ledger) -> None:
    ledger.begin("cron", _SLOT)
    assert ledger.begin("cron", _SLOT) is None


def test_another_slot_gets_its_row(ledger: Ledger) -> None:
    assert [ledger.begin("cron", slot) for slot in (_SLOT, "2026-01-02T03:00Z")] == [1, 2]


def test_open_rows_are_marked_lost_and_others_kept(ledger: Ledger) -> None:
    for status in ("finished", "failed", "stopped", "running"):
        row_id = ledger.begin("by hand", None)
        assert row_id is not None
        if status != "running":
            ledger.end(row_id, status, "")
    assert ledger.mark_lost() == 1
    assert [row.status for row in ledger.rows()] == ["finished", "failed", "stopped", "lost"]
    assert ledger.mark_lost() == 0


def test_lost_slot_may_run_again(ledger: Ledger) -> None:
    ledger.begin("cron", _SLOT)
    ledger.mark_lost()
    assert ledger.begin("cron", _SLOT) is not None
    assert [(row.slot, row.status) for row in ledger.rows()] == [(_SLOT, "running")]


def test_ledger_is_found_again_by_the_next_process(ledger: Ledger, tmp_path: Path) -> None:
    ledger.begin("by hand", None)
    assert Ledger(tmp_path).rows() == ledger.rows()
