"""Parquet files as the hub exports them."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from convloop.config import GenerateParams
from convloop.core.images import NO_SPLIT
from convloop.core.split import TEST, TRAIN, VAL
from convloop.errors import DataError
from convloop.sources import Source
from convloop.sources.parquet import read_parquet

from .offered import encoded, png, refused


def _write(file: Path, columns: dict[str, Any], names: list[str] | None = None) -> Path:
    table = pa.table(columns)
    if names is not None:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
    return file


def _read(path: Path) -> Source:
    return read_parquet(GenerateParams(source="parquet", path=str(path)))


def _message(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        encoded(_read(path))
    return str(caught.value)


def test_the_hubs_structs_and_class_names_are_known(tmp_path: Path) -> None:
    rows = [{"bytes": png(1), "path": "a.png"}, {"bytes": png(2), "path": None}]
    source = _read(_write(tmp_path / "a.parquet", {"image": rows, "label": [1, 0]}, ["dog", "cat"]))
    assert source.classes == ("dog", "cat")
    assert source.image_count == 2
    assert [(item.name, item.content, item.label, item.split) for item in encoded(source)] == [
        ("a.parquet/0000000", png(1), 1, NO_SPLIT),
        ("a.parquet/0000001", png(2), 0, NO_SPLIT),
    ]


def test_plain_bytes_and_labels_of_text_are_known(tmp_path: Path) -> None:
    source = _read(_write(tmp_path / "a.parquet", {"img": [b"1", b"2"], "labels": ["owl", "cat"]}))
    assert source.classes == ("cat", "owl")
    assert [item.label for item in encoded(source)] == [1, 0]


def test_file_names_of_a_folder_give_the_splits(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001", "validation-00000-of-00001", "test-00000-of-00001"):
        _write(tmp_path / f"data/{name}.parquet", {"image": [b"1"], "label": [0]})
    assert [item.split for item in encoded(_read(tmp_path))] == [TEST, TRAIN, VAL]


def test_a_split_column_counts_before_the_file_name(tmp_path: Path) -> None:
    columns = {"image": [b"1", b"2"], "label": [0, 0], "split": ["test", None]}
    assert [item.split for item in encoded(_read(_write(tmp_path / "train.parquet", columns)))] == [TEST, TRAIN]


def test_other_plain_columns_become_slices(tmp_path: Path) -> None:
    columns = {"image": [b"1"], "label": [0], "camera": ["gänse"], "year": [1999], "boxes": [[1, 2]], "thumb": [b"x"]}
    (item,) = encoded(_read(_write(tmp_path / "a.parquet", columns)))
    assert item.slices == '{"camera": "gänse", "year": 1999}'


def test_rows_without_bytes_or_label_are_refused(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": "a.png"}, {"bytes": b"1", "path": None}, {"bytes": b"1", "path": None}, None]
    source = _read(_write(tmp_path / "a.parquet", {"image": rows, "label": [0, None, 7, 0]}, ["cat"]))
    assert refused(source) == {
        "a.parquet/0000000": "no image bytes",
        "a.parquet/0000001": "no label",
        "a.parquet/0000002": "label 7 has no class name",
        "a.parquet/0000003": "no image bytes",
    }


def test_columns_of_other_names_are_listed(tmp_path: Path) -> None:
    assert _message(_write(tmp_path / "a.parquet", {"pixels": [b"1"], "label": [0]})) == (
        f"{tmp_path}/a.parquet has the columns pixels, label. Name them image and label "
        "(image, img, images; label, labels, fine_label, class are known)."
    )


def test_a_folder_without_parquet_is_named(tmp_path: Path) -> None:
    assert _message(tmp_path) == (
        f"params.yaml: generate.path is {tmp_path}, where no .parquet file is. Set it to one or their folder."
    )


def test_text_is_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("text" * 100)
    message = _message(tmp_path / "a.parquet")
    assert message.startswith(f"{tmp_path}/a.parquet cannot be read as parquet: Parquet magic bytes not found")
    assert message.endswith(". Fetch it again.")


def test_random_damage_is_never_more_than_a_data_error(tmp_path: Path) -> None:
    rng = random.Random(1)
    file = _write(tmp_path / "a.parquet", {"image": [png(1), png(2)], "label": [0, 1], "camera": ["a", "b"]})
    whole = file.read_bytes()
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            items = encoded(_read(file))
        except DataError:
            continue
        assert len(items) <= 2
