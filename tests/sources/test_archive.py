"""Zips and tars, whole, hostile and damaged."""

import io
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from convloop.config import GenerateParams
from convloop.core.images import NO_SPLIT
from convloop.core.split import TEST, TRAIN
from convloop.errors import DataError
from convloop.sources import LITTER_REASON, Source, archive
from convloop.sources.archive import read_archive

from .offered import encoded, png, refused

FILES = {"set/cat/a b.png": png(1), "set/dog/雏菊.png": png(2)}


def _zip(file: Path, files: dict[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return file


def _tar(file: Path, files: dict[str, bytes] = FILES, mode: str = "w") -> Path:
    with tarfile.open(file, mode) as opened:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return file


def _read(file: Path) -> Source:
    return read_archive(GenerateParams(source="archive", path=str(file)))


def _message(file: Path) -> str:
    with pytest.raises(DataError) as caught:
        encoded(_read(file))
    return str(caught.value)


@pytest.mark.parametrize(
    "write",
    [
        _zip,
        _tar,
        lambda file: _tar(file, mode="w:gz"),
        lambda file: _tar(file, mode="w:bz2"),
        lambda file: _tar(file, mode="w:xz"),
    ],
    ids=["zip", "tar", "gz", "bz2", "xz"],
)
def test_every_packing_gives_the_same_images(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    source = _read(write(tmp_path / "packed"))
    assert source.classes == ("cat", "dog")
    assert [(item.name, item.content, item.label, item.split) for item in encoded(source)] == [
        ("set/cat/a b.png", FILES["set/cat/a b.png"], 0, NO_SPLIT),
        ("set/dog/雏菊.png", FILES["set/dog/雏菊.png"], 1, NO_SPLIT),
    ]


def test_given_splits_are_kept(tmp_path: Path) -> None:
    source = _read(_zip(tmp_path / "a.zip", {"train/cat/a": b"1", "test/cat/b": b"2"}))
    assert [item.split for item in encoded(source)] == [TRAIN, TEST]


def test_paths_that_leave_the_archive_are_refused(tmp_path: Path) -> None:
    hostile = {"../cat/a": b"1", "/etc/passwd": b"1", "cat/../../b": b"1", "cat/good": b"1", "__MACOSX/cat/a": b"1"}
    for file in (_zip(tmp_path / "a.zip", hostile), _tar(tmp_path / "a.tar", hostile)):
        assert [item.name for item in encoded(_read(file))] == ["cat/good"]
        assert refused(_read(file)) == {
            **dict.fromkeys(("../cat/a", "/etc/passwd", "cat/../../b"), "the path leaves the archive"),
            "__MACOSX/cat/a": LITTER_REASON,
        }


def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path) -> None:
    file = _tar(tmp_path / "a.tar")
    with tarfile.open(file, "a") as opened:
        for name, kind in (("cat/s", tarfile.SYMTYPE), ("cat/h", tarfile.LNKTYPE), ("cat/f", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "set/cat/a b.png"
            opened.addfile(info)
    assert refused(_read(file)) == {"cat/s": "a link", "cat/h": "a link", "cat/f": "not a regular file"}


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    file = _zip(tmp_path / "a.zip")
    with zipfile.ZipFile(file, "a") as opened:
        info = zipfile.ZipInfo("set/cat/link.png")
        info.external_attr = 0o120777 << 16
        opened.writestr(info, "/etc/passwd")
    assert refused(_read(file)) == {"set/cat/link.png": "a link"}


def test_a_member_whose_bytes_are_damaged_is_refused_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("cat/a", b"first picture")
        opened.writestr("cat/b", b"second")
    file.write_bytes(file.read_bytes().replace(b"first", b"fIrst", 1))
    assert [item.name for item in encoded(_read(file))] == ["cat/b"]
    assert refused(_read(file)) == {"cat/a": "damaged (Bad CRC-32 for file 'cat/a')"}


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 1000)
    file = _zip(tmp_path / "a.zip", {"cat/a": bytes(2000), "cat/b": b"1"})
    assert refused(_read(file)) == {"cat/a": "2,000 bytes is more than 1,000"}


@pytest.mark.parametrize("packing", ["zip", "tar"])
def test_an_archive_that_grows_without_measure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    monkeypatch.setattr(archive, "_MIN_ALLOWED_BYTES", 100_000)
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 300_000)
    bomb = {f"cat/{index}": bytes(200_000) for index in range(100)}
    file = _zip(tmp_path / "a", bomb) if packing == "zip" else _tar(tmp_path / "a", bomb, "w:xz")
    assert "it unpacks to" in _message(file)
    assert _message(file).endswith(". Pack or fetch it again.")


def test_text_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("text" * 300)
    assert _message(tmp_path / "a.zip") == (
        f"{tmp_path}/a.zip cannot be read as zip or tar: invalid header. Pack or fetch it again."
    )


def test_an_archive_without_class_folders_is_named(tmp_path: Path) -> None:
    assert _message(_zip(tmp_path / "a.zip", {"a.png": b"1"})) == (
        f"{tmp_path}/a.zip holds no class folders with files. Pack a folder for each class."
    )


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    assert _message(tmp_path / "none.zip") == (
        f"params.yaml: generate.path is {tmp_path}/none.zip, which is not a file. Set it to a zip or tar archive."
    )


@pytest.mark.parametrize("packing", ["zip", "tar", "gz", "bz2", "xz"])
def test_random_damage_is_never_more_than_a_data_error(tmp_path: Path, packing: str) -> None:
    file = tmp_path / "a"
    if packing == "zip":
        _zip(file)
    else:
        _tar(file, mode="w" if packing == "tar" else f"w:{packing}")
    rng, whole = random.Random(1), file.read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 5)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged[: rng.randint(len(damaged) // 2, len(damaged))])
        try:
            source = _read(file)
            assert source.items is not None
            offered = list(source.items)
        except DataError:
            continue
        assert len(offered) <= 2
