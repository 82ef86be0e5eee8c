"""What lies in data/incoming, and what each file of it is: labelled, to be labelled, or of no use.

A file is labelled by a table (any .csv with the columns path and label, its paths starting where it lies) or by its
class folder, `<class>/` or `<delivery>/<class>/`. What lies anywhere else has no label yet. A table waits, and what
lies beside it with it, until every image that it names is there: half a delivery must not be taken for the whole.
"""

import csv
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from convloop.sources.layout import SPLIT_FOLDERS

INCOMING = "data/incoming"
UNLABELLED = "unlabelled"
# A table that the labelling queue wrote says where its images first came from.
QUEUE_COLUMNS = ("path", "label", "came_as", "came_from", "came_utc")
SETTLE_S = 2.0  # a file untouched for so long is taken to be whole

Look = tuple[int, int, int, int]  # what a write to a file changes: inode, size, both times


class Item(NamedTuple):
    """A file of the inbox: `file` below data/incoming, and how it will be known.

    `label` is None for an image that has none yet; `refusal` says why a file is of no use whatever it shows; `split`
    is one of SPLIT_FOLDERS or ""; `slices` a JSON object of the other columns of its table, or "".
    """

    file: str
    name: str
    source: str
    label: str | None = None
    refusal: str = ""
    split: str = ""
    slices: str = ""


@dataclass(frozen=True)
class Inbox:
    """What may be claimed now; `waiting` says what may not, and why."""

    items: tuple[Item, ...]
    tables: tuple[str, ...]
    waiting: tuple[str, ...]


