"""Cores that a process may use, and its share of them."""

import os
from pathlib import Path

import pytest

from convloop.core.cores import _granted, available_cores, share_cores


@pytest.mark.parametrize(("text", "cores"), [("150000 100000\n", 1.5), ("max 100000\n", None)])
def test_a_container_of_cgroup_2_tells_its_cores(tmp_path: Path, text: str, cores: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert _granted(tmp_path / "cpu.max", tmp_path / "none") == cores


@pytest.mark.parametrize(("quota", "cores"), [("400000\n", 4.0), ("-1\n", None)])
def test_a_container_of_cgroup_1_tells_its_cores(tmp_path: Path, quota: str, cores: float | None) -> None:
    (tmp_path / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert _granted(tmp_path / "none", tmp_path / "cpu.cfs_quota_us") == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_process_bound_to_one_core_has_one() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_processes_of_one_host_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert share_cores(1) == available_cores()
    assert share_cores(10_000) == 1


def test_what_the_user_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert share_cores(2) is None
