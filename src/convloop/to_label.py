"""The labelling queue: images that came without a label, and the table that takes the labels.

Fill the column `label` of data/to_label/labels.csv and move the folder into data/incoming: ingest takes what has a
label, and the rest comes back here.
"""

import csv
import io
import shutil
from pathlib import Path
from typing import NamedTuple

from convloop.core.folders import write_text
from convloop.errors import DataError
from convloop.inbox import QUEUE_COLUMNS

TO_LABEL = "data/to_label"
_Row = dict[str, str]


class Unlabelled(NamedTuple):
    """A whole image without a label, how it came, and what other columns its table had."""

    file: Path
    content: bytes
    name: str
    source: str
    others: dict[str, str]


def enqueue(project: Path, images: list[Unlabelled], utc: str) -> int:
    """Copy images into the queue, named by their pixels, and give the number of those that were not there yet.

    The table follows its images, so a kill in between is mended by queueing the same images again.
    """
    rows = read_queue(project)
    known_count = len(rows)
    for image in images:
        suffix = image.file.suffix.lower()
        path = f"{image.content.hex()[:16]}{suffix if suffix[1:].isalnum() and suffix.isascii() else ''}"
        target = project / TO_LABEL / path
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{path}.part")
            shutil.copyfile(image.file, part)
            part.rename(target)
        if path not in rows:
            came = dict(zip(QUEUE_COLUMNS, (path, "", image.name, image.source, utc), strict=True))
            rows[path] = image.others | came
    if len(rows) > known_count:
        write_queue(project, rows)
    return len(rows) - known_count


def read_queue(project: Path) -> dict[str, _Row]:
    """Read the table by path; what a user has filled in or added stays as it is.

    Raises:
        DataError: it is no such table any more.
    """
    file = project / TO_LABEL / "labels.csv"
    if not file.is_file():
        return {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            return {row["path"]: row for row in csv.DictReader(opened, restkey="", restval="", strict=True)}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise DataError(
            f"{file} cannot be read: {error}. Save it as CSV in UTF-8 whose first line names path and label."
        ) from error


def write_queue(project: Path, rows: dict[str, _Row]) -> None:
    """Replace the table in one step."""
    text = io.StringIO(newline="")
    columns = dict.fromkeys([*QUEUE_COLUMNS, *(column for row in rows.values() for column in row if column)])
    writer = csv.DictWriter(text, list(columns), restval="", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows.values())
    write_text(project / TO_LABEL / "labels.csv", text.getvalue())
