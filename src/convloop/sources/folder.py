"""A folder of class folders, or of train, val and test folders that hold them; deeper folders count to their class."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from convloop.errors import DataError
from convloop.sources import LITTER_REASON, NOTE_REASON, Encoded, Refused, Source, is_litter, is_note, is_text, shown
from convloop.sources.layout import NO_CLASS, Layout, find_layout

if TYPE_CHECKING:
    from convloop.config import GenerateParams


def read_folder(settings: "GenerateParams") -> Source:
    """Walk the folder in the order of the names, twice: for the classes, then for the images.

    Links that leave the folder, linked folders, FIFOs and names that are not UTF-8 are refused, not followed.

    Raises:
        DataError: no such folder, or no class folders in it.
    """
    root = Path(str(settings.path)).expanduser()
    if not root.is_dir():
        raise DataError(f"params.yaml: generate.path is {root}, which is not a folder. Set it to one of class folders.")
    root = root.resolve()
    folders: set[tuple[str, ...]] = set()
    image_count = 0
    for item in _walk(root):
        image_count += 1
        if not isinstance(item, Refused):
            folders.add(item[0][:-1])
    layout = find_layout(folders)
    if not layout.classes:
        raise DataError(
            f"params.yaml: generate.path is {root}, which holds no class folders with files. "
            "Put the images of each class into a folder of its name."
        )
    return Source(layout.classes, items=_items(root, layout), image_count=image_count)


def _items(root: Path, layout: Layout) -> Iterator[Encoded | Refused]:
    for item in _walk(root):
        if isinstance(item, Refused):
            yield item
            continue
        parts, file = item
        place = layout.place(parts[:-1])
        name = "/".join(parts)
        yield Refused(name, NO_CLASS) if place is None else Encoded(name, file, *place)


def _walk(root: Path) -> Iterator[tuple[tuple[str, ...], str] | Refused]:
    """Yield parts below root and place of each file; a stack and no recursion, since a tree can be deep.

    Places are text: making a Path of each would cost as much as its way through all that follows.
    """
    stack = [((), _listing(str(root)))]  # type: list[tuple[tuple[str, ...], Iterator[os.DirEntry[str]]]]
    while stack:
        above, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        parts = (*above, entry.name)
        name = "/".join(parts)
        if not is_text(entry.name):
            yield Refused(shown(name), "the name is not UTF-8")
        elif is_litter(parts):
            yield Refused(name, LITTER_REASON)
        elif is_note(parts) and entry.is_file():
            yield Refused(name, NOTE_REASON)
        elif entry.is_symlink():
            yield _linked(root, parts, Path(entry.path))
        elif entry.is_dir():
            try:
                stack.append((parts, _listing(entry.path)))
            except OSError as error:
                yield Refused(name, f"cannot be read ({error.strerror})")
        elif entry.is_file():
            yield parts, entry.path
        else:
            yield Refused(name, "not a regular file")


def _listing(folder: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return iter(sorted(entries, key=lambda entry: entry.name))


def _linked(root: Path, parts: tuple[str, ...], link: Path) -> tuple[tuple[str, ...], str] | Refused:
    name = "/".join(parts)
    try:
        file = link.resolve(strict=True)
    except (OSError, RuntimeError):
        return Refused(name, "a link to nothing")
    if not file.is_relative_to(root):
        return Refused(name, "a link that leaves the folder")
    return (parts, str(file)) if file.is_file() else Refused(name, "a link to a folder")
