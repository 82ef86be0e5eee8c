"""Folders of class folders, tidy and hostile."""

import os
from pathlib import Path

import pytest

from convloop.config import GenerateParams
from convloop.core.split import TEST, TRAIN
from convloop.errors import DataError
from convloop.sources import LITTER_REASON, NOTE_REASON, Source
from convloop.sources.folder import read_folder

from .offered import encoded, put, refused


def _read(folder: Path) -> Source:
    return read_folder(GenerateParams(source="folder", path=str(folder)))


def _message(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        _read(folder)
    return str(caught.value)


def test_images_come_in_the_order_of_their_names_with_their_class(tmp_path: Path) -> None:
    source = _read(put(tmp_path, "dog/b.png", "cat/z.png", "dog/a.png", "cat/deep/er.png"))
    assert source.classes == ("cat", "dog")
    assert [(item.name, item.label) for item in encoded(source)] == [
        ("cat/deep/er.png", 0),
        ("cat/z.png", 0),
        ("dog/a.png", 1),
        ("dog/b.png", 1),
    ]
    assert source.image_count == 4


def test_given_splits_go_along(tmp_path: Path) -> None:
    source = _read(put(tmp_path, "train/cat/a.png", "train/dog/b.png", "test/cat/c.png"))
    assert [(item.label, item.split) for item in encoded(source)] == [(0, TEST), (0, TRAIN), (1, TRAIN)]


@pytest.mark.parametrize(
    "name", ["a b.png", "-rf.png", "new\nline.png", "gänse_雏菊.png", ".hidden.png", "no_ending", 'a,b".png']
)
def test_odd_names_are_names(tmp_path: Path, name: str) -> None:
    (item,) = encoded(_read(put(tmp_path, f"cat/{name}")))
    assert item.name == f"cat/{name}"


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/cat/b\xff.png")).write_bytes(b"x")
    assert refused(_read(tmp_path)) == {"cat/b\\xff.png": "the name is not UTF-8"}


def test_links_are_followed_only_to_files_within(tmp_path: Path) -> None:
    root = put(tmp_path / "root", "cat/a.png", "dog/b.png")
    put(tmp_path / "other", "secret.png")
    (root / "cat/inside.png").symlink_to("../dog/b.png")
    (root / "cat/outside.png").symlink_to(tmp_path / "other/secret.png")
    (root / "cat/nothing.png").symlink_to("absent.png")
    (root / "cat/itself.png").symlink_to("itself.png")
    (root / "cat/up").symlink_to("..")
    (root / "etc").symlink_to("/etc")
    source = _read(root)
    assert [item.name for item in encoded(source)] == ["cat/a.png", "cat/inside.png", "dog/b.png"]
    assert refused(_read(root)) == {
        "cat/outside.png": "a link that leaves the folder",
        "cat/nothing.png": "a link to nothing",
        "cat/itself.png": "a link to nothing",
        "cat/up": "a link to a folder",
        "etc": "a link that leaves the folder",
    }


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png")
    os.mkfifo(tmp_path / "cat/pipe.png")
    assert refused(_read(tmp_path)) == {"cat/pipe.png": "not a regular file"}


def test_what_systems_leave_behind_is_told_apart(tmp_path: Path) -> None:
    source = _read(put(tmp_path, "cat/a.png", "cat/Thumbs.db", "cat/._a.png", "__MACOSX/cat/a.png", ".DS_Store"))
    assert refused(source) == dict.fromkeys((".DS_Store", "__MACOSX", "cat/._a.png", "cat/Thumbs.db"), LITTER_REASON)


def test_a_file_beside_the_class_folders_is_refused(tmp_path: Path) -> None:
    assert refused(_read(put(tmp_path, "cat/a.png", "dog/a.png", "list.txt"))) == {
        "list.txt": "lies in no class folder"
    }


@pytest.mark.parametrize("name", ["README", "readme.md", "LICENSE.txt", "Licence", "COPYING"])
def test_a_licence_or_read_me_at_the_top_is_a_note(tmp_path: Path, name: str) -> None:
    assert refused(_read(put(tmp_path, "cat/a.png", "dog/a.png", name))) == {name: NOTE_REASON}


def test_a_read_me_in_a_class_folder_is_offered_as_any_file(tmp_path: Path) -> None:
    assert [item.name for item in encoded(_read(put(tmp_path, "cat/README")))] == ["cat/README"]


def test_a_tree_deeper_than_python_can_recurse_is_walked(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png")
    deep = tmp_path / "dog"
    deep.mkdir()
    for _ in range(1200):
        deep = deep / "d"
        deep.mkdir()
    (deep / "b.png").write_bytes(b"x")
    assert len(encoded(_read(tmp_path))) == 2
    (deep / "b.png").unlink()
    os.removedirs(deep)  # pytest could not


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert _message(tmp_path / "none") == (
        f"params.yaml: generate.path is {tmp_path}/none, which is not a folder. Set it to one of class folders."
    )


def test_a_folder_without_class_folders_is_named(tmp_path: Path) -> None:
    assert _message(put(tmp_path, "a.png")) == (
        f"params.yaml: generate.path is {tmp_path}, which holds no class folders with files. "
        "Put the images of each class into a folder of its name."
    )
