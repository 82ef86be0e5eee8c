"""Where images come from: one small file for each input format.

A source turns its settings into classes and either batches of pixels, or encoded images that `pool` decodes on all
cores; a new one is a file, and a line in SOURCES and in `config.SOURCE_NAMES`.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from convloop.core.images import NO_SPLIT, Batch

if TYPE_CHECKING:
    from convloop.config import GenerateParams

# What lies beside images and is none: refused, but not counted against generate.max_refused_share.
LITTER_REASON = "left by an operating system, not an image"
NOTE_REASON = "a note on the images, not an image"
_NOTE_CHARACTERS = 10_000
_NOTES = ("LICENSE", "LICENCE", "COPYING", "README")
_LITTER = {".ds_store", "desktop.ini", "thumbs.db"}


class Encoded(NamedTuple):
    """A labelled image that is not decoded yet: the path of its file, or what is in it; fields as in core.images.Batch."""

    name: str
    content: str | bytes
    label: int
    split: int = NO_SPLIT
    slices: str = ""


class Refused(NamedTuple):
    """What a source offers but cannot be used, and why."""

    name: str
    reason: str


class Source(NamedTuple):
    """What a source yields: class names in the order of their labels, and `batches` of any length or else `items`.

    `image_count` is for the progress bar, where it is known beforehand.
    """

    classes: tuple[str, ...]
    batches: Iterable[Batch] = ()
    items: Iterable[Encoded | Refused] | None = None
    image_count: int | None = None


ReadSource = Callable[["GenerateParams"], Source]


def ordered_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names, by value where all of them are whole numbers."""
    unique = set(names)
    if all(name.isdecimal() for name in unique):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))


def is_litter(parts: tuple[str, ...]) -> bool:
    """Tell whether a path is one that macOS or Windows writes beside images."""
    return parts[-1].lower() in _LITTER or parts[-1].startswith("._") or "__MACOSX" in parts


def is_note(parts: tuple[str, ...]) -> bool:
    """Tell whether a path is a licence or a read-me at the top of a source."""
    stem, _, ending = parts[0].partition(".")
    return len(parts) == 1 and stem.upper() in _NOTES and ending.lower() in ("", "txt", "md", "rst")


def first_note(folder: Path) -> str:
    """Give name and first line of the licence beside some images, or else of their read-me, or nothing."""
    files = [file for file in folder.iterdir() if is_note((file.name,)) and file.is_file() and is_text(file.name)]
    for file in sorted(files, key=lambda file: (_NOTES.index(file.name.split(".")[0].upper()), file.name)):
        with file.open(encoding="utf-8", errors="replace") as opened:
            lines = (line.strip(" #=*\t\r\n\ufeff") for line in islice(opened.read(_NOTE_CHARACTERS).splitlines(), 50))
        return f"{file.name}: {next(filter(None, lines), 'empty')[:100]}"
    return ""


def shown(name: str) -> str:
    """Give a file name as text that can be written down; bytes that are not UTF-8 become \\xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_text(name: str) -> bool:
    """Tell whether a file name is UTF-8."""
    try:
        name.encode()  # the stand-ins for other bytes do not encode
    except UnicodeEncodeError:
        return False
    return True
