"""Folders and files, whole or not at all."""

import contextlib
import errno
from pathlib import Path

import pytest

from convloop.core.folders import fresh_file, fresh_folder, write_text
from convloop.errors import OutputError


def _filled(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "old.txt").write_text("old")
    return folder


def _names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def _fill(folder: Path, error: BaseException | None = None) -> None:
    with fresh_folder(folder) as building:
        (building / "new.txt").write_text("new")
        if error:
            raise error


def test_a_fresh_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    folder = _filled(tmp_path / "data/raw")
    _fill(folder)
    assert _names(folder) == ["new.txt"]
    assert _names(folder.parent) == ["raw"]


def test_a_fresh_folder_makes_the_folders_above(tmp_path: Path) -> None:
    _fill(tmp_path / "data/raw")
    assert _names(tmp_path / "data/raw") == ["new.txt"]


def test_the_old_folder_stays_while_the_block_runs(tmp_path: Path) -> None:
    folder = _filled(tmp_path / "raw")
    with fresh_folder(folder):
        assert _names(folder) == ["old.txt"]


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), PermissionError(errno.EACCES, "denied")])
def test_the_old_folder_stays_when_the_block_raises(tmp_path: Path, error: BaseException) -> None:
    folder = _filled(tmp_path / "raw")
    with pytest.raises(type(error)) as caught:
        _fill(folder, error)
    assert caught.value is error
    assert _names(folder) == ["old.txt"]
    assert _names(tmp_path) == ["raw"]


def test_what_a_killed_stage_has_left_is_cleared(tmp_path: Path) -> None:
    _filled(tmp_path / "raw.tmp")
    _fill(tmp_path / "raw")
    assert _names(tmp_path / "raw") == ["new.txt"]


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("in the way")
    with pytest.raises(OutputError) as caught:
        _fill(tmp_path / "raw")
    assert str(caught.value) == (
        f"{tmp_path}/raw cannot be written: Not a directory. "
        f"Make it writable (ls -ld {tmp_path}; df -h {tmp_path}), then run the same command again."
    )
    assert _names(tmp_path) == ["raw"]


def test_a_file_in_the_way_of_a_folder_above_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(OutputError) as caught:
        _fill(tmp_path / "data/raw")
    assert str(caught.value) == (
        f"{tmp_path}/data/raw cannot be written: Not a directory. "
        f"Make it writable (ls -ld {tmp_path}/data; df -h {tmp_path}/data), then run the same command again."
    )


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    folder = _filled(tmp_path / "raw")
    with pytest.raises(OutputError) as caught, fresh_folder(folder):
        Path("/dev/full").write_text("no room")
    assert str(caught.value) == (
        f"{folder} cannot be written: No space left on device. "
        f"Make it writable (ls -ld {tmp_path}; df -h {tmp_path}), then run the same command again."
    )
    assert _names(folder) == ["old.txt"]


def test_text_replaces_a_file(tmp_path: Path) -> None:
    write_text(tmp_path / "deep/file.txt", "old")
    write_text(tmp_path / "deep/file.txt", "new ä")
    assert (tmp_path / "deep/file.txt").read_text(encoding="utf-8") == "new ä"
    assert _names(tmp_path / "deep") == ["file.txt"]


def test_a_reader_of_the_old_file_keeps_it(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    write_text(file, "old")
    with file.open() as opened:
        write_text(file, "new")
        assert opened.read() == "old"


def test_a_file_in_the_way_of_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("in the way")
    with pytest.raises(OutputError) as caught:
        write_text(tmp_path / "deep/file.txt", "new")
    assert str(caught.value) == (
        f"{tmp_path}/deep/file.txt cannot be written: File exists. "
        f"Make it writable (ls -ld {tmp_path}/deep; df -h {tmp_path}/deep), then run the same command again."
    )


def test_folder_lost_between_two_renames_is_back_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "data.old.tmp").mkdir()
    (tmp_path / "data.old.tmp" / "kept").touch()

    with contextlib.suppress(ZeroDivisionError), fresh_folder(tmp_path / "data"):
        raise ZeroDivisionError

    assert (tmp_path / "data" / "kept").is_file()


def test_a_fresh_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"old")
    with fresh_file(tmp_path / "last.ckpt") as file:
        file.write(b"new")
        assert (tmp_path / "last.ckpt").read_bytes() == b"old"
    assert (tmp_path / "last.ckpt").read_bytes() == b"new"
    assert _names(tmp_path) == ["last.ckpt"]


def test_the_old_file_stays_when_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"old")
    with pytest.raises(OutputError) as error, fresh_file(tmp_path / "last.ckpt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(error.value) == (
        f"{tmp_path}/last.ckpt cannot be written: No space left on device. "
        f"Make it writable (ls -ld {tmp_path}; df -h {tmp_path}), then run the same command again."
    )
    assert _names(tmp_path) == ["last.ckpt"]
    assert (tmp_path / "last.ckpt").read_bytes() == b"old"
