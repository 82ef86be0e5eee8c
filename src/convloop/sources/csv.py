"""A table of images: columns path and label, if wanted split; every other column describes a slice."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from convloop.core.images import NO_SPLIT
from convloop.errors import DataError
from convloop.sources import Encoded, Refused, Source, ordered_classes
from convloop.sources.layout import SPLIT_FOLDERS

if TYPE_CHECKING:
    from convloop.config import GenerateParams

Row = dict[str, str]


def read_csv(settings: "GenerateParams") -> Source:
    """Read the table twice: for the classes, then for the images, whose paths start at the table's folder.

    `generate.path` is the table, or a folder with one .csv file in it. A path that leaves the folder is refused.

    Raises:
        DataError: no such table, or it is not UTF-8, has no header with path and label, or no labels.
    """
    file = _table(Path(str(settings.path)).expanduser())
    labels = set()
    row_count = 0
    for _, row in _rows(file):
        row_count += 1
        labels.add(row["label"].strip())
    classes = ordered_classes(labels - {""})
    if not classes:
        raise DataError(f"{file} holds no labels. Write a path and a label into each line.")
    return Source(classes, items=_items(file, classes), image_count=row_count)


def _table(path: Path) -> Path:
    found = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if len(found) != 1 or not found[0].is_file():
        raise DataError(
            f"params.yaml: generate.path is {path}, which is neither a .csv file nor a folder with one. "
            "Set it to a table with the columns path and label."
        )
    return found[0]


def _rows(file: Path) -> Iterator[tuple[int, Row]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, restkey="", restval="", strict=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            if not {"path", "label"} <= set(header) or len(set(header)) < len(header):
                raise DataError(
                    f"{file} begins with the columns {', '.join(header)[:200] or 'nothing'}. "
                    "Write a first line that names path and label, each column once."
                )
            reader.fieldnames = header
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{file} cannot be read: {reason}. Save it as CSV in UTF-8, with commas.") from error


def _items(file: Path, classes: tuple[str, ...]) -> Iterator[Encoded | Refused]:
    folder = os.path.realpath(file.parent)
    numbers = {name: label for label, name in enumerate(classes)}
    for line, row in _rows(file):
        path, label, split = row["path"], row["label"].strip(), row.get("split", "").strip().lower()
        name = path or f"{file.name}, line {line}"
        place = os.path.realpath(Path(folder, path)) if "\0" not in path else folder
        if not path:
            yield Refused(name, "no path")
        elif "" in row:
            yield Refused(name, "more values than columns")
        elif not label:
            yield Refused(name, "no label")
        elif split and split not in SPLIT_FOLDERS:
            yield Refused(name, f"split is {split}, not train, val or test")
        elif not place.startswith(folder + os.sep):
            yield Refused(name, "leaves the folder of the table")
        else:
            others = {key: value for key, value in row.items() if key not in ("path", "label", "split")}
            slices = json.dumps(others, ensure_ascii=False) if others else ""
            yield Encoded(name, place, numbers[label], SPLIT_FOLDERS[split] if split else NO_SPLIT, slices)
