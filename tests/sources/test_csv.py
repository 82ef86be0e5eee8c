"""Tables of paths and labels."""

import random
from pathlib import Path

import pytest

from convloop.config import GenerateParams
from convloop.core.images import NO_SPLIT
from convloop.core.split import TEST, TRAIN, VAL
from convloop.errors import DataError
from convloop.sources import Source
from convloop.sources.csv import read_csv

from .offered import encoded, refused


def _read(folder: Path, text: str) -> Source:
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return read_csv(GenerateParams(source="csv", path=str(folder / "table.csv")))


def _message(folder: Path, text: str) -> str:
    with pytest.raises(DataError) as caught:
        encoded(_read(folder, text))
    return str(caught.value)


def test_each_line_is_an_image_with_its_label(tmp_path: Path) -> None:
    source = _read(tmp_path, "\ufefflabel,path\ndog,b.png\ncat,sub/a.png\n")
    assert source.classes == ("cat", "dog")
    assert [(item.name, item.content, item.label, item.split, item.slices) for item in encoded(source)] == [
        ("b.png", str(tmp_path / "b.png"), 1, NO_SPLIT, ""),
        ("sub/a.png", str(tmp_path / "sub/a.png"), 0, NO_SPLIT, ""),
    ]


def test_given_splits_are_kept(tmp_path: Path) -> None:
    source = _read(tmp_path, "path,label,split\na,0,train\nb,0,val\nc,0,Test\nd,0,\n")
    assert [item.split for item in encoded(source)] == [TRAIN, VAL, TEST, NO_SPLIT]


def test_other_columns_become_slices(tmp_path: Path) -> None:
    (item,) = encoded(_read(tmp_path, 'path,label,camera,light\na,0,"Nikon, old",gänse\n'))
    assert item.slices == '{"camera": "Nikon, old", "light": "gänse"}'


def test_a_folder_with_one_table_is_that_table(tmp_path: Path) -> None:
    _read(tmp_path, "path,label\na,cat\n")
    assert read_csv(GenerateParams(source="csv", path=str(tmp_path))).classes == ("cat",)


def test_lines_that_cannot_be_used_are_refused_with_their_reason(tmp_path: Path) -> None:
    text = "path,label,split\n,cat,\na,,\nb,cat,maybe\n../c,cat,\n/etc/passwd,cat,\nd,cat,test,more\ne,cat,\n"
    assert refused(_read(tmp_path, text)) == {
        "table.csv, line 2": "no path",
        "a": "no label",
        "b": "split is maybe, not train, val or test",
        "../c": "leaves the folder of the table",
        "/etc/passwd": "leaves the folder of the table",
        "d": "more values than columns",
    }


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").symlink_to("/etc/hostname")
    assert refused(_read(tmp_path / "in", "path,label\na.png,cat\n")) == {"a.png": "leaves the folder of the table"}


def test_a_table_without_the_columns_is_named(tmp_path: Path) -> None:
    assert _message(tmp_path, "file,class\na,cat\n") == (
        f"{tmp_path}/table.csv begins with the columns file, class. "
        "Write a first line that names path and label, each column once."
    )


def test_a_table_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(b"path,label\na,\xff\n")
    with pytest.raises(DataError) as caught:
        read_csv(GenerateParams(source="csv", path=str(tmp_path)))
    assert str(caught.value) == (
        f"{tmp_path}/table.csv cannot be read: 'utf-8' codec can't decode byte 0xff in position 13: invalid start byte. "
        "Save it as CSV in UTF-8, with commas."
    )


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_csv(GenerateParams(source="csv", path=str(tmp_path)))
    assert str(caught.value) == (
        f"params.yaml: generate.path is {tmp_path}, which is neither a .csv file nor a folder with one. "
        "Set it to a table with the columns path and label."
    )


def test_a_table_without_labels_is_named(tmp_path: Path) -> None:
    assert _message(tmp_path, "path,label\na,\n") == (
        f"{tmp_path}/table.csv holds no labels. Write a path and a label into each line."
    )


def test_random_damage_is_never_more_than_a_data_error(tmp_path: Path) -> None:
    rng = random.Random(1)
    whole = b'path,label,split,camera\na.png,cat,train,"x,y"\nb.png,dog,test,z\n'
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / "table.csv").write_bytes(damaged[: rng.randint(1, len(damaged))])
        try:
            items = encoded(read_csv(GenerateParams(source="csv", path=str(tmp_path))))
        except DataError:
            continue
        assert len(items) <= 3
