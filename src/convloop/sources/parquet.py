"""Parquet as the Hugging Face hub exports it: encoded images, as bytes or as a struct {bytes, path}, and labels."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
import pyarrow.parquet

from convloop.core.images import NO_SPLIT
from convloop.errors import DataError
from convloop.sources import Encoded, Refused, Source, ordered_classes
from convloop.sources.layout import SPLIT_FOLDERS

if TYPE_CHECKING:
    from convloop.config import GenerateParams

IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img", "images"), ("label", "labels", "fine_label", "class")
_ROW_COUNT = 64


def read_parquet(settings: "GenerateParams") -> Source:
    """Read a .parquet file, or all below a folder in the order of their names.

    Class names come from the labels, or from the metadata that the hub writes. A `split` column, or a file name that
    begins with train, validation or test, gives the split; every other column of plain values describes a slice.

    Raises:
        DataError: no such file, a file is damaged, or it has no image or label column.
    """
    path = Path(str(settings.path)).expanduser()
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise DataError(
            f"params.yaml: generate.path is {path}, where no .parquet file is. Set it to one or their folder."
        )
    try:
        image_count = sum(_columns(file)[0] for file in files)
        names = _hub_names(files[0])
        found = {str(row[1]) for file in files for row in _rows(file, images=False) if row[1] is not None}
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(files[0] if len(files) == 1 else path, error) from error
    classes = names or ordered_classes(found)
    if not classes:
        raise DataError(f"{path} holds no labels. Write a label beside each image.")
    return Source(classes, items=_items(files, classes, by_number=bool(names)), image_count=image_count)


def _items(files: list[Path], classes: tuple[str, ...], *, by_number: bool) -> Iterator[Encoded | Refused]:
    numbers: dict[Any, int] = {name: label for label, name in enumerate(classes)}
    if by_number:
        numbers = {str(label): label for label in range(len(classes))}
    for file in files:
        file_split = next(
            (SPLIT_FOLDERS[start] for start in SPLIT_FOLDERS if file.name.lower().startswith(start)), NO_SPLIT
        )
        try:
            for index, (image, label, split, slices) in zip(count(), _rows(file, images=True)):
                struct = image if isinstance(image, dict) else {"bytes": image}
                content, name = struct.get("bytes"), f"{file.name}/{index:07d}"
                if not isinstance(content, bytes):
                    yield Refused(name, "no image bytes")
                elif label is None or str(label) not in numbers:
                    yield Refused(name, "no label" if label is None else f"label {label} has no class name")
                elif split is not None and str(split).lower() not in SPLIT_FOLDERS:
                    yield Refused(name, f"split is {split}, not train, val or test")
                else:
                    given = file_split if split is None else SPLIT_FOLDERS[str(split).lower()]
                    yield Encoded(name, content, numbers[str(label)], given, slices)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise _damaged(file, error) from error


def _rows(file: Path, *, images: bool) -> Iterator[tuple[Any, Any, Any, str]]:
    """Yield image, label, split and slices of each row, a few rows at a time."""
    _, image_column, label_column, slice_columns = _columns(file)
    wanted = [label_column] + ([image_column, *slice_columns] if images else [])
    with pyarrow.parquet.ParquetFile(file, pre_buffer=False) as opened:
        if "split" in opened.schema_arrow.names:
            wanted.append("split")
        for batch in opened.iter_batches(batch_size=_ROW_COUNT, columns=wanted, use_threads=False):
            for row in batch.to_pylist():
                others = {name: row[name] for name in slice_columns} if images else {}
                slices = json.dumps(others, ensure_ascii=False, default=str) if others else ""
                yield row.get(image_column), row[label_column], row.get("split"), slices


def _columns(file: Path) -> tuple[int, str, str, list[str]]:
    """Give the number of rows, and the columns of images, labels and slices."""
    with pyarrow.parquet.ParquetFile(file) as opened:
        schema, row_count = opened.schema_arrow, opened.metadata.num_rows
    chosen = [next((name for name in known if name in schema.names), "") for known in (IMAGE_COLUMNS, LABEL_COLUMNS)]
    if not all(chosen):
        raise DataError(
            f"{file} has the columns {', '.join(schema.names)[:200]}. Name them image and label "
            f"({', '.join(IMAGE_COLUMNS)}; {', '.join(LABEL_COLUMNS)} are known)."
        )
    plain = [
        field.name
        for field in schema
        if field.name not in (*chosen, "split")
        and not pyarrow.types.is_nested(field.type)
        and not pyarrow.types.is_binary(field.type)
        and not pyarrow.types.is_large_binary(field.type)
    ]
    return row_count, chosen[0], chosen[1], plain


def _hub_names(file: Path) -> tuple[str, ...]:
    """Read the class names that `datasets` keeps in the schema, or none."""
    _, _, label_column, _ = _columns(file)
    with pyarrow.parquet.ParquetFile(file) as opened:
        metadata = (opened.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(metadata)["info"]["features"][label_column]["names"]
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _damaged(file: Path, error: Exception) -> DataError:
    return DataError(f"{file} cannot be read as parquet: {str(error).splitlines()[0][:200]}. Fetch it again.")
