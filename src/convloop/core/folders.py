"""Write a folder or a file whole or not at all, and hold a folder against other processes."""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from convloop.errors import OutputError

_FULL = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)


@contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block ends well.

    A stage that is killed or fails leaves the old folder as it was, never a half-written one.

    Raises:
        OutputError: the place cannot be written.
    """
    building, replaced = folder.with_name(f"{folder.name}.tmp"), folder.with_name(f"{folder.name}.old.tmp")
    try:
        with _writing(folder):
            if folder.exists() and not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            if replaced.exists() and not folder.exists():
                replaced.rename(folder)  # a kill came between the two renames below
        try:
            yield building
        except OSError as error:
            if error.errno in _FULL:
                raise _unwritable(folder, error) from error
            raise
        with _writing(folder):
            shutil.rmtree(replaced, ignore_errors=True)
            if folder.exists():
                folder.rename(replaced)
            building.rename(folder)
            shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def write_text(file: Path, text: str) -> None:
    """Replace a text file in one step, so that a reader sees the old or the new one.

    Raises:
        OutputError: the place cannot be written.
    """
    building = file.with_name(f"{file.name}.tmp")
    with _writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        building.write_text(text, encoding="utf-8")
        os.replace(building, file)  # noqa: PTH105 - one atomic step


@contextmanager
def fresh_file(file: Path) -> Iterator[BinaryIO]:
    """Yield an empty file that takes the place of `file` when the block ends well, and then outlasts a power cut.

    Raises:
        OutputError: the place cannot be written.
    """
    building = file.with_name(f"{file.stem}.tmp{file.suffix}")
    try:
        with _writing(file):
            with building.open("wb") as opened:
                yield opened
                opened.flush()
                os.fsync(opened.fileno())
            os.replace(building, file)  # noqa: PTH105 - one atomic step
            folder = os.open(file.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        building.unlink(missing_ok=True)


@contextmanager
def held(folder: Path, patience_s: float = 0) -> Iterator[bool]:
    """Lock the folder itself, which a killed process lets go at once; give False where another one has it."""
    give_up_s = time.monotonic() + patience_s
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        while not (is_held := _lock(descriptor)) and time.monotonic() < give_up_s:
            time.sleep(0.05)
        yield is_held
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(place, error) from error


def _unwritable(place: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{place} cannot be written: {error.strerror}. "
        f"Make it writable (ls -ld {place.parent}; df -h {place.parent}), then run the same command again."
    )