def find_growing(incoming: Path, now_s: float, earlier: Mapping[str, Look]) -> dict[str, Look]:
    """Find the files that may not be whole: changed less than SETTLE_S ago, and not as they were in `earlier`.

    A time of change in the future counts as just now, so that only a second look can tell such a file to be whole.

    Args:
        now_s: by the clock that dates the files, which need not be that of this machine.
        earlier: what this function gave SETTLE_S before.
    """
    growing = {}
    for file in _files(incoming)[0]:
        facts = (incoming / file).lstat()
        look = (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        if now_s - facts.st_mtime < SETTLE_S and earlier.get(file) != look:
            growing[file] = look
    return growing


def read_inbox(
    incoming: Path, classes: tuple[str, ...], landed_names: Collection[str], growing: Collection[str] = ()
) -> Inbox:
    """Sort out all files of the inbox, touching none.

    Args:
        landed_names: what was ingested before; a table may still name it.
        growing: files that may not be whole, and wait.
    """
    files, odd = _files(incoming)
    waiting = [f"{file} is a link or no regular file" for file in odd]
    waiting += [f"{file} is still being written" for file in sorted(growing) if is_ours(file)]
    named: dict[str, Item] = {}
    tables, held_files, held_folders = [], set(growing), set()
    for table in sorted(file for file in files if is_ours(file) and file.lower().endswith(".csv")):
        folder = table.rpartition("/")[0]
        rows: list[Item] = []
        problem = "is still being written" if table in growing else ""
        try:
            rows = list(_rows(incoming, table))
        except ValueError as error:
            problem = problem or str(error)
        absent = [row.file for row in rows if not row.refusal and row.file not in files and row.file not in odd]
        absent = [file for file in absent if file not in landed_names]
        changing = [row.file for row in rows if row.file in growing]
        if absent:
            problem = problem or f"names {len(absent):,} images that are not there, such as {absent[0]}"
        if changing:
            problem = problem or f"names {changing[0]}, which is still being written"
        if problem:
            waiting.append(f"{table} {problem}")
            held_files |= {table, *(row.file for row in rows)}
            held_folders.add(folder)
            continue
        tables.append(table)
        for row in rows:
            if row.refusal or row.file in files or row.file in odd:
                key = row.file or f"{table}: {row.name}"
                named[key] = _agreed(named[key], row) if key in named else row
    items = [
        item._replace(refusal=item.refusal or "is a link or no regular file") if item.file in odd else item
        for item in named.values()
        if item.file not in held_files
    ]
    for file in sorted(filter(is_ours, files - set(named) - set(tables) - held_files)):
        item = _by_folder(file, classes, tables)
        if not _is_held(file, item.label, held_folders):
            items.append(item)
    return Inbox(tuple(items), tuple(tables), tuple(waiting))


def _files(incoming: Path) -> tuple[set[str], list[str]]:
    """List regular files, and what is neither file nor folder."""
    files, odd = set(), []
    for place, folders, names in os.walk(incoming):
        folders.sort()
        for name in sorted([*names, *(folder for folder in folders if (Path(place) / folder).is_symlink())]):
            file = (Path(place) / name).relative_to(incoming).as_posix()
            if stat.S_ISREG((incoming / file).lstat().st_mode):
                files.add(file)
            else:
                odd.append(file)
    return files, odd


def is_ours(file: str) -> bool:
    """Leave hidden and half-copied files alone, unless a table names them."""
    return not any(step.startswith(".") for step in file.split("/")) and not file.endswith((".part", ".tmp"))


def _rows(incoming: Path, table: str) -> Iterator[Item]:
    """Read a table; a path that leaves its folder, or a line that is no row, is an item of no use.

    Raises:
        ValueError: it is not a table of paths and labels.
    """
    try:
        with (incoming / table).open(encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, restkey="", restval="", strict=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            if not {"path", "label"} <= set(header) or len(set(header)) < len(header):
                raise ValueError("has no first line that names path and label, each column once")
            reader.fieldnames = header
            for row in reader:
                yield _item(table, row, f"line {reader.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot be read as CSV in UTF-8: {error}") from error


def _item(table: str, row: dict[str, str], line: str) -> Item:
    folder = table.rpartition("/")[0]
    path, label = row["path"], row["label"].strip() or None
    steps = [step for step in path.split("/") if step not in ("", ".")]
    file = "/".join([*([folder] if folder else []), *steps])
    if not steps or "" in row:
        return Item("", line, table, refusal="is no row of path and label")
    if path.startswith("/") or ".." in steps or "\0" in path:
        return Item("", path, table, refusal="leaves the folder of the table")
    split = row.get("split", "").strip().lower()
    others = {name: value for name, value in row.items() if value and name not in (*QUEUE_COLUMNS, "split")}
    item = Item(file, row.get("came_as") or file, row.get("came_from") or table, label, split=split)
    if split and split not in SPLIT_FOLDERS:
        return item._replace(split="", refusal=f"split is {split}, not train, val or test")
    return item._replace(slices=json.dumps(others, ensure_ascii=False) if others else "")


def _agreed(first: Item, second: Item) -> Item:
    if first.refusal or first.label == second.label:
        return first
    labels = " and ".join(label or "nothing" for label in (first.label, second.label))
    return first._replace(refusal=f"is labelled {labels}")


def _by_folder(file: str, classes: tuple[str, ...], tables: list[str]) -> Item:
    top, *below = file.split("/")
    for table in tables:
        folder = table.rpartition("/")[0]
        if folder and file.startswith(f"{folder}/"):
            return Item(file, file, table)  # a table speaks for its folder, and is silent about this one
    if not below or top == UNLABELLED:
        return Item(file, file, "incoming")
    if top in classes:
        return Item(file, file, "incoming", top)
    if len(below) > 1 and below[0] == UNLABELLED:
        return Item(file, file, top)
    if len(below) > 1 and below[0] in classes:
        return Item(file, file, top, below[0])
    return Item(file, file, top, refusal=f"class {top} is not one of {', '.join(classes)}")


def _is_held(file: str, label: str | None, held_folders: set[str]) -> bool:
    """Tell whether a waiting table may yet speak of this file; one at the top leaves class folders alone."""
    if "" in held_folders and label is None:
        return True
    return any(folder and file.startswith(f"{folder}/") for folder in held_folders)
