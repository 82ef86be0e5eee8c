"""How much memory a process may still take, in containers of both kinds."""

from pathlib import Path

import psutil
import pytest

from convloop.core import room
from convloop.core.room import available_bytes


def _container(folder: Path, names: tuple[str, str], limit: str, used: int, statistics: str) -> Path:
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(statistics)
    return folder


def test_a_container_leaves_its_limit_less_what_is_used_and_cannot_be_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("memory.max", "memory.current")
    monkeypatch.setattr(room, "_CGROUP_2", _container(tmp_path, names, "50000", 40000, "anon 1\ninactive_file 7000\n"))

    assert available_bytes() == 17000


def test_a_container_of_the_first_version_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    statistics = "inactive_file 1\ntotal_inactive_file 500\n"
    monkeypatch.setattr(room, "_CGROUP_2", tmp_path / "absent")
    monkeypatch.setattr(room, "_CGROUP_1", _container(tmp_path, names, "9000", 8000, statistics))

    assert available_bytes() == 1500


def test_a_full_container_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("memory.max", "memory.current")
    monkeypatch.setattr(room, "_CGROUP_2", _container(tmp_path, names, "50000", 60000, ""))

    assert available_bytes() == 0


def test_a_container_without_a_limit_leaves_what_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_CGROUP_1", tmp_path / "absent")
    monkeypatch.setattr(
        room, "_CGROUP_2", _container(tmp_path, ("memory.max", "memory.current"), "max", 1, "inactive_file 7000\n")
    )

    assert 0 < available_bytes() <= psutil.virtual_memory().total
