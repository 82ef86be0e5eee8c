"""A zip or tar of class folders, also compressed by gzip, bzip2 or xz; read in place, never unpacked to disk."""

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from convloop.core.decode import MAX_FILE_BYTES
from convloop.errors import DataError
from convloop.sources import LITTER_REASON, NOTE_REASON, Encoded, Refused, Source, is_litter, is_note, is_text, shown
from convloop.sources.layout import NO_CLASS, Layout, find_layout

if TYPE_CHECKING:
    from convloop.config import GenerateParams

MAX_GROWTH = 100  # pictures hardly shrink by packing: whatever grows more than this is a bomb
_MIN_ALLOWED_BYTES = 2**30
_OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError,
           RuntimeError, NotImplementedError, OverflowError, MemoryError)  # fmt: skip


class Member(NamedTuple):
    """A file in an archive; `refusal` says why it cannot be taken, or is empty."""

    name: str
    refusal: str
    read: Callable[[], bytes]


def read_archive(settings: "GenerateParams") -> Source:
    """Go through the archive twice: for the classes, then for the images.

    Links, devices, encrypted and absolute names, and those with `..` are refused; nothing is ever written by its name.

    Raises:
        DataError: no such file, it is no archive, is damaged, holds no class folders or unpacks to a bomb.
    """
    file = Path(str(settings.path)).expanduser()
    if not file.is_file():
        raise DataError(f"params.yaml: generate.path is {file}, which is not a file. Set it to a zip or tar archive.")
    folders: set[tuple[str, ...]] = set()
    member_count = 0
    for member in _members(file):
        member_count += 1
        if not member.refusal:
            folders.add(_parts(member.name)[:-1])
    layout = find_layout(folders)
    if not layout.classes:
        raise DataError(f"{file} holds no class folders with files. Pack a folder for each class.")
    return Source(layout.classes, items=_items(file, layout), image_count=member_count)


def _items(file: Path, layout: Layout) -> Iterator[Encoded | Refused]:
    for member in _members(file):
        place = None if member.refusal else layout.place(_parts(member.name)[:-1])
        if member.refusal or place is None:
            yield Refused(shown(member.name), member.refusal or NO_CLASS)
            continue
        try:
            content = member.read()
        except _DAMAGE as error:
            yield Refused(member.name, f"damaged ({error})")
            continue
        yield Encoded("/".join(_parts(member.name)), content, *place)


def _members(file: Path) -> Iterator[Member]:
    try:
        with file.open("rb") as opened:
            start = opened.read(8)
            opened.seek(0)
            if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
                yield from _zip_members(file, opened)
            else:
                opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
                allowed_bytes = max(_MIN_ALLOWED_BYTES, MAX_GROWTH * file.stat().st_size)
                with closing(opener(opened) if opener else opened) as unpacked:
                    yield from _tar_members(_Capped(unpacked, allowed_bytes))
    except _DAMAGE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{file} cannot be read as zip or tar: {reason}. Pack or fetch it again.") from error


def _zip_members(file: Path, opened: IO[bytes]) -> Iterator[Member]:
    with zipfile.ZipFile(opened) as archive:
        allowed_bytes = max(_MIN_ALLOWED_BYTES, MAX_GROWTH * file.stat().st_size)
        unpacked_bytes = sum(info.file_size for info in archive.infolist())
        if unpacked_bytes > allowed_bytes:
            raise ValueError(f"it unpacks to {unpacked_bytes:,} bytes, more than {allowed_bytes:,}")
        for info in archive.infolist():
            if info.is_dir():
                continue
            refusal = _refusal(info.filename, info.file_size)
            if stat.S_ISLNK(info.external_attr >> 16):
                refusal = "a link"
            elif info.flag_bits & 1:
                refusal = "encrypted"
            yield Member(info.filename, refusal, lambda info=info: archive.read(info))  # type: ignore[misc]


def _tar_members(unpacked: "_Capped") -> Iterator[Member]:
    with tarfile.open(fileobj=unpacked, mode="r:") as archive:
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined] # tarfile keeps all that it has seen
            if info.isdir():
                continue
            refusal = _refusal(info.name, info.size)
            if info.issym() or info.islnk():
                refusal = "a link"
            elif not info.isreg():
                refusal = "not a regular file"
            yield Member(info.name, refusal, lambda info=info: _tar_content(archive, info))  # type: ignore[misc]


def _tar_content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    extracted = archive.extractfile(info)
    assert extracted is not None  # it is a regular file
    return extracted.read()


def _refusal(name: str, byte_count: int) -> str:
    parts = _parts(name)
    if not is_text(name):
        return "the name is not UTF-8"
    if name.startswith("/") or ".." in parts or not parts or "\0" in name:
        return "the path leaves the archive"
    if is_litter(parts):
        return LITTER_REASON
    if is_note(parts):
        return NOTE_REASON
    if byte_count > MAX_FILE_BYTES:
        return f"{byte_count:,} bytes is more than {MAX_FILE_BYTES:,}"
    return ""


def _parts(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split("/") if part not in ("", "."))


class _Capped(io.RawIOBase):
    """A stream that gives out neither too much at once nor in all, whatever the headers in it ask for."""

    def __init__(self, stream: IO[bytes], allowed_bytes: int) -> None:
        self._stream, self._allowed_bytes = stream, allowed_bytes

    def read(self, byte_count: int = -1) -> bytes:
        if not 0 <= byte_count <= MAX_FILE_BYTES:
            raise ValueError(f"a header asks for {byte_count:,} bytes at once")
        self._check(self._stream.tell() + byte_count)
        return self._stream.read(byte_count)

    def seek(self, place: int, whence: int = 0) -> int:
        if whence == 0:
            self._check(place)
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self, place: int) -> None:
        if place > self._allowed_bytes + MAX_FILE_BYTES:
            raise ValueError(f"it unpacks to more than {self._allowed_bytes:,} bytes")
